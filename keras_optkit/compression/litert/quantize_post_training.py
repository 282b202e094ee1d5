"""Int8 without training."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import keras

from keras_optkit import _check
from keras_optkit._backend import litert
from keras_optkit.compression.litert._calibration import calibration
from keras_optkit.compression.litert._convert import IO_DTYPES, specs, trace, written
from keras_optkit.compression.litert._source import writable
from keras_optkit.compression.litert.litert_report import LiteRTReport

CALL = 'ko.compression.quantize_post_training(model, "model.tflite", data)'


def quantize_post_training(
    model: keras.Model,
    path: str | Path,
    data: Any | Iterable[Any],
    io_dtype: Literal["float32", "int8", "uint8"] = "float32",
    require_int8: bool = True,
    samples: int = 200,
    batch_size: int | None = 1,
) -> LiteRTReport:
    """Writes a model as a LiteRT file that computes in int8, with ranges found on some data.

    The cheap way to int8: no training, at the price of some accuracy, little for most networks.
    Where it is too much, train with `quantize_model`.

    Args:
        model: A built Functional or Sequential model, on the TensorFlow backend.
        path: Where to write the file, ending in `.tflite`.
        data: Inputs like those the file will see: an array, for several inputs a list or dict of
            arrays; or an iterable over batches of these, such as a `tf.data.Dataset`. Of a batch
            that is a tuple, as for `fit`, the first entry counts.
        io_dtype: Dtype of the file's inputs and outputs where the model has floats.
        require_int8: Whether to write nothing, and say why, if anything would compute in floating
            point.
        samples: How many inputs to look at, at most.
        batch_size: Samples per call of the file, where the model leaves that open; None leaves it
            open in the file as well.

    Returns:
        The report: bytes, operations, what is left in floating point, inputs and outputs, weights.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If it is not built, has no graph, is trained for int8 already, holds loops, or
            would not be all int8; if the data do not fit it, are none, or not finite; if the
            converter cannot make a file of it; if `path` does not end in `.tflite`.
        FileNotFoundError: If the folder of `path` does not exist.
        RuntimeError: If Keras is not on TensorFlow.
        ImportError: If `ai-edge-litert` is not installed: `pip install "keras_optkit[litert]"`.

    Example:
        ```python
        report = keras_optkit.compression.quantize_post_training(model, "model.tflite", x)
        print(report)
        ```

    Reference:
        [Jacob et al., 2018](https://arxiv.org/abs/1712.05877).
    """
    path = writable(path)
    _check.one_of("io_dtype", io_dtype, IO_DTYPES)
    _check.flag("require_int8", require_int8)
    _check.integer("samples", samples, 1)
    what = "quantize_post_training"
    traced = trace(model, what, CALL, batch_size)
    if litert.fake_quantized(traced):
        raise ValueError(
            "The model is trained for int8, and has its ranges already. Write it with "
            f"`export_litert`. {_check.received('model', model.name)}"
        )
    if litert.loops(traced):
        raise ValueError(
            "TensorFlow cannot find ranges inside loops, which recurrent layers are. Make these "
            "layers with unroll=True, or write a file of floats: `export_litert` with "
            f"require_int8=False. {_check.received('model', model.name)}"
        )
    found = calibration(data, specs(model, what, batch_size), samples)
    content = litert.convert(traced, model, True, io_dtype, lambda: iter(found))
    return written(
        model,
        content,
        path,
        require_int8,
        "LiteRT has no int8 version of these: replace such layers by others, or allow them with "
        "require_int8=False.",
    )
