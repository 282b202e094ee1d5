"""Warmup for any schedule."""

import math
from typing import Literal

import keras
from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule, as_schedule, steps_since, value_of


@register
class Warmup(Schedule):
    """Lets a learning rate, or any schedule, rise to its start over the first steps.

    Adaptive optimizers have poor estimates in their first steps, and large batches start with
    large gradients; small steps keep both from harm. With `t = 0, 1, ...`, `n` the warmup's
    steps, `x = (t + 1) / n` and `f` the start factor:

    ```text
    t < n:    schedule(0) * (f + (1 - f) * x)                          linear
              schedule(0) * (f + (1 - f) * (1 - cos(pi x)) / 2)        cosine
              schedule(0) * f^(1 - x)                                  exponential
    t >= n:   schedule(t - n)
    ```

    The first step already moves the weights, even from a factor of 0; the last of the warmup
    runs at `schedule(0)`, and so does the one after, where `schedule` begins to count. So `n`
    steps are added in front: a decay over 1000 steps ends at `n + 1000`.

    Args:
        schedule: What to warm up to: a number of at least 0, or any `LearningRateSchedule`.
        steps: Steps that the warmup takes, at least 1.
        shape: How the factor rises. `"exponential"` needs `start_factor`; 1e-3 is common.
        start_factor: Factor that the warmup rises from, in [0, 1]; step 0 is one step above it.

    Example:
        >>> schedule = keras_optkit.schedules.Warmup(2.0, steps=4)
        >>> [float(schedule(step)) for step in range(6)]
        [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
        >>> cosine = keras.optimizers.schedules.CosineDecay(1e-3, decay_steps=10_000)
        >>> optimizer = keras.optimizers.Adam(keras_optkit.schedules.Warmup(cosine, steps=500))

    Reference:
        [Goyal et al., 2017](https://arxiv.org/abs/1706.02677), section 2.2, the gradual warmup.
        As in Keras' `CosineDecay(warmup_steps=n)`, the decay begins after the warmup; unlike
        there, where the first step runs at the start itself, which is often 0, the factor here
        counts `t + 1`. `optax.warmup_*` schedules at step `t + 1` equal this one at `t < n`.
    """

    def __init__(
        self,
        schedule: float | keras.optimizers.schedules.LearningRateSchedule,
        steps: int,
        shape: Literal["linear", "cosine", "exponential"] = "linear",
        start_factor: float = 0.0,
    ):
        self.schedule = as_schedule("schedule", schedule)
        self.steps = _check.integer("steps", steps, low=1)
        self.shape = _check.one_of("shape", shape, ("linear", "cosine", "exponential"))
        self.start_factor = _check.in_range("start_factor", start_factor, 0, 1)
        if self.shape == "exponential" and self.start_factor == 0:
            raise ValueError(
                '`start_factor` must be greater than 0 for shape="exponential", since nothing '
                "grows from 0 by factors; 1e-3 is common. "
                f"{_check.received('start_factor', start_factor)}"
            )

    def __call__(self, step):
        step = ops.convert_to_tensor(step)
        done = ops.cast(ops.minimum(step, self.steps - 1) + 1, "float32") / self.steps
        factor = ops.where(step < self.steps, self._factor(done), 1.0)
        return factor * value_of(self.schedule, steps_since(self.steps, step))

    def _factor(self, x):
        f = self.start_factor
        if self.shape == "linear":
            return f + (1 - f) * x
        if self.shape == "cosine":  # (1 - cos(pi x)) / 2 without its cancellation near x = 0
            return f + (1 - f) * ops.square(ops.sin(math.pi / 2 * x))
        return ops.exp(math.log(f) * (1 - x))
