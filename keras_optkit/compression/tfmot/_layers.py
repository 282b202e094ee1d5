"""Layers of Keras 3 as layers of tf_keras."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.tfmot._configs import Untranslatable, policy, translated
from keras_optkit.compression.tfmot._imports import tf_keras

REFUSED = {
    **dict.fromkeys(
        ("Lambda", "StringLookup", "IntegerLookup", "TextVectorization", "TFSMLayer"),
        "its config does not tell all that it does",
    ),
    "RandomCrop": "while not training, it crops in tf_keras and does not in Keras 3",
}


def twin(layer: keras.layers.Layer) -> Any:
    """Returns a layer of tf_keras that does what `layer` does, with weights of its own."""
    kind = type(layer).__name__
    if not type(layer).__module__.startswith("keras."):
        raise Untranslatable("this layer is not of Keras itself, so its `call` cannot be rewritten")
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        raise Untranslatable("it is quantized or has LoRA; translate the model before that")
    if kind in SPECIAL:
        return SPECIAL[kind](layer)
    if kind in REFUSED:
        raise Untranslatable(REFUSED[kind])
    if not hasattr(tf_keras().layers, kind):
        raise Untranslatable("tf_keras has no layer for it")
    return getattr(tf_keras().layers, kind)(**translated(layer))


def _common(layer) -> dict[str, Any]:
    config = layer.get_config()
    return {
        "name": layer.name,
        "trainable": layer.trainable,
        "dtype": policy(config.get("dtype")),
    }


def _wrapper(layer) -> Any:
    return getattr(tf_keras().layers, type(layer).__name__)(twin(layer.layer), **_common(layer))


def _spectral(layer) -> Any:
    power = layer.power_iterations
    return tf_keras().layers.SpectralNormalization(twin(layer.layer), power, **_common(layer))


def _bidirectional(layer) -> Any:
    return tf_keras().layers.Bidirectional(
        twin(layer.forward_layer),
        backward_layer=twin(layer.backward_layer),
        merge_mode=layer.merge_mode,
        **_common(layer),
    )


def _rnn(layer) -> Any:
    names = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll")
    options = {name: getattr(layer, name) for name in (*names, "zero_output_for_mask")}
    return tf_keras().layers.RNN(twin(layer.cell), **options, **_common(layer))


def _stacked(layer) -> Any:
    return tf_keras().layers.StackedRNNCells([twin(c) for c in layer.cells], **_common(layer))


def _normalization(layer) -> Any:
    arguments = translated(layer)
    if not layer.built:
        raise Untranslatable("it is not adapted")
    arguments["mean"], arguments["variance"] = (
        np.reshape(keras.ops.convert_to_numpy(x), [-1]).tolist() if axes else float(x)
        for axes, x in ((layer.axis, layer.mean), (layer.axis, layer.variance))
    )
    return tf_keras().layers.Normalization(**arguments)


SPECIAL: dict[str, Callable[[Any], Any]] = {
    "Bidirectional": _bidirectional,
    "Normalization": _normalization,
    "RNN": _rnn,
    "SpectralNormalization": _spectral,
    "StackedRNNCells": _stacked,
    "TimeDistributed": _wrapper,
}
