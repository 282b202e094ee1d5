"""LiteRT files, run."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_optkit import _check
from keras_optkit._backend import litert
from keras_optkit.compression.litert._arrays import named
from keras_optkit.compression.litert._rows import LiteRTTensor
from keras_optkit.compression.litert._source import read
from keras_optkit.compression.litert.litert_report import LiteRTReport, report

ROWS = 32  # per call, where the file leaves that open


class LiteRTModel:
    """A LiteRT file, ready to run, on any backend and without TensorFlow.

    Args:
        source: Path of the file, its bytes, or the report of its export.
        threads: Threads to compute with.

    Attributes:
        report: The `LiteRTReport` of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a LiteRT file.
        ImportError: If `ai-edge-litert` is not installed: `pip install "keras_optkit[litert]"`.

    Example:
        ```python
        predict = keras_optkit.compression.LiteRTModel("model.tflite").predict
        ```
    """

    def __init__(self, source: str | Path | bytes | LiteRTReport, threads: int = 1):
        self.threads = _check.integer("threads", threads, 1)
        path, content = read(source)
        self.report = report(content, path)
        self._interpreter = litert.interpreter(content, threads)
        self._interpreter.allocate_tensors()
        self._inputs = [d["index"] for d in self._interpreter.get_input_details()]
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]

    def predict(self, x: Any) -> Any:
        """Returns the outputs for `x`, as the model's `predict` would.

        Integers are converted by their scales on the way in and out, but an input that already has
        the integer dtype of the file is taken as it is.

        Args:
            x: An array, or a dict of arrays by name if there are several inputs.

        Returns:
            An array, or a dict of them by name if there are several outputs.

        Raises:
            ValueError: If `x` does not fit the inputs.
        """
        arrays = named("x", x, {tensor.name: tensor.shape for tensor in self.report.inputs})
        rows = len(next(iter(arrays.values())))
        fixed = self.report.inputs[0].shape[0]
        step = fixed or ROWS
        parts = []
        for start in range(0, rows, step):
            part = [integers(a[start : start + step], t) for a, t in self._of(arrays)]
            count = len(part[0])
            if fixed:
                part = [np.concatenate([a, np.repeat(a[-1:], fixed - count, 0)]) for a in part]
            self.set(part)
            self.invoke()
            parts.append([output[:count] for output in self._read()])
        joined = [np.concatenate(part) for part in zip(*parts, strict=True)]
        if len(joined) == 1:
            return joined[0]
        names = [tensor.name for tensor in self.report.outputs]
        return dict(sorted(zip(names, joined, strict=True)))

    def set(self, arrays: list[np.ndarray]) -> None:
        """Sets the inputs of one call, in the order and dtypes of the file."""
        interpreter, resized = self._interpreter, False
        for index, array in zip(self._inputs, arrays, strict=True):
            if tuple(interpreter.get_tensor(index).shape) != array.shape:
                interpreter.resize_tensor_input(index, array.shape)
                resized = True
        if resized:
            interpreter.allocate_tensors()
        for index, array in zip(self._inputs, arrays, strict=True):
            interpreter.set_tensor(index, array)

    def invoke(self) -> None:
        """Runs one call on the inputs that are set."""
        self._interpreter.invoke()

    def _of(self, arrays: dict[str, np.ndarray]) -> list[tuple[np.ndarray, LiteRTTensor]]:
        return [(arrays[tensor.name], tensor) for tensor in self.report.inputs]

    def _read(self) -> list[np.ndarray]:
        return [
            _values(self._interpreter.get_tensor(index), tensor)
            for index, tensor in zip(self._outputs, self.report.outputs, strict=True)
        ]


def integers(array: np.ndarray, tensor: LiteRTTensor) -> np.ndarray:
    """Returns `array` in the dtype of an input, by its scale if that is an integer."""
    if not tensor.scale or array.dtype == tensor.dtype:
        return array.astype(tensor.dtype)
    limits = np.iinfo(tensor.dtype)
    units = np.rint(array / np.float32(tensor.scale)) + tensor.zero_point
    return np.clip(units, limits.min, limits.max).astype(tensor.dtype)


def _values(array: np.ndarray, tensor: LiteRTTensor) -> np.ndarray:
    if not tensor.scale:
        return array
    return (array.astype("float32") - tensor.zero_point) * np.float32(tensor.scale)
