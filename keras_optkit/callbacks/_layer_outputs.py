"""What the layers inside of a model put out."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

# The limits of the activations that have any; an unlimited one may be stuck at 0.
RELU = (0.0, None)
LIMITS = {
    "relu": RELU,
    "relu6": RELU,
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
}


def limits(layer: Any) -> tuple[float, float | None] | None:
    """Returns the limits of a layer's outputs, None for those without; the upper one may be."""
    if isinstance(layer, keras.layers.ReLU):
        return None if layer.negative_slope else RELU
    for name, found in LIMITS.items():
        if getattr(layer, "activation", None) is getattr(keras.activations, name):
            return found
    return None


def limited_layers(model: keras.Model) -> dict[str, Any]:
    """Returns by name the layers inside of `model` whose outputs have limits.

    Not those inside of wrappers and recurrent layers, which run them in loops of their own.
    """
    found: dict[str, Any] = {}
    visited = {id(model)}

    def visit(parent, prefix):
        for layer in parent._flatten_layers(include_self=False, recursive=False):
            if id(layer) in visited:
                continue
            visited.add(id(layer))
            if isinstance(layer, (keras.layers.Wrapper, keras.layers.RNN)):
                continue
            name = prefix + layer.name
            if limits(layer) is not None:
                while name in found:
                    name += "_"
                found[name] = layer
            visit(layer, f"{name}/")

    visit(model, "")
    return found


@contextlib.contextmanager
def captured(layers: dict[str, Any]) -> Iterator[dict[str, list]]:
    """Collects what each layer puts out, by name, in the order of the first calls."""
    outputs: dict[str, list] = {}

    def capturing(name, call):
        def captures(*args, **kwargs):
            result = call(*args, **kwargs)
            outputs.setdefault(name, []).append(result)
            return result

        return captures

    own = {name: vars(layer).get("call") for name, layer in layers.items()}
    try:
        for name, layer in layers.items():  # past `__setattr__`, which keeps track
            vars(layer)["call"] = capturing(name, layer.call)
        yield outputs
    finally:
        for name, layer in layers.items():
            vars(layer).pop("call", None)
            if own[name] is not None:
                vars(layer)["call"] = own[name]


def unit_axis(layer: Any, rank: int) -> int:
    """Returns the axis of an output that counts the units of a layer, its channels."""
    default = keras.config.image_data_format()
    first = getattr(layer, "data_format", default) == "channels_first"
    elsewhere = rank < 3 or isinstance(layer, (keras.layers.Dense, keras.layers.EinsumDense))
    return rank - 1 if elsewhere or not first else 1
