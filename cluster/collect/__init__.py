"""Experience from a fleet of Ray actors."""
