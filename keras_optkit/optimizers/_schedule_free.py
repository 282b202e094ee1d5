"""What the schedule-free rules share."""

import warnings
from typing import Unpack

import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_optkit import _backend, _check, _match
from keras_optkit.optimizers._arguments import LearningRate, OptimizerKwargs
from keras_optkit.optimizers._base import Optimizer
from keras_optkit.optimizers._evaluated import Evaluated
from keras_optkit.optimizers._slots import read


class ScheduleFree(Evaluated, Optimizer):
    """Base: trains at `y`, between the moving `z` and the average `x` that is evaluated.

    It keeps neither `z` nor `x`, but how far `z` would have been from `y` before `z` was taken
    into the average: `u`, which starts at 0 for any weight at any time, and which stays small
    beside weights of half precision. With the average's share `c`, and `c'` in the step before:

    ```text
    u = (1 - c') u - beta_1 learning_rate d               z = y + (1 - c) u, with the new y
    y = y + c u - (1 - beta_1) learning_rate d            x = y + (1 - 1 / beta_1) (z - y)
    ```
    """

    fixed = ("beta_1",)
    scalars = {"largest_learning_rate": 0.0, "mean_weight": 0.0, "share": 0.0}  # noqa: RUF012

    def __init__(
        self,
        learning_rate: LearningRate,
        beta_1: float,
        weight_power: float,
        **kwargs: Unpack[OptimizerKwargs],
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = _check.in_range("beta_1", beta_1, 0, 1, closed="neither")
        self.weight_power = _check.in_range("weight_power", weight_power, 0, 4)
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

    def build(self, variables):
        bound = [_match.path(v) for v in variables if v.constraint is not None]
        if bound and not self.built:
            raise ValueError(
                f"{type(self).__name__} cannot train weights with a constraint, which its average "
                "would not obey. Train them by another optimizer, such as "
                f"Averaged(keras.optimizers.AdamW()). Received: constraints on {', '.join(bound)}"
            )
        super().build(variables)

    def prepare(self, gradients, weights, step, slots, scalars, learning_rate):
        largest, mean, before = scalars
        largest = ops.maximum(largest, learning_rate)
        weight = ops.power(largest, 2) * ops.power(step, self.weight_power)
        mean = mean + (weight - mean) / step  # not a sum, which float32 would not count up far
        share = ops.where(mean > 0, weight / ops.where(mean > 0, step * mean, 1), 0)
        return (share, before), (largest, mean, share)

    def move(self, direction, source, weight, ahead, shared, learning_rate, weight_decay):
        """Returns the new `y` and `u`; `direction` is a function of the tensor `source`."""
        share, before = shared

        def step_from(source):
            step = direction(source)
            return step if weight_decay is None else step + weight_decay * weight

        ahead = (1 - before) * ahead - self.beta_1 * learning_rate * step_from(source)
        # From the source once more, which costs less than keeping the direction in memory.
        step = step_from(_backend.behind(source, ahead))
        return weight + share * ahead - (1 - self.beta_1) * learning_rate * step, ahead

    def _pairs(self) -> list[tuple]:
        """Returns each weight with its `u`, which is its last slot."""
        pairs = zip(self._trainable_variables, self._slots, strict=True)
        return [(weight, slots[-1][0]) for weight, slots in pairs if slots]

    def _exchanged(self):
        return [*(v for pair in self._pairs() for v in pair), self._scalars[-1]]

    def _to_evaluation(self):
        self._shift(1 - 1 / self.beta_1)

    def _to_training(self):
        self._shift(1 / self.beta_1 - 1)

    def _shift(self, factor: float) -> None:
        factor = factor * (1 - read(self._scalars[-1]))
        pairs = self._pairs()
        new = [read(w, u.dtype) + ops.cast(factor, u.dtype) * read(u) for w, u in pairs]
        _backend.assign([w for w, _ in pairs], new)


def _decays(learning_rate) -> bool:
    """Tells whether a schedule goes down anywhere in its first million steps."""
    if not isinstance(learning_rate, LearningRateSchedule):
        return False
    steps = [0, *np.unique(np.geomspace(1, 1e6, 60).astype(int)).tolist()]
    values = [float(ops.convert_to_numpy(learning_rate(step))) for step in steps]
    return bool(np.any(np.diff(values) < -1e-6 * max(values)))
