"""Measurements as data."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Records:
    """The measurements of one run: for each its step and, layer by layer, the `columns`.

    With histograms, if they are measured: for each layer the counts of a measurement.
    """

    def __init__(
        self,
        columns: Sequence[str],
        layers: Sequence[str] = (),
        steps: Sequence[int] = (),
        values: Any = (),
        histograms: Any = (),
    ):
        self.columns = tuple(columns)
        self.layers = list(layers)
        self.steps = list(steps)
        self.values = [np.asarray(value, "float64") for value in values]
        self.histograms = [np.asarray(counts, "int64") for counts in histograms]

    def goes_on(self, step: int, layers: Sequence[str]) -> bool:
        """Whether a measurement can belong to the same run."""
        return self.layers == list(layers) and all(step > s for s in self.steps[-1:])

    def add(self, step: int, values: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Adds a measurement."""
        self.steps.append(step)
        self.values.append(values)
        if counts is not None:
            self.histograms.append(counts)

    def column(self, name: str) -> np.ndarray:
        """Returns one of `columns` as an array of measurements times layers."""
        shape = (len(self.steps), len(self.layers), len(self.columns))
        return np.reshape(self.values, shape)[:, :, self.columns.index(name)]

    def means(self, begin: int) -> dict[str, float]:
        """Returns the means since measurement number `begin`, under names for a History.

        A NaN in a column that may be undefined, like a ratio to a weight of 0, is left out.
        """
        means: dict[str, float] = {}
        if begin == len(self.steps):
            return means
        for name in self.columns:
            column = self.column(name)[begin:]
            if name in ALWAYS_DEFINED:
                mean = column.mean(axis=0)
            else:
                known = ~np.isnan(column)
                total = np.where(known, column, 0).sum(axis=0)
                mean = total / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
            means |= {f"{name}/{x}": float(m) for x, m in zip(self.layers, mean, strict=True)}
        return means


ALWAYS_DEFINED = ("gradient_norm", "weight_norm")
