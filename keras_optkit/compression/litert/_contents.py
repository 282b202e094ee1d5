"""LiteRT's file format: operations, inputs, outputs and constants."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from keras_optkit._backend import litert

FLOATS = ("float16", "bfloat16", "float32", "float64")
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        name: LiteRT's name for it.
        takes: Dtypes of the tensors it takes.
        weights: Dtypes of the constants it takes.
        gives: Dtypes of the tensors it gives.
        outputs: Names of the tensors it gives.
        constants: Names of the constants it takes.
    """

    name: str
    takes: tuple[str, ...]
    weights: tuple[str, ...]
    gives: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[str, ...]

    @property
    def converts(self) -> bool:
        """Whether it only converts between floats and integers."""
        return self.name in CONVERSIONS

    @property
    def in_float(self) -> bool:
        """Whether it computes in floating point."""
        return not self.converts and any(dtype in FLOATS for dtype in self.takes + self.gives)


class Contents(NamedTuple):
    """What a file holds: tuples of name, shape, dtype, and then scale, zero point or zeros."""

    operations: list[Operation]
    inputs: list[tuple[str, tuple[int | None, ...], str, float, int]]
    outputs: list[tuple[str, tuple[int | None, ...], str, float, int]]
    weights: list[tuple[str, tuple[int, ...], str, int]]


def contents(content: bytes) -> Contents:
    """Reads a LiteRT file."""
    schema = litert.schema()
    file = schema.ModelT.InitFromPackedBuf(content, 0)
    dtypes = {code: name.lower() for name, code in _codes(schema.TensorType)}
    codes = {code: name for name, code in _codes(schema.BuiltinOperator)}
    names = [_operation_name(code, codes) for code in file.operatorCodes]
    operations, weights = [], []
    signature = file.signatureDefs[0] if file.signatureDefs else None
    known_outputs = _names(signature.outputs if signature else ())
    for graph in file.subgraphs:
        known = known_outputs if graph is file.subgraphs[0] else {}
        constant = [_data(file, tensor) for tensor in graph.tensors]
        for op in graph.operators:
            ins = [int(i) for i in op.inputs if i >= 0]  # -1 stands for an input left out
            outs = list(map(int, op.outputs))
            operations.append(
                Operation(
                    names[op.opcodeIndex],
                    tuple(dtypes[graph.tensors[i].type] for i in ins if constant[i] is None),
                    tuple(dtypes[graph.tensors[i].type] for i in ins if constant[i] is not None),
                    tuple(dtypes[graph.tensors[i].type] for i in outs),
                    tuple(known.get(i) or graph.tensors[i].name.decode() for i in outs),
                    tuple(graph.tensors[i].name.decode() for i in ins if constant[i] is not None),
                )
            )
        for tensor, data in zip(graph.tensors, constant, strict=True):
            dtype = dtypes[tensor.type]
            scale, zero_point = _quantization(tensor)
            if data is not None and (scale or dtype in FLOATS):
                zeros = int(np.sum(_values(data, dtype, tensor.shape) == zero_point))
                weights.append((tensor.name.decode(), tuple(map(int, tensor.shape)), dtype, zeros))
    main = file.subgraphs[0]
    known_inputs = _names(signature.inputs if signature else ())
    inputs, outputs = (
        [_described(main.tensors[i], dtypes, known.get(int(i))) for i in indices]
        for indices, known in ((main.inputs, known_inputs), (main.outputs, known_outputs))
    )
    return Contents(operations, inputs, outputs, weights)


def _codes(enumeration: Any) -> list[tuple[str, int]]:
    return [(name, code) for name, code in vars(enumeration).items() if not name.startswith("_")]


def _operation_name(code: Any, codes: dict[int, str]) -> str:
    if code.customCode:
        return code.customCode.decode()
    # Old files have the code in one byte, in the other field.
    return codes[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _data(file: Any, tensor: Any) -> np.ndarray | None:
    data = file.buffers[tensor.buffer].data
    return None if data is None or len(data) == 0 else np.asarray(data, np.uint8)


def _values(data: np.ndarray, dtype: str, shape) -> np.ndarray:
    size = int(np.prod(shape))
    if dtype in ("int4", "uint4"):  # two in a byte
        return np.stack([data & 15, data >> 4], axis=-1).reshape(-1)[:size]
    return np.frombuffer(data.tobytes(), "uint16" if dtype == "bfloat16" else dtype)


def _quantization(tensor: Any) -> tuple[float, int]:
    found = tensor.quantization
    if found is None or found.scale is None or len(found.scale) == 0:
        return 0.0, 0
    return float(found.scale[0]), int(found.zeroPoint[0]) if found.zeroPoint is not None else 0


def _names(maps) -> dict[int, str]:
    return {int(entry.tensorIndex): entry.name.decode() for entry in maps}


def _described(tensor: Any, dtypes: dict[int, str], name: str | None):
    signature = tensor.shapeSignature
    shape = tensor.shape if signature is None or len(signature) == 0 else signature
    extents = tuple(None if extent < 0 else int(extent) for extent in shape)
    return name or tensor.name.decode(), extents, dtypes[tensor.type], *_quantization(tensor)
