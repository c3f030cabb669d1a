"""Recipes of the agents, one file an algorithm."""
