"""What the distillation losses share: layers to look at, precision, and the mean over samples."""

from typing import Any, ClassVar

import keras
from keras import ops, tree

from keras_optkit import _check
from keras_optkit._config import Configurable

Pairs = tuple[tuple[str, str], ...]


class Loss(keras.distillation.DistillationLoss, Configurable):
    """Base of the losses: write `values`, one number for each sample or more.

    `compute_loss` is what Keras asks for: the mean over samples, weighted if there are weights,
    computed in at least float32, and scaled like a Keras loss under a `tf.distribute` strategy.
    """

    pairs: Pairs = ()
    whole_batch: ClassVar[bool] = False

    def values(self, teacher, student, y=None, sample_weight=None, projector=None):
        """Returns the loss of each sample, of each place in it too if there are several.

        Args:
            teacher: One output or feature of the teacher.
            student: The student's counterpart.
            y: The labels that belong to it, if known.
            sample_weight: The weights, for a loss of the whole batch; to others it is None.
            projector: A layer to bring the student's feature to the teacher's shape, or None.
        """
        raise NotImplementedError

    def compute_loss(
        self, teacher_outputs, student_outputs, y=None, sample_weight=None, projectors=None
    ):
        """Returns the sum over outputs, or pairs of layers, of the weighted mean over samples."""
        teachers, students = tree.flatten(teacher_outputs), tree.flatten(student_outputs)
        count = len(students)
        labels = _spread(y, count)
        weights = self._weights(sample_weight, count)
        projectors = projectors or [None] * count
        total: Any = None
        for t, s, *others, projector in zip(
            teachers, students, labels, weights, projectors, strict=True
        ):
            self.check_tensors(t, s)
            label, weight = others
            inside = weight if self.whole_batch else None
            values = self.values(_working(t), _working(s), label, inside, projector)
            # A mask, which Keras attaches to a tensor, is one of places in a sample.
            marked = values if self.whole_batch or len(values.shape) < 2 else s
            term = _mean(values, marked, None if self.whole_batch else weight)
            total = term if total is None else total + term
        return total

    def check_tensors(self, teacher, student) -> None:
        """Raises an error if two tensors cannot be compared."""

    def check_models(self, teacher: keras.Model, student: keras.Model) -> None:
        """Raises an error if the outputs of two models cannot be compared."""

    def projections(self, teacher_shapes: list, student_shapes: list) -> list[int | None]:
        """Returns for each pair the channels to project to, None if the shapes agree.

        Raises:
            ValueError: If they cannot be made to agree.
        """
        return [None] * len(self.pairs)

    def validate_model_compatibility(self, teacher, student):
        """Called by Keras' own `Distiller`, which takes one pair a loss and trains no projector."""
        from keras_optkit.compression.distillation._taps import tap

        what = type(self).__name__
        self.check_models(teacher, student)
        if len(self.pairs) > 1:
            raise ValueError(
                f"Keras' Distiller compares one pair of layers a loss, and this {what} has "
                f"{len(self.pairs)}. Use keras_optkit.compression.Distiller, or one {what} a pair. "
                f"{_check.received('pairs', self.pairs)}"
            )
        for ours, theirs in self.pairs:
            t = tap(teacher, theirs, "teacher", what).shape
            s = tap(student, ours, "student", what).shape
            if self.projections([t], [s]) != [None]:
                raise ValueError(
                    f"Layer {ours!r} of the student has shape {s}, layer {theirs!r} of the teacher "
                    f"{t}, and Keras' Distiller trains no projector between them. Use "
                    "keras_optkit.compression.Distiller. " + _check.received("pairs", self.pairs)
                )

    @property
    def student_layer_name(self) -> str | None:
        """The name of the layer, for Keras' own `Distiller`."""
        return self.pairs[0][0] if self.pairs else None

    @property
    def teacher_layer_name(self) -> str | None:
        """The name of the layer, for Keras' own `Distiller`."""
        return self.pairs[0][1] if self.pairs else None

    def _weights(self, sample_weight, count):
        if self.pairs and len(tree.flatten(sample_weight)) > 1:
            raise ValueError(
                f"{type(self).__name__} compares layers, and cannot tell which output's sample "
                "weights to take for them. Pass one array of `sample_weight`. "
                f"{_check.received('sample_weight', sample_weight)}"
            )
        return _spread(sample_weight, count)


def _spread(given, count):
    """Returns one for each output, or the same for all."""
    flat = tree.flatten(given)
    return flat if len(flat) == count else flat * count if len(flat) == 1 else [None] * count


def _working(tensor):
    return ops.cast(tensor, keras.backend.result_type(tensor.dtype, "float32"))


class _Mean(keras.losses.Loss):
    """Keras' reduction: its weights and masks, and its scaling under a strategy."""

    def __init__(self, values):
        super().__init__("mean", dtype=keras.backend.standardize_dtype(values.dtype))
        self._values = values

    def call(self, y_true, y_pred):
        return self._values


def _mean(values, marked, sample_weight):
    if sample_weight is not None:
        sample_weight = ops.convert_to_tensor(sample_weight)
        missing = len(values.shape) - len(sample_weight.shape)
        for _ in range(missing):  # or Keras would align the last axes
            sample_weight = ops.expand_dims(sample_weight, -1)
        if missing < 0 and any(size != 1 for size in sample_weight.shape[missing:]):
            raise ValueError(
                "`sample_weight` must be one number for each sample here, and none for places in "
                f"it. Received: sample_weight of shape {tuple(sample_weight.shape)} for values of "
                f"shape {tuple(values.shape)}"
            )
    return _Mean(values)(marked, marked, sample_weight)
