"""Where in a graph values are rounded: the patterns that LiteRT runs as one operation."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import keras

from keras_optkit.compression._graph import Call, consumers
from keras_optkit.compression.quantization._activations import name_of
from keras_optkit.compression.quantization._policy import Policy

INT8 = ("weights", "norm", "rescaling", "relu", "concatenate", "compute", "same", "model")


@dataclasses.dataclass(frozen=True)
class Place:
    """What happens around one call.

    Args:
        rounds: `"own"` if its outputs get ranges of their own, `"same"` if they are rounded in
            the range of its input, `"no"` if they are handed on as they are.
        folded: Of a BatchNormalization: whether it folds into the layer before.
    """

    rounds: Literal["own", "same", "no"]
    folded: bool = False


class Plan:
    """The places of a graph at which values are rounded.

    Args:
        graph: The calls of a model, in order.
        ends: The `id`s of the tensors that the model returns.
        policies: The policy of each operation, by its `id`.
    """

    def __init__(self, graph: list[Call], ends: set[int], policies: Mapping[int, Policy]):
        self._ends = ends
        self._policies = policies
        self._consumers = consumers(graph)
        self._producers = {id(tensor): call for call in graph for tensor in call.outputs}
        self._times = Counter(id(call.operation) for call in graph)
        self._places = {id(call.outputs[0]): self._place(call) for call in graph}

    def place(self, call: Call) -> Place:
        """Returns what happens around a call."""
        return self._places[id(call.outputs[0])]

    def absorbs(self, operation: keras.Operation) -> bool:
        """Tells whether a BatchNormalization after an operation folds into it."""
        following = (
            self._only_consumer(call)
            for call in self._producers.values()
            if call.operation is operation
        )
        return any(call is not None and self._folds(call) for call in following)

    def wanted(self, tensor: keras.KerasTensor) -> bool:
        """Tells whether something that computes in int8 takes a tensor."""
        for call in self._consumers.get(id(tensor), []):
            kind = self._policies[id(call.operation)].kind
            if kind in INT8 or (kind == "move" and any(map(self.wanted, call.outputs))):
                return True
        return False

    def _place(self, call: Call) -> Place:
        kind = self._policies[id(call.operation)].kind
        if kind in ("move", "model"):
            return Place("no")
        if kind in ("float", "refused"):
            floats = [t for t in call.outputs if keras.backend.is_float_dtype(t.dtype)]
            return Place("own" if any(map(self.wanted, floats)) else "no")
        following = self._only_consumer(call)
        if following is not None and self._joins(call, following):
            return Place("no", self._folds(call))
        return Place("same" if kind == "same" else "own", self._folds(call))

    def _only_consumer(self, call: Call) -> Call | None:
        """Returns the one call that takes the one output of `call`, if that is all there is."""
        taking = self._consumers.get(id(call.outputs[0]), [])
        alone = (
            len(call.outputs) == 1 and len(taking) == 1 and id(call.outputs[0]) not in self._ends
        )
        return taking[0] if alone else None

    def _joins(self, call: Call, following: Call) -> bool:
        """Tells whether LiteRT runs `following` as a part of `call`, or in its output's range."""
        policy = self._policies[id(call.operation)]
        after = self._policies[id(following.operation)].kind
        if policy.fixed_range is not None:
            return False
        if after == "concatenate":
            return policy.kind in ("weights", "norm", "rescaling", "relu", "compute")
        if after == "norm":
            return self._folds(following)
        linear = policy.kind != "weights" or _linear(call.operation)
        summed = policy.kind == "compute" and type(call.operation).__name__ == "Add"
        return after == "relu" and linear and (policy.kind in ("weights", "norm") or summed)

    def _folds(self, call: Call) -> bool:
        """Tells whether a BatchNormalization goes into the layer before it."""
        if self._policies[id(call.operation)].kind != "norm" or self._times[id(call.operation)] > 1:
            return False
        before = self._producers.get(id(call.inputs[0]))
        if before is None or self._policies[id(before.operation)].kind != "weights":
            return False
        able = not type(before.operation).__name__.endswith("Transpose")
        return able and _linear(before.operation) and self._only_consumer(before) is call


def _linear(layer) -> bool:
    return name_of(layer.activation) == "linear"
