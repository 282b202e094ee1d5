"""Sparsity in the optimizer: zeros among the weights, kept while training."""
