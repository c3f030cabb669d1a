"""Reinforcement learning: environments, collectors, replay, agents. Imports lab."""
