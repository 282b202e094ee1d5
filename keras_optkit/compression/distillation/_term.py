"""One distillation loss in its place in a distiller."""

import re
from typing import Any

import keras
from keras import tree

from keras_optkit import _backend, _check
from keras_optkit.compression.distillation._loss import Loss

ROLES = ("student", "teacher")  # in the order of a pair


class Term:
    """A loss, with its weight and the layers it compares; losses of others fit in too.

    Args:
        loss: A `keras.distillation.DistillationLoss`.
        weight: What it counts.
    """

    def __init__(self, loss: keras.distillation.DistillationLoss, weight: float):
        _check.instance(
            "distillation_losses", loss, keras.distillation.DistillationLoss, "distillation losses"
        )
        self.loss: Any = loss
        self.weight = weight
        self.ours = isinstance(loss, Loss)
        self.what = type(loss).__name__
        of_student, of_teacher = (getattr(loss, f"{r}_layer_name", None) for r in ROLES)
        named = of_student is not None or of_teacher is not None
        one = [(of_student, of_teacher)] if named else []
        self.pairs: list[Any] = list(loss.pairs) if isinstance(loss, Loss) else one

    def names(self, role: str) -> list[str]:
        """Returns the layers it looks at in the teacher or the student."""
        return [n for n in (pair[ROLES.index(role)] for pair in self.pairs) if n is not None]

    def check(self, teacher: keras.Model, student: keras.Model) -> None:
        """Raises an error if it cannot compare the two models."""
        if self.ours:
            self.loss.check_models(teacher, student)
        else:
            self.loss.validate_model_compatibility(teacher, student)

    def projections(self, teacher_shapes: dict, student_shapes: dict) -> list[int | None]:
        """Returns for each pair the channels to project to, or None."""
        if not self.ours:
            return [None] * len(self.pairs)
        theirs = [teacher_shapes[t] for _, t in self.pairs]
        return self.loss.projections(theirs, [student_shapes[s] for s, _ in self.pairs])

    def compute(self, teacher, student, y, sample_weight, projectors):
        """Returns the loss as one number.

        Args:
            teacher: Outputs and features of the teacher.
            student: Those of the student.
            y: The labels, or None.
            sample_weight: The weights, or None.
            projectors: A layer or None for each pair.
        """
        t, s = (
            [outputs if pair[i] is None else features[pair[i]] for pair in self.pairs] or outputs
            for i, (outputs, features) in ((1, teacher), (0, student))
        )
        if self.ours:
            return self.loss.compute_loss(t, s, y, sample_weight, projectors)
        weighted = any(w is not None for w in tree.flatten(sample_weight))
        if weighted or _backend.replica_count() > 1:
            given = "sample weights" if weighted else "several replicas"
            raise ValueError(
                f"{self.what} gives one number for a whole batch, which {given} cannot be applied "
                "to. Use a loss of keras_optkit.compression, or train without. "
                f"{_check.received('distillation_losses', self.loss)}"
            )
        if self.pairs:
            t, s = t[0], s[0]
        self.loss.validate_outputs(t, s)
        return self.loss.compute_loss(t, s)


def log_names(terms: list[Term]) -> list[str]:
    """Returns what the losses are called in logs; each name is there once."""
    names: list[str] = []
    for term in terms:
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", term.what).lower()
        name = base = f"{words}_loss"
        number = 1
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.append(name)
    return names
