"""Back to a plain model."""

from typing import Any

import keras
from keras import ops

from keras_optkit import _check
from keras_optkit.compression._graph import Call, replay
from keras_optkit.compression._models import keras_model
from keras_optkit.compression.quantization._parts import layers_inside
from keras_optkit.compression.quantization._rebuild import INNER, call_arguments, clone
from keras_optkit.compression.quantization._wrapped import Wrapped
from keras_optkit.compression.quantization.quantize_activation import QuantizeActivation
from keras_optkit.compression.quantization.quantized_layer import QuantizedLayer

WHAT = "strip_quantization"


def strip_quantization(model: keras.Model, round_weights: bool = False) -> keras.Model:
    """Makes a plain model of a quantized one: the same layers and weights, nothing rounded.

    Args:
        model: A model from `quantize_model`. It is not changed.
        round_weights: Whether kernels get the rounded values that the quantized model computes
            with, instead of the floats behind them.

    Returns:
        A Functional model of Keras layers under their own names, not compiled.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If it is not a quantized one.

    Example:
        >>> quantized = keras_optkit.compression.quantize_model(model)
        >>> plain = keras_optkit.compression.strip_quantization(quantized)
    """
    keras_model(model, WHAT)
    _check.flag("round_weights", round_weights)
    if not any(layers_inside(model, Wrapped)):
        raise ValueError(
            "There is no quantized layer to strip. Make a quantized model with quantize_model. "
            f"{_check.received('model', model.name)}"
        )
    return _strip(model, round_weights)


def _strip(model: keras.Model, round_weights: bool) -> keras.Model:
    made: dict[int, Any] = {}
    copies = []

    def new(old):
        if isinstance(old, keras.Model):
            return _strip(old, round_weights)
        if not isinstance(old, keras.layers.Layer):
            return old
        source: Any = old.layer if isinstance(old, Wrapped) else old
        layer = clone(source, source.name.removesuffix(INNER))
        copies.append((old, source, layer))
        return layer

    def run(call: Call, args, kwargs):
        old = call.operation
        if isinstance(old, QuantizeActivation):
            return args[0]
        if id(old) not in made:
            made[id(old)] = new(old)
        return made[id(old)](*args, **call_arguments(old, kwargs))

    plain = replay(model, run, WHAT)
    for old, source, layer in copies:
        layer.set_weights(source.get_weights())
        if isinstance(old, QuantizedLayer):
            for name in old.kernels():
                value = old.rounded(name) if round_weights else old.preserved(name)
                variable = getattr(layer, name)
                variable.assign(ops.cast(value, variable.dtype))
    return plain
