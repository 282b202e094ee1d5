"""Distillation of logits, with the right class apart from the others."""

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.distillation._logits import (
    check_logits,
    check_outputs,
    check_shapes,
    divergence,
)
from keras_optkit.compression.distillation._loss import Loss

NEVER = -1e30  # a logit, or the logarithm of a probability, of what is left out


@register
class DecoupledKD(Loss):
    """Distils how sure the teacher is, and how it ranks the wrong classes, with a weight for each.

    In `LogitsKD` the second counts for little where the teacher is sure of the label, and it is
    what teaches most. With logits `t` and `s`, the label `c`, `p = softmax(t / T)`,
    `q = softmax(s / T)`, and `p'`, `q'` the same over all classes but `c`:

    ```text
    TCKD = KL([p_c, 1 - p_c] || [q_c, 1 - q_c])
    NCKD = KL(p' || q')
    loss = T^2 (alpha TCKD + beta NCKD)
    ```

    `LogitsKD` is `alpha = 1`, `beta = 1 - p_c`. Without labels, as in unlabelled data or in Keras'
    own `Distiller`, `c` is the class the teacher holds most likely.

    Args:
        alpha: Weight of how sure the teacher is of the label; 0 or more.
        beta: Weight of the other classes; 0 or more. The larger the surer the teacher is: 8 on
            CIFAR-100, 1 or less with many classes.
        temperature: `T`, above 0.

    Raises:
        ValueError: If there are less than three classes, or the models do not end in logits of one
            shape.

    Example:
        >>> loss = keras_optkit.compression.DecoupledKD(alpha=1.0, beta=8.0, temperature=4.0)

    Reference:
        [Zhao et al., 2022](https://arxiv.org/abs/2203.08679), equation 7; `T^2` is of their code.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0):
        self.alpha = _check.in_range("alpha", alpha, low=0)
        self.beta = _check.in_range("beta", beta, low=0)
        self.temperature = _check.in_range("temperature", temperature, low=0, closed="neither")

    def values(self, teacher, student, y=None, sample_weight=None, projector=None):
        classes = student.shape[-1]
        label = ops.arange(classes) == ops.expand_dims(_labels(y, teacher), -1)
        targets, others = [], []
        for logits in (teacher, student):
            log_p = ops.log_softmax(logits / self.temperature)
            of_label = ops.sum(ops.where(label, log_p, 0.0), axis=-1)
            of_others = ops.logsumexp(ops.where(label, NEVER, log_p), axis=-1)
            targets.append(ops.stack([of_label, of_others], axis=-1))
            others.append(ops.log_softmax(ops.where(label, NEVER, log_p)))
        tckd, nckd = divergence(*targets), divergence(*others)
        return self.temperature**2 * (self.alpha * tckd + self.beta * nckd)

    def check_tensors(self, teacher, student):
        check_shapes("DecoupledKD", teacher.shape, student.shape)
        if student.shape[-1] < 3:
            raise ValueError(
                "DecoupledKD tells the wrong classes apart, and needs two or more of them. Use "
                f"LogitsKD. Received: outputs of shape {tuple(student.shape)}"
            )

    def check_models(self, teacher, student):
        check_outputs("DecoupledKD", teacher, student)
        check_logits("DecoupledKD", "teacher", teacher, True, "")
        check_logits("DecoupledKD", "student", student, True, "")


def _labels(y, teacher):
    """Returns integer labels without an axis of classes."""
    if y is None:
        return ops.argmax(teacher, axis=-1)
    rank, classes = len(teacher.shape), teacher.shape[-1]
    if len(y.shape) == rank and y.shape[-1] == classes:
        return ops.argmax(y, axis=-1)
    if len(y.shape) == rank and y.shape[-1] == 1:
        y = ops.squeeze(y, axis=-1)
    if len(y.shape) != rank - 1:
        raise ValueError(
            "DecoupledKD takes integer labels, or one-hot ones. Received: labels of shape "
            f"{tuple(y.shape)} for outputs of shape {tuple(teacher.shape)}"
        )
    return ops.cast(y, "int32")
