"""Warmup, a long plateau, and a short decay."""

import math
from typing import Literal

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule
from keras_optkit.schedules._curves import between, shares

SHAPES = ("linear", "cosine", "sqrt", "exponential")


@register
class WarmupStableDecay(Schedule):
    """Rises to a peak, stays there for most of the training, and decays at its end.

    The plateau does not depend on when training ends: keep a checkpoint of it, and decay from
    there after any number of steps, or train on. With `n`, `s`, `d` the steps of the three phases
    and `x = min(1, (t - n - s) / d)`:

    ```text
    t < n:         peak * (t + 1) / n
    t < n + s:     peak
    t >= n + s:    final + (peak - final) * (1 - x)                    linear
                   final + (peak - final) * (1 + cos(pi x)) / 2        cosine
                   final + (peak - final) * (1 - sqrt(x))              sqrt
                   peak * (final / peak)^x                             exponential
    ```

    Args:
        peak: Value of the plateau, at least 0.
        warmup_steps: Steps of the rise, at least 0.
        stable_steps: Steps of the plateau, at least 0.
        decay_steps: Steps of the decay, at least 1; a tenth to a fifth of all is common.
        final: Value from then on, in [0, peak]; greater than 0 if the decay is exponential.
        decay_shape: `"linear"`, `"cosine"`, `"sqrt"` or `"exponential"`.

    Example:
        >>> schedule = keras_optkit.schedules.WarmupStableDecay(1.0, 2, 2, 4, decay_shape="sqrt")
        >>> [float(schedule(step)) for step in (0, 1, 3, 4, 5, 8)]
        [0.5, 1.0, 1.0, 1.0, 0.5, 0.0]

    Reference:
        [Hu et al., 2024](https://arxiv.org/abs/2404.06395), section 4, which decays exponentially,
        and [Hägele et al., 2024](https://arxiv.org/abs/2405.18392), section 3, which found `sqrt`
        the best. Both warm up from 0 at step 0; as in `Warmup`, step 0 moves the weights here.
    """

    def __init__(
        self,
        peak: float,
        warmup_steps: int,
        stable_steps: int,
        decay_steps: int,
        final: float = 0.0,
        decay_shape: Literal["linear", "cosine", "sqrt", "exponential"] = "linear",
    ):
        self.peak = _check.in_range("peak", peak, low=0)
        self.warmup_steps = _check.integer("warmup_steps", warmup_steps, low=0)
        self.stable_steps = _check.integer("stable_steps", stable_steps, low=0)
        self.decay_steps = _check.integer("decay_steps", decay_steps, low=1)
        self.final = _check.in_range("final", final, 0, self.peak)
        self.decay_shape = _check.one_of("decay_shape", decay_shape, SHAPES)
        if self.decay_shape == "exponential" and self.final == 0:
            raise ValueError(
                '`final` must be greater than 0 for decay_shape="exponential", since nothing '
                "decays to 0 by factors; a tenth of the peak is common. "
                f"{_check.received('final', final)}"
            )

    def __call__(self, step):
        step, start = ops.convert_to_tensor(step), self.warmup_steps + self.stable_steps
        value = self._decay(*shares(step, start, start + self.decay_steps))
        if not self.warmup_steps:
            return value
        risen = ops.cast(ops.minimum(step, self.warmup_steps - 1) + 1, "float32")
        return ops.where(step < self.warmup_steps, self.peak * (risen / self.warmup_steps), value)

    def _decay(self, done, left):
        if self.decay_shape == "exponential":
            return self.peak * ops.exp(math.log(self.final / self.peak) * done)
        if self.decay_shape == "sqrt":  # 1 - sqrt(x) without its cancellation near x = 1
            root = ops.sqrt(done)
            return self.peak * (left / (1 + root)) + self.final * root
        return between(self.peak, self.final, done, left, self.decay_shape)
