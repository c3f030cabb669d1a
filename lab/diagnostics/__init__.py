"""What a careful person checks before believing a run: gradients, losses, rates, units, inputs."""
