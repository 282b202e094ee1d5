"""Training of a student by a teacher."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_optkit import _backend, _check, _config
from keras_optkit._registry import register
from keras_optkit.compression._models import keras_model
from keras_optkit.compression.distillation import _cached, _recent
from keras_optkit.compression.distillation._taps import Tapped
from keras_optkit.compression.distillation._teaching import (
    check_teacher,
    make_projectors,
    make_terms,
    make_trackers,
)
from keras_optkit.optimizers._model_wrapper import ModelWrapper


@register
class Distiller(ModelWrapper):
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

    _teacher: Tapped | None = None
    save_teacher = False
    # Not the step of `ModelWrapper`, whose gradients are those of another loss.
    train_step = keras.Model.train_step

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

    @property
    def student(self) -> keras.Model:
        """The model that learns, as trained so far."""
        return self.model

    @property
    def teacher(self) -> keras.Model | None:
        """The model it learns from, if there is one."""
        return self._teacher.model if self._teacher is not None else None

    def attach(self, teacher: keras.Model) -> None:
        """Gives it a teacher, the first or another one.

        Raises:
            ValueError: If a loss cannot compare it with the student, or the projectors were made
                for another.
        """
        check_teacher(teacher, self.student, self._terms)
        tapped = self._tapped(teacher, "teacher")
        for layer, shape in self.teacher_shapes.items():
            if tapped.shapes.get(layer, shape)[1:] != shape[1:]:
                raise ValueError(
                    f"The student was trained for a teacher whose layer {layer!r} has shape "
                    f"{shape}; that of {teacher.name!r} has {tapped.shapes[layer]}. Attach the "
                    f"teacher it had. {_check.received('teacher', teacher)}"
                )
        self._teacher = tapped
        self.teacher_shapes = dict(tapped.shapes)
        self.train_function = self.test_function = self.predict_function = None

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

    def fit(self, x=None, y=None, *args, **kwargs):
        self._check_data(x, y)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        self._check_data(x, y)
        return super().evaluate(x, y, *args, **kwargs)

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

    def _check_data(self, x, y):
        # Ahead of the first step, since on JAX one that fails loses the model's weights.
        if not all(hasattr(leaf, "shape") for leaf in tree.flatten(x)):
            return  # a dataset, which brings the labels too
        if self.student_loss_weight > 0:
            self._check_labels(y is not None)
        if self.student_loss_weight < 1 and _cached.split(x)[1] is None:
            self._need_teacher()

    def _check_labels(self, given: bool):
        if self._compile_loss is None or not given:
            missing = "labels `y`" if not given else "loss, given to `compile`"
            raise ValueError(
                f"Distiller counts the student's own loss by {self.student_loss_weight}, and has "
                f"no {missing}. To train on the teacher alone, pass student_loss_weight=0. "
                f"{_check.received('student_loss_weight', self.student_loss_weight)}"
            )

    def _ask(self, inputs):
        with _backend.no_gradient():
            answers = self._need_teacher()(inputs, training=False)
        return tree.map_structure(ops.stop_gradient, answers)

    def _need_teacher(self) -> Tapped:
        if self._teacher is None:
            raise ValueError(
                f"{self.name!r} has no teacher; its file holds none unless save_teacher=True. Call "
                "distiller.attach(teacher), or train on inputs from `cached`. To evaluate without, "
                "compile and evaluate distiller.student. Received: teacher=None"
            )
        return self._teacher

    def _tapped(self, model, role):
        what = {name: term.what for term in self._terms for name in term.names(role)}
        return Tapped(model, what, role, what)

    @property
    def non_trainable_variables(self):
        """Those of the student and the teacher, which JAX would else take for constants."""
        own = super().non_trainable_variables
        if self.teacher is None:
            return own
        known = {id(v) for v in self.variables}
        return [*own, *(v for v in self.teacher.variables if id(v) not in known)]

    def __dir__(self):
        # Keras saves what is listed here.
        return [n for n in super().__dir__() if n != "teacher" or self.save_teacher]

    def get_config(self):
        names = _config.parameters(type(self)).keys() - {"teacher"}
        config = {name: _config.serialize(getattr(self, name)) for name in sorted(names)}
        return config | {"teacher": _config.serialize(self.teacher) if self.save_teacher else None}
