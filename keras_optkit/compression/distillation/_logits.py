"""Logits of classifiers, from whatever they put out."""

import keras
import numpy as np
from keras import ops

from keras_optkit import _check
from keras_optkit._activation import final_activation

TINY = 1e-37  # about the least float32 above 0


def as_logits(outputs, from_logits: bool):
    """Returns logits of two classes or more; those of one unit are of its absence and presence."""
    if not from_logits:
        if outputs.shape[-1] == 1:
            outputs = ops.concatenate([1 - outputs, outputs], axis=-1)
        return ops.log(ops.maximum(outputs, TINY))  # up to a constant, which softmax ignores
    if outputs.shape[-1] == 1:
        outputs = ops.concatenate([ops.zeros_like(outputs), outputs], axis=-1)
    return outputs


def divergence(log_p, log_q):
    """Returns KL(p || q) over the last axis; what `p` rules out, by a logit of -inf, adds 0."""
    possible = log_p > -np.inf
    log_p, log_q = (ops.where(possible, x, 0.0) for x in (log_p, log_q))
    return ops.sum(ops.where(possible, ops.exp(log_p) * (log_p - log_q), 0.0), axis=-1)


def check_shapes(what: str, teacher, student) -> None:
    """Raises an error if the outputs have other shapes, as far as known."""
    known = zip(teacher, student, strict=False)
    if len(teacher) != len(student) or any(None not in (t, s) and t != s for t, s in known):
        raise ValueError(
            f"{what} compares outputs of one shape. Received: {tuple(teacher)} of the teacher, "
            f"{tuple(student)} of the student"
        )


def check_logits(what: str, role: str, model: keras.Model, from_logits: bool, name: str) -> None:
    """Raises an error if the end of a model tells that `from_logits` is wrong.

    Args:
        what: Who asks.
        role: What the model is: teacher or student.
        model: The model.
        from_logits: Whether it is to end in logits.
        name: The name of that argument; "" if there is none.
    """
    kind = final_activation(model)
    shape = getattr(model, "output_shape", None)
    units = shape[-1] if isinstance(shape, tuple) else None
    if kind == "sigmoid" and units is not None and units > 1:
        raise ValueError(
            f"{what} is for one label a sample, and the {role} {model.name!r} ends in a sigmoid of "
            f"{units} units. Let it end in logits of classes, of which one is true."
        )
    if from_logits and kind in ("softmax", "sigmoid"):
        way = f"pass {name}=False, or " if name else ""
        raise ValueError(
            f"{what} takes logits, and the {role} {model.name!r} ends in {kind}: {way}leave the "
            "last activation out (keras.applications: classifier_activation=None). "
            + _check.received(role, model)
        )
    if not from_logits and kind == "linear":
        raise ValueError(
            f"{what} was told of probabilities, and the {role} {model.name!r} ends without an "
            f"activation, in logits. {_check.received(name, from_logits)}"
        )


def check_outputs(what: str, teacher: keras.Model, student: keras.Model) -> None:
    """Raises an error if the outputs of two models have other shapes, as far as known."""
    for t, s in zip(_outputs(teacher), _outputs(student), strict=False):
        check_shapes(f"{what} (teacher {teacher.name!r}, student {student.name!r})", t, s)
    if all(map(_outputs, (teacher, student))) and len(_outputs(teacher)) != len(_outputs(student)):
        raise ValueError(
            f"{what} compares outputs one by one. Received: {len(_outputs(teacher))} of the "
            f"teacher {teacher.name!r}, {len(_outputs(student))} of the student {student.name!r}"
        )


def _outputs(model):
    inside = getattr(model, "_functional", model)
    return [tensor.shape for tensor in getattr(inside, "outputs", None) or ()]
