"""Commands of the generative models."""
