"""What a quantized model rounds, and what it does not."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_optkit.compression._graph import Call, calls, consumers
from keras_optkit.compression._models import keras_model
from keras_optkit.compression.quantization._policy import policy
from keras_optkit.compression.quantization._rebuild import INNER
from keras_optkit.compression.quantization._wrapped import Wrapped
from keras_optkit.compression.quantization.quantize_activation import QuantizeActivation
from keras_optkit.compression.quantization.quantized_layer import QuantizedLayer

WHAT = "quantization_report"


@dataclasses.dataclass(frozen=True)
class QuantizationRow:
    """One call of a layer, or an input.

    Args:
        layer: Path of the layer.
        kind: Name of its class.
        weights: How its weights are held.
        output: How its output is held: the range it is rounded over, or why it has none.
        reason: Why it is float, if it is.
    """

    layer: str
    kind: str
    weights: str
    output: str
    reason: str


@dataclasses.dataclass(frozen=True)
class QuantizationReport:
    """What is rounded in a model; `str` makes a table of it.

    Args:
        rows: One for each input and each call of a layer.
    """

    rows: list[QuantizationRow]

    @property
    def floats(self) -> list[QuantizationRow]:
        """The rows of what stays float."""
        return [row for row in self.rows if row.reason]

    def __str__(self) -> str:
        lines = [("layer", "kind", "weights", "output", "float because")]
        lines += [dataclasses.astuple(row) for row in self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        return "\n".join(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def quantization_report(model: keras.Model) -> QuantizationReport:
    """Tells how each layer of a quantized model is held, and why some stay float.

    Args:
        model: A model from `quantize_model`, or a plain one, of which all is float.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If it is not built or has no graph.

    Example:
        >>> quantized = keras_optkit.compression.quantize_model(model)
        >>> report = keras_optkit.compression.quantization_report(quantized)
        >>> report.rows[-1].layer, report.rows[-1].weights
        ('head', '8 bits per tensor')
        >>> report.floats
        []
    """
    keras_model(model, WHAT)
    return QuantizationReport(list(_rows(model, "")))


def _rows(model: keras.Model, prefix: str) -> Iterator[QuantizationRow]:
    graph = calls(model, WHAT)
    taking = consumers(graph)
    inside: Any = getattr(model, "_functional", model)
    if not prefix:
        for tensor in inside.inputs:
            name = tensor._keras_history.operation.name
            yield QuantizationRow(name, "InputLayer", "", _output([tensor], taking), "")
    for call in graph:
        if isinstance(call.operation, keras.Model):
            yield from _rows(call.operation, f"{prefix}{call.operation.name}/")
        elif not isinstance(call.operation, QuantizeActivation):
            yield _row(call, taking, prefix)


def _row(call: Call, taking, prefix: str) -> QuantizationRow:
    operation: Any = call.operation
    layer = getattr(operation, "layer", operation)
    weights, reason = "float" if getattr(layer, "weights", None) else "", ""
    found = policy(layer)
    if isinstance(operation, QuantizedLayer):
        kind = "per channel" if operation.per_channel else "per tensor"
        whole = type(layer).__name__.endswith("Transpose")
        weights = f"{operation.weight_bits} bits {'per tensor' if whole else kind}"
    elif isinstance(operation, Wrapped):
        weights = "folded" if getattr(operation, "folded", False) else "8 bits per channel"
    elif found.kind in ("weights", "norm", "rescaling"):
        reason = "excluded"
    elif found.kind in ("float", "refused"):
        reason = found.reason
    output = _output(call.outputs, taking)
    if output == "float" and not reason:
        output = "as its input" if found.kind == "move" else "with what follows"
    name = f"{prefix}{operation.name}".removesuffix(INNER)
    return QuantizationRow(name, type(layer).__name__, weights, output, reason)


def _output(tensors, taking) -> str:
    """Describes the first rounding that follows."""
    for tensor in tensors:
        for call in taking.get(id(tensor), []):
            layer: Any = call.operation
            if not isinstance(layer, QuantizeActivation):
                continue
            if layer.fixed_range is not None:
                low, high = layer.fixed_range
            elif not bool(ops.convert_to_numpy(layer.calibrated)):
                return f"{layer.bits} bits, range unknown"
            else:
                low, high = (float(ops.convert_to_numpy(v)) for v in (layer.minimum, layer.maximum))
            return f"{layer.bits} bits in [{low:.4g}, {high:.4g}]"
    return "float"
