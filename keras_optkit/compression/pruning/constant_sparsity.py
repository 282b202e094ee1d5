"""One sparsity from a step on."""

from keras import ops

from keras_optkit._registry import register
from keras_optkit.compression.pruning._schedule import SparsitySchedule, share


@register
class ConstantSparsity(SparsitySchedule):
    """Prunes to one sparsity, and chooses anew what to prune every so many steps.

    Args:
        target_sparsity: Share of the weights to be zero, in [0, 1).
        begin_step: Step, counted from 1, from which on weights are pruned; at least 0.
        end_step: Last step at which masks change, at least `begin_step`; -1 for never.
        frequency: Steps from one choice to the next, at least 1. The choices are at `begin_step`,
            `begin_step + frequency` and so on; there is no step 0.

    Example:
        >>> schedule = keras_optkit.compression.ConstantSparsity(0.5, begin_step=1)
        >>> float(schedule(1))
        0.5

    Reference:
        `tfmot.sparsity.keras.ConstantSparsity`, whose arguments and steps these are.
    """

    def __init__(
        self,
        target_sparsity: float,
        begin_step: int,
        end_step: int = -1,
        frequency: int = 100,
    ):
        self.target_sparsity = share("target_sparsity", target_sparsity)
        self._take_steps(begin_step, end_step, frequency, endless=True)

    def __call__(self, step):
        return ops.full((), self.target_sparsity, "float32")
