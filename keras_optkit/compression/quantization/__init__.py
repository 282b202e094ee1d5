"""Quantization-aware training: weights and activations rounded while training."""
