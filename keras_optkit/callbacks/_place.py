"""Where a model keeps the optimizer that makes its updates."""

import contextlib
from collections.abc import Iterator

import keras


class Place:
    """The attribute that holds it: of the model, or of its loss scale.

    Inside a loss scale gradients are unscaled, and skipped steps do not count.
    """

    def __init__(self, model: keras.Model):
        scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        self._attribute = (model.optimizer, "inner_optimizer") if scaled else (model, "optimizer")
        self.user: keras.optimizers.Optimizer = getattr(*self._attribute)

    @contextlib.contextmanager
    def holding(self, optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
        """Puts `optimizer` in the place of the user's, and the user's back in any event."""
        # Past `__setattr__`, which in Keras and in TensorFlow keeps track of what is assigned.
        try:
            object.__setattr__(*self._attribute, optimizer)
            yield
        finally:
            object.__setattr__(*self._attribute, self.user)
