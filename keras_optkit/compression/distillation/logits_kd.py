"""Distillation of logits."""

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.distillation._logits import (
    as_logits,
    check_logits,
    check_outputs,
    check_shapes,
    divergence,
)
from keras_optkit.compression.distillation._loss import Loss


@register
class LogitsKD(Loss):
    """Has the student give the classes the probabilities that the teacher gives, softened.

    How likely the teacher holds the wrong classes tells more of a sample than its label. With
    logits `t` of the teacher, `s` of the student, and a temperature `T`:

    ```text
    loss = T^2 KL(softmax(t / T) || softmax(s / T))
    ```

    The factor keeps the size of the gradients when `T` changes. A single unit stands for two
    classes, with sigmoid for softmax. Several outputs add up.

    Args:
        temperature: `T`, above 0; 1 leaves the probabilities as they are, and 2 to 10 bring out
            the small ones.
        from_logits: Whether the student puts out logits, or probabilities. Logits are better.
        teacher_from_logits: The same of the teacher; None is as `from_logits`.

    Raises:
        ValueError: If the last activation of a model tells otherwise, or the outputs differ in
            shape.

    Example:
        >>> loss = keras_optkit.compression.LogitsKD(temperature=4.0)
        >>> teacher = keras.models.clone_model(model)
        >>> distiller = keras_optkit.compression.Distiller(teacher, model, loss)

    Reference:
        [Hinton et al., 2015](https://arxiv.org/abs/1503.02531), equation 1 and section 2; their
        cross-entropy with the teacher differs from this by a constant.
    """

    def __init__(
        self,
        temperature: float = 3.0,
        from_logits: bool = True,
        teacher_from_logits: bool | None = None,
    ):
        self.temperature = _check.in_range("temperature", temperature, low=0, closed="neither")
        self.from_logits = _check.flag("from_logits", from_logits)
        if teacher_from_logits is not None:
            _check.flag("teacher_from_logits", teacher_from_logits)
        self.teacher_from_logits = teacher_from_logits

    def values(self, teacher, student, y=None, sample_weight=None, projector=None):
        t = as_logits(teacher, self._of_teacher) / self.temperature
        s = as_logits(student, self.from_logits) / self.temperature
        return self.temperature**2 * divergence(ops.log_softmax(t), ops.log_softmax(s))

    def check_tensors(self, teacher, student):
        check_shapes("LogitsKD", teacher.shape, student.shape)

    def check_models(self, teacher, student):
        check_outputs("LogitsKD", teacher, student)
        name = "from_logits" if self.teacher_from_logits is None else "teacher_from_logits"
        if self._of_teacher and self.from_logits:  # one of both may put out probabilities
            name = "teacher_from_logits"
        check_logits("LogitsKD", "teacher", teacher, self._of_teacher, name)
        check_logits("LogitsKD", "student", student, self.from_logits, "from_logits")

    @property
    def _of_teacher(self):
        given = self.teacher_from_logits
        return self.from_logits if given is None else given
