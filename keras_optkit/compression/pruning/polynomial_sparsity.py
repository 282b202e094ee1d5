"""Sparsity that grows quickly, then slowly."""

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.pruning._schedule import SparsitySchedule, share


@register
class PolynomialSparsity(SparsitySchedule):
    """Prunes much at first, while there is much to spare, and ever less towards the end.

    ```text
    p = (step - begin_step) / (end_step - begin_step), between 0 and 1
    sparsity = final_sparsity + (initial_sparsity - final_sparsity) (1 - p)^power
    ```

    The final sparsity is reached at the last step that is due: let `frequency` divide
    `end_step - begin_step`, and training go on for a while after that, to recover.

    Args:
        initial_sparsity: Share of the weights to be zero at `begin_step`, in [0, 1).
        final_sparsity: Share at `end_step`, in [0, 1), at least `initial_sparsity`.
        begin_step: Step, counted from 1, from which on weights are pruned; at least 0.
        end_step: Last step at which masks change, at least `begin_step`.
        power: How early most is pruned, greater than 0; at 1 sparsity grows evenly.
        frequency: Steps from one choice of what to prune to the next, at least 1.

    Example:
        >>> schedule = keras_optkit.compression.PolynomialSparsity(0.0, 0.8, 200, 1000)
        >>> round(float(schedule(600)), 3)
        0.7

    Reference:
        [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878), equation 1, for `power` 3; with
        the arguments of `tfmot.sparsity.keras.PolynomialDecay`.
    """

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
    ):
        self.initial_sparsity = share("initial_sparsity", initial_sparsity)
        self.final_sparsity = share("final_sparsity", final_sparsity)
        if self.initial_sparsity > self.final_sparsity:
            raise ValueError(
                "`initial_sparsity` must not exceed `final_sparsity`, since pruned weights are "
                f"lost. Received: initial_sparsity={initial_sparsity}, "
                f"final_sparsity={final_sparsity}"
            )
        self._take_steps(begin_step, end_step, frequency, endless=False)
        self.power = _check.in_range("power", power, 0, closed="neither")

    def __call__(self, step):
        left = ops.power(1 - self.progress(step), self.power)
        return (self.initial_sparsity - self.final_sparsity) * left + self.final_sparsity
