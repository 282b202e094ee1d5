"""Models for small devices."""

from pathlib import Path
from typing import Literal

import keras

from keras_optkit import _check
from keras_optkit._backend import litert
from keras_optkit.compression.litert._convert import IO_DTYPES, trace, written
from keras_optkit.compression.litert._source import writable
from keras_optkit.compression.litert.litert_report import LiteRTReport

CALL = 'ko.compression.export_litert(model, "model.tflite")'


def export_litert(
    model: keras.Model,
    path: str | Path,
    io_dtype: Literal["float32", "int8", "uint8"] = "float32",
    require_int8: bool = True,
    batch_size: int | None = 1,
) -> LiteRTReport:
    """Writes a model as a LiteRT file (`.tflite`), and tells what is in it.

    A model that was trained for int8, with `quantize_model`, becomes a file that computes in int8,
    with the ranges found in training; any other becomes a file of floats. TensorFlow's converter
    leaves in floating point what it knows no ranges for, and does not say so: the report does, from
    the file itself. A layer that was left out of the training, but lies between two that were not,
    becomes int8 all the same: the converter rounds its weights.

    The file's inputs and outputs have the names of the model's: keys of a dict, or layers. What no
    argument in Python can be called is changed: an input "lambda" is "lambda_" in the file.

    Args:
        model: A built Functional or Sequential model, on the TensorFlow backend.
        path: Where to write the file, ending in `.tflite`.
        io_dtype: Dtype of the file's inputs and outputs where the model has floats. With "int8"
            or "uint8" the device need not convert; the report has the scales.
        require_int8: Whether to write nothing, and say why, if anything would compute in floating
            point.
        batch_size: Samples per call of the file, where the model leaves that open. With None the
            file leaves it open as well, which costs some operations on shapes.

    Returns:
        The report: bytes, operations, what is left in floating point, inputs and outputs, weights.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If it is not built, has no graph, has ranges that were never measured, or would
            not be all int8; if the converter cannot make a file of it; if `path` does not end in
            `.tflite`.
        FileNotFoundError: If the folder of `path` does not exist.
        RuntimeError: If Keras is not on TensorFlow.
        ImportError: If `ai-edge-litert` is not installed: `pip install "keras_optkit[litert]"`.

    Example:
        ```python
        report = keras_optkit.compression.export_litert(model, "model.tflite", require_int8=False)
        print(report)
        ```

    Reference:
        [Jacob et al., 2018](https://arxiv.org/abs/1712.05877).
    """
    path = writable(path)
    _check.one_of("io_dtype", io_dtype, IO_DTYPES)
    _check.flag("require_int8", require_int8)
    traced = trace(model, "export_litert", CALL, batch_size)
    quantized = litert.fake_quantized(traced)
    if not quantized and (require_int8 or io_dtype != "float32"):
        raise ValueError(
            "The model was not trained for int8. Train it as `quantize_model(model)`, or give "
            "`quantize_post_training` some data; a file of floats is written with "
            'require_int8=False and io_dtype="float32". '
            f"Received: model={model.name!r}, require_int8={require_int8}, io_dtype={io_dtype!r}"
        )
    content = litert.convert(traced, model, quantized, io_dtype)
    return written(
        model,
        content,
        path,
        require_int8,
        "Leave such layers out of the model, replace them by others that `quantize_model` "
        "quantizes, or allow them with require_int8=False.",
    )
