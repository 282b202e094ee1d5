"""The numbers of several versions of a model, as a table and as a picture."""

import dataclasses
from typing import Any

import numpy as np

from keras_optkit._drawing import axes_or_current

COLUMNS = ("", "weights", "non-zero", "gzip", "LiteRT", "latency")
COLORS = ("#0072B2", "#56B4E9", "#D55E00")


@dataclasses.dataclass(frozen=True)
class CompressionRow:
    """One version of a model.

    Args:
        name: Its name.
        parameters: Number of weights, trained or not; in a LiteRT file, where BatchNormalization
            is part of the kernels, number of constants.
        nonzeros: Number of those that are not 0.
        gzip_bytes: Size after gzip: of the weights of a model, one after the other; of a LiteRT
            file, of the file.
        litert_bytes: Size of the LiteRT file; None if there is none.
        latency: Milliseconds that half of the calls of the LiteRT file stay below; None likewise.
        score: Accuracy, or what `metric` has found; None without data.
    """

    name: str
    parameters: int
    nonzeros: int
    gzip_bytes: int
    litert_bytes: int | None
    latency: float | None
    score: float | None


@dataclasses.dataclass(frozen=True)
class CompressionReport:
    """Versions of a model side by side; `str` makes a table, `plot` a picture.

    Args:
        rows: One for each version.
        metric: Name of the score.
        notes: Why there are gaps, if there are any.
    """

    rows: tuple[CompressionRow, ...]
    metric: str
    notes: tuple[str, ...]

    def cells(self) -> list[tuple[str, ...]]:
        """Returns the table as texts, with a line of heads."""
        return [(*COLUMNS, self.metric), *map(self._cells, self.rows)]

    def _cells(self, row: CompressionRow) -> tuple[str, ...]:
        score = "accuracy" if self.metric == "accuracy" else ""
        return (
            row.name,
            f"{row.parameters:,}",
            f"{row.nonzeros:,}",
            _size(row.gzip_bytes),
            _size(row.litert_bytes),
            "-" if row.latency is None else f"{row.latency:.3g} ms",
            "-" if row.score is None else f"{row.score:.2%}" if score else f"{row.score:.4g}",
        )

    def __str__(self) -> str:
        cells = self.cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in cells
        ]
        return "\n".join([*lines, *self.notes])

    def plot(self, axes: Any = None) -> Any:
        """Draws sizes and latency in percent of the first version, with scores beside the names.

        Args:
            axes: Matplotlib axes to draw on; the current ones if None.

        Returns:
            The axes.
        """
        axes = axes_or_current(axes)
        values = {
            "gzip": [row.gzip_bytes for row in self.rows],
            "LiteRT file": [row.litert_bytes for row in self.rows],
            "latency": [row.latency for row in self.rows],
        }
        shown = {name: column for name, column in values.items() if column[0]}
        height = 0.8 / max(len(shown), 1)
        for i, (name, column) in enumerate(shown.items()):
            shares = [100 * (value or 0) / column[0] for value in column]
            places = np.arange(len(column)) + (i - (len(shown) - 1) / 2) * height
            bars = axes.barh(places, shares, height * 0.9, color=COLORS[i], label=name)
            text = "{:.3g} ms".format if name == "latency" else _size
            labels = ["" if value is None else text(value) for value in column]
            axes.bar_label(bars, labels, padding=3, fontsize="small")
        cells = self.cells()[1:]
        names = [
            row[0] if row[-1] == "-" else f"{row[0]}\n{self.metric} {row[-1]}" for row in cells
        ]
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel(f"percent of {self.rows[0].name}")
        axes.legend()
        return axes


def _size(count: int | None) -> str:
    return "-" if count is None else f"{count / 1000:,.1f} kB"
