"""Models with latent variables: VAEs, VQ-VAE, autoencoders, Helmholtz machines."""
