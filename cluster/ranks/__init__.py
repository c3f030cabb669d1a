"""One experiment on several workers of a Ray cluster."""
