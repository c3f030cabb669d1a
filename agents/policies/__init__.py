"""Policies and their networks, distributions and exploration."""
