"""What every part asks of a model."""

import warnings

import keras

from keras_optkit import _check
from keras_optkit.optimizers._model_wrapper import STEPS


def keras_model(model, what: str, argument: str = "model") -> keras.Model:
    """Returns `model` if it is a built Keras 3 model; `argument` is what the caller calls it."""
    if any(base.__module__.split(".")[0] == "tf_keras" for base in type(model).__mro__):
        raise TypeError(
            f"{what} takes models of Keras 3, and this one is of tf_keras. Rebuild it with "
            "`import keras`. "
            f"{_check.received(argument, model)}"
        )
    if isinstance(model, keras.layers.Layer) and not isinstance(model, keras.Model):
        raise TypeError(
            f"{what} takes a whole model, not one layer of it. Pass the model; arguments such as "
            f"`include` or `exclude` name layers. {_check.received(argument, model)}"
        )
    _check.instance(argument, model, keras.Model, "a keras.Model")
    if not model.built:
        raise ValueError(
            f"{what} needs the weights, and the model is not built. Call it on a batch, or give it "
            f"a keras.Input, first. {_check.received(argument, model.name)}"
        )
    return model


def warn_of_steps(model: keras.Model, what: str) -> None:
    """Warns if a model has steps of its own, which a new model of the same graph has not."""
    own = [name for name in STEPS if getattr(type(model), name) is not getattr(keras.Model, name)]
    if own:
        kind = type(model).__name__
        warnings.warn(
            f"{what} returns a plain keras.Model, which trains without the "
            f"{' and '.join(f'`{name}`' for name in own)} of {kind}. Where that matters, make "
            f"{kind}(new.inputs, new.outputs) of what is returned, or wrap it likewise, and "
            f"compile. {_check.received('model', model.name)}",
            stacklevel=3,
        )
