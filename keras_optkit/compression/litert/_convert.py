"""From a Keras model to the bytes of a LiteRT file."""

from pathlib import Path
from typing import Any

import keras
from keras import tree

from keras_optkit import _check
from keras_optkit._backend import litert
from keras_optkit.compression._graph import functional
from keras_optkit.compression._models import keras_model
from keras_optkit.compression.litert._names import input_names, layers_of, output_names
from keras_optkit.compression.litert.litert_report import LiteRTReport, listed, report
from keras_optkit.compression.quantization._observing import export
from keras_optkit.compression.quantization.uncalibrated import uncalibrated
from keras_optkit.optimizers._precision import full_precision

IO_DTYPES = ("float32", "int8", "uint8")


def converted(model: keras.Model, what: str, call: str, batch_size: int | None = 1) -> bytes:
    """Returns the file of a model as it is: int8 as far as it was trained for that, else float."""
    traced = trace(model, what, call, batch_size)
    return litert.convert(traced, model, litert.fake_quantized(traced))


def specs(model: keras.Model, what: str, batch_size: int | None) -> list[litert.Spec]:
    """Returns name, shape and dtype of each input in the file."""
    inputs = functional(model, what).inputs
    return [
        (name, (x.shape[0] or batch_size, *x.shape[1:]), x.dtype)
        for name, x in zip(input_names(model, what), inputs, strict=True)
    ]


def trace(model: keras.Model, what: str, call: str, batch_size: int | None) -> Any:
    """Returns the model, in inference, as a traced function of its inputs in order.

    Raises:
        TypeError: If it is not a Keras 3 model.
        ValueError: If it is not built, has no graph, or has ranges that nobody has measured.
        RuntimeError: If Keras is not on TensorFlow.
    """
    keras_model(model, what)
    if batch_size is not None:
        _check.integer("batch_size", batch_size, 1)
    structure, names = functional(model, what)._inputs_struct, output_names(model, what)
    litert.require_converter(what, call)
    unknown = uncalibrated(model)
    if unknown:
        raise ValueError(
            f"{what} writes ranges into the file, and these have never been measured: those of "
            f"{', '.join(unknown)}. Train the model, or call calibrate(model, data), first. "
            f"{_check.received('model', model.name)}"
        )

    def function(*tensors):
        outputs = model(tree.pack_sequence_as(structure, list(tensors)), training=False)
        return dict(zip(names, tree.flatten(outputs), strict=True))

    with full_precision(model), export():  # LiteRT computes nothing in half
        return litert.trace(function, specs(model, what, None), batch_size)


def written(
    model: keras.Model, content: bytes, path: Path, require_int8: bool, way_out: str
) -> LiteRTReport:
    """Writes a file and returns the report of it.

    Raises:
        ValueError: If it computes in floating point, which `require_int8` forbids; nothing is
            written then.
    """
    found = report(content, path, layers_of(model))
    if require_int8 and found.float_ops:
        raise ValueError(
            f"The file would not be all int8: {listed(found.float_ops)} would compute in floating "
            f"point. {way_out} Received: model={model.name!r}, require_int8=True"
        )
    path.write_bytes(content)
    return found
