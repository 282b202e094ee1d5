"""What the schedule-free rules share."""

import warnings
from typing import Unpack

import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_optkit import _backend, _check
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._evaluated import Evaluated
from keras_optkit.optimizers._slots import read


class ScheduleFree(Evaluated, Optimizer):
    """Base: trains at `y`, between the moving `z` and the average `x` that is evaluated."""

    scalars = {"largest_learning_rate": 0.0, "weight_sum": 0.0}  # noqa: RUF012
    elementwise = True

    def __init__(
        self,
        learning_rate: LearningRate,
        beta_1: float,
        weight_power: float,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed="neither")
        self.weight_power = _check.in_range("weight_power", weight_power, low=0)
        if self.use_ema:
            raise ValueError(
                f"`use_ema` must be False for {type(self).__name__}, which averages the weights "
                f"already. {_check.received('use_ema', True)}"
            )
        if self.cautious:
            raise ValueError(
                f"`cautious` must be False for {type(self).__name__}: its average takes in every "
                f"step. {_check.received('cautious', True)}"
            )
        if _decays(learning_rate):
            warnings.warn(
                f"{type(self).__name__} takes the place of a decaying learning rate, so this one "
                "slows it down twice. Give it a constant learning rate, or "
                "keras_optkit.schedules.Warmup of one. "
                f"{_check.received('learning_rate', learning_rate)}",
                stacklevel=3,
            )

    def prepare(self, gradients, weights, step, slots, scalars, learning_rate):
        largest, total = scalars
        largest = ops.maximum(largest, learning_rate)
        share = ops.power(largest, 2) * ops.power(step, self.weight_power)
        total = total + share
        share = ops.where(total > 0, share / ops.where(total > 0, total, 1), 0)
        return (share,), (largest, total)

    def move(self, direction, source, weight, z, share, learning_rate, weight_decay):
        """Returns the new `y` and `z`; `direction` is a function of the tensor `source`."""

        def step_from(source):
            step = direction(source)
            return step if weight_decay is None else step + weight_decay * weight

        z = z - learning_rate * step_from(source)
        # By the new z, so that XLA need not keep the old one, and from the source once more,
        # which costs less than keeping the direction.
        step = step_from(_backend.behind(source, z))
        rate = (1 - share) * (1 - self.beta_1) * learning_rate
        return weight + share * (z - weight) - rate * step, z

    def _exchanged(self):
        return [v for pair in self._pairs() for v in pair]

    def _pairs(self) -> list[tuple]:
        """Returns each weight that moves with its `z`, which is its last slot."""
        return [
            (weight, slots[-1])
            for i, (weight, slots) in enumerate(
                zip(self._trainable_variables, self._slots, strict=True)
            )
            if slots and not self._policies.of(i).frozen
        ]

    def _to_evaluation(self):
        self._interpolate(1 - 1 / self.beta_1)

    def _to_training(self):
        self._interpolate(1 - self.beta_1)

    def _interpolate(self, share: float) -> None:
        pairs = self._pairs()
        new = [read(w, z.dtype) + share * (read(z) - read(w, z.dtype)) for w, z in pairs]
        _backend.assign([w for w, _ in pairs], new)


def _decays(learning_rate) -> bool:
    """Tells whether a schedule goes down anywhere in its first million steps."""
    if not isinstance(learning_rate, LearningRateSchedule):
        return False
    steps = [0, *np.unique(np.geomspace(1, 1e6, 60).astype(int)).tolist()]
    values = [float(ops.convert_to_numpy(learning_rate(step))) for step in steps]
    return bool(np.any(np.diff(values) < -1e-6 * max(values)))
