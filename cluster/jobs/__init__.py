"""Commands shipped to a cluster."""
