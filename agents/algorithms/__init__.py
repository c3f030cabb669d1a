"""One file an algorithm: its config, its module, its loss."""
