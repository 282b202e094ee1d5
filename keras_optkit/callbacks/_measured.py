"""The optimizer that measures what another one does."""

import math

import keras
from keras import ops

from keras_optkit import _backend, _match
from keras_optkit.callbacks._transparent import Transparent
from keras_optkit.optimizers._slots import add_slot, copy, read, working_dtype
from keras_optkit.transforms._norms import scaled_norm


class Measured(Transparent):
    """Measures every few updates of `inner_optimizer`, and does nothing to them.

    What is not due is left out by `cond`s. The old weights are kept in variables, to be written
    when due; used again after the update as they are, they would be copied in every step.

    Args:
        inner_optimizer: The optimizer to watch, or a `Measured` of another callback.
        every: Updates from one measurement to the next.
        rows: How many measurements to keep for `fit` to fetch, 1 or more.
    """

    def __init__(self, inner_optimizer: keras.optimizers.Optimizer, every: int, rows: int):
        super().__init__(inner_optimizer)
        self.every = every
        self.rows = rows
        self.layers: list[str] = []

    @property
    def period(self) -> int:
        """Batches per update, or, if some weights' optimizers differ in it, per update of all."""
        return math.lcm(*(leaf.gradient_accumulation_steps or 1 for leaf in self._leaves()))

    @property
    def updates(self):
        """Number of updates done so far, as a scalar tensor."""
        counted = self.watched.gradient_accumulation_steps or 1  # a MultiOptimizer counts none
        return read(self.watched.iterations) // (self.period // counted)

    def build(self, variables):
        if self.built:
            return
        watched = self.watched
        if not watched.built:
            with keras.name_scope(watched.name, caller=watched):  # as it does itself
                watched.build(variables)
        super().build(variables)
        groups: dict[str, list[int]] = {}
        for i, variable in enumerate(variables):
            if math.prod(variable.shape) and not self._overwrite_variable_with_gradient(variable):
                groups.setdefault(layer_of(variable), []).append(i)
        self.layers, self._members = list(groups), tuple(map(tuple, groups.values()))
        self._old = {i: add_slot(self, variables[i], "old") for m in self._members for i in m}
        size = len(groups)
        self._pending = self.add_variable((size, 2), dtype="float32", name="pending")
        self._results = self.add_variable((self.rows, size, 3), dtype="float32", name="results")
        self._steps = self.add_variable((self.rows,), dtype="int", name="steps")
        self._count = self.add_variable((), dtype="int", name="count")

    def apply(self, grads, trainable_variables=None):
        gradients = list(grads)
        if not self.built:
            self.build(list(trainable_variables or ()))
        variables = trainable_variables or self._trainable_variables
        pairs = zip(variables, gradients, strict=True)
        known = {self._get_variable_index(v): g for v, g in pairs if g is not None}
        step = self.updates
        due = step % self.every == 0
        if self.period > 1:
            due = ops.logical_and(due, (read(self.watched._iterations) + 1) % self.period == 0)
        with _backend.no_gradient():
            read_too = [self._trainable_variables[i] for i in self._old]
            kept = [self._pending, *self._old.values(), *read_too]
            _backend.cond(due, lambda: self._before(known), kept)
        self.inner_optimizer.apply(gradients, trainable_variables)
        with _backend.no_gradient():
            written = [self._results, self._steps, self._count]
            _backend.cond(due, lambda: self._after(step), [*written, *kept])
        self._iterations.assign(read(self.watched._iterations))  # `apply_gradients` returns it

    def _before(self, known):
        """Keeps the norms of gradients and weights, and the weights themselves."""
        scale = self.watched.loss_scale_factor or 1
        indices = [i for i in known if i in self._old]
        gradients = _backend.sum_over_replicas(
            [ops.cast(_backend.dense(known[i]), self._old[i].dtype) / scale for i in indices]
        )
        means = {i: self._mean(g, i) for i, g in zip(indices, gradients, strict=True)}
        weights = {i: copy(self._trainable_variables[i]) for i in self._old}
        norms = [
            [_norm([means[i] for i in m if i in means]), _norm([weights[i] for i in m])]
            for m in self._members
        ]
        new = ops.stack([ops.stack(pair) for pair in norms])
        _backend.assign([self._pending, *self._old.values()], [new, *weights.values()])

    def _after(self, step):
        """Stores the measurement, now that the weights have moved."""
        moved = {
            i: read(self._trainable_variables[i], old.dtype) - read(old)
            for i, old in self._old.items()
        }
        norms = ops.stack([_norm([moved[i] for i in m]) for m in self._members])
        new = ops.concatenate([read(self._pending), norms[:, None]], axis=1)
        count = read(self._count)
        here = ops.arange(self.rows) == ops.cast(count % self.rows, "int32")
        results = ops.where(here[:, None, None], new[None], read(self._results))
        steps = ops.where(here, ops.cast(step, self._steps.dtype), read(self._steps))
        _backend.assign([self._results, self._steps, self._count], [results, steps, count + 1])

    def _mean(self, gradient, index):
        """Returns the gradient that the update will see, which ends an accumulation."""
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


def layer_of(variable) -> str:
    """Returns the path of a variable without its last segment, or its name if it has but one."""
    path = _match.path(variable)
    return path.rpartition("/")[0] or path


def _norm(tensors):
    if not tensors:
        return ops.zeros((), "float32")
    largest, ratio = scaled_norm([ops.cast(t, "float32") for t in tensors])
    return largest * ratio
