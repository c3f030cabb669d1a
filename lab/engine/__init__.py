"""How an update runs: optimizers, recorded graphs, CUDA graphs, one flat step."""
