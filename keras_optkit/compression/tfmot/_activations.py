"""Activations of Keras 3 that tf_keras lacks, or has with another meaning."""

import functools
from collections.abc import Callable
from typing import Any

from keras_optkit.compression.tfmot._imports import tf_keras

SAME = (
    *("elu", "exponential", "gelu", "linear", "mish", "relu", "selu", "sigmoid", "softmax"),
    *("softplus", "softsign", "tanh"),
)
RENAMED = {"silu": "swish", "swish": "swish", "hard_swish": "hard_silu"}


@functools.cache
def own() -> dict[str, Callable[[Any], Any]]:
    """Returns what tf_keras lacks, by Keras' name: functions of a TensorFlow tensor.

    They are registered, so that TF-MOT, which clones layers by their configs, finds them again.
    Keras 2's `hard_sigmoid` is `clip(0.2 x + 0.5, 0, 1)`, and Keras 3's `relu6(x + 3) / 6`.
    """
    import tensorflow as tf

    def shrink(x):
        return tf.where(tf.abs(x) > 0.5, x - 0.5 * tf.sign(x), tf.zeros_like(x))

    formulas: dict[str, Callable[[Any], Any]] = {
        "celu": lambda x: tf.maximum(x, 0) + tf.math.expm1(tf.minimum(x, 0)),
        "glu": _glu,
        "hard_shrink": lambda x: tf.where(tf.abs(x) > 0.5, x, tf.zeros_like(x)),
        "hard_sigmoid": lambda x: tf.nn.relu6(x + 3) / 6,
        "hard_silu": lambda x: x * tf.nn.relu6(x + 3) / 6,
        "hard_tanh": lambda x: tf.clip_by_value(x, -1, 1),
        "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.2),
        "log_sigmoid": tf.math.log_sigmoid,
        "log_softmax": tf.nn.log_softmax,
        "relu6": tf.nn.relu6,
        "soft_shrink": shrink,
        "sparse_plus": lambda x: tf.where(
            x <= -1, tf.zeros_like(x), tf.where(x < 1, (x + 1) ** 2 / 4, x)
        ),
        "sparse_sigmoid": lambda x: tf.clip_by_value((x + 1) / 2, 0, 1),
        "squareplus": lambda x: (x + tf.sqrt(x * x + 4)) / 2,
        "tanh_shrink": lambda x: x - tf.tanh(x),
    }
    return {name: _registered(name, formula) for name, formula in formulas.items()}


def activation(name: str) -> Any:
    """Returns what tf_keras takes for Keras' activation `name`, or None if there is nothing."""
    name = RENAMED.get(name, name)
    return name if name in SAME or name == "swish" else own().get(name)


def _glu(x):
    import tensorflow as tf

    value, gate = tf.split(x, 2, axis=-1)
    return value * tf.sigmoid(gate)


def _registered(name: str, formula: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def function(x):
        return formula(x)

    # Under Keras' own name tf_keras would take it for its own function of that name.
    function.__name__ = function.__qualname__ = f"keras_3_{name}"
    register = tf_keras().utils.register_keras_serializable("keras_optkit", f"keras_3_{name}")
    return register(function)
