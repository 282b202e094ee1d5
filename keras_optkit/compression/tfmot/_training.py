"""The part of TF-MOT's wrappers that is the user's: `fit`."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_optkit import _check
from keras_optkit.compression._models import keras_model
from keras_optkit.compression.tfmot._imports import tf_keras

Fit = Callable[[Any], Any]


def check_call(model: Any, fit: Any, what: str) -> None:
    """Raises if `fit` is not a function, or `model` not a built model of Keras 3."""
    if not callable(fit):
        raise TypeError(
            "`fit` must be a function of a tf_keras model that compiles and trains it, such as "
            "`def fit(m): m.compile('adam', 'mse'); m.fit(x, y, epochs=3)`. "
            f"{_check.received('fit', fit)}"
        )
    keras_model(model, what)


def train(fit: Fit, wrapped: Any, what: str, callbacks: tuple[Any, ...] = ()) -> None:
    """Calls `fit(wrapped)`; its `wrapped.fit(...)` has `callbacks` too, unless it brings its own.

    Warns if no weight has changed after that.
    """
    before = wrapped.get_weights()
    original = wrapped.fit

    def with_callbacks(*args, **kwargs):
        bound = inspect.signature(original).bind_partial(*args, **kwargs)
        given = bound.arguments.get("callbacks") or []
        if not isinstance(given, tf_keras().callbacks.CallbackList):
            given = given if isinstance(given, (list, tuple)) else [given]
            kinds = {type(callback) for callback in given}
            given = [*given, *(c for c in callbacks if type(c) not in kinds)]
        bound.arguments["callbacks"] = given
        return original(*bound.args, **bound.kwargs)

    wrapped.fit = with_callbacks
    try:
        fit(wrapped)
    finally:
        wrapped.fit = original
    if all(np.array_equal(a, b) for a, b in zip(before, wrapped.get_weights(), strict=True)):
        warnings.warn(
            f"{what} has changed nothing: `fit` returned and no weight of the model it was given "
            "is another. Train that model in `fit`, and not the one outside.",
            stacklevel=3,
        )


def wrapped_layers(model: Any, kind: type) -> list:
    """Returns the wrappers of a kind in a model and in the models in it."""
    found = []
    for layer in model.layers:
        if isinstance(layer, kind):
            found.append(layer)
        elif isinstance(layer, tf_keras().Model):
            found += wrapped_layers(layer, kind)
    return found


def wrap(model: Any, wrapper: Callable[[Any], Any]) -> Any:
    """Returns a tf_keras model of the same layers, with `wrapper` around each, nested ones too."""

    def around(layer):
        return wrap(layer, wrapper) if isinstance(layer, tf_keras().Model) else wrapper(layer)

    return tf_keras().models.clone_model(model, clone_function=around)


def nothing_to_do(what: str, model: Any) -> ValueError:
    """Returns the error for a model in which TF-MOT has no layer to wrap."""
    kinds = sorted({f"{type(layer).__name__} {layer.name!r}" for layer in model.layers})
    return ValueError(
        f"{what} finds no layer in model {model.name!r} whose weights TF-MOT can treat; it knows "
        "dense, convolutional, embedding and recurrent ones. `keras_optkit.compression.Pruned` and "
        f"`quantize_model` know more. Layers: {', '.join(kinds)}"
    )
