"""Ranges that nobody has measured."""

import keras
from keras import ops

from keras_optkit.compression._models import keras_model
from keras_optkit.compression.quantization._parts import quantizers
from keras_optkit.compression.quantization._rebuild import INNER


def uncalibrated(model: keras.Model) -> list[str]:
    """Returns the paths of a model's `QuantizeActivation` layers that have no range yet.

    Args:
        model: A model from `quantize_model`; of any other the list is empty.

    Example:
        >>> quantized = keras_optkit.compression.quantize_model(model)
        >>> len(keras_optkit.compression.uncalibrated(quantized))  # of the input and of the output
        2
    """
    keras_model(model, "uncalibrated")
    unknown = [q for q in quantizers(model) if not bool(ops.convert_to_numpy(q.calibrated))]
    return [q.path.replace(INNER, "") for q in unknown]
