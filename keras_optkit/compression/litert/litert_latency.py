"""How fast a model runs on a device's processor."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_optkit import _check
from keras_optkit.compression.litert._arrays import named
from keras_optkit.compression.litert._convert import converted
from keras_optkit.compression.litert._rows import LiteRTTensor
from keras_optkit.compression.litert.litert_model import LiteRTModel, integers
from keras_optkit.compression.litert.litert_report import LiteRTReport

WARMUP = 10


@dataclasses.dataclass(frozen=True)
class LiteRTLatency:
    """Times of single calls.

    Args:
        p50: Milliseconds that half of the calls stay below.
        p90: Milliseconds that 90 % of the calls stay below.
        threads: Threads that computed.
        repeats: Number of calls.
    """

    p50: float
    p90: float
    threads: int
    repeats: int

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.p50:.3g} ms (p90 {self.p90:.3g} ms, {threads}, {self.repeats} calls)"


def litert_latency(
    source: keras.Model | str | Path | bytes | LiteRTReport,
    sample: Any = None,
    threads: int = 1,
    repeats: int = 200,
) -> LiteRTLatency:
    """Measures how long LiteRT takes for one call of a model or file.

    Small nets take tenths of a millisecond, and a busy machine doubles that: compare numbers of
    the same machine and hour. Zeros that pruning has made cost as much as other numbers.

    Args:
        source: A model, which is converted first (on TensorFlow only); or a LiteRT file: its path,
            its bytes, or the report of its export.
        sample: Inputs, as for `run_litert`, of which the first is taken; random numbers in [0, 1)
            if None.
        threads: Threads to compute with.
        repeats: Calls to measure, after 10 that are not.

    Raises:
        TypeError: If `source` is neither a Keras 3 model nor a LiteRT file.
        ValueError: If `sample` does not fit the inputs.
        RuntimeError: If `source` is a model, and Keras is not on TensorFlow.
        ImportError: If `ai-edge-litert` is not installed: `pip install "keras_optkit[litert]"`.

    Example:
        ```python
        print(keras_optkit.compression.litert_latency(model))
        ```
    """
    _check.integer("repeats", repeats, 1)
    if not isinstance(source, (str, Path, bytes, LiteRTReport)):
        source = converted(source, "litert_latency", "ko.compression.litert_latency(model)")
    model = LiteRTModel(source, threads)
    inputs = model.report.inputs
    if sample is None:
        arrays = {tensor.name: _random(tensor) for tensor in inputs}
    else:
        arrays = named("sample", sample, {tensor.name: tensor.shape for tensor in inputs})
    model.set(
        [
            integers(np.repeat(arrays[tensor.name][:1], tensor.shape[0] or 1, axis=0), tensor)
            for tensor in inputs
        ]
    )
    for _ in range(WARMUP):
        model.invoke()
    times = np.empty(repeats)
    for i in range(repeats):
        start = time.perf_counter()
        model.invoke()
        times[i] = time.perf_counter() - start
    p50, p90 = np.percentile(1000 * times, (50, 90))
    return LiteRTLatency(float(p50), float(p90), threads, repeats)


def _random(tensor: LiteRTTensor) -> np.ndarray:
    shape = [extent or 1 for extent in tensor.shape]
    if tensor.dtype.startswith("int") and not tensor.scale:
        return np.zeros(shape, tensor.dtype)  # an index: 0 is always one
    return np.random.default_rng(0).random(shape, "float32")
