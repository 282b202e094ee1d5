"""The outputs of a LiteRT file, in one call."""

from pathlib import Path
from typing import Any

from keras_optkit.compression.litert.litert_model import LiteRTModel
from keras_optkit.compression.litert.litert_report import LiteRTReport


def run_litert(source: str | Path | bytes | LiteRTReport, x: Any, threads: int = 1) -> Any:
    """Returns the outputs of a LiteRT file for `x`, as the model's `predict` would.

    Needs no TensorFlow. For several calls, keep a `LiteRTModel`.

    Args:
        source: Path of the file, its bytes, or the report of its export.
        x: An array, or a dict of arrays by name if there are several inputs.
        threads: Threads to compute with.

    Returns:
        An array, or a dict of them by name if there are several outputs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a LiteRT file, or `x` does not fit its inputs.
        ImportError: If `ai-edge-litert` is not installed: `pip install "keras_optkit[litert]"`.

    Example:
        ```python
        logits = keras_optkit.compression.run_litert("model.tflite", x)
        ```
    """
    return LiteRTModel(source, threads).predict(x)
