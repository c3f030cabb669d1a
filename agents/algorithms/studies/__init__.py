"""Measurements of an algorithm, as experiments."""
