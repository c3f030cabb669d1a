"""Distances between samples and images, and the networks behind them."""
