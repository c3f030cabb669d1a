"""PixelCNN and its relatives: heads, likelihoods, samplers."""
