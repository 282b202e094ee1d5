"""LiteRT: TensorFlow's converter, and the interpreter and file format of `ai-edge-litert`.

Not one of the frameworks, so it does not have their functions. It is imported where it is used,
and imports what it needs inside its functions: nobody needs LiteRT to import this package.
"""

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

Spec = tuple[str, tuple[int | None, ...], str]  # name, shape, dtype
Samples = Callable[[], Iterator[dict[str, np.ndarray]]]

INSTALL = 'pip install "keras_optkit[litert]"'


def require_converter(what: str, call: str) -> None:
    """Says what to do where models cannot be converted.

    Args:
        what: Names the caller.
        call: The call to make instead on TensorFlow, an expression of `model`.

    Raises:
        RuntimeError: If Keras is not on TensorFlow.
        ImportError: If TensorFlow has no converter.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"{what} converts models on the TensorFlow backend, and Keras runs on {backend} here. "
            "Save the model, reload it with KERAS_BACKEND=tensorflow, and export there:\n"
            '    model.save("model.keras")                 # here\n'
            "    KERAS_BACKEND=tensorflow python           # in a shell\n"
            "    >>> import keras, keras_optkit as ko\n"
            '    >>> model = keras.saving.load_model("model.keras")\n'
            f"    >>> {call}"
        )
    import tensorflow as tf

    if not hasattr(tf.lite, "TFLiteConverter"):
        raise ImportError(
            f"{what} needs a TensorFlow with tf.lite.TFLiteConverter. Received: {tf.__version__}"
        )


def trace(
    function: Callable[..., dict[str, Any]], specs: list[Spec], batch_size: int | None
) -> Any:
    """Traces a function from tensors to a dict of tensors, for a batch size where that is open."""
    import tensorflow as tf

    def signature(size):
        return [tf.TensorSpec((s[0] or size, *s[1:]), dtype, name) for name, s, dtype in specs]

    # Open first: Keras takes an addend of shape (1, n) for a bias, and squeezes it.
    inner = tf.function(function, input_signature=signature(None), autograph=False)

    def fixed(*tensors):
        return inner(*tensors)

    traced = tf.function(fixed, input_signature=signature(batch_size), autograph=False)
    if loops(traced):  # The converter wants to know all shapes in them.
        traced = tf.function(function, input_signature=signature(batch_size), autograph=False)
        traced.get_concrete_function()
    return traced


def fake_quantized(traced: Any) -> bool:
    """Returns whether a traced function quantizes on trial, as models trained for int8 do."""
    return any(name.startswith("FakeQuant") for name in _operations(traced))


def loops(traced: Any) -> bool:
    """Returns whether a traced function holds a loop, as recurrent layers do."""
    return any(name in ("While", "StatelessWhile") for name in _operations(traced))


def _operations(traced: Any) -> Iterator[str]:
    graph = traced.get_concrete_function().graph.as_graph_def()
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        yield from (node.op for node in nodes)


def convert(
    traced: Any,
    model: keras.Model,
    quantize: bool,
    io_dtype: str = "float32",
    samples: Samples | None = None,
) -> bytes:
    """Converts a traced function to a LiteRT file.

    Args:
        traced: What `trace` has returned.
        model: The model whose variables it reads.
        quantize: Whether to use int8 where ranges are known.
        io_dtype: Dtype of floating-point inputs and outputs.
        samples: Returns an iterator over inputs to find ranges with.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", traced)
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        builtins = tf.lite.OpsSet.TFLITE_BUILTINS
        converter.target_spec.supported_ops = [builtins]
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]  # without it, all stays float
            converter.inference_input_type = tf.dtypes.as_dtype(io_dtype)
            converter.inference_output_type = tf.dtypes.as_dtype(io_dtype)
        if samples is not None:
            integer = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
            converter.target_spec.supported_ops = [integer, builtins]
            converter.representative_dataset = samples
        try:
            with warnings.catch_warnings():
                # TensorFlow finds ranges with the interpreter that it itself calls outdated.
                warnings.filterwarnings("ignore", r"(?s).*tf\.lite\.Interpreter is deprecated")
                return converter.convert()
        except Exception as error:  # of many classes, most of them TensorFlow's own
            raise ValueError(
                f"TensorFlow's converter cannot make a LiteRT file of this model. {_reason(error)}"
            ) from error


def _reason(error: Exception) -> str:
    missing = re.findall(r"^(?:TF Select|Custom) ops: (.+)$", str(error), re.MULTILINE)
    if missing:
        return f"LiteRT has no such operations: {', '.join(missing)}"
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"It says: {' '.join(lines[:3])}"


def interpreter(content: bytes, threads: int) -> Any:
    """Returns an interpreter of a LiteRT file."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise _missing("Running a LiteRT file") from error
    return Interpreter(model_content=content, num_threads=threads)


def schema() -> Any:
    """Returns the module that reads the format of LiteRT files."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise _missing("Reading a LiteRT file") from error
    return schema_py_generated


def _missing(what: str) -> ImportError:
    return ImportError(
        f"{what} needs ai-edge-litert, which is not installed. To install it: {INSTALL}"
    )
