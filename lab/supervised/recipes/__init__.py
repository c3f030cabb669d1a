"""Recipes of the supervised modules."""
