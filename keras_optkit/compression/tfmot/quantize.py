"""TF-MOT's quantization-aware training of a Keras 3 model."""

from typing import Any, NamedTuple

import keras

from keras_optkit import _check
from keras_optkit.compression.tfmot._imports import tf_keras, tfmot
from keras_optkit.compression.tfmot._training import Fit, check_call, train
from keras_optkit.compression.tfmot.to_tf_keras import to_tf_keras

SCHEMES = ("8bit", "prune_preserve", "cluster_preserve", "prune_cluster_preserve")
NATIVE = (
    "`keras_optkit.compression.quantize_model` quantizes models of Keras 3 by itself, with more "
    "layers."
)


class Quantized(NamedTuple):
    """What `quantize` returns.

    Args:
        litert: A LiteRT file with int8 weights and activations, as bytes.
        tf_keras_model: The trained tf_keras model with TF-MOT's fake quantization in it.
    """

    litert: bytes
    tf_keras_model: Any


def quantize(
    model: keras.Model, fit: Fit, scheme: str = "8bit", io_dtype: str = "float32"
) -> Quantized:
    """Trains a Keras 3 model for int8 with TF-MOT, and converts it to LiteRT.

    Makes a tf_keras model of the same weights, has TF-MOT put its fake quantization in, calls
    `fit` on that and converts the result. TF-MOT quantizes Dense, Conv2D, DepthwiseConv2D,
    SeparableConv, Conv2DTranspose, batch normalization after them, ReLU and the like, pooling,
    Add, Concatenate and reshaping, in models that are not nested. For everything else there is
    `keras_optkit.compression.quantize_model`, which needs no tf_keras either.

    Args:
        model: A built, trained Functional or Sequential model. It stays as it is.
        fit: A function of the tf_keras model with fake quantization that compiles and trains it,
            with losses and optimizers of tf_keras. The ranges of activations are found in it.
        scheme: TF-MOT's scheme: "8bit"; "prune_preserve", which keeps zeros zero;
            "cluster_preserve", which keeps as many distinct values per kernel as there are; or
            "prune_cluster_preserve" for both.
        io_dtype: What the LiteRT model takes and gives: "float32", "int8" or "uint8".

    Returns:
        `Quantized(litert, tf_keras_model)`: the bytes of a LiteRT file, and the trained model.

    Raises:
        ValueError: If the model cannot be translated, or has layers that TF-MOT cannot quantize;
            all are named at once.
        ImportError: If TF-MOT is missing.

    Example:
        ```python
        def fit(m):
            m.compile(tf_keras.optimizers.Adam(1e-4), "mse")
            m.fit(x, y)

        litert, _ = keras_optkit.compression.tfmot.quantize(model, fit)
        pathlib.Path("model.tflite").write_bytes(litert)
        ```

    Reference:
        [Jacob et al., 2018](https://arxiv.org/abs/1712.05877).
    """
    check_call(model, fit, "tfmot.quantize")
    _check.one_of("scheme", scheme, SCHEMES)
    _check.one_of("io_dtype", io_dtype, ("float32", "int8", "uint8"))
    annotated = _annotated(to_tf_keras(model))
    try:
        prepared = tfmot().quantization.keras.quantize_apply(annotated, _scheme(scheme))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"TF-MOT cannot quantize model {model.name!r}: {error}\n{NATIVE}"
        ) from error
    train(fit, prepared, "tfmot.quantize")
    if scheme in ("cluster_preserve", "prune_cluster_preserve"):
        prepared = tfmot().experimental.combine.strip_clustering_cqat(prepared)
    return Quantized(_converted(prepared, io_dtype), prepared)


def _annotated(model: Any) -> Any:
    """Returns the model with all layers annotated; names all that TF-MOT will refuse."""
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_registry,
    )

    layers = tf_keras().layers
    registry = default_8bit_quantize_registry.Default8BitQuantizeRegistry()
    treated_elsewhere = (
        layers.InputLayer,
        layers.BatchNormalization,
        layers.SeparableConv1D,
        layers.SeparableConv2D,
    )
    refused = [
        f"{type(layer).__name__} {layer.name!r}"
        for layer in model.layers
        if not registry.supports(layer) and not isinstance(layer, treated_elsewhere)
    ]
    if refused:
        raise ValueError(
            f"TF-MOT cannot quantize these layers of model {model.name!r}: "
            f"{', '.join(refused)}. {NATIVE}"
        )
    return tfmot().quantization.keras.quantize_annotate_model(model)


def _scheme(name: str) -> Any:
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_scheme,
    )

    combine = tfmot().experimental.combine
    return {
        "8bit": default_8bit_quantize_scheme.Default8BitQuantizeScheme,
        "prune_preserve": combine.Default8BitPrunePreserveQuantizeScheme,
        "cluster_preserve": lambda: combine.Default8BitClusterPreserveQuantizeScheme(False),
        "prune_cluster_preserve": combine.Default8BitClusterPreserveQuantizeScheme,
    }[name]()


def _converted(model: Any, io_dtype: str) -> bytes:
    import tensorflow as tf

    # A single example, so that LiteRT resizes to any batch as it does by default.
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]  # without it the file stays float
    converter.inference_input_type = converter.inference_output_type = tf.as_dtype(io_dtype)
    return converter.convert()
