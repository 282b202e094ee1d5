"""Layers that compute in half precision, and how to make them compute in float32."""

import contextlib
from collections.abc import Iterator

import keras

HALF = ("float16", "bfloat16")


def half_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers of `model` that compute in half precision."""
    return [layer for layer in model._flatten_layers() if layer.compute_dtype in HALF]


@contextlib.contextmanager
def full_precision(model: keras.Model) -> Iterator[None]:
    """Lets all layers of `model` compute in float32; their weights must be float32 already."""
    layers = half_layers(model)
    # Past the public property, which takes no map of policies for one layer.
    policies = [layer._dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer._dtype_policy = keras.DTypePolicy("float32")
        yield
    finally:
        for layer, policy in zip(layers, policies, strict=True):
            layer._dtype_policy = policy
