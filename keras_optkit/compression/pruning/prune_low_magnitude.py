"""Pruning of a compiled model, for code written for TF-MOT."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import keras

from keras_optkit import _check, _match
from keras_optkit.compression.pruning._method import Method
from keras_optkit.compression.pruning._pruners import pruners
from keras_optkit.compression.pruning._recompile import compiled_model, replace_optimizer
from keras_optkit.compression.pruning._schedule import SparsitySchedule
from keras_optkit.compression.pruning._selection import refuse_merged
from keras_optkit.compression.pruning.block import Block, rows_and_columns
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
            if left out, or with `sparsity_m_by_n` at step 1 only.
        block_size: Rows and columns of the blocks to prune together; for matrices only if not 1.
            With `sparsity_m_by_n` it counts for nothing, as in TF-MOT.
        block_pooling_type: How blocks are compared, by the mean or the largest magnitude.
        sparsity_m_by_n: `(zeros, group)`: so many zeros in each group of weights in a row. TF-MOT
            makes these masks at step 1 only, whatever the schedule; here a schedule tells when.
        include: Patterns for the paths of weights to prune; by default as said above.
        exclude: Patterns for the paths of weights to leave alone.

    Returns:
        `model` itself.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If it is not built, not compiled or pruned already, if nothing can be pruned,
            for layers that are quantized or have LoRA, or for what schedules and methods refuse.

    Example:
        >>> schedule = keras_optkit.compression.ConstantSparsity(0.8, begin_step=1)
        >>> model = keras_optkit.compression.prune_low_magnitude(model, schedule)
        >>> history = model.fit(x, y)
        >>> model = keras_optkit.compression.strip_pruning(model)
    """
    compiled_model(model, "prune_low_magnitude")
    if pruners(model):
        raise ValueError(
            "The model prunes already, and two sets of masks would undo each other. To prune "
            "otherwise, call `strip_pruning(model)` first. "
            f"{_check.received('optimizer', model.optimizer)}"
        )
    if pruning_schedule is None:  # and TF-MOT makes the masks of groups at step 1 only
        once = {"begin_step": 1, "end_step": 1}
        pruning_schedule = ConstantSparsity(0.5, **(once if sparsity_m_by_n else {"begin_step": 0}))
    if not isinstance(pruning_schedule, SparsitySchedule):
        pruning_schedule = from_tfmot(pruning_schedule)
    _check.one_of("block_pooling_type", block_pooling_type, ("AVG", "MAX"))
    block_size = rows_and_columns("block_size", block_size)
    method: Method = Magnitude()
    if sparsity_m_by_n is not None:
        method = zeros_of_group(sparsity_m_by_n)
    elif math.prod(block_size) != 1:
        method = Block(block_size, "mean" if block_pooling_type == "AVG" else "max")
    refuse_merged(model, "prune_low_magnitude", include, exclude)
    depthwise = [] if include else _depthwise(model)
    excluded = [*_check.patterns("exclude", exclude), *depthwise]
    replace_optimizer(
        model,
        lambda optimizer: Pruned(optimizer, pruning_schedule, method, include, excluded),
    )
    return model


def zeros_of_group(zeros_and_group) -> NofM:
    """Returns the method for TF-MOT's `sparsity_m_by_n`."""
    pair = zeros_and_group if isinstance(zeros_and_group, (list, tuple)) else ()
    if len(pair) != 2 or not all(type(n) is int for n in pair) or not 0 < pair[0] < pair[1]:
        raise ValueError(
            "`sparsity_m_by_n` must be a pair of integers, zeros and size of a group, with at "
            "least one zero and fewer than the group has weights, such as (2, 4). "
            f"{_check.received('sparsity_m_by_n', zeros_and_group)}"
        )
    return NofM(pair[1] - pair[0], pair[1])


def _depthwise(model: keras.Model) -> list[str]:
    """Returns patterns for the kernels that TF-MOT leaves alone, which paths may not tell."""
    kinds = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
    return [
        _match.literal(layer.kernel.path, model.name)
        for layer in model._flatten_layers()
        if isinstance(layer, kinds) and layer.built and layer.kernel.trainable
    ]
