"""The accuracy matrix as a picture."""

from collections.abc import Sequence
from typing import Any

from keras_optkit._drawing import axes_or_current
from keras_optkit.continual._matrix import matrix_of, names_of


def plot_matrix(R: Any, tasks: Sequence[Any] | None = None, axes: Any = None) -> Any:
    """Draws the accuracy matrix: a row after each task learned, a column for each task tested.

    Below the diagonal is what has become of earlier tasks, above it what is known of later ones.

    Args:
        R: The accuracy matrix, of `evaluate_tasks`.
        tasks: Tasks or names, one for each column; by default numbers.
        axes: Matplotlib axes to draw into; by default the current ones.

    Returns:
        The axes.

    Example:
        >>> axes = keras_optkit.continual.plot_matrix([[0.9, 0.1], [0.5, 0.8]])
    """
    R = matrix_of(R)
    names = names_of(tasks, R.shape[1])
    axes = axes_or_current(axes)
    axes.imshow(R, vmin=0, vmax=1, cmap="Blues")
    for i in range(R.shape[0]):
        for j in range(R.shape[1]):
            color = "white" if R[i, j] > 0.6 else "black"
            weight = "bold" if i == j else "normal"
            text = f"{100 * R[i, j]:.0f}"
            axes.text(j, i, text, ha="center", va="center", color=color, weight=weight)
    learned = names if len(R) == len(names) else [str(number + 1) for number in range(len(R))]
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(R.shape[1]), names, **(slanted if max(map(len, names)) > 3 else {}))
    axes.set_yticks(range(R.shape[0]), learned)
    axes.set(xlabel="tested on", ylabel="after learning", title="Accuracy in %")
    return axes
