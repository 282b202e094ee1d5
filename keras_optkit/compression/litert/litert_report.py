"""What is in a LiteRT file."""

import dataclasses
from pathlib import Path

from keras_optkit.compression.litert._contents import Operation, contents
from keras_optkit.compression.litert._rows import (
    LiteRTFloatOp,
    LiteRTOp,
    LiteRTTensor,
    LiteRTWeight,
)
from keras_optkit.compression.litert._source import read


@dataclasses.dataclass(frozen=True)
class LiteRTReport:
    """What is in a LiteRT file; `str` makes a text of it.

    Args:
        path: Where the file is; None if it is in memory.
        bytes: Its size.
        ops: Its operations, by kind and dtype, in the order of the file.
        float_ops: Those that compute in floating point. Conversions between floats and integers,
            `QUANTIZE` and `DEQUANTIZE`, are not among them.
        inputs: Its inputs.
        outputs: Its outputs.
        weights: Its constants, without those that are shapes and axes.
    """

    path: Path | None
    bytes: int
    ops: tuple[LiteRTOp, ...]
    float_ops: tuple[LiteRTFloatOp, ...]
    inputs: tuple[LiteRTTensor, ...]
    outputs: tuple[LiteRTTensor, ...]
    weights: tuple[LiteRTWeight, ...]

    @property
    def parameters(self) -> int:
        """Number of all weights."""
        return sum(weight.size for weight in self.weights)

    @property
    def zeros(self) -> int:
        """Number of weights that are 0."""
        return sum(weight.zeros for weight in self.weights)

    def __str__(self) -> str:
        lines = [
            f"{self.path or 'LiteRT file'}: {self.bytes:,} bytes, "
            f"{self.parameters:,} weights, of which {self.zeros:,} are 0"
        ]
        cells = [(op.name, str(op.count), op.dtype) for op in self.ops]
        cells = [("operation", "count", "dtype"), *cells]
        first, second = (max(len(row[i]) for row in cells) for i in range(2))
        lines += [f"  {a:<{first}}  {b:>{second}}  {c}" for a, b, c in cells]
        for what, tensors in (("input", self.inputs), ("output", self.outputs)):
            for tensor in tensors:
                shape = ", ".join("?" if extent is None else str(extent) for extent in tensor.shape)
                line = f"  {what} {tensor.name}: {tensor.dtype} ({shape})"
                if tensor.scale:
                    line += f", scale {tensor.scale:.6g}, zero point {tensor.zero_point}"
                lines.append(line)
        lines.append(f"  float operations: {listed(self.float_ops) or 'none'}")
        return "\n".join(lines)


def litert_report(source) -> LiteRTReport:
    """Looks into a LiteRT file, made by this package or another.

    Args:
        source: Path of the file, or its bytes.

    Raises:
        ImportError: If `ai-edge-litert` is not installed: `pip install "keras_optkit[litert]"`.
        ValueError: If it is not a LiteRT file.

    Example:
        ```python
        print(keras_optkit.compression.litert_report("model.tflite"))
        ```

    Reference:
        [The format](https://ai.google.dev/edge/litert/models/model_analyzer).
    """
    path, content = read(source)
    return report(content, path)


def report(content: bytes, path: Path | None = None, layers=lambda op: ()) -> LiteRTReport:
    """Returns the report of a file; `layers` tells those of an `Operation`."""
    found = contents(content)
    kinds: dict[tuple[str, str], int] = {}
    for op in found.operations:
        kind = op.name, _dtype(op)
        kinds[kind] = kinds.get(kind, 0) + 1
    floats = [op for op in found.operations if op.in_float]
    return LiteRTReport(
        path,
        len(content),
        tuple(LiteRTOp(name, count, dtype) for (name, dtype), count in kinds.items()),
        tuple(LiteRTFloatOp(op.name, ", ".join(op.outputs), tuple(layers(op))) for op in floats),
        tuple(LiteRTTensor(*tensor) for tensor in found.inputs),
        tuple(LiteRTTensor(*tensor) for tensor in found.outputs),
        tuple(LiteRTWeight(*weight) for weight in found.weights),
    )


def listed(ops: tuple[LiteRTFloatOp, ...], most: int = 8) -> str:
    """Returns the first of `ops` in words, and how many more there are."""
    more = f" and {len(ops) - most} more" if len(ops) > most else ""
    return ", ".join(map(str, ops[:most])) + more


def _dtype(op: Operation) -> str:
    if op.converts:
        return f"{op.takes[0]} -> {op.gives[0]}"
    dtype = op.gives[0] if op.gives else ""
    other = [weight for weight in op.weights if weight != dtype and weight != "int32"]
    return f"{dtype} ({other[0]} weights)" if other else dtype
