"""What becomes of the accuracy on each task."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_optkit._drawing import axes_or_current
from keras_optkit.continual._matrix import matrix_of, names_of

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")


def plot_task_curves(R: Any, tasks: Sequence[Any] | None = None, axes: Any = None) -> Any:
    """Draws the accuracy on each task, from the time it is learned, and the mean of those learned.

    Args:
        R: The accuracy matrix, of `evaluate_tasks`, with a row for each task learned.
        tasks: Tasks or names, one for each column; by default numbers.
        axes: Matplotlib axes to draw into; by default the current ones.

    Returns:
        The axes.

    Example:
        >>> axes = keras_optkit.continual.plot_task_curves([[0.9, 0.1], [0.5, 0.8]])
    """
    R = matrix_of(R)
    names = names_of(tasks, R.shape[1])
    axes = axes_or_current(axes)
    learned = np.arange(1, len(R) + 1)
    for j in range(min(R.shape)):
        color = COLORS[j % len(COLORS)]
        axes.plot(learned[j:], R[j:, j], "o-", color=color, label=names[j], markersize=4)
    means = [R[i, : i + 1].mean() for i in range(len(R))]
    axes.plot(learned, means, "--", color="black", linewidth=2, label="mean of those learned")
    axes.set(xlabel="tasks learned", ylabel="accuracy", ylim=(0, 1.03), xticks=learned)
    axes.legend(fontsize="small")
    return axes
