"""A walk along the graph of a model that finds out where its channels go."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from keras_optkit.compression._graph import Call, calls, functional
from keras_optkit.compression.channels._channels import Channels
from keras_optkit.compression.channels._labels import Labels
from keras_optkit.compression.channels._rules import rule_for


@dataclasses.dataclass(frozen=True, eq=False)
class Slices:
    """The axes of a weight along which channels lie.

    Args:
        variable: The weight.
        layer: Path of the layer it belongs to.
        axes: The channels along each of these axes.
    """

    variable: keras.Variable
    layer: str
    axes: dict[int, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Producer:
    """A layer that makes channels: each is what one filter of its kernel gives.

    Args:
        layer: The layer.
        path: Its path.
        kernel: Its kernel.
        axis: The axis of the kernel that counts filters.
        bias: Its bias or None.
        ids: The channels.
    """

    layer: keras.layers.Layer
    path: str
    kernel: keras.Variable
    axis: int
    bias: keras.Variable | None
    ids: np.ndarray


class Trace:
    """What the walk has found.

    Args:
        model: A built Functional or Sequential model.
        what: Names the caller in errors.
    """

    def __init__(self, model: keras.Model, what: str):
        self.model, self.what = model, what
        self.channels = Channels()
        self.slices: dict[int, Slices] = {}
        self.settings: dict[int, dict[tuple[str, int | None], np.ndarray]] = {}
        self.inputs: dict[int, Labels] = {}
        self.producers: dict[int, Producer] = {}
        self.gammas: dict[int, Slices] = {}
        self.work: list[tuple[keras.Variable, int | None]] = []
        self.nested: set[int] = set()  # the models whose inside it knows
        self._paths: dict[int, str] = {}
        given = [self._input(tensor) for tensor in functional(model, what).inputs]
        for labels in self._walk(model, given, ""):
            self.channels.freeze(labels.ids, "it is an output of the model")

    def path(self, operation: keras.Operation) -> str:
        """Returns the names of the nested models around an operation, and its own."""
        return self._paths.get(id(operation), str(operation.name))

    def named(self, operation: keras.Operation) -> str:
        """Returns how to name an operation in a reason."""
        return f'"{self.path(operation)}" ({type(operation).__name__})'

    def freeze(self, labels: Labels, reason: str) -> None:
        """Keeps all channels of a tensor."""
        self.channels.freeze(labels.ids, reason)

    def unknown(self, call: Call, labels: list[Labels], reason: str = "") -> list[Labels]:
        """Keeps the channels of all inputs; what comes out is new and is kept too."""
        reason = reason or f"{self.named(call.operation)} is not known to keep channels apart"
        for given in labels:
            self.freeze(given, reason)
        return [self._opaque(tensor, reason) for tensor in call.outputs]

    def rows(self, call: Call, labels: Labels, axis: int) -> np.ndarray | None:
        """Returns the channels along `axis` of the input; if they lie elsewhere they are kept."""
        axis %= len(call.inputs[0].shape)
        if labels.axis == axis and len(labels.ids) == call.inputs[0].shape[axis]:
            return labels.ids
        self.freeze(labels, f"{self.named(call.operation)} mixes positions along their axis")
        return None

    def slice(self, layer, variable, axis: int, ids: np.ndarray | None) -> None:
        """Notes that channels lie along an axis of a weight."""
        if ids is None or variable is None:
            return
        axis %= len(variable.shape)
        found = self.slices.setdefault(id(variable), Slices(variable, self.path(layer), {}))
        if axis in found.axes:  # A shared layer: what it is called with next goes with the first.
            self.channels.unify(found.axes[axis], ids)
        else:
            found.axes[axis] = ids

    def set(self, operation, name: str, ids: np.ndarray, position: int | None = None) -> None:
        """Notes that an argument, or an entry of one, is the number of these channels."""
        found = self.settings.setdefault(id(operation), {})
        if (name, position) in found:
            self.channels.unify(found[name, position], ids)
        else:
            found[name, position] = ids

    def produced(self, layer, name: str, kernel, axis: int) -> np.ndarray:
        """Returns the channels that a layer makes, and notes where its weights hold them."""
        if id(layer) not in self.producers:
            ids = self.channels.new(kernel.shape[axis])
            bias = getattr(layer, "bias", None)
            self.set(layer, name, ids)
            self.slice(layer, kernel, axis, ids)
            self.slice(layer, bias, 0, ids)
            self.producers[id(layer)] = Producer(
                layer, self.path(layer), kernel, axis % len(kernel.shape), bias, ids
            )
        return self.producers[id(layer)].ids

    def normalized(self, layer, variable) -> None:
        """Notes a weight that scales channels one by one."""
        self.gammas[id(layer)] = self.slices[id(variable)]

    def multiplies(self, variable, shape, channel_axis: int) -> None:
        """Notes that each entry of a weight is used once at each position of a tensor."""
        positions = [d for i, d in enumerate(shape) if i not in (0, channel_axis % len(shape))]
        self.work.append((variable, None if None in positions else math.prod(positions)))

    def _walk(self, model: Any, given: list[Labels], prefix: str) -> list[Labels]:
        inside = functional(model, self.what)
        known = {}
        for tensor, labels in zip(inside.inputs, given, strict=True):
            if id(tensor) in self.inputs:
                self.channels.unify(self.inputs[id(tensor)].ids, labels.ids)
            known[id(tensor)] = self.inputs.setdefault(id(tensor), labels)
        for call in calls(model, self.what):
            self._paths.setdefault(id(call.operation), prefix + call.operation.name)
            found = self._call(call, [known[id(t)] for t in call.inputs], prefix)
            known |= {id(t): labels for t, labels in zip(call.outputs, found, strict=True)}
        return [known[id(t)] for t in inside.outputs]

    def _call(self, call: Call, labels: list[Labels], prefix: str) -> list[Labels]:
        inside: Any = getattr(call.operation, "_functional", call.operation)
        if isinstance(call.operation, keras.Model) and hasattr(inside, "_nodes_by_depth"):
            if [_form(t, given) for t, given in zip(inside.inputs, labels, strict=False)] == [
                _form(t, given) for t, given in zip(call.inputs, labels, strict=True)
            ]:
                self.nested.add(id(call.operation))
                return self._walk(call.operation, labels, f"{prefix}{call.operation.name}/")
            return self.unknown(call, labels, f"{self.named(call.operation)} adapts its inputs")
        found = rule_for(call.operation)(self, call, labels)
        return found if isinstance(found, list) else [found]

    def _input(self, tensor: keras.KerasTensor) -> Labels:
        return self._opaque(tensor, f'it is merged with the input "{tensor.name}" of the model')

    def _opaque(self, tensor: keras.KerasTensor, reason: str) -> Labels:
        axis = len(tensor.shape) - 1
        labels = Labels(axis, self.channels.new((tensor.shape[axis] or 0) if axis > 0 else 0))
        self.freeze(labels, reason)
        return labels


def _form(tensor: keras.KerasTensor, labels: Labels) -> tuple[int, int | None]:
    """Returns the rank of a tensor, and how long the axis of its channels is."""
    rank = len(tensor.shape)
    return rank, tensor.shape[labels.axis] if labels.axis in range(rank) else None
