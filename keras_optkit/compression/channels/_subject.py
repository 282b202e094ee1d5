"""Which models can lose channels."""

from typing import Any

import keras

from keras_optkit import _check
from keras_optkit.compression._graph import functional
from keras_optkit.compression._models import keras_model


def subject(model: Any, what: str) -> keras.Model:
    """Returns `model` if it is a built model with a graph and plain weights."""
    functional(keras_model(model, what), what)
    for kind, names, way in (
        ("quantized", _names(model, _quantized), "Remove channels first and quantize afterwards"),
        (
            "LoRA",
            _names(model, lambda layer: getattr(layer, "lora_enabled", False)),
            "Merge the adapters first: save the model and load its weights into one without LoRA",
        ),
    ):
        if names:
            raise ValueError(
                f"{what} takes models with plain weights, and these layers are {kind} layers: "
                f"{', '.join(names)}. {way}. {_check.received('model', model.name)}"
            )
    return model


def _names(model: Any, has) -> list[str]:
    return [layer.name for layer in model._flatten_layers() if has(layer)]


def _quantized(layer) -> bool:
    ours = type(layer).__module__.startswith("keras_optkit.compression.quantization")
    return ours or getattr(layer, "quantization_mode", None) is not None
