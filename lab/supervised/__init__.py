"""Supervised learning on the same backbones, trainer and tracking as everything else."""
