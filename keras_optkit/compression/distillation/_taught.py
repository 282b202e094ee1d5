"""A student and its teacher in one model."""

import keras
from keras import ops, tree

from keras_optkit import _backend, _check
from keras_optkit.compression.distillation import _cached
from keras_optkit.compression.distillation._taps import Tapped
from keras_optkit.compression.distillation._teaching import check_own_loss, check_teacher
from keras_optkit.compression.distillation._term import Term
from keras_optkit.optimizers._model_wrapper import ModelWrapper


class Taught(ModelWrapper):
    """Base of the distiller: holds the teacher, asks it, and refuses to train without.

    The teacher is no part of the model for Keras: not of its weights, nor of what is trained,
    shown or saved. A subclass sets the attributes that are declared here.
    """

    save_teacher: bool = False
    student_loss_weight: float
    teacher_shapes: dict[str, tuple[int | None, ...]]
    _terms: tuple[Term, ...]
    _teacher: Tapped | None = None
    # Not the step of `ModelWrapper`, which is for gradients other than those of the loss.
    train_step = keras.Model.train_step

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

    def fit(self, x=None, y=None, *args, **kwargs):
        self._check_data(x, y)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        self._check_data(x, y)
        return super().evaluate(x, y, *args, **kwargs)

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
        check_own_loss(self.loss, self.student)

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
