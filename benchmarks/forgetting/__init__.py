"""How well tasks are kept, beside Avalanche: the parts of `continual.py`."""
