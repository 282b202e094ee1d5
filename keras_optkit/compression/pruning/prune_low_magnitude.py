"""Pruning of a compiled model, for code written for TF-MOT."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import keras

from keras_optkit import _check, _match
from keras_optkit._registry import register
from keras_optkit.callbacks._base import Callback
from keras_optkit.compression.pruning._method import Method
from keras_optkit.compression.pruning._recompile import compiled_model, replace_optimizer
from keras_optkit.compression.pruning._schedule import SparsitySchedule
from keras_optkit.compression.pruning.block import Block
from keras_optkit.compression.pruning.constant_sparsity import ConstantSparsity
from keras_optkit.compression.pruning.from_tfmot import from_tfmot
from keras_optkit.compression.pruning.magnitude import Magnitude
from keras_optkit.compression.pruning.n_of_m import NofM
from keras_optkit.compression.pruning.pruned import Pruned


def prune_low_magnitude(
    model: keras.Model,
    pruning_schedule: Any = None,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: Literal["AVG", "MAX"] = "AVG",
    sparsity_m_by_n: tuple[int, int] | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
) -> keras.Model:
    """Makes a compiled model prune its weights while it trains.

    Puts a `Pruned` around the model's optimizer and compiles the model anew; layers stay as they
    are. It prunes what TF-MOT prunes: kernels and embeddings, but no depthwise kernels. In new
    code compile with `Pruned` at once.

    Args:
        model: The model to prune: built, and compiled before, not after.
        pruning_schedule: A sparsity schedule of this package or of TF-MOT; 50 % from step 100 on
            if left out.
        block_size: Rows and columns of the blocks to prune together; for matrices only if not 1.
        block_pooling_type: How blocks are compared, by the mean or the largest magnitude.
        sparsity_m_by_n: `(zeros, group)`: so many zeros in each group of weights in a row.
        include: Patterns for the paths of weights to prune; by default as said above.
        exclude: Patterns for the paths of weights to leave alone.

    Returns:
        `model` itself.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If it is not built, not compiled or pruned already, if nothing can be pruned,
            or for what the schedules and methods refuse.

    Example:
        >>> schedule = keras_optkit.compression.ConstantSparsity(0.8, begin_step=1)
        >>> model = keras_optkit.compression.prune_low_magnitude(model, schedule)
        >>> history = model.fit(x, y)
        >>> model = keras_optkit.compression.strip_pruning(model)
    """
    compiled_model(model, "prune_low_magnitude")
    if pruning_schedule is None:
        pruning_schedule = ConstantSparsity(0.5, begin_step=0)
    if not isinstance(pruning_schedule, SparsitySchedule):
        pruning_schedule = from_tfmot(pruning_schedule)
    _check.one_of("block_pooling_type", block_pooling_type, ("AVG", "MAX"))
    method: Method = Magnitude()
    if sparsity_m_by_n is not None:
        zeros, group = sparsity_m_by_n
        method = NofM(group - zeros, group)
    elif math.prod(block_size) != 1:
        method = Block(block_size, "mean" if block_pooling_type == "AVG" else "max")
    depthwise = [] if include else _depthwise(model)
    excluded = [*_check.patterns("exclude", exclude), *depthwise]
    replace_optimizer(
        model,
        lambda optimizer: Pruned(optimizer, pruning_schedule, method, include, excluded),
    )
    return model


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


@register
class UpdatePruningStep(Callback):
    """Does nothing but check that the model prunes: TF-MOT needs such a callback, we do not.

    Raises:
        ValueError: When training begins, if the model's optimizer does not prune: `compile` after
            `prune_low_magnitude` has replaced it.

    Example:
        >>> step = keras_optkit.compression.UpdatePruningStep()
    """

    def on_train_begin(self, logs=None):
        optimizer: Any = getattr(self.model, "optimizer", None)
        while optimizer is not None and not isinstance(optimizer, Pruned):
            optimizer = getattr(optimizer, "inner_optimizer", None)
        if optimizer is None:
            raise ValueError(
                "The model's optimizer does not prune. Call `prune_low_magnitude` after "
                "`model.compile`, which sets the optimizer, or compile with Pruned. "
                f"Received: optimizer={self.model.optimizer}"
            )


def _depthwise(model: keras.Model) -> list[str]:
    """Returns patterns for the kernels that TF-MOT leaves alone, which paths may not tell."""
    kinds = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
    return [
        _match.literal(layer.kernel.path, model.name)
        for layer in model._flatten_layers()
        if isinstance(layer, kinds)
    ]
