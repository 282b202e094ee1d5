"""Pictures of measurements."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_optkit._drawing import axes_or_current


def heat_map(
    name: str, values: np.ndarray, layers: Sequence[str], steps: Sequence[int], axes: Any = None
) -> Any:
    """Draws `values`, measurements times layers, the first layer on top; returns the axes.

    Norms and ratios are drawn as powers of ten, shares and cosines as they are.
    """
    axes = axes_or_current(axes)
    if not steps:
        raise ValueError("`plot` draws measurements, and there are none yet. Train with it first.")
    logarithmic = name.endswith(("norm", "ratio"))
    if logarithmic:
        shown = np.log10(np.where(np.isfinite(values) & (values > 0), values, np.nan))
    else:
        shown = np.where(np.isfinite(values), values, np.nan)
    image = axes.imshow(shown.T, aspect="auto", interpolation="nearest")
    ticks = np.unique(np.linspace(0, len(steps) - 1, 6).astype(int))
    axes.set_xticks(ticks, [str(steps[i]) for i in ticks])
    axes.set_yticks(range(len(layers)), layers)
    axes.set(xlabel="step")
    label = name.replace("_", " ")
    axes.figure.colorbar(image, ax=axes, label=f"log10 of {label}" if logarithmic else label)
    return axes
