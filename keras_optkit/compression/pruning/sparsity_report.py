"""How sparse a model is."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_optkit import _match
from keras_optkit.compression._models import keras_model


@dataclasses.dataclass(frozen=True)
class SparsityRow:
    """One weight tensor.

    Args:
        path: Path of the weight.
        shape: Its shape.
        zeros: Number of its entries that are 0.
    """

    path: str
    shape: tuple[int, ...]
    zeros: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape))

    @property
    def sparsity(self) -> float:
        """Share of entries that are 0."""
        return self.zeros / max(self.size, 1)


@dataclasses.dataclass(frozen=True)
class SparsityReport:
    """The zeros in a model's weights; `str` makes a table of it.

    Args:
        rows: One for each weight tensor.
    """

    rows: list[SparsityRow]

    @property
    def size(self) -> int:
        """Number of all entries."""
        return sum(row.size for row in self.rows)

    @property
    def zeros(self) -> int:
        """Number of those that are 0."""
        return sum(row.zeros for row in self.rows)

    @property
    def sparsity(self) -> float:
        """Share of those that are 0."""
        return self.zeros / max(self.size, 1)

    def __str__(self) -> str:
        cells = [(r.path, str(r.shape), f"{r.zeros:,}", f"{r.sparsity:.1%}") for r in self.rows]
        cells = [("weight", "shape", "zeros", "sparsity"), *cells]
        cells.append(("all", f"{self.size:,}", f"{self.zeros:,}", f"{self.sparsity:.1%}"))
        widths = [max(len(line[i]) for line in cells) for i in range(4)]
        return "\n".join(
            f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}"
            for a, b, c, d in cells
        )


def sparsity_report(model: keras.Model) -> SparsityReport:
    """Counts the zeros in each trainable weight of a model.

    Args:
        model: A built model.

    Raises:
        TypeError: If it is not a Keras 3 model.
        ValueError: If it is not built.

    Example:
        >>> report = keras_optkit.compression.sparsity_report(model)
        >>> report.zeros <= report.size
        True
    """
    keras_model(model, "sparsity_report")
    return SparsityReport(
        [
            SparsityRow(_match.path(v), tuple(v.shape), int(np.sum(ops.convert_to_numpy(v) == 0)))
            for v in model.trainable_variables
        ]
    )
