"""From tf_keras back to Keras 3."""

from typing import Any

import keras

from keras_optkit import _check
from keras_optkit.compression._models import keras_model
from keras_optkit.compression.tfmot.copy_weights import copy_weights


def from_tf_keras(tf_model: Any, like: keras.Model) -> keras.Model:
    """Makes a Keras 3 model with the weights of a tf_keras model.

    The way back from `to_tf_keras`, after something has trained the weights there.

    Args:
        tf_model: A tf_keras model with the layers of `like`, by name. Strip wrappers before.
        like: The Keras 3 model to make anew. It stays as it is.

    Returns:
        A copy of `like`, not compiled, with the weights of `tf_model`.

    Raises:
        TypeError: If one of the models is of the wrong Keras.
        ValueError: If the layers or shapes differ.

    Example:
        ```python
        tf_model = tfmot.to_tf_keras(model)
        model = tfmot.from_tf_keras(tf_model, like=model)
        ```
    """
    keras_model(like, "from_tf_keras", "like")
    is_keras_2 = any(c.__module__.split(".")[0] == "tf_keras" for c in type(tf_model).__mro__)
    if not is_keras_2 or not hasattr(tf_model, "layers"):
        raise TypeError(
            "`tf_model` must be a model of tf_keras, as `to_tf_keras` makes. "
            f"{_check.received('tf_model', tf_model)}"
        )
    result = keras.models.clone_model(like)
    if not result.built:
        result.build(like.input_shape)
    copy_weights(tf_model, result)
    _copy_normalizations(like, result)
    return result


def _copy_normalizations(source: Any, target: Any) -> None:
    """`Normalization` has its statistics as arguments in tf_keras, so they come from `source`."""
    for old, new in zip(source.layers, target.layers, strict=True):
        if isinstance(old, keras.layers.Normalization):
            new.set_weights(old.get_weights())
            new.finalize_state()
        elif isinstance(old, keras.Model):
            _copy_normalizations(old, new)
