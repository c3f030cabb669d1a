"""Generative models: VAEs, GANs, autoregressive models, their samplers and evaluation. Imports lab."""
