"""The schedule of the first transformers."""

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule


@register
class InverseSquareRoot(Schedule):
    """Rises to a peak in a straight line, then falls as one over the root of the step.

    For runs whose end is not known when they start: the value never reaches 0, and any step may
    be the last. With `t = 0, 1, ...` and `n` the warmup's steps:

    ```text
    peak * min((t + 1) / n, sqrt(n / (t + 1)))
    ```

    Args:
        peak: Value of the last step of the warmup, `t = n - 1`; at least 0.
        warmup_steps: Steps that the rise takes, at least 1.

    Example:
        >>> schedule = keras_optkit.schedules.InverseSquareRoot(1.0, warmup_steps=2)
        >>> [float(schedule(step)) for step in (0, 1, 7)]
        [0.5, 1.0, 0.5]
        >>> noam = keras_optkit.schedules.InverseSquareRoot.for_width(512, warmup_steps=4000)
        >>> round(noam.peak, 6)
        0.000699

    Reference:
        [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762), equation 3, by `for_width`; its
        steps count from 1 as well.
    """

    def __init__(self, peak: float, warmup_steps: int):
        self.peak = _check.in_range("peak", peak, low=0)
        self.warmup_steps = _check.integer("warmup_steps", warmup_steps, low=1)

    @classmethod
    def for_width(
        cls, d_model: int, warmup_steps: int = 4000, scale: float = 1.0
    ) -> "InverseSquareRoot":
        """Returns the paper's `d_model^-0.5 * min(step^-0.5, step * warmup_steps^-1.5)`.

        Args:
            d_model: Width of the transformer, at least 1.
            warmup_steps: Steps that the rise takes, at least 1.
            scale: A factor of all values, at least 0.
        """
        d_model = _check.integer("d_model", d_model, low=1)
        warmup_steps = _check.integer("warmup_steps", warmup_steps, low=1)
        scale = _check.in_range("scale", scale, low=0)
        return cls(scale * (d_model * warmup_steps) ** -0.5, warmup_steps)

    def __call__(self, step):
        count = ops.cast(ops.convert_to_tensor(step) + 1, "float32")
        rise, fall = count / self.warmup_steps, ops.sqrt(self.warmup_steps / count)
        return self.peak * ops.minimum(rise, fall)
