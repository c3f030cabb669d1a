"""The only place that imports ray: sweeps, collection, submission. Imports lab and agents."""
