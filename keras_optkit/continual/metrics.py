"""What the accuracy matrix says.

In `R`, of `evaluate_tasks`, `R[i, j]` is the accuracy on task `j` after learning task `i`. There
are `T` tasks, numbered from 0 here, from 1 in the papers.
"""

from typing import Any

import numpy as np

from keras_optkit.continual._matrix import matrix_of


def accuracy(R: Any) -> float:
    """Says how good the model is at all tasks in the end.

    ```text
    mean over j of R[T - 1, j]
    ```

    Tasks count alike. (Avalanche's stream accuracy counts samples alike; Mammoth's average is of
    the tasks seen so far, in percent.)

    Args:
        R: The accuracy matrix, or its last row.

    Example:
        >>> keras_optkit.continual.accuracy([[0.9, 0.1], [0.5, 0.8]])
        0.65

    Reference:
        [Lopez-Paz & Ranzato, 2017](https://arxiv.org/abs/1706.08840), equation 2, "ACC".
    """
    return float(np.mean(matrix_of(R)[-1]))


def learning_accuracy(R: Any) -> float:
    """Says how well each task is learned when its turn comes.

    ```text
    mean over i of R[i, i]
    ```

    Low values mean that what protects earlier tasks hinders learning.

    Args:
        R: The accuracy matrix, of shape `(T, T)`.

    Example:
        >>> keras_optkit.continual.learning_accuracy([[0.9, 0.1], [0.5, 0.7]])
        0.8

    Reference:
        [Riemer et al., 2019](https://arxiv.org/abs/1810.11910), "LA".
    """
    return float(np.mean(np.diagonal(_square(R, 1))))


def incremental_accuracy(R: Any) -> float:
    """Says how good the model is at the tasks seen so far, on average over all times.

    ```text
    mean over i of (mean over j <= i of R[i, j])
    ```

    Args:
        R: The accuracy matrix, of shape `(T, T)`.

    Example:
        >>> keras_optkit.continual.incremental_accuracy([[0.9, 0.1], [0.5, 0.7]])
        0.75

    Reference:
        [Rebuffi et al., 2017](https://arxiv.org/abs/1611.07725), "average incremental accuracy",
        where classes, not tasks, count alike.
    """
    R = _square(R, 1)
    return float(np.mean([R[i, : i + 1].mean() for i in range(len(R))]))


def forgetting(R: Any) -> float:
    """Says how much of the best accuracy on earlier tasks is lost in the end.

    ```text
    mean over j < T - 1 of (max over i < T - 1 of R[i, j]) - R[T - 1, j]
    ```

    Negative where later tasks have helped. (Mammoth takes the maximum over `i = T - 1` too, so
    there it is never negative. Avalanche takes `R[j, j]` for the maximum, so its forgetting is
    `-backward_transfer(R)`.)

    Args:
        R: The accuracy matrix, of shape `(T, T)`, `T` at least 2.

    Example:
        >>> keras_optkit.continual.forgetting([[0.9, 0.1], [0.5, 0.8]])
        0.4

    Reference:
        [Chaudhry et al., 2018](https://arxiv.org/abs/1801.10112), section 3.
    """
    R = _square(R, 2)
    return float(np.mean(R[:-1, :-1].max(axis=0) - R[-1, :-1]))


def backward_transfer(R: Any) -> float:
    """Says how learning later tasks has changed the accuracy on earlier ones.

    ```text
    mean over i < T - 1 of R[T - 1, i] - R[i, i]
    ```

    Negative where they have been forgotten. Avalanche and Mammoth define it like this, too.

    Args:
        R: The accuracy matrix, of shape `(T, T)`, `T` at least 2.

    Example:
        >>> keras_optkit.continual.backward_transfer([[0.9, 0.1], [0.5, 0.8]])
        -0.4

    Reference:
        [Lopez-Paz & Ranzato, 2017](https://arxiv.org/abs/1706.08840), equation 3, "BWT".
    """
    R = _square(R, 2)
    return float(np.mean(R[-1, :-1] - np.diagonal(R)[:-1]))


def forward_transfer(R: Any, baseline: Any) -> float:
    """Says how earlier tasks have helped with tasks not learned yet.

    ```text
    mean over i > 0 of R[i - 1, i] - baseline[i]
    ```

    Args:
        R: The accuracy matrix, of shape `(T, T)`, `T` at least 2.
        baseline: Accuracy on each task of a model that has learned nothing, such as
            `evaluate_tasks(model, tasks)` before the first `fit`.

    Example:
        >>> keras_optkit.continual.forward_transfer([[0.9, 0.75], [0.5, 0.8]], [0.5, 0.5])
        0.25

    Reference:
        [Lopez-Paz & Ranzato, 2017](https://arxiv.org/abs/1706.08840), equation 4, "FWT".
    """
    R = _square(R, 2)
    start = np.asarray(baseline, float).reshape(-1)
    if len(start) != len(R):
        raise ValueError(
            f"`baseline` must be one accuracy for each of the {len(R)} tasks. "
            f"Received: {len(start)}"
        )
    return float(np.mean(np.diagonal(R, offset=1) - start[1:]))


def _square(R: Any, tasks: int) -> np.ndarray:
    R = matrix_of(R)
    if R.shape[0] != R.shape[1]:
        raise ValueError(
            "`R` must have a row for each task learned, but a row of an untrained model is the "
            "`baseline`. Call R = evaluate_tasks(model, tasks, R) after each task, first with "
            f"R = None. Received: R.shape={R.shape}"
        )
    if len(R) < tasks:
        raise ValueError(f"`R` must be of at least {tasks} tasks. Received: R.shape={R.shape}")
    return R
