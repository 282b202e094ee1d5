"""A plain optimizer again."""

import keras

from keras_optkit import _check
from keras_optkit.compression.pruning._recompile import compiled_model, replace_optimizer
from keras_optkit.compression.pruning.pruned import Pruned


def strip_pruning(model: keras.Model) -> keras.Model:
    """Takes the pruning off a model's optimizer; zeros stay as they are, until it trains again.

    To go on training with the zeros kept, leave `Pruned` where it is, or use the method `Frozen`.

    Args:
        model: A model compiled with `Pruned`, or by `prune_low_magnitude`.

    Returns:
        `model` itself, compiled with the optimizer that was inside.

    Raises:
        ValueError: If the model's optimizer does not prune.
    """
    compiled_model(model, "strip_pruning")

    def inside(optimizer):
        if not isinstance(optimizer, Pruned):
            raise ValueError(
                "strip_pruning needs a model whose optimizer is a Pruned; this one has nothing to "
                f"strip. {_check.received('optimizer', optimizer)}"
            )
        return optimizer.inner_optimizer

    replace_optimizer(model, inside)
    return model
