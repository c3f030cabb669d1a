"""From what a user types to one frozen Experiment, and back."""
