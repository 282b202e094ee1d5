"""The numbers of one version of a model."""

import functools
import gzip
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit.compression.compression_report._report import CompressionRow
from keras_optkit.compression.litert._convert import converted
from keras_optkit.compression.litert._source import read
from keras_optkit.compression.litert.litert_latency import litert_latency
from keras_optkit.compression.litert.litert_report import litert_report
from keras_optkit.compression.litert.run_litert import run_litert

LEVEL = 6  # of the program gzip


def measure(name: str, entry: Any, data, metric, repeats: int, notes: dict[str, None]):
    """Returns the `CompressionRow` of a model or LiteRT file; adds to `notes` what is missing."""
    if isinstance(entry, keras.Model):
        values = [ops.convert_to_numpy(w) for w in entry.weights if w.dtype != "bool"]  # no masks
        parameters = sum(value.size for value in values)
        nonzeros = sum(int(np.count_nonzero(value)) for value in values)
        packed = b"".join(value.tobytes() for value in values)
        content = _converted(entry, notes)
        predict = functools.partial(entry.predict, verbose=0)
    else:
        _, content = read(entry)
        found = litert_report(content)
        parameters, nonzeros, packed = found.parameters, found.parameters - found.zeros, content
        predict = functools.partial(run_litert, content)
    return CompressionRow(
        name,
        parameters,
        nonzeros,
        len(gzip.compress(packed, LEVEL)),
        None if content is None else len(content),
        None if content is None else _latency(content, repeats, notes),
        None if data is None else float((metric or accuracy)(data[1], predict(data[0]))),
    )


def accuracy(y: Any, outputs: Any) -> float:
    """Returns the share of samples whose largest output is at the label.

    Raises:
        ValueError: If labels and outputs are not those of a classification.
    """
    labels = np.asarray(y)
    shape = getattr(outputs, "shape", ())
    if len(shape) == 2 and shape[1] > 1:
        if labels.shape == shape:
            labels = labels.argmax(axis=1)
        elif labels.shape == (shape[0], 1):
            labels = labels[:, 0]
        if labels.shape == shape[:1]:
            return float(np.mean(outputs.argmax(axis=1) == labels))
    raise ValueError(
        "Accuracy is of labels and of several outputs for each sample. Give a `metric` for others. "
        f"Received: labels of shape {labels.shape}, outputs of "
        + (f"shape {shape}" if shape else f"type {type(outputs).__name__}")
    )


def _converted(model: keras.Model, notes: dict[str, None]) -> bytes | None:
    backend = keras.backend.backend()
    if backend != "tensorflow":
        notes[
            f"No LiteRT file of a model: only TensorFlow converts models, and Keras runs on "
            f"{backend} here. Save the models, and load them with KERAS_BACKEND=tensorflow."
        ] = None
        return None
    try:
        return converted(model, "compression_report", "")
    except ValueError as error:
        notes[f"No LiteRT file of {model.name!r}: {error}"] = None
        return None


def _latency(content: bytes, repeats: int, notes: dict[str, None]) -> float | None:
    try:
        return litert_latency(content, repeats=repeats).p50
    except ImportError as error:
        notes[f"No latency: {error}"] = None
        return None
