"""Measurements as data."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_optkit.callbacks._sinks import COLUMNS


class Records:
    """The measurements of one run: for each its step and, layer by layer, `COLUMNS`."""

    def __init__(self, layers: Sequence[str] = (), steps: Sequence[int] = (), values: Any = ()):
        self.layers = list(layers)
        self.steps = list(steps)
        self.values = [np.asarray(value, "float64") for value in values]

    def goes_on(self, step: int, layers: Sequence[str]) -> bool:
        """Whether a measurement can belong to the same run."""
        return self.layers == list(layers) and all(step > s for s in self.steps[-1:])

    def add(self, step: int, values: np.ndarray) -> None:
        """Adds a measurement."""
        self.steps.append(step)
        self.values.append(values)

    def column(self, name: str) -> np.ndarray:
        """Returns one of `COLUMNS` as an array of measurements times layers."""
        shape = (len(self.steps), len(self.layers), len(COLUMNS))
        return np.reshape(self.values, shape)[:, :, COLUMNS.index(name)]

    def means(self, begin: int) -> dict[str, float]:
        """Returns the means since measurement number `begin`, under names for a History."""
        if begin == len(self.steps):
            return {}
        means = {"gradient_norm": np.mean(global_norms(self.column("gradient_norm")[begin:]))}
        for name in COLUMNS:
            column = self.column(name)[begin:]
            if name == "update_ratio":  # undefined while a weight is 0, so leave that out
                known = ~np.isnan(column)
                total = np.where(known, column, 0).sum(axis=0)
                mean = total / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
            else:
                mean = column.mean(axis=0)
            means |= {f"{name}/{x}": m for x, m in zip(self.layers, mean, strict=True)}
        return {name: float(mean) for name, mean in means.items()}


def global_norms(gradient_norms: np.ndarray) -> np.ndarray:
    """Returns the norm over all layers, for each measurement."""
    return np.sqrt(np.square(gradient_norms).sum(axis=1))
