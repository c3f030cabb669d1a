"""RLlib's algorithms as experiments."""
