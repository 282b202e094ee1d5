"""Another optimizer for a compiled model."""

from collections.abc import Callable

import keras

from keras_optkit import _check
from keras_optkit.compression._models import keras_model


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
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = keras.optimizers.LossScaleOptimizer(
            change(optimizer.inner_optimizer),
            initial_scale=optimizer.initial_scale,
            dynamic_growth_steps=optimizer.dynamic_growth_steps,
        )
    else:
        optimizer = change(optimizer)
    optimizer.build(model.trainable_variables)  # if it cannot be built, the model is as it was
    # What Keras keeps to write into the file; losses and metrics as they were given.
    arguments = dict(model._compile_config.config)
    model.compile(**(arguments | {"optimizer": optimizer}))
