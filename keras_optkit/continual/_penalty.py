"""What holds weights near those of earlier tasks."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_optkit import _check
from keras_optkit._config import Configurable
from keras_optkit.continual import _quadratic
from keras_optkit.optimizers._slots import lay_out, layout_of, read, working_dtype

Update = Literal["loss", "proximal"]
UPDATES = ("loss", "proximal")


@dataclasses.dataclass
class State:
    """What one penalty keeps, in weights of the `ContinualModel`.

    It is no list, or Keras would take the weights of the model inside for the wrapper's own.
    """

    variables: list  # of the model inside
    strength: Any
    constant: Any  # what the penalty is off by at its minimum
    slots: dict[str, list]
    model: Any = None  # the one inside, for what looks at outputs

    def kept(self) -> list[int]:
        """Returns the places of the weights that are trained at present."""
        return [i for i, v in enumerate(self.variables) if v.trainable]

    def read(self, slot: str, which: list[int]) -> list:
        """Returns values as tensors."""
        return [ops.convert_to_tensor(read(self.slots[slot][i])) for i in which]

    def arrays(self, slot: str | None = None) -> list[np.ndarray]:
        """Returns values, by default those of the weights, as float64 arrays of their own."""
        variables = self.variables if slot is None else self.slots[slot]
        return [np.array(ops.convert_to_numpy(v), "float64") for v in variables]

    def new(self, slot: str, arrays: list) -> list[tuple]:
        """Returns pairs of variables and values to assign."""
        return list(zip(self.slots[slot], arrays, strict=True))


class Step(NamedTuple):
    """A batch and what the model makes of it, for what looks at more than the weights."""

    x: Any
    outputs: Any
    sample_weight: Any
    remembered: Any = None  # what `DER` needs beside them
    training: bool = True


class Penalty(Configurable):
    """Base of the penalties: `strength` times `factor` times `sum F (w - a)^2`.

    To write one of your own, derive from it, store what the constructor takes under the same names,
    and let `consolidate` return new values of what is kept; then register it, so that saved models
    load.

    A penalty is a description, and its arguments are all it holds; the importances `F` and anchors
    `a` belong to the `ContinualModel`, which is given to every method as a `State`.

    Args:
        strength: Factor of the penalty, 0 or more.
        update: How the weights feel it: `"loss"`, as part of the loss, or `"proximal"`, as an
            exact step of its own after each update.

    Example:
        >>> @keras.saving.register_keras_serializable("mine")
        ... class ByDistance(keras_optkit.continual.Penalty):
        ...     needs_data = False
        ...
        ...     def consolidate(self, state, measure, x, y):
        ...         moved = zip(state.arrays(), state.arrays("anchor"))
        ...         new = [1 / (1 + (weight - anchor) ** 2) for weight, anchor in moved]
        ...         return state.new("importance", new) + state.new("anchor", state.arrays())
        >>> learner = keras_optkit.continual.ContinualModel(model, [ByDistance(0.1)])
        >>> learner.compile("sgd", "mse")
        >>> history = learner.fit(x, y)
        >>> learner.consolidate()
    """

    factor: ClassVar[float] = 0.5
    slots: ClassVar[tuple[str, ...]] = ("importance", "anchor")
    needs_data: ClassVar[bool] = True
    needs_loss: ClassVar[bool] = False
    of_outputs: ClassVar[bool] = False  # rather than of weights
    follows_updates: ClassVar[bool] = False  # beside what `update` wants
    makes_batches: ClassVar[bool] = False  # of new and old samples, for `fit`
    fills_buffer: bool = False  # while training; `consolidate` must not

    def __init__(self, strength: float, update: Update = "loss"):
        self.strength = _check.in_range("strength", strength, low=0)
        self.update = _check.one_of("update", update, UPDATES)

    def build(self, measure: "Measure", variables: list, add_weight: Callable) -> State:
        """Makes the variables to keep, for the weights in `variables`, which the model trains."""
        slots = {
            slot: [
                add_weight(
                    shape=v.shape, dtype=working_dtype(v), initializer="zeros", name=f"{slot}_{i}"
                )
                for i, v in enumerate(variables)
            ]
            for slot in self.slots
        }
        for made in slots.values():
            for new, variable in zip(made, variables, strict=True):
                lay_out(new, layout_of(variable))
        strength, constant = (
            add_weight(shape=(), dtype="float32", initializer="zeros", name=name)
            for name in ("strength", "constant")
        )
        strength.assign(self.strength)
        state = State(list(variables), strength, constant, slots)
        for variable, value in state.new("anchor", state.arrays()):
            variable.assign(value)
        return state

    def loss(self, state: State, step: Any):
        """Returns the penalty, of the weights as they are; with `of_outputs`, in a `Step`."""
        which = state.kept()
        if not which:
            return ops.zeros((), "float32")
        weights = [ops.convert_to_tensor(read(state.variables[i])) for i in which]
        value = _quadratic.total(weights, state.read("anchor", which), self.weighing(state, which))
        scale = ops.convert_to_tensor(read(state.strength))
        return scale * self.factor * (value + ops.convert_to_tensor(read(state.constant)))

    def weighing(self, state: State, which: list[int]) -> list:
        """Returns the importances as tensors."""
        return state.read("importance", which)

    def after_update(self, state: State, gradients: list, before: list, after: list) -> list:
        """Returns pairs of variables and values to assign after an update of the weights.

        Gradients, and weights before and after, come in the order of `state.variables`, None for
        those that are not trained.
        """
        return []

    def consolidate(self, state: State, measure: "Measure", x: Any, y: Any) -> list[tuple]:
        """Returns pairs of variables and values to assign at the end of a task."""
        raise NotImplementedError


@dataclasses.dataclass
class Measure:
    """What penalties work with: the model, what is compiled for it, the buffer, and the task."""

    model: keras.Model
    compiled: keras.Model
    buffer: Any = None
    task: int = 0
    cache: dict = dataclasses.field(default_factory=dict)

    def aligned(self, arrays: list[np.ndarray], state: State) -> list[np.ndarray]:
        """Returns arrays of trainable variables in the order of `state`, 0 for the others."""
        found = {id(v): a for v, a in zip(self.model.trainable_variables, arrays, strict=True)}
        return [found.get(id(v), np.zeros(v.shape)) for v in state.variables]
