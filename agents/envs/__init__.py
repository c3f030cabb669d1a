"""Environments: how they are made, wrapped, saved and drawn."""
