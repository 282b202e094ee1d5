"""Outputs of the layers inside of a model, while it runs."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops, tree

# What runs in a loop of the backend, whose values cannot be read, or the same layer many times.
WHOLE = (keras.layers.RNN, keras.layers.Wrapper, keras.layers.Bidirectional)


def kernel_of(layer: keras.layers.Layer) -> Any:
    """Returns the weight tensor that a layer multiplies its input with last, or None."""
    for name in ("pointwise_kernel", "kernel"):
        kernel = getattr(layer, name, None)
        if isinstance(kernel, keras.Variable):
            return kernel
    return None


@contextlib.contextmanager
def tapped(model: keras.Model, tap: Callable[[Any, Any, Any], Any]) -> Iterator[None]:
    """Calls `tap(layer, output, before)` whenever a layer of `model` has run.

    `output` is the layer's first floating-point tensor, and what `tap` returns takes its place;
    `before` is what the layer gave to its activation, or None. Layers made of layers are left out,
    unless they have weights of their own.

    Args:
        model: A built model.
        tap: What to do.
    """
    layers = list({id(layer): layer for layer in _parts(model)}.values())
    before = [vars(layer).get("call") for layer in layers]
    try:
        for layer in layers:
            vars(layer)["call"] = _with_tap(layer, layer.call, tap)  # past Keras' tracking
        yield
    finally:
        for layer, call in zip(layers, before, strict=True):
            vars(layer).pop("call")
            if call is not None:
                vars(layer)["call"] = call


def _parts(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    inner = list(layer._flatten_layers(include_self=False, recursive=False))
    if isinstance(layer, WHOLE):
        inner = []
    own = not inner or bool(layer._trainable_variables)
    if own and not isinstance(layer, (keras.Model, keras.layers.InputLayer)):
        yield layer
    for part in inner:
        yield from _parts(part)


def _with_tap(layer, call, tap):
    @functools.wraps(call)
    def tapped_call(*args, **kwargs):
        given: list[Any] = []
        activation = vars(layer).get("activation")
        if callable(activation) and kernel_of(layer) is not None:

            def seen(x, *rest, **options):
                given.append(x)
                return activation(x, *rest, **options)

            vars(layer)["activation"] = seen
        try:
            outputs = call(*args, **kwargs)
        finally:
            if activation is not None:
                vars(layer)["activation"] = activation
        flat = tree.flatten(outputs)
        for i, leaf in enumerate(flat):
            if ops.is_tensor(leaf) and "float" in keras.backend.standardize_dtype(leaf.dtype):
                flat[i] = tap(layer, leaf, given[0] if given else None)
                return tree.pack_sequence_as(outputs, flat)
        return outputs

    return tapped_call
