"""The parts of a quantized model."""

from collections.abc import Iterator
from typing import Any

import keras

from keras_optkit.compression.quantization.quantize_activation import QuantizeActivation


def layers_inside(model: keras.Model, kind: type) -> Iterator[Any]:
    """Yields the layers of a class, however deep, each once."""
    seen = set()
    for layer in model._flatten_layers():
        if isinstance(layer, kind) and id(layer) not in seen:
            seen.add(id(layer))
            yield layer


def quantizers(model: keras.Model) -> list[QuantizeActivation]:
    """Returns what rounds activations over a range learned from data."""
    return [q for q in layers_inside(model, QuantizeActivation) if q.fixed_range is None]
