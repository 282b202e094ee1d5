"""TF-MOT and tf_keras, imported so that the rest of the process does not notice."""

import functools
import importlib.util
import os
from typing import Any

LEGACY = "TF_USE_LEGACY_KERAS"
EXTRA = 'pip install "keras_optkit[tfmot]"'


@functools.cache
def tf_keras() -> Any:
    """Returns the module `tf_keras`."""
    try:
        _settle_tf_keras()
        import tf_keras
    except ImportError as error:
        raise _missing(error) from error
    return tf_keras


@functools.cache
def tfmot() -> Any:
    """Returns the module `tensorflow_model_optimization`.

    Its import sets `TF_USE_LEGACY_KERAS=1`, which turns `tf.keras` into Keras 2 for the whole
    process and its children, unless somebody has touched `tf.keras` before. So this touches it
    first and puts the variable back afterwards.
    """
    before = os.environ.get(LEGACY)
    try:
        _settle_tf_keras()
        import tensorflow_model_optimization as module
    except ImportError as error:
        raise _missing(error) from error
    finally:
        os.environ.pop(LEGACY, None)
        if before is not None:
            os.environ[LEGACY] = before
    return module


def _settle_tf_keras() -> None:
    for name in ("tensorflow", "tf_keras"):  # TensorFlow loops if it wants tf_keras in vain
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"No module named {name!r}")
    import tensorflow as tf

    tf.keras.layers  # noqa: B018  # This very look decides what `tf.keras` is from here on.


def _missing(error: ImportError) -> ImportError:
    return ImportError(
        "keras_optkit.compression.tfmot stands on TensorFlow, tf_keras and TF-MOT, whatever the "
        f"backend of Keras, and one of them cannot be imported: {error}. Install them with "
        f"`{EXTRA}`."
    )
