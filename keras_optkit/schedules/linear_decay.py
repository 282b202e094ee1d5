"""Linear decay."""

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule
from keras_optkit.schedules._curves import between, shares


@register
class LinearDecay(Schedule):
    """Moves a learning rate along a straight line, to 0 if nothing else is said.

    Hard to beat where the number of steps is known from the start. With `n` the steps:

    ```text
    initial + (final - initial) * min(t, n) / n
    ```

    Step `n` is the first at `final`, so the last of `n` steps still moves the weights.

    Args:
        initial: Value of step 0, at least 0.
        steps: Steps that the line takes, at least 1.
        final: Value from then on, at least 0; above `initial`, the line rises.

    Example:
        >>> schedule = keras_optkit.schedules.LinearDecay(1.0, steps=4)
        >>> [float(schedule(step)) for step in range(6)]
        [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]

    Reference:
        [Li et al., 2020](https://arxiv.org/abs/1905.04753), section 3.2. Keras' `PolynomialDecay`
        of power 1 and `optax.linear_schedule`; neither counts exactly above 2^24 steps.
    """

    def __init__(self, initial: float, steps: int, final: float = 0.0):
        self.initial = _check.in_range("initial", initial, low=0)
        self.steps = _check.integer("steps", steps, low=1)
        self.final = _check.in_range("final", final, low=0)

    def __call__(self, step):
        done, left = shares(ops.convert_to_tensor(step), 0, self.steps)
        return between(self.initial, self.final, done, left)
