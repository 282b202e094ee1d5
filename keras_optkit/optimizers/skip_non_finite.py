"""Steps that are left out."""

import functools
from typing import Unpack

import keras
from keras import ops

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.optimizers._slots import read
from keras_optkit.optimizers._wrapper import Wrapper, WrapperKwargs


@register
class SkipNonFinite(Wrapper):
    """Leaves out updates whose gradients hold an infinity or a NaN.

    One such gradient makes weights and optimizer state useless for good. Skipped, it costs one
    update: weights, slots and step count stay. Too many in a row mean that training is broken,
    so after `max_consecutive` they go through, and the loss will show it, until one is finite
    again. Make it the outermost wrapper, since those around it act on and count every update. In
    mixed precision Keras' `LossScaleOptimizer` skips them already.

    Args:
        inner_optimizer: The optimizer that gets the finite gradients, or its name.
        max_consecutive: Updates to skip in a row, at least 1; None for any number.
        **kwargs: Those of `Wrapper`.

    Attributes:
        skipped: Number of updates skipped so far, a scalar variable.

    Example:
        >>> optimizer = keras_optkit.optimizers.SkipNonFinite(keras.optimizers.Adam())
        >>> model.compile(optimizer=optimizer, loss="mse")

    Reference:
        `optax.apply_if_finite`, which skips by the updates of an optimizer, not by its gradients.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        max_consecutive: int | None = 10,
        **kwargs: Unpack[WrapperKwargs],
    ):
        super().__init__(inner_optimizer, **kwargs)
        self.max_consecutive = (
            None
            if max_consecutive is None
            else _check.integer("max_consecutive", max_consecutive, low=1)
        )

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.skipped = self.add_variable((), dtype="int32", name="skipped")
        self._in_a_row = self.add_variable((), dtype="int32", name="skipped_in_a_row")

    def _update(self, gradients, variables):
        # A sum is finite only if all entries are; that of magnitudes cannot cancel.
        # Scaled, as it would overflow with gradients that have not.
        sums = [ops.sum(ops.abs(g) * 1e-9) for g in gradients]
        finite = functools.reduce(ops.logical_and, [ops.isfinite(total) for total in sums])
        in_a_row = read(self._in_a_row)
        go = finite
        if self.max_consecutive is not None:
            go = ops.logical_or(finite, in_a_row >= self.max_consecutive)
        skipped = ops.cast(ops.logical_not(go), "int32")
        _backend.assign(
            [self.skipped, self._in_a_row],
            [read(self.skipped) + skipped, ops.where(finite, 0, in_a_row + skipped)],
        )
        update = super()._update
        outside = {id(self.skipped), id(self._in_a_row)}
        state = [v for v in self._state() if id(v) not in outside]
        _backend.cond(
            go, lambda: update(gradients, variables), [*self._trainable_variables, *state]
        )
