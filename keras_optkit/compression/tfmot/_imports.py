"""TF-MOT and tf_keras, imported so that the rest of the process does not notice."""

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

LEGACY = "TF_USE_LEGACY_KERAS"
EXTRA = 'pip install "keras_optkit[tfmot]"'


@functools.cache
def tf_keras() -> Any:
    """Returns the module `tf_keras`."""
    with _settled():
        import tf_keras
    return tf_keras


@functools.cache
def tfmot() -> Any:
    """Returns the module `tensorflow_model_optimization`."""
    with _settled():
        import tensorflow_model_optimization as module
    return module


@contextlib.contextmanager
def _settled() -> Iterator[None]:
    """Keeps `tf.keras` and the environment as they are.

    Importing TF-MOT sets `TF_USE_LEGACY_KERAS=1`, which turns `tf.keras` into Keras 2 for the whole
    process and its children, unless somebody has touched `tf.keras` before. So this touches it
    first and puts the variable back afterwards. `tf.compat.v1.keras` and `tf.compat.v2.keras` are
    settled by themselves: tf_keras and TF-MOT look there for what must be of Keras 2.
    """
    before = os.environ.get(LEGACY)
    try:
        for name in ("tensorflow", "tf_keras"):  # TensorFlow loops if it wants tf_keras in vain
            if importlib.util.find_spec(name) is None:
                raise ImportError(f"No module named {name!r}")
        import tensorflow as tf

        tf.keras.layers  # noqa: B018  # This very look decides what `tf.keras` is from here on.
        os.environ[LEGACY] = "1"
        tf.compat.v1.keras.layers  # noqa: B018
        tf.compat.v2.keras.layers  # noqa: B018
        yield
    except ImportError as error:
        raise _missing(error) from error
    finally:
        os.environ.pop(LEGACY, None)
        if before is not None:
            os.environ[LEGACY] = before


def _missing(error: ImportError) -> ImportError:
    return ImportError(
        "keras_optkit.compression.tfmot stands on TensorFlow, tf_keras and TF-MOT, whatever the "
        f"backend of Keras, and one of them cannot be imported: {error}. Install them with "
        f"`{EXTRA}`."
    )
