"""Ranges of activations, without training."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
from keras import ops, tree

from keras_optkit import _backend, _check
from keras_optkit.compression._models import keras_model
from keras_optkit.compression.quantization._observing import calibration
from keras_optkit.compression.quantization._parts import quantizers
from keras_optkit.compression.quantization.uncalibrated import uncalibrated


def calibrate(model: keras.Model, data: Any, batch_size: int = 32) -> keras.Model:
    """Measures the ranges of a quantized model's activations on data, and sets them.

    Each range becomes the widest that the data needs, whatever it was before; weights and the
    statistics of BatchNormalization stay. This alone is post-training quantization; training
    afterwards moves the ranges on from here.

    Args:
        model: A model from `quantize_model`, which is changed.
        data: An array of inputs, or what a model of several inputs takes in one call: a list or
            dict of as many arrays; or an iterable of batches, such as a dataset, each of which
            is inputs or a tuple `(inputs, targets, ...)`. Some hundred samples are usually enough.
        batch_size: How many samples of arrays to take at once.

    Returns:
        The model.

    Raises:
        TypeError: If `model` is not a Keras 3 model, or `data` neither arrays nor an iterable.
        ValueError: If it is not quantized, `data` has no batch or one that does not fit the
            model's inputs, or no batch gives finite values.

    Example:
        >>> quantized = keras_optkit.compression.quantize_model(model)
        >>> quantized = keras_optkit.compression.calibrate(quantized, x)
    """
    keras_model(model, "calibrate")
    layers = quantizers(model)
    if not layers:
        raise ValueError(
            "There is no range to measure. Make a quantized model with quantize_model first. "
            f"{_check.received('model', model.name)}"
        )
    _check.integer("batch_size", batch_size, low=1)
    batches = 0
    with calibration(), _backend.no_gradient():
        for batch in _batches(data, batch_size, len(model.inputs)):
            _check_batch(batch, model)
            if not batches:
                for layer in layers:
                    layer.calibrated.assign(False)
            model(tree.map_structure(ops.convert_to_tensor, batch), training=False)
            batches += 1
    if not batches:
        raise ValueError(f"`data` has no batch to measure. {_check.received('data', data)}")
    unknown = uncalibrated(model)
    if unknown:
        raise ValueError(
            f"No batch gave finite values at {', '.join(unknown)}, so these have no range. Look "
            f"for NaN in `data` and in the weights. {_check.received('model', model.name)}"
        )
    return model


def _batches(data, size: int, count: int):
    """Yields batches of the `count` inputs of a model."""
    parts = tree.flatten(data)
    arrays = [a for a in parts if hasattr(a, "shape") and len(a.shape)]
    if len(arrays) == len(parts) == count:
        for start in range(0, len(arrays[0]), size):
            yield tree.map_structure(lambda a: a[start : start + size], data)  # noqa: B023
    elif not isinstance(data, Iterable):
        raise TypeError(
            "`data` must be an array, a list or dict of arrays, or an iterable of batches. "
            f"{_check.received('data', data)}"
        )
    else:
        for batch in data:
            # A list may be several inputs; where the model has one, it is torch's form of a tuple.
            several = isinstance(batch, tuple) or (isinstance(batch, list) and count == 1)
            yield batch[0] if several else batch


def _check_batch(batch, model: keras.Model) -> None:
    """Raises a ValueError if a batch is not what the model takes, before anything is measured."""
    if isinstance(batch, Mapping):
        return  # Keras looks inputs up by name, and may find more than it needs.
    wanted = [tuple(x.shape) for x in model.inputs]
    shapes = [tuple(getattr(a, "shape", ())) for a in tree.flatten(batch)]
    if len(shapes) != len(wanted) or not all(map(_fits, shapes, wanted)):
        given = ", ".join(map(str, shapes[:4])) + (", ..." if len(shapes) > 4 else "")
        raise ValueError(
            "`data` must be arrays for the inputs of the model, without labels, or batches; labels "
            f"are left out of batches that are tuples, as in [(x, y)]. Model {model.name!r} takes "
            f"arrays of shape {', '.join(map(str, wanted))}. Received: a batch of shape {given}"
        )


def _fits(shape: tuple, wanted: tuple) -> bool:
    forms = (shape, (*shape, 1), shape[:-1] if shape[-1:] == (1,) else shape)  # as Keras has it
    return any(
        len(form) == len(wanted)
        and all(None in (a, b) or a == b for a, b in zip(form, wanted, strict=True))
        for form in forms
    )
