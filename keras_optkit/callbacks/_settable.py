"""Optimizers whose learning rate a callback may set."""

import keras

from keras_optkit.optimizers._inside import leaves


def settable(model: keras.Model, callback: str) -> list[keras.optimizers.Optimizer]:
    """Returns the model's optimizer, or those inside of it, that hold a learning rate.

    Args:
        model: A compiled model.
        callback: Name of the callback that wants to set learning rates, for the message.

    Raises:
        ValueError: If there is no optimizer, or one whose learning rate cannot be set.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError(
            f"{callback} sets the learning rate of `model.optimizer`, and there is none. Call "
            f"`model.compile(optimizer=..., loss=...)` before `fit`. Received: model={model}"
        )
    found = leaves(optimizer)
    for leaf in found:
        if not isinstance(leaf.learning_rate, keras.Variable):
            raise ValueError(
                f"{callback} sets the learning rate, but that of {leaf.name!r} follows a schedule "
                "or a function. Give that optimizer a number as its `learning_rate`, or leave "
                f"{callback} out. Received: learning_rate={leaf._learning_rate!r}"
            )
    return found


def rate_of(optimizer: keras.optimizers.Optimizer) -> float:
    """Returns the learning rate of an optimizer that holds one."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def rates_of(optimizers: list[keras.optimizers.Optimizer]) -> dict[str, float]:
    """Returns all learning rates, under the names that Keras' own callbacks give them."""
    if len(optimizers) == 1:
        return {"learning_rate": rate_of(optimizers[0])}
    return {f"learning_rate_{optimizer.name}": rate_of(optimizer) for optimizer in optimizers}
