"""The run directory: what is in it, checkpoints, tracking."""
