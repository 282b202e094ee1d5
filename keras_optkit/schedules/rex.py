"""Reflected exponential decay."""

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.schedules._base import Schedule
from keras_optkit.schedules._curves import shares


@register
class REX(Schedule):
    """Holds a learning rate high for long, and lets it fall ever faster towards the end.

    Made for small budgets of steps, where it stays above a straight line, with nothing to tune.
    With `n` the steps and `z = min(t, n) / n`:

    ```text
    final + (initial - final) * (1 - z) / (1/2 + 1/2 (1 - z))
    ```

    Args:
        initial: Value of step 0, at least 0.
        steps: Steps that the decay takes, at least 1.
        final: Value from then on, at least 0.

    Example:
        >>> schedule = keras_optkit.schedules.REX(3.0, steps=2)
        >>> [float(schedule(step)) for step in range(4)]
        [3.0, 2.0, 0.0, 0.0]

    Reference:
        [Chen et al., 2021](https://arxiv.org/abs/2107.04197), section 4, sampled at every step.
        The paper decays to 0; `final` is an addition.
    """

    def __init__(self, initial: float, steps: int, final: float = 0.0):
        self.initial = _check.in_range("initial", initial, low=0)
        self.steps = _check.integer("steps", steps, low=1)
        self.final = _check.in_range("final", final, low=0)

    def __call__(self, step):
        done, left = shares(ops.convert_to_tensor(step), 0, self.steps)
        return (2 * left * self.initial + done * self.final) / (1 + left)
