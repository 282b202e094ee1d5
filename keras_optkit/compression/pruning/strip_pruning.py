"""A plain optimizer again."""

from typing import Any

import keras
from keras import ops

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
        return _inner(optimizer)

    replace_optimizer(model, inside)
    return model


def _inner(pruned: Pruned) -> keras.optimizers.Optimizer:
    """Returns the optimizer inside, with the settings that `Pruned` has taken over from it."""
    inner: Any = pruned.inner_optimizer
    inner.loss_scale_factor = pruned.loss_scale_factor
    steps = pruned.gradient_accumulation_steps
    if not steps:
        return inner
    # Anew, since an optimizer makes the sums of gradients only as it is built.
    twin: Any = type(inner).from_config(inner.get_config() | {"gradient_accumulation_steps": steps})
    if inner.built:
        twin.build(pruned._trainable_variables)
        sums = {id(v) for v in twin._accumulated_gradients}
        state = [v for v in twin.variables if id(v) not in sums]
        for new, old in zip(state, inner.variables, strict=True):
            new.assign(old)
        twin._iterations.assign(ops.convert_to_tensor(inner._iterations) * steps)  # batches
    return twin
