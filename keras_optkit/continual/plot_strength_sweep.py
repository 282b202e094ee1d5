"""What the strength of a penalty buys, and what it costs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_optkit import _check
from keras_optkit._drawing import axes_or_current
from keras_optkit.continual._matrix import matrix_of


def plot_strength_sweep(results: Mapping[float, Any], axes: Any = None) -> Any:
    """Draws the final accuracy on earlier tasks and on the last one against a strength.

    Too weak, and earlier tasks are forgotten; too strong, and the last one is not learned. The
    best mean lies between. Bands are from the lowest to the highest of several seeds.

    Args:
        results: The accuracy matrix for each strength, or a list of matrices, one for each seed.
            Strengths are 0 or more; the axis is logarithmic, with a place for 0.
        axes: Matplotlib axes to draw into; by default the current ones.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no results, or a matrix has fewer than two tasks.

    Example:
        >>> weak, strong = [[0.9, 0.1], [0.2, 0.9]], [[0.9, 0.1], [0.8, 0.5]]
        >>> axes = keras_optkit.continual.plot_strength_sweep({10.0: weak, 1000.0: strong})
    """
    strengths = sorted(_check.in_range("results", strength, low=0) for strength in results)
    if not strengths:
        raise ValueError("`results` must hold the matrices of at least one strength.")
    # Of each strength the last rows, one for each seed.
    last = [np.stack([matrix_of(R)[-1] for R in _seeds(results[s])]) for s in strengths]
    if min(row.shape[1] for row in last) < 2:
        raise ValueError("`results` must hold matrices of at least two tasks.")
    axes = axes_or_current(axes)
    for label, color, style, values in (
        ("earlier tasks", "#0072B2", "o-", [rows[:, :-1].mean(axis=1) for rows in last]),
        ("last task", "#D55E00", "s-", [rows[:, -1] for rows in last]),
        ("all tasks", "black", "--", [rows.mean(axis=1) for rows in last]),
    ):
        axes.plot(strengths, [v.mean() for v in values], style, color=color, label=label)
        low, high = [v.min() for v in values], [v.max() for v in values]
        axes.fill_between(strengths, low, high, color=color, alpha=0.15, linewidth=0)
    positive = [strength for strength in strengths if strength > 0]
    axes.set_xscale("symlog", linthresh=min(positive, default=1.0), linscale=0.5)
    axes.set_xticks(strengths, [f"{strength:g}" for strength in strengths])
    axes.minorticks_off()
    axes.set(xlabel="strength", ylabel="accuracy in the end", ylim=(0, 1.03))
    axes.legend(fontsize="small")
    return axes


def _seeds(matrices: Any) -> list:
    """Returns a list of matrices, of which one alone is a list too."""
    return list(matrices) if np.ndim(matrices) == 3 else [matrices]
