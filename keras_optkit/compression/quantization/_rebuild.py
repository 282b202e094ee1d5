"""The graph of a model made anew with what rounds in it."""

import dataclasses
import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal

import keras
from keras import tree

from keras_optkit.compression._graph import Call, calls, functional, replay
from keras_optkit.compression.quantization._plan import Plan
from keras_optkit.compression.quantization._policy import Policy
from keras_optkit.compression.quantization.quantize_activation import QuantizeActivation
from keras_optkit.compression.quantization.quantized_batch_norm import QuantizedBatchNorm
from keras_optkit.compression.quantization.quantized_layer import QuantizedLayer
from keras_optkit.compression.quantization.quantized_rescaling import QuantizedRescaling

WHAT = "quantize_model"
INNER = "_unrounded"  # of a layer whose name goes to what rounds the model's output


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of `quantize_model` that its layers take."""

    weight_bits: int
    activation_bits: int
    per_channel: bool | Literal["auto"]
    preserve: str | None

    def of(self, layer: keras.layers.Layer, absorbs: bool) -> dict[str, Any]:
        """Returns those for a layer, into which a BatchNormalization may fold."""
        per_channel = self.per_channel
        if type(layer).__name__ == "Dense":  # whose single scale does not take that in
            per_channel = absorbs or per_channel is True or (per_channel and self.weight_bits < 8)
        return dataclasses.asdict(self) | {"per_channel": bool(per_channel)}


def clone(layer: keras.layers.Layer, name: str | None = None) -> Any:
    """Returns a new layer of the same config."""
    config = layer.get_config() | ({"name": name} if name else {})
    return type(layer).from_config(config)


def call_arguments(operation: keras.Operation, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns recorded arguments without a `training` that nobody has given.

    Keras writes down the default of a layer's `call`, which would turn Dropout off for good.
    """
    default = inspect.signature(operation.call).parameters.get("training")
    left_alone = default is not None and kwargs.get("training") == default.default
    return {k: v for k, v in kwargs.items() if not (k == "training" and left_alone)}


def rebuild(
    model: keras.Model, policies: Mapping[int, Policy], settings: Settings, nested: bool = False
) -> keras.Model:
    """Returns the quantized model; a nested one has no need to round its inputs."""
    return _Rebuilding(model, policies, settings).run(nested)


class _Rebuilding:
    def __init__(self, model, policies, settings):
        self.model, self.policies, self.settings = model, policies, settings
        inside = functional(model, WHAT)
        self.graph = calls(model, WHAT)
        self.ends = {id(t): i for i, t in enumerate(tree.flatten(inside._outputs_struct))}
        self.plan = Plan(self.graph, set(self.ends), policies)
        self.inputs = {t._keras_history.operation.name: t for t in inside.inputs}
        self.made: dict[int, Any] = {}  # new operations, by the old one's `id`
        self.copies: list[tuple[Any, Any]] = []
        self.grids: dict[int, Any] = {}  # what has rounded a new tensor, by its `id`
        self.kept: list[Any] = []  # so that no `id` is used twice
        self.times: dict[str, int] = defaultdict(int)

    def run(self, nested: bool) -> keras.Model:
        start = (lambda tensor: tensor) if nested else self._start
        new = replay(self.model, self._call, WHAT, start)
        for old, layer in self.copies:
            layer.set_weights(old.get_weights())
        if self.settings.preserve:
            for layer in self.made.values():
                if isinstance(layer, QuantizedLayer):
                    layer.keep_zeros()
        return new

    def _start(self, tensor):
        name = tensor._keras_history.operation.name
        if keras.backend.is_float_dtype(tensor.dtype) and self.plan.wanted(self.inputs[name]):
            return self._round(tensor, name)
        return tensor

    def _call(self, call: Call, args, kwargs):
        operation = self._operation(call)
        outputs = operation(*args, **call_arguments(call.operation, kwargs))
        place = self.plan.place(call)
        flat, inputs = tree.flatten(outputs), _tensors((args, kwargs))
        grid = next((self.grids[id(t)] for t in inputs if id(t) in self.grids), None)
        kind = self.policies[id(call.operation)].kind
        if place.rounds == "same" and grid is not None:
            flat = [self._keep(grid(t, observe=False), grid) for t in flat]
        elif place.rounds != "no":
            fixed = self.policies[id(call.operation)].fixed_range
            flat = [
                self._round(new, self._output_name(call, old), fixed)
                if keras.backend.is_float_dtype(new.dtype)
                else new
                for old, new in zip(call.outputs, flat, strict=True)
            ]
        elif kind == "move" and grid is not None:
            flat = [self._keep(t, grid) for t in flat]
        return flat

    def _output_name(self, call: Call, tensor) -> str:
        """Returns the name of what rounds an output: that of the layer, if the model returns it."""
        renamed = isinstance(call.operation, keras.layers.Layer) and id(tensor) in self.ends
        return call.operation.name if renamed else f"{call.operation.name}_output"

    def _round(self, tensor, name: str, fixed_range=None):
        self.times[name] += 1
        unique = name if self.times[name] == 1 else f"{name}_{self.times[name]}"
        bits, full = self.settings.activation_bits, fixed_range
        if fixed_range is not None:  # as many steps of the same width as there are values
            low, high = fixed_range
            width = (high - low) / 255 * 256
            full = (low, low + width * (1 - 2**-bits))
        unique = f"{unique}_input" if unique in self.inputs else unique
        layer = QuantizeActivation(bits, fixed_range=full, name=unique, dtype=tensor.dtype)
        return self._keep(layer(tensor), layer)

    def _keep(self, tensor, grid):
        self.kept.append(tensor)
        self.grids[id(tensor)] = grid
        return tensor

    def _operation(self, call: Call) -> Any:
        old = call.operation
        if id(old) not in self.made:
            self.made[id(old)] = self._new(call)
        return self.made[id(old)]

    def _new(self, call: Call) -> Any:
        old: Any = call.operation
        kind, place = self.policies[id(old)].kind, self.plan.place(call)
        if kind == "model":
            return rebuild(old, self.policies, self.settings, nested=True)
        if not isinstance(old, keras.layers.Layer):
            return old
        ends = place.rounds == "own" and any(id(t) in self.ends for t in call.outputs)
        new = clone(old, None if not ends else old.name + INNER if not _wraps(kind) else old.name)
        name = old.name + INNER if ends else old.name
        self.copies.append((old, new))
        if kind == "weights":
            return QuantizedLayer(new, **self.settings.of(old, self.plan.absorbs(old)), name=name)
        if kind == "norm":
            return QuantizedBatchNorm(new, place.folded, name=name)
        return QuantizedRescaling(new, name=name) if kind == "rescaling" else new


def _wraps(kind: str) -> bool:
    return kind in ("weights", "norm", "rescaling")


def _tensors(value) -> list[keras.KerasTensor]:
    return [t for t in tree.flatten(value) if isinstance(t, keras.KerasTensor)]
