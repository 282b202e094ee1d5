"""Optimizers that training cannot see."""

from typing import Any

import keras


class Transparent(keras.optimizers.Optimizer):
    """Base of an optimizer that looks on while another one does everything.

    Not one of our `Wrapper`s: those take over accumulation, loss scale and the sum over replicas,
    and this one hands on what it is given.

    Args:
        inner_optimizer: The optimizer to stand before, which may be another `Transparent`.
    """

    def __init__(self, inner_optimizer: keras.optimizers.Optimizer):
        # A callable makes no learning-rate variable.
        super().__init__(lambda: inner_optimizer.learning_rate, name=type(self).__name__.lower())
        self.inner_optimizer = inner_optimizer

    @property
    def watched(self) -> Any:
        """The user's optimizer."""
        inner = self.inner_optimizer
        return inner.watched if isinstance(inner, Transparent) else inner

    @property
    def variables(self):
        inner = self.__dict__.get("inner_optimizer")
        return self._variables + (inner.variables if inner is not None else [])

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def __getattr__(self, name):
        # A `train_step` may ask the user's optimizer for anything; what is private is our own.
        if name.startswith("_") or "inner_optimizer" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.inner_optimizer, name)
