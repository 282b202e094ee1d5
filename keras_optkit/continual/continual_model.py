"""A model that learns one task after another."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.continual import _quadratic
from keras_optkit.continual._penalty import Measure, Penalty, State
from keras_optkit.optimizers._inside import chain
from keras_optkit.optimizers._model_wrapper import ModelWrapper
from keras_optkit.optimizers._slots import read, working_dtype


@register
class ContinualModel(ModelWrapper):
    """Trains a model on one task after another, with penalties against forgetting.

    Compile and fit it like the model inside, and call `consolidate` at the end of each task: the
    penalties then take up what the weights are and how much each one matters. Until the first
    time they do nothing. What they keep are non-trainable weights of this model. So training
    compiles once for all tasks, and a saved model goes on in another process bit for bit.

    The model inside is never changed but by training; `strip()` gives it back. Its own
    regularizers count as ever. Adding a weight to it afterwards, or another wrapper around this
    one, is not supported.

    Penalties are summed over all replicas of a strategy. Those with `update="proximal"` act after
    each update of the optimizer, with its learning rate, on whatever it did to the weights.

    Args:
        model: The `keras.Model` to train, built, and without a training step of its own.
        penalties: Such as `EWC`, `SI`, `MAS` and `L2Anchor`, one or several; none to compare with.
        name: Name of the wrapper.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `model` is not built, or has a training step of its own.

    Example:
        >>> ewc = keras_optkit.continual.EWC(strength=100.0)
        >>> learner = keras_optkit.continual.ContinualModel(model, [ewc])
        >>> learner.compile("sgd", "mse")
        >>> for task_x, task_y in [(x, y), (x, -y)]:
        ...     history = learner.fit(task_x, task_y)
        ...     learner.consolidate(task_x, task_y)
        >>> plain = learner.strip()
    """

    def __init__(
        self,
        model: keras.Model,
        penalties: Sequence[Penalty] | Penalty = (),
        name: str | None = None,
    ):
        given = (penalties,) if isinstance(penalties, Penalty) else penalties
        _check.instance("penalties", given, (list, tuple), "a list of penalties such as EWC(1e3)")
        for penalty in given:
            _check.instance("penalties", penalty, Penalty, "a list of penalties such as EWC(1e3)")
        super().__init__(model, name)
        if not model.built:
            raise ValueError(
                "ContinualModel keeps something for each weight, so `model` must be built: call "
                f"it once, as in `model(x[:1])`, or give it an Input. Received: {model.name!r}, "
                "which has no weights yet"
            )
        self.penalties = tuple(given)
        counter = self._adder("tasks")
        self._tasks = counter("done", shape=(), dtype="int32", initializer="zeros")
        guarded = [v for v in model.trainable_variables if not v.overwrite_with_gradient]
        self._memory = Memory(
            [
                penalty.build(guarded, self._adder(f"{type(penalty).__name__.lower()}_{i}"))
                for i, penalty in enumerate(self.penalties)
            ],
            Measure(model, self),
        )

    @property
    def tasks(self) -> int:
        """Tasks consolidated so far."""
        return int(ops.convert_to_numpy(self._tasks))

    @property
    def strengths(self) -> list[float]:
        """Strengths of the penalties; assign a list to change them, and nothing compiles anew."""
        return [float(ops.convert_to_numpy(s.strength)) for s in self._memory.states]

    @strengths.setter
    def strengths(self, values: Sequence[float]) -> None:
        if len(values) != len(self.penalties):
            raise ValueError(
                f"`strengths` must have one number for each of {len(self.penalties)} penalties. "
                f"{_check.received('strengths', values)}"
            )
        values = [_check.in_range("strengths", value, low=0) for value in values]
        for penalty, state, value in zip(self.penalties, self._memory.states, values, strict=True):
            penalty.strength = value
            state.strength.assign(value)

    def consolidate(self, x: Any = None, y: Any = None) -> None:
        """Ends a task: penalties hold the weights as they are now, as firmly as each matters.

        It may also be called before any `fit`, with data that the model was trained on before.
        If it raises, nothing has changed.

        Args:
            x: Inputs of the task: an array, a list or dict of arrays; or a dataset with targets.
                `L2Anchor` and `SI` need none.
            y: Targets; only EWC with `labels="empirical"` needs them.

        Raises:
            ValueError: If the model is not compiled and a penalty needs its loss; if `x` is missing
                and a penalty needs it; or for the reasons of the penalties themselves.
        """
        for penalty in self.penalties:
            needs = type(penalty).__name__
            if penalty.needs_loss and getattr(self, "loss", None) is None:
                raise ValueError(
                    f"{needs} measures the gradients of the loss, so call "
                    "`learner.compile(optimizer, loss)` before `consolidate`. Received: a "
                    "ContinualModel without a compiled loss"
                )
            if penalty.needs_data and x is None:
                raise ValueError(
                    f"{needs} measures what matters on the data of the task: call "
                    "`learner.consolidate(x, y)` with them. Received: x=None"
                )
        measure = self._memory.measure
        measure.task = self.tasks
        pairs = [
            pair
            for penalty, state in zip(self.penalties, self._memory.states, strict=True)
            for pair in penalty.consolidate(state, measure, x, y)
        ]
        for variable, value in pairs:
            # Memory of its own, since JAX donates what it is given.
            variable.assign(np.array(value, keras.backend.standardize_dtype(variable.dtype)))
        self._tasks.assign(self.tasks + 1)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        for penalty, state in zip(self.penalties, self._memory.states, strict=True):
            if penalty.update == "loss":
                loss = loss + ops.cast(
                    self._aggregate_additional_loss(penalty.loss(state)), loss.dtype
                )
        return loss

    @property
    def follows_updates(self):
        return any(p.update == "proximal" or p.follows_updates for p in self.penalties)

    def after_update(self, gradients, before, pace):
        rate, count, scale = pace
        # An update may be left out, while gradients accumulate or if one is not finite.
        happened = self.pace()[1] - count
        self._pull(ops.cast(rate, "float32") * ops.cast(happened, "float32"))
        at = {id(v): i for i, v in enumerate(self.trainable_variables)}
        following = [
            (penalty, state)
            for penalty, state in zip(self.penalties, self._memory.states, strict=True)
            if penalty.follows_updates
        ]
        if following:
            _refuse_accumulation(self.optimizer)
        pairs = []
        for penalty, state in following:
            which = [
                i
                for i, v in enumerate(state.variables)
                if id(v) in at and gradients[at[id(v)]] is not None
            ]
            mine = [_dense(gradients[at[id(state.variables[i])]], state, i) / scale for i in which]
            whole = dict(zip(which, _backend.sum_over_replicas(mine), strict=True))
            old, new = {}, {}
            for i in which:
                variable, dtype = state.variables[i], working_dtype(state.variables[i])
                old[i] = ops.cast(before[at[id(variable)]], dtype)
                new[i] = ops.cast(ops.convert_to_tensor(read(variable)), dtype)
            places = range(len(state.variables))
            pairs += penalty.after_update(
                state, *([part.get(i) for i in places] for part in (whole, old, new))
            )
        if pairs:
            _backend.assign(*map(list, zip(*pairs, strict=True)))

    def _pull(self, rate) -> None:
        """Does the proximal steps."""
        proximal = [
            (penalty, state)
            for penalty, state in zip(self.penalties, self._memory.states, strict=True)
            if penalty.update == "proximal"
        ]
        if not proximal:
            return
        variables = proximal[0][1].variables
        which = proximal[0][1].kept()
        pairs: list[list] = [[] for _ in which]
        for penalty, state in proximal:
            scale = 2 * penalty.factor * rate * ops.convert_to_tensor(read(state.strength))
            weighing, anchors = penalty.weighing(state, which), state.read("anchor", which)
            for pair, f, a in zip(pairs, weighing, anchors, strict=True):
                pair.append((ops.cast(scale, f.dtype) * ops.maximum(f, 0), a))
        moved = [variables[i] for i in which]
        values = []
        for variable, pair in zip(moved, pairs, strict=True):
            weight = ops.cast(ops.convert_to_tensor(read(variable)), working_dtype(variable))
            value = _quadratic.pulled(weight, pair)
            if variable.constraint is not None:
                value = variable.constraint(value)
            values.append(ops.cast(value, variable.dtype))
        if moved:
            _backend.assign(moved, values)

    def _adder(self, prefix: str):
        """Returns a function that adds a weight under a name that begins so."""

        def add(name: str, **kwargs):
            return self.add_weight(name=f"{prefix}_{name}", trainable=False, **kwargs)

        return add


class Memory:
    """Where the states of the penalties are, out of the sight of Keras' tracking."""

    def __init__(self, states: list[State], measure: Measure):
        self.states, self.measure = states, measure


def _refuse_accumulation(optimizer) -> None:
    for part in chain(optimizer):
        if getattr(part, "gradient_accumulation_steps", None):
            raise ValueError(
                "SI needs the gradient of every update, and knows only that of each batch; use "
                "larger batches instead of accumulating gradients. Received: "
                f"gradient_accumulation_steps={part.gradient_accumulation_steps} in {part.name!r}"
            )


def _dense(gradient, state: State, i: int):
    return ops.cast(_backend.dense(gradient), working_dtype(state.variables[i]))
