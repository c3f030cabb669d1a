"""Baselines that a deep network must beat: fixed features of inputs, and a classical model that is fitted once."""
