"""Where rollouts come from, and the data modules that hand them out."""
