"""Causal networks, in which no pixel sees itself or what comes after it."""
