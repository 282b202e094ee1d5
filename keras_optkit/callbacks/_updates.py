"""What an update is, whoever accumulates, scales and sums gradients."""

import math

from keras import ops

from keras_optkit import _backend
from keras_optkit.callbacks._transparent import Transparent
from keras_optkit.optimizers._slots import read, working_dtype


class Updates(Transparent):
    """Base of an optimizer that looks at the updates of another one, rather than at batches.

    Args:
        inner_optimizer: The optimizer to stand before, which may be another `Transparent`.
        every: Updates from one that is due to the next.
    """

    def __init__(self, inner_optimizer, every: int):
        super().__init__(inner_optimizer)
        self.every = every

    @property
    def period(self) -> int:
        """Batches per update, or, if some weights' optimizers differ in it, per update of all."""
        return math.lcm(*(leaf.gradient_accumulation_steps or 1 for leaf in self._leaves()))

    @property
    def updates(self):
        """Number of updates done so far, as a scalar tensor."""
        counted = self.watched.gradient_accumulation_steps or 1  # a MultiOptimizer counts none
        return read(self.watched.iterations) // (self.period // counted)

    def due(self, step):
        """Tells, as a tensor, whether this call makes an update that is due."""
        due = step % self.every == 0
        if self.period > 1:
            due = ops.logical_and(due, (read(self.watched._iterations) + 1) % self.period == 0)
        return due

    def mean_gradients(self, gradients: dict) -> dict:
        """Returns by index the gradients that the update will see, which ends an accumulation."""
        scale = self.watched.loss_scale_factor or 1
        dtypes = {i: working_dtype(self._trainable_variables[i]) for i in gradients}
        summed = _backend.sum_over_replicas(
            [ops.cast(_backend.dense(g), dtypes[i]) / scale for i, g in gradients.items()]
        )
        return {i: self._mean(g, i) for i, g in zip(gradients, summed, strict=True)}

    def _mean(self, gradient, index):
        variable = self._trainable_variables[index]
        for leaf in self._leaves():
            steps = leaf.gradient_accumulation_steps
            if steps and leaf._var_key(variable) in leaf._trainable_variables_indices:
                total = leaf._accumulated_gradients[leaf._get_variable_index(variable)]
                return (gradient + read(total, working_dtype(variable))) / steps
        return gradient

    def _leaves(self) -> list:
        """Returns the optimizers that may accumulate: the watched one, or those of a `Multi`."""
        return list(getattr(self.watched, "optimizers", ())) or [self.watched]
