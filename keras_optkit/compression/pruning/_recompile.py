"""Another optimizer for a compiled model."""

from collections.abc import Callable
from typing import Any

import keras

from keras_optkit import _check
from keras_optkit.compression._models import keras_model

TAKEN_OVER = ("gradient_accumulation_steps", "loss_scale_factor")  # by a wrapper


def compiled_model(model, what: str) -> keras.Model:
    """Returns `model` if it is a compiled and built Keras 3 model; `what` names the caller.

    Raises:
        TypeError: If it is anything else, such as a `tf_keras` model.
        ValueError: If it is not compiled or not built.
    """
    keras_model(model, what)
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            f"{what} acts on the optimizer, and the model has none. Call `model.compile(...)` "
            f"first. {_check.received('model', model.name)}"
        )
    return model


def replace_optimizer(
    model: keras.Model,
    change: Callable[[keras.optimizers.Optimizer], keras.optimizers.Optimizer],
) -> None:
    """Compiles `model` anew, with what `change` makes of its optimizer inside any loss scale."""
    optimizer: Any = model.optimizer
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    inside = optimizer.inner_optimizer if scaled else optimizer
    settings = {name: getattr(inside, name) for name in TAKEN_OVER}
    try:
        new = change(inside)
        if scaled:
            new = keras.optimizers.LossScaleOptimizer(
                new,
                initial_scale=optimizer.initial_scale,
                dynamic_growth_steps=optimizer.dynamic_growth_steps,
            )
        new.build(model.trainable_variables)
    except Exception:  # the model goes on as it was
        for name, value in settings.items():
            setattr(inside, name, value)
        raise
    # What Keras keeps to write into the file; losses and metrics as they were given.
    arguments = dict(model._compile_config.config)
    model.compile(**(arguments | {"optimizer": new}))
