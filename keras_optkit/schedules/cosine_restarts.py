"""Cosine annealing with warm restarts."""

import functools

import keras
import numpy as np
from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule
from keras_optkit.schedules._curves import between, power


@register
class CosineRestarts(Schedule):
    """Anneals a learning rate along half a cosine wave, and starts again from the top.

    A restart leaves the minimum that was found for perhaps a better one; the weights before each
    are a model to keep, or one of an ensemble. With cycles `i = 0, 1, ...`, `T` the steps of a
    cycle, `u` those done in it and `n` its warmup's:

    ```text
    T = first_period * period_factor^i          p = max(minimum, peak * peak_factor^i)
    u < n:     minimum + (p - minimum) * (u + 1) / n
    u >= n:    minimum + (p - minimum) * (1 + cos(pi (u - n) / (T - n))) / 2
    ```

    Args:
        peak: Value at the start of the first cycle, at least 0.
        first_period: Steps of the first cycle, at least 1.
        period_factor: How much longer each cycle is than the one before, at least 1; steps are
            rounded to whole ones.
        peak_factor: How much lower each peak is than the one before, in (0, 1].
        warmup_steps: Steps of each cycle's rise, at least 0 and less than `first_period`.
        minimum: Value to anneal to, in [0, peak].

    Example:
        >>> schedule = keras_optkit.schedules.CosineRestarts(1.0, 2, period_factor=2)
        >>> [round(float(schedule(step)), 3) for step in range(7)]
        [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]

    Reference:
        [Loshchilov and Hutter, 2017](https://arxiv.org/abs/1608.03983), section 3, equation 5,
        whose `T_cur` may be counted within epochs. `torch.optim.lr_scheduler.
        CosineAnnealingWarmRestarts` without lower peaks and warmup; `optax.sgdr_schedule`, which
        rises from step 0 on at the minimum. Keras' `CosineDecayRestarts` finds the cycle by
        float32 logarithms, and may restart a step early or late.
    """

    def __init__(
        self,
        peak: float,
        first_period: int,
        period_factor: float = 1.0,
        peak_factor: float = 1.0,
        warmup_steps: int = 0,
        minimum: float = 0.0,
    ):
        self.peak = _check.in_range("peak", peak, low=0)
        self.first_period = _check.integer("first_period", first_period, low=1)
        self.period_factor = _check.in_range("period_factor", period_factor, low=1)
        self.peak_factor = _check.in_range("peak_factor", peak_factor, 0, 1, closed="right")
        self.warmup_steps = _check.integer("warmup_steps", warmup_steps, low=0)
        self.minimum = _check.in_range("minimum", minimum, 0, self.peak)
        if self.warmup_steps >= self.first_period:
            raise ValueError(
                f"`warmup_steps` must be less than `first_period`, {self.first_period}, since each "
                f"cycle begins with a warmup. {_check.received('warmup_steps', warmup_steps)}"
            )

    def __call__(self, step):
        cycle, passed, period = self._cycle(ops.convert_to_tensor(step))
        peak = ops.maximum(self.peak * power(self.peak_factor, cycle), self.minimum)
        n = self.warmup_steps
        annealed = ops.maximum(ops.cast(passed - n, "float32"), 0.0)
        done = annealed / (period - n)
        value = between(peak, self.minimum, done, (period - n - annealed) / (period - n), "cosine")
        if not n:
            return value
        risen = ops.minimum(ops.cast(passed + 1, "float32"), float(n))
        rise = between(self.minimum, peak, risen / n, (n - risen) / n)
        return ops.where(passed < n, rise, value)

    def _cycle(self, step):
        """Returns the cycle's number, the steps done in it, as integers, and its length."""
        if self.period_factor == 1:
            cycle = step // self.first_period
            return cycle, step - self.first_period * cycle, float(self.first_period)
        dtype = keras.backend.standardize_dtype(step.dtype)
        dtype = "int64" if dtype == "int64" else "int32"
        table = _cycles(self.first_period, self.period_factor, int(np.iinfo(dtype).max))
        starts = ops.convert_to_tensor(np.array(table[0], dtype))
        step = ops.cast(step, dtype)
        begun = ops.cast(ops.expand_dims(step, -1) >= starts, "int32")
        cycle = ops.sum(begun, axis=-1) - 1
        periods = ops.convert_to_tensor(np.array(table[1], "float32"))
        return cycle, step - ops.take(starts, cycle), ops.take(periods, cycle)


@functools.cache
def _cycles(first: int, factor: float, last_step: int) -> tuple[list[int], list[int]]:
    """Returns the first steps and the lengths of all cycles up to `last_step`.

    By whole numbers: a logarithm of the step may fall into the cycle before or after.
    """
    whole = int(factor) if factor.is_integer() else factor
    starts, periods = [0], [first]
    while starts[-1] + periods[-1] <= last_step:
        starts.append(starts[-1] + periods[-1])
        periods.append(round(first * whole ** len(periods)))
    return starts, periods
