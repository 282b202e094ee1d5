"""The config of a Keras 3 layer in the words of tf_keras."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_optkit import _config
from keras_optkit.compression.tfmot._activations import activation
from keras_optkit.compression.tfmot._imports import tf_keras

RENAMED_KEYS = {"LeakyReLU": {"negative_slope": "alpha"}}
IGNORED = {  # no part of what the layer computes, or read off its inputs
    "MultiHeadAttention": {"query_shape", "key_shape", "value_shape", "flash_attention"},
    "LSTM": {"use_cudnn"},
    "GRU": {"use_cudnn"},
}
BY_KEYWORD = {"zero_output_for_mask"}  # in no signature of tf_keras, but taken
NOT_IN_SIGNATURES = {"rms_scaling": False}


class Untranslatable(ValueError):
    """Something of a Keras 3 model that tf_keras cannot express; collected, then told at once."""


def translated(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the arguments for the layer of the same class name in tf_keras."""
    kind = type(layer).__name__
    known = _config.parameters(getattr(tf_keras().layers, kind)).keys()
    defaults = _config.parameters(type(layer))
    result = {}
    for key, value in layer.get_config().items():
        name = RENAMED_KEYS.get(kind, {}).get(key, key)
        if key.endswith("_initializer") or key in IGNORED.get(kind, ()):
            continue  # Weights are copied, so how they began does not matter.
        if name in known or key in BY_KEYWORD:
            _refuse_namesake(layer, key)
            result[name] = _value(key, value)
        elif key not in ("seed", "autocast") and not _is_default(key, value, defaults):
            raise Untranslatable(f"{key}={value!r} has no counterpart in tf_keras")
    return result


def policy(value: Any) -> str | None:
    """Returns the name of a dtype policy in a config."""
    if value is None or isinstance(value, str):
        return value
    if value["class_name"] != "DTypePolicy":
        raise Untranslatable(
            f"the dtype policy {value['class_name']} has no counterpart in tf_keras; translate the "
            "model before it is quantized"
        )
    return value["config"]["name"]


def _is_default(key: str, value: Any, defaults) -> bool:
    if key == "data_format":  # in configs None has become the setting
        return value in (None, "channels_last")
    default = defaults[key].default if key in defaults else NOT_IN_SIGNATURES.get(key)
    return value is None or value == default


def _value(key: str, value: Any) -> Any:
    if key == "dtype":
        return policy(value)
    if key == "seed":
        return value if isinstance(value, int) else None
    for ending, convert in CONVERSIONS.items():
        if key.endswith(ending) and value is not None:
            return convert(key, value)
    if isinstance(value, dict) and "class_name" in value:
        raise Untranslatable(f"{key} is a {value['class_name']}, which tf_keras does not take")
    return value


def _refuse_namesake(layer: keras.layers.Layer, key: str) -> None:
    """Raises for a function that Keras writes down as its own of the same name."""
    function = getattr(layer, key, None) if key.endswith("activation") else None
    if inspect.isfunction(function) and not function.__module__.startswith("keras."):
        raise Untranslatable(
            f"{key}={function.__name__} is a function of {function.__module__!r} and has no "
            "counterpart in tf_keras; use an activation that Keras knows by name, or a layer"
        )


def _activation(key: str, value: Any) -> Any:
    # A dict stands for an object or a function of somebody else, of whatever name.
    found = activation(value) if isinstance(value, str) else None
    if found is None:
        shown = value.get("class_name", "a lambda") if isinstance(value, dict) else repr(value)
        raise Untranslatable(
            f"{key}={shown} has no counterpart in tf_keras; use an activation that Keras knows by "
            "name, or a layer"
        )
    return found


def _from(module: str) -> Callable[[str, Any], Any]:
    def convert(key: str, value: Any) -> Any:
        known = getattr(tf_keras(), module)
        if value.get("registered_name") or not hasattr(known, value["class_name"]):
            raise Untranslatable(f"{key}={value['class_name']} has no counterpart in tf_keras")
        return getattr(known, value["class_name"])(**value["config"])

    return convert


CONVERSIONS: dict[str, Callable[[str, Any], Any]] = {
    "activation": _activation,
    "_regularizer": _from("regularizers"),
    "_constraint": _from("constraints"),
}
