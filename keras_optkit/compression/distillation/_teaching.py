"""The parts of a distiller, checked and made."""

import inspect

import keras
from keras import tree

from keras_optkit import _check
from keras_optkit._activation import final_activation
from keras_optkit.compression._models import keras_model
from keras_optkit.compression.distillation._shapes import channels_last
from keras_optkit.compression.distillation._term import Term, log_names


def make_terms(losses, weights) -> tuple[Term, ...]:
    """Returns the losses with their weights.

    Raises:
        ValueError: If there is none, or not as many weights as losses.
    """
    losses = list(losses) if isinstance(losses, (list, tuple)) else [losses]
    if not losses:
        raise ValueError(
            "`distillation_losses` must hold a loss at least. Received: distillation_losses=[]"
        )
    if weights is None:
        weights = [1.0] * len(losses)
    given = list(weights) if isinstance(weights, (list, tuple)) else [weights]
    if len(given) != len(losses):
        raise ValueError(
            "`distillation_loss_weights` must be one number for each loss. Received: "
            f"{len(given)} weights for {len(losses)} losses, {weights!r}"
        )
    checked = [_check.in_range("distillation_loss_weights", w, low=0) for w in given]
    return tuple(Term(loss, weight) for loss, weight in zip(losses, checked, strict=True))


def check_teacher(teacher, student: keras.Model, terms: tuple[Term, ...]) -> None:
    """Raises an error if the student cannot learn from the teacher."""
    keras_model(teacher, "Distiller", "teacher")
    if teacher is student:
        raise ValueError(
            "A model cannot teach itself: `teacher` and `student` are the same object. For "
            "self-distillation pass a copy, keras.models.clone_model with the weights set. "
            f"{_check.received('teacher', teacher)}"
        )
    learning = {id(v) for v in student.trainable_variables}
    shared = [v.path for v in teacher.variables if id(v) in learning]
    if shared:
        raise ValueError(
            "The teacher would change while the student learns: they share trainable weights. "
            "Copy the layers, or set their `trainable` to False. Received: both hold "
            + ", ".join(shared)
        )
    for term in terms:
        term.check(teacher, student)


def check_own_loss(loss, student: keras.Model) -> None:
    """Raises an error if a cross-entropy takes the logits of the student for probabilities."""
    given = tree.flatten(loss)  # which may be a list or a dict, by output
    if final_activation(student) != "linear" or len(given) != 1:
        return
    found = keras.losses.get(given[0])
    if isinstance(found, keras.losses.Loss):
        from_logits = getattr(found, "from_logits", None)
    else:
        known = inspect.signature(found).parameters.get("from_logits")
        from_logits = known.default if known else None
    if from_logits is False:
        raise ValueError(
            f"The student {student.name!r} ends in logits, and its loss takes probabilities. Pass "
            "the loss as an object with from_logits=True to `compile`, such as "
            "keras.losses.SparseCategoricalCrossentropy(from_logits=True). "
            f"{_check.received('loss', loss)}"
        )


def make_projectors(terms, teacher_shapes, student_shapes):
    """Returns the projectors, and for each loss and pair the index of one, or None.

    Raises:
        ValueError: If shapes are not known or cannot be brought together.
    """
    projectors, order = [], []
    for term in terms:
        missing = [name for name in term.names("teacher") if name not in teacher_shapes]
        if missing:
            raise ValueError(
                f"{term.what} needs the shapes of the teacher's layers: pass the teacher, or "
                f"teacher_shapes={{{missing[0]!r}: (None, ...), ...}}. Received: teacher=None, "
                f"teacher_shapes={teacher_shapes}"
            )
        indices = []
        found = term.projections(teacher_shapes, student_shapes)
        for (student, teacher), channels in zip(term.pairs, found, strict=True):
            indices.append(None if channels is None else len(projectors))
            if channels is not None:
                name = f"projector_{student}_{teacher}"
                # In float32 like the losses, whatever the student computes in.
                layer = keras.layers.Dense(channels, dtype="float32", name=name)
                shape = channels_last(student_shapes[student], term.loss.data_format)
                layer.build(shape)
                projectors.append(layer)
        order.append(tuple(indices))
    return projectors, tuple(order)


def make_trackers(terms, student_loss_weight: float) -> list[keras.metrics.Metric]:
    """Returns a mean for each part of the loss that counts."""
    names = ["student_loss"] if student_loss_weight > 0 else []
    if student_loss_weight < 1:
        names += log_names(terms)
    return [keras.metrics.Mean(name=name) for name in names]
