"""Columns of a progressive network: chains of layers, with adapters from earlier chains."""

import dataclasses
import re
from typing import Any

import keras
from keras import layers

from keras_optkit.continual.lateral_scale import LateralScale

WEIGHTED = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D)
NORMALIZING = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.Normalization,
    layers.PReLU,
    layers.UnitNormalization,
)
# Nothing of theirs is left when a column only lends its features.
NOISE = (
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
NAME = re.compile(r"column_(\d+)_(\d+)_(.*)", re.DOTALL)


@dataclasses.dataclass
class Column:
    """The layers of a column, and by the place of the layer they join, those of its adapters."""

    number: int
    chain: list
    laterals: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def __call__(self, inputs, earlier: list[list], noise: bool) -> tuple[Any, list]:
        """Returns the output, and what enters each layer with weights.

        Args:
            inputs: The input of all columns.
            earlier: What enters the layers with weights in each earlier column.
            noise: Whether dropout and the like are part of it.
        """
        x, entering = inputs, []
        for place, layer in enumerate(self.chain):
            if isinstance(layer, NOISE) and not noise:
                continue
            if not isinstance(layer, WEIGHTED):
                x = layer(x)
                continue
            own, x = x, layer(x)
            if earlier and entering:
                others = [features[len(entering)] for features in earlier]
                x = self._joined(place, own, x, others)
            entering.append(own)
        return x, entering

    def _joined(self, place: int, own, x, others: list):
        """Returns the output of a layer with what its adapter adds: `x + U s(V a h)`."""
        layer, parts = self.chain[place], self.laterals[place]
        axis = _axis(layer)
        for other in others:
            if _without(other.shape, axis) != _without(own.shape, axis):
                raise ValueError(
                    "Features that enter layers at the same place must have the same shape but "
                    "for channels, so use the same strides, paddings and pools in each column. "
                    f"Received: {tuple(other.shape[1:])} and {tuple(own.shape[1:])} at "
                    f"{layer.name!r}"
                )
        scaled = [parts[f"scale_{j}"](other) for j, other in enumerate(others)]
        features = scaled[0] if len(scaled) == 1 else parts["concatenate"](scaled)
        if "project" not in parts:
            parts["project"] = _projection(layer, own.shape[axis])
        lateral = parts["connect"](parts["activation"](parts["project"](features)))
        return parts["add"]([x, lateral])

    def layers(self) -> list:
        """Returns all layers, adapters included."""
        return [*self.chain, *(part for parts in self.laterals.values() for part in parts.values())]


def chain_of(model: keras.Model) -> list:
    """Returns the layers of a model that is a chain of known ones."""
    if not model.built or not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be a Sequential or Functional model with an Input. "
            f"Received: {model.name!r} of type {type(model).__name__}"
        )
    if len(model.inputs) > 1 or len(model.outputs) > 1:
        raise ValueError(
            "`model` must have one input and one output. Received: a model with "
            f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
        )
    found, tensor = [], model.outputs[0]
    while True:
        operation, index, _ = tensor._keras_history
        if isinstance(operation, layers.InputLayer):
            break
        entering = operation._inbound_nodes[index].input_tensors
        _check_layer(operation, len(entering))
        if operation in found:
            raise ValueError(
                f"`model` must use each layer once. Received: {operation.name!r} used twice"
            )
        found.append(operation)
        (tensor,) = entering
    found.reverse()
    if sum(isinstance(layer, WEIGHTED) for layer in found) < 2:
        raise ValueError(
            "`model` must have a hidden Dense or Conv layer, since columns share hidden features. "
            f"Received layers: {[layer.name for layer in found]}"
        )
    return found


def _check_layer(layer, inputs: int) -> None:
    known = isinstance(layer, layers.Layer) and not isinstance(layer, keras.Model)
    known = known and (
        type(layer) in WEIGHTED or isinstance(layer, (*NORMALIZING, *NOISE)) or not layer.weights
    )
    if inputs != 1 or not known:
        raise ValueError(
            "`model` must be a chain of Dense and Conv layers, with activations, pooling, "
            f"normalization and dropout between, and no branches. Received: {layer.name!r} of type "
            f"{type(layer).__name__}, with {inputs} inputs"
        )


def new_column(number: int, chain: list, activation: Any) -> Column:
    """Returns a column with layers like those of `chain`, all of them new."""
    made: list = []
    for layer in chain:
        known = NAME.fullmatch(layer.name)
        name = known[3] if known else layer.name
        config = layer.get_config() | {"name": f"column_{number}_{len(made)}_{name}"}
        config["trainable"] = True
        outer = None
        if isinstance(layer, WEIGHTED):
            # What comes from other columns is added before.
            outer, config["activation"] = layer.activation, "linear"
        made.append(type(layer).from_config(config))
        if outer is not None and outer is not keras.activations.linear:
            name = f"column_{number}_{len(made)}_{name}_activation"
            made.append(layers.Activation(outer, name=name, dtype=layer.dtype_policy))
    return Column(number, made, _laterals(number, made, activation) if number else {})


def _laterals(number: int, chain: list, activation: Any) -> dict[int, dict[str, Any]]:
    """Returns the layers of the adapters, but for the projections."""
    found = {}
    places = [place for place, layer in enumerate(chain) if isinstance(layer, WEIGHTED)]
    for place in places[1:]:
        layer, parts = chain[place], {}
        for j in range(number):
            parts[f"scale_{j}"] = LateralScale(**_named(layer, f"scale_{j}"))
        if number > 1:
            parts["concatenate"] = layers.Concatenate(_axis(layer), **_named(layer, "concatenate"))
        parts["activation"] = layers.Activation(activation, **_named(layer, "activation"))
        config = layer.get_config() | {"use_bias": False} | _named(layer, "connect")
        parts["connect"] = type(layer).from_config(config)
        parts["add"] = layers.Add(**_named(layer, "add"))
        found[place] = parts
    return found


def _projection(layer, channels: int):
    """Returns the layer that makes as many features of those of all columns."""
    named = _named(layer, "project")
    if isinstance(layer, layers.Dense):
        return layers.Dense(channels, use_bias=False, **named)
    kind = type(layer)
    return kind(channels, 1, data_format=layer.data_format, use_bias=False, **named)


def _named(layer, part: str) -> dict[str, Any]:
    return {"name": f"lateral_{layer.name}_{part}", "dtype": layer.dtype_policy}


def columns_of(layers_: list) -> list[Column]:
    """Returns the columns that the layers of a saved model belong to, known by their names."""
    chains: dict[int, dict[int, Any]] = {}
    for layer in layers_:
        if known := NAME.fullmatch(layer.name):
            chains.setdefault(int(known[1]), {})[int(known[2])] = layer
    found = []
    for number, chain in sorted(chains.items()):
        column = Column(number, [chain[place] for place in sorted(chain)])
        for place, layer in enumerate(column.chain):
            start = f"lateral_{layer.name}_"
            parts = {
                other.name.removeprefix(start): other
                for other in layers_
                if other.name.startswith(start)
            }
            if parts:
                column.laterals[place] = parts
        found.append(column)
    return found


def _axis(layer) -> int:
    """Returns the axis of channels."""
    return 1 if getattr(layer, "data_format", "channels_last") == "channels_first" else -1


def _without(shape: tuple, axis: int) -> list:
    rest = list(shape)
    del rest[axis]
    return rest
