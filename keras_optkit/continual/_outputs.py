"""Outputs of classifiers, as methods that distil from them see them."""

import keras
from keras import ops

from keras_optkit import _check
from keras_optkit._activation import final_activation

TINY = 1e-37  # about the least float32 above 0


def count_classes(what: str, model: keras.Model) -> int:
    """Returns how many outputs a model has, one for each class.

    Args:
        what: Who asks, for the error that says what it needs.
        model: The model, built.
    """
    inside = getattr(model, "_functional", None) or model  # of a Sequential
    outputs = getattr(inside, "outputs", None)
    if outputs is None:
        shapes = getattr(model, "_build_shapes_dict", None) or {}
        given = [keras.KerasTensor(shape) for shape in shapes.values() if isinstance(shape, tuple)]
        if len(given) != 1:
            raise ValueError(
                f"{what} needs to know the shape of the outputs: call the model once, on one "
                f"array, or make it of layers, as a Functional or Sequential model. "
                f"{_check.received('model', model)}"
            )
        outputs = model.compute_output_spec(*given)
    flat = keras.tree.flatten(outputs)
    shapes = [tuple(output.shape) for output in flat]
    if len(flat) != 1 or len(shapes[0]) != 2 or (shapes[0][-1] or 0) < 2:
        raise ValueError(
            f"{what} is for models with one output for each class, of shape (samples, classes), "
            "with two classes at least. Received: outputs of "
            f"{', '.join(f'shape {shape}' for shape in shapes)}"
        )
    return shapes[0][-1]


def check_logits(what: str, model: keras.Model, from_logits: bool, way: str) -> None:
    """Raises an error if the last activation of a model tells that `from_logits` is wrong.

    `way` is how to get around the logits, if there is one.
    """
    kind = final_activation(model)
    if kind == "sigmoid":
        raise ValueError(
            f"{what} is for classes of which one is true, and {model.name!r} ends in a sigmoid for "
            f"each. Let it end in logits. {_check.received('model', model)}"
        )
    if from_logits and kind == "softmax":
        raise ValueError(
            f"{what} takes logits, and {model.name!r} ends in a softmax. {way}eave the softmax "
            "out, and compile a loss with from_logits=True. "
            f"{_check.received('model', model)}"
        )
    if not from_logits and kind == "linear":
        raise ValueError(
            f"{what} was told of probabilities, and {model.name!r} ends without an activation, "
            f"in logits. {_check.received('from_logits', from_logits)}"
        )


def infer(model: keras.Model, x):
    """Returns the outputs of a model as in inference."""
    return model(x, training=False) if model._call_has_training_arg else model(x)


def as_logits(outputs, from_logits: bool = True):
    """Returns logits in float32 at least; log probabilities are logits too, but for a constant."""
    dtype = keras.backend.standardize_dtype(outputs.dtype)
    outputs = ops.cast(outputs, "float32") if dtype in ("float16", "bfloat16") else outputs
    return outputs if from_logits else ops.log(ops.maximum(outputs, TINY))


def weighted_mean(values, sample_weight):
    """Returns the mean of a number for each sample, as a Keras loss takes it."""
    if sample_weight is not None:
        values = values * ops.cast(ops.reshape(sample_weight, (-1,)), values.dtype)
    return ops.mean(values)
