"""One head of a model that has a head for each task."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import backend, ops

from keras_optkit import _check


def masked_logits(logits: Any, classes: Iterable[int]) -> Any:
    """Takes all classes but some out of the competition, where the task is known.

    A model with one output for every class of all tasks, of which only those of the present task
    compete, is a model with a head for each task. The other logits become so low that their
    softmax is 0.

    Args:
        logits: Outputs before softmax, with classes along the last axis. Probabilities will do if
            only the largest matters.
        classes: Outputs that compete.

    Returns:
        A tensor like `logits`.

    Raises:
        ValueError: If there are no such outputs.

    Example:
        >>> logits = keras.ops.convert_to_tensor([[3.0, 1.0, 2.0]])
        >>> print(keras.ops.convert_to_numpy(keras.ops.argmax(
        ...     keras_optkit.continual.masked_logits(logits, [1, 2]), axis=-1)))
        [2]

    Reference:
        [van de Ven & Tolias, 2019](https://arxiv.org/abs/1904.07734), task-incremental learning.
    """
    logits = ops.convert_to_tensor(logits)
    competing = sorted(set(classes))
    if not competing or competing[0] < 0 or competing[-1] >= logits.shape[-1]:
        raise ValueError(
            f"`classes` must be numbers of outputs, of which there are {logits.shape[-1]}. "
            f"{_check.received('classes', competing)}"
        )
    mask = np.isin(np.arange(logits.shape[-1]), competing)
    return ops.where(ops.convert_to_tensor(mask), logits, ops.cast(lowest(logits), logits.dtype))


def lowest(logits: Any) -> float:
    """Returns a number whose softmax is 0 beside others, and finite: 0 times it stays 0."""
    return -3e4 if backend.standardize_dtype(logits.dtype) == "float16" else -1e9
