"""How good the optimizers are: the parts of `optimizer_quality.py`."""
