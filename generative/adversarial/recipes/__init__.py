"""Recipes of GANs."""
