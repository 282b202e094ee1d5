"""Size, speed and accuracy of several versions of a model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keras_optkit import _check
from keras_optkit.compression._models import keras_model
from keras_optkit.compression.compression_report._measure import measure
from keras_optkit.compression.compression_report._report import CompressionReport
from keras_optkit.compression.litert.litert_report import LiteRTReport


def compression_report(
    entries: Mapping[str, Any],
    data: tuple[Any, Any] | None = None,
    metric: Callable[[Any, Any], float] | None = None,
    repeats: int = 200,
) -> CompressionReport:
    """Compares versions of a model: number of weights, sizes, latency and accuracy.

    A model is converted to a LiteRT file in memory for its size and latency: to int8 if it was
    trained for that, else to floats. Where it cannot be, these columns stay empty, and a note says
    why. Latency is that of one call with one sample on one thread.

    Args:
        entries: By name, models of Keras or LiteRT files: their paths, bytes or reports. The first
            is what the picture compares with.
        data: Inputs and labels to find the score with; no score if None.
        metric: A function of labels and outputs that returns the score; if None, the accuracy of
            the largest of several outputs, for labels that are integers or one-hot.
        repeats: Calls to measure latency with.

    Raises:
        TypeError: If an entry is neither a Keras 3 model nor a LiteRT file.
        ValueError: If there are no entries, a model is not built, or the labels do not fit.
        ImportError: If an entry is a LiteRT file, and `ai-edge-litert` is not installed.

    Example:
        >>> small = keras.models.clone_model(model)
        >>> pruned = keras_optkit.compression.prune_once(small, 0.5)
        >>> entries = {"float": model, "pruned": small}
        >>> report = keras_optkit.compression.compression_report(entries, repeats=1)
        >>> report.rows[0].parameters
        5
    """
    _check.instance("entries", entries, Mapping, "a dict of models and LiteRT files by name")
    if not entries:
        raise ValueError(f"`entries` must hold a model at least. {_check.received('entries', {})}")
    if data is not None and not (isinstance(data, (tuple, list)) and len(data) == 2):
        raise TypeError(f"`data` must be a pair (x, y). {_check.received('data', type(data))}")
    if metric is not None and not callable(metric):
        raise TypeError(
            "`metric` must be a function of labels and outputs. "
            f"{_check.received('metric', metric)}"
        )
    _check.integer("repeats", repeats, 1)
    for name, entry in entries.items():
        if not isinstance(entry, (str, Path, bytes, LiteRTReport)):
            keras_model(entry, "compression_report", f"entries[{name!r}]")
    notes: dict[str, None] = {}
    rows = tuple(
        measure(name, entry, data, metric, repeats, notes) for name, entry in entries.items()
    )
    title = "accuracy" if metric is None else getattr(metric, "__name__", "score")
    title = title if title.isidentifier() else "score"  # a lambda has no name
    return CompressionReport(rows, title, tuple(notes))
