"""What a guard asks of optimizers, and does to them."""

import contextlib
from collections.abc import Callable

import keras
import numpy as np

from keras_optkit import _check
from keras_optkit.callbacks._settable import rate_of, settable
from keras_optkit.optimizers import SkipNonFinite


def build_optimizer(model: keras.Model) -> None:
    """Builds the optimizer of a model that is built; on TensorFlow, `fit` would in a step."""
    optimizer = model.optimizer
    if not model.built or optimizer is None or optimizer.built:
        return
    strategy = getattr(model, "distribute_strategy", None)
    with (
        contextlib.nullcontext() if strategy is None else strategy.scope(),
        keras.name_scope(optimizer.name, caller=optimizer),
    ):
        optimizer.build(model.trainable_variables)


def require_settable(model: keras.Model) -> None:
    """Raises a ValueError if a learning rate cannot be lowered."""
    try:
        settable(model, "NaNGuard")
    except ValueError as error:
        raise ValueError(
            "NaNGuard cannot lower the learning rate after a rollback; with `lr_factor=1` it does "
            f"not, and leaves it to the schedule. {error}"
        ) from error


def require_skipping(model: keras.Model) -> None:
    """Raises a ValueError if the optimizer does not leave out updates that are not finite."""
    skipping = (SkipNonFinite, keras.optimizers.LossScaleOptimizer)
    if not any(isinstance(optimizer, skipping) for optimizer in _every(model.optimizer)):
        raise ValueError(
            'NaNGuard with action="skip" needs an optimizer that leaves out updates which are not '
            "finite, inside of the compiled step. Wrap yours, as in "
            "keras_optkit.optimizers.SkipNonFinite(keras.optimizers.Adam()). "
            f"{_check.received('optimizer', model.optimizer)}"
        )


def updates(model: keras.Model) -> int:
    """Returns how many updates the optimizer has done."""
    counts = [o.iterations for o in _every(model.optimizer)]
    return max(int(keras.ops.convert_to_numpy(count)) for count in counts)


def restored(model: keras.Model, factor: float, restore: Callable[[], None]) -> float | None:
    """Calls `restore`, then sets the learning rates to `factor` times what they were before.

    Returns:
        The first of the new learning rates, or None if they cannot be set.
    """
    try:
        optimizers = settable(model, "NaNGuard")
    except ValueError:
        restore()
        return None
    rates = [float(np.float32(rate_of(o) * factor)) for o in optimizers]
    restore()
    for optimizer, rate in zip(optimizers, rates, strict=True):
        optimizer.learning_rate = rate
    return rates[0]


def _every(optimizer) -> list:
    """Returns an optimizer and all inside of it."""
    inside = [getattr(optimizer, "inner_optimizer", None), *getattr(optimizer, "optimizers", ())]
    return [optimizer, *(o for part in inside if part is not None for o in _every(part))]
