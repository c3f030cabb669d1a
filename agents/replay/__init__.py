"""The replay buffer: rings, stored observations, priorities, files."""
