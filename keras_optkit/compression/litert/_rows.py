"""What a report lists of a LiteRT file."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class LiteRTTensor:
    """An input or output of a LiteRT file.

    Args:
        name: Its name, by which `run_litert` takes and returns it.
        shape: Its shape; None where it is open.
        dtype: Its dtype.
        scale: What one unit of an integer is worth, or 0 if the numbers are the values.
        zero_point: The integer that stands for 0.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float
    zero_point: int


@dataclasses.dataclass(frozen=True)
class LiteRTOp:
    """A kind of operation in a LiteRT file.

    Args:
        name: LiteRT's name for it.
        count: How many there are.
        dtype: In what they compute.
    """

    name: str
    count: int
    dtype: str


@dataclasses.dataclass(frozen=True)
class LiteRTFloatOp:
    """An operation that computes in floating point.

    Args:
        name: LiteRT's name for it.
        tensor: The name of its output, made from those of layers.
        layers: The layers it comes from, as far as the name tells.
    """

    name: str
    tensor: str
    layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.layers) or self.tensor})"


@dataclasses.dataclass(frozen=True)
class LiteRTWeight:
    """A tensor of constants in a LiteRT file: a kernel or a bias.

    Args:
        name: Its name, made from those of layers.
        shape: Its shape.
        dtype: Its dtype.
        zeros: Number of entries that stand for 0.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    zeros: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)
