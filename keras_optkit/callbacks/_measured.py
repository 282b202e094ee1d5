"""The optimizer that measures what another one does."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_optkit import _backend, _match
from keras_optkit.callbacks import _quantities
from keras_optkit.callbacks._store import Store
from keras_optkit.callbacks._updates import Updates
from keras_optkit.optimizers._slots import add_slot, copy, read, working_dtype


class Measured(Updates):
    """Measures every few updates of `inner_optimizer`, and does nothing to them.

    Args:
        inner_optimizer: The optimizer to watch, or a `Measured` of another callback.
        every: Updates from one measurement to the next.
        rows: How many measurements to keep for `fit` to fetch, 1 or more.
        always: Whether this runs only where a measurement is due, as far as can be foreseen. If
            not, `cond`s leave out what is not due, and the old weights are kept in variables:
            used again after the update as they are, they would be copied in every step.
        measure: What to measure beside norms: some of "cosine", "zeros" and "histogram".
        per: Whether to take the weights of a "layer" together, or each "variable" for itself.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        every: int,
        rows: int,
        always: bool = False,
        measure: Sequence[str] = (),
        per: str = "layer",
    ):
        super().__init__(inner_optimizer, every)
        self.rows, self.measure, self.per, self.always = rows, tuple(measure), per, always
        self.layers: list[str] = []

    def build(self, variables):
        if self.built:
            return
        watched = self.watched
        if not watched.built:
            with keras.name_scope(watched.name, caller=watched):  # as it does itself
                watched.build(variables)
        super().build(variables)
        name = layer_of if self.per == "layer" else _match.path
        groups: dict[str, list[int]] = {}
        for i, variable in enumerate(variables):
            if math.prod(variable.shape) and not self._overwrite_variable_with_gradient(variable):
                groups.setdefault(name(variable), []).append(i)
        self.layers, self._members = list(groups), tuple(map(tuple, groups.values()))
        self._sizes = [sum(math.prod(variables[i].shape) for i in m) for m in self._members]
        self._indices = [i for m in self._members for i in m]
        self._add_variables([*variables])

    def _add_variables(self, variables):
        cosine, zeros, histogram = (x in self.measure for x in ("cosine", "zeros", "histogram"))
        kept = [] if self.always else self._indices
        self._old = {i: add_slot(self, variables[i], "old") for i in kept}
        self._last = {i: add_slot(self, variables[i], "last") for i in self._indices if cosine}
        size, columns, bins = len(self.layers), 3 + cosine + 2 * zeros, _quantities.BINS * histogram
        add = self.add_variable
        self._directed = add((size,), dtype="float32", name="directed")  # 1 where `_last` is one
        self._pending = add((size, columns - 1), dtype="float32", name="pending")
        self._counted = add((size, bins), dtype="int", name="counted")
        self.store = Store(self, self.rows, size, columns, bins)

    def apply(self, grads, trainable_variables=None):
        gradients = list(grads)
        if not self.built:
            self.build(list(trainable_variables or ()))
        if not self.layers:  # nothing that trains
            self.inner_optimizer.apply(gradients, trainable_variables)
            return
        variables = trainable_variables or self._trainable_variables
        pairs = zip(variables, gradients, strict=True)
        known = {self._get_variable_index(v): g for v, g in pairs if g is not None}
        step = self.updates
        due = self.due(step)
        weights = self._old
        kept = [self._pending, self._counted, self._directed, *self._last.values()]
        kept += [*self._old.values(), *(self._trainable_variables[i] for i in self._old)]
        with _backend.no_gradient():
            if self.always:
                weights = {i: self._snapshot(i) for i in self._indices}
                self._before(known, weights, due)
            else:
                _backend.cond(due, lambda: self._before(known), kept)
        self.inner_optimizer.apply(gradients, trainable_variables)
        with _backend.no_gradient():
            if self.always:
                self._after(step, weights, due)
            else:
                written = [*self.store.variables, *kept]
                _backend.cond(due, lambda: self._after(step, weights), written)
        self._iterations.assign(read(self.watched._iterations))  # `apply_gradients` returns it

    def _before(self, known, weights=None, due=True):
        """Keeps what there is to say of gradients and weights, or the weights themselves."""
        means = self.mean_gradients({i: known[i] for i in self._indices if i in known})
        weights = weights or {i: copy(self._trainable_variables[i]) for i in self._old}
        groups = [[means[i] for i in m if i in means] for m in self._members]
        both = [*groups, *([weights[i] for i in m] for m in self._members)]
        norms = _quantities.norms(lambda: both)
        columns = [norms[: len(groups)], norms[len(groups) :]]
        news = [(self._old[i], weights[i]) for i in self._old]
        if self._last:
            cosines, turned = self._turn(groups, columns[0], list(means), due)
            columns.append(cosines)
            news += turned
        if "zeros" in self.measure:
            columns += _quantities.shares(groups, self._sizes)
        news.append((self._pending, ops.stack(columns, axis=1)))
        if "histogram" in self.measure:
            counts = _quantities.histograms(groups, self._sizes)
            news.append((self._counted, ops.cast(counts, self._counted.dtype)))
        _backend.assign(*zip(*news, strict=True))

    def _turn(self, groups, norms, indices, due):
        """Returns the cosines with the last gradients, and what to keep of these ones."""
        present = [[i for i in m if i in indices] for m in self._members]
        directions, usable = _quantities.directions(groups, norms)
        last = [[read(self._last[i]) for i in m] for m in present]
        both = ops.logical_and(usable, read(self._directed) > 0)
        cosines = ops.where(both, _quantities.cosines(directions, last), math.nan)
        slots = [self._directed, *(self._last[i] for m in present for i in m)]
        news = [ops.cast(usable, "float32"), *(d for group in directions for d in group)]
        if due is not True:
            olds = [read(self._directed), *(old for group in last for old in group)]
            news = [ops.where(due, *pair) for pair in zip(news, olds, strict=True)]
        return cosines, list(zip(slots, news, strict=True))

    def _after(self, step, weights, due=True):
        """Stores the measurement, now that the weights have moved."""
        pairs = {i: (self._value(i), read(old)) for i, old in weights.items()}

        def moved():
            return [[pairs[i][0] - pairs[i][1] for i in m] for m in self._members]

        norms = _quantities.norms(moved)
        pending = read(self._pending)
        values = ops.concatenate([pending[:, :2], norms[:, None], pending[:, 2:]], axis=1)
        self.store.write(step, values, read(self._counted), due)

    def _value(self, index):
        variable = self._trainable_variables[index]
        return read(variable, working_dtype(variable))

    def _snapshot(self, index):
        """Returns the value of a weight, which goes on to be that when the weight moves."""
        torch = keras.backend.backend() == "torch"
        return copy(self._trainable_variables[index]) if torch else self._value(index)


def layer_of(variable) -> str:
    """Returns the path of a variable without its last segment, or its name if it has but one."""
    path = _match.path(variable)
    return path.rpartition("/")[0] or path
