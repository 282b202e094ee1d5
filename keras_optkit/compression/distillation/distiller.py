"""Training of a student by a teacher."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_optkit import _backend, _check, _config
from keras_optkit._registry import register
from keras_optkit.compression._models import keras_model
from keras_optkit.compression.distillation import _cached, _recent
from keras_optkit.compression.distillation._taught import Taught
from keras_optkit.compression.distillation._teaching import (
    make_projectors,
    make_terms,
    make_trackers,
)


@register
class Distiller(Taught):
    """Trains a student on labels and on what a teacher makes of the same inputs.

    Compile, fit, evaluate, predict and save it like any model; it predicts as the student does,
    and `distiller.student` is the student, a plain model. With `a = student_loss_weight`, and the
    weights `w` of the distillation losses:

    ```text
    loss = a (loss of compile) + (1 - a) sum of w (distillation loss) + penalties of the student
    ```

    Weights of samples and classes count in each. A step runs the student once and the teacher
    once, in inference and without gradients; nothing of the teacher changes. With `a = 0` no
    labels are needed. `fit` reports each loss by itself too.

    If the teacher is slow, or the data small, let it answer once: train on `cached(x)` in place of
    `x`, to the same result, and many epochs take no teacher. This holds for inputs that stay the
    same: augmented inputs change, and the teacher's answers with them.

    A saved file holds the student, the optimizer and the losses. It loads and predicts without the
    teacher, and after `attach(teacher)` training goes on where it was.

    Args:
        teacher: A built model, already trained; None if the data brings its answers, or if it
            is attached later.
        student: The built model to train.
        distillation_losses: A loss, such as `LogitsKD`, or several. Those of
            `keras.distillation` fit too, but for weights of samples and several replicas.
        distillation_loss_weights: `w`, one number of 0 or more for each; None is 1 for each.
        student_loss_weight: `a`, in [0, 1].
        save_teacher: Whether files hold the teacher too, and so train without `attach`.
        teacher_shapes: Shapes of the teacher's layers by name; only needed without a teacher, for
            losses that compare layers.
        name: Name of the distiller.

    Raises:
        TypeError: If one is no Keras model, or a loss no distillation loss.
        ValueError: If one is not built, or a loss cannot compare the two.

    Example:
        >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> loss = keras_optkit.compression.LogitsKD(temperature=2.0)
        >>> distiller = keras_optkit.compression.Distiller(teacher, model, loss)
        >>> distiller.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
        >>> history = distiller.fit(x, y > 0)
        >>> plain = distiller.student

    Reference:
        [Hinton et al., 2015](https://arxiv.org/abs/1503.02531), section 2.
    """

    def __init__(
        self,
        teacher: keras.Model | None,
        student: keras.Model,
        distillation_losses: Any,
        distillation_loss_weights: float | Sequence[float] | None = None,
        student_loss_weight: float = 0.5,
        save_teacher: bool = False,
        teacher_shapes: dict[str, Sequence[int | None]] | None = None,
        name: str | None = None,
    ):
        super().__init__(keras_model(student, "Distiller", "student"), name)
        self._terms = make_terms(distillation_losses, distillation_loss_weights)
        self.distillation_losses = [term.loss for term in self._terms]
        self.distillation_loss_weights = [term.weight for term in self._terms]
        self.student_loss_weight = _check.in_range("student_loss_weight", student_loss_weight, 0, 1)
        self.save_teacher = _check.flag("save_teacher", save_teacher)
        self.teacher_shapes = {n: tuple(s) for n, s in (teacher_shapes or {}).items()}
        self._student = self._tapped(student, "student")
        if teacher is not None:
            self.attach(teacher)
        self.projectors, self._order = make_projectors(
            self._terms, self.teacher_shapes, self._student.shapes
        )
        self._trackers = make_trackers(self._terms, self.student_loss_weight)

    def cached(self, x, batch_size: int = 32) -> dict[str, Any]:
        """Returns inputs for `fit` and `evaluate` that hold the teacher's answers.

        Args:
            x: Arrays of inputs.
            batch_size: How many the teacher takes at a time; at least 1.
        """
        teacher = self._need_teacher()
        size = _check.integer("batch_size", batch_size, low=1)
        outputs, features = teacher.parts(teacher.whole.predict(x, batch_size=size, verbose=0))
        return _cached.join(x, outputs, features)

    def call(self, inputs, training=None):
        outputs, features = self._student(_cached.split(inputs)[0], training)
        if features:
            _recent.keep(outputs, features)
        return outputs

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        inputs, answers = _cached.split(x)
        penalties = [self._aggregate_additional_loss(loss) for loss in self.losses]
        count = ops.shape(next(leaf for leaf in tree.flatten(inputs) if leaf is not None))[0]
        share, parts = self.student_loss_weight, []
        if share > 0:
            self._check_labels(y is not None)
            parts.append((share, self._compile_loss(y, y_pred, sample_weight)))
        if share < 1:
            features = _recent.take(y_pred) if self._student.shapes else {}
            if features is None:  # `y_pred` is not from the last call
                features = self._student(inputs, training)[1]
            answers = self._ask(inputs) if answers is None else answers
            for term, order in zip(self._terms, self._order, strict=True):
                projectors = [None if i is None else self.projectors[i] for i in order]
                of_student = y_pred, features
                loss = term.compute(answers, of_student, y, sample_weight, projectors)
                parts.append(((1 - share) * term.weight, loss))
        for tracker, (_, loss) in zip(self._trackers, parts, strict=True):
            tracker.update_state(loss * _backend.replica_count(), sample_weight=count)
        weighted = [weight * loss for weight, loss in parts]
        return sum([*weighted[1:], *penalties], weighted[0])

    def get_config(self):
        names = _config.parameters(type(self)).keys() - {"teacher"}
        config = {name: _config.serialize(getattr(self, name)) for name in sorted(names)}
        return config | {"teacher": _config.serialize(self.teacher) if self.save_teacher else None}
