"""Distillation of where a network looks."""

from collections.abc import Sequence

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.distillation._loss import Loss
from keras_optkit.compression.distillation._norm import norm, unit
from keras_optkit.compression.distillation._shapes import (
    FORMATS,
    channels_last,
    pair_up,
    pooled,
    pooling,
    to_channels_last,
)


@register
class AttentionTransfer(Loss):
    """Has the student look where the teacher looks: at the places with large activations.

    Numbers of channels may differ, so it needs no projector. With features `A` of several places,
    for teacher `t` and student `s`:

    ```text
    Q = places of sum over channels of |A|^power
    loss = sum over pairs of 1/2 || Q_s / ||Q_s||_2 - Q_t / ||Q_t||_2 ||_2
    ```

    Where sizes differ, the larger map is pooled by averages.

    Args:
        pairs: Pairs of names: a layer of the student, then one of the teacher, both with axes of
            places, as those of images and sequences.
        power: The larger, the more the largest activations count; at least 1.
        data_format: `"channels_last"` or `"channels_first"`, where images have their channels;
            None is as `keras.config.image_data_format()`.

    Raises:
        ValueError: If there is no such layer, or it has no places, or sizes cannot be brought
            together.

    Example:
        >>> loss = keras_optkit.compression.AttentionTransfer([("conv_2", "conv_5")])

    Reference:
        [Zagoruyko and Komodakis, 2017](https://arxiv.org/abs/1612.03928), equation 2, whose `beta`
        is the weight of this loss; its authors' code has the mean of squares for the norm.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        power: float = 2.0,
        data_format: str | None = None,
    ):
        self.pairs = pair_up("pairs", pairs)
        self.power = _check.in_range("power", power, low=1)
        self.data_format = _check.one_of("data_format", data_format, FORMATS)

    def values(self, teacher, student, y=None, sample_weight=None, projector=None):
        t, s = self._map(teacher), self._map(student)
        of_teacher, of_student = pooling(t.shape, s.shape, "AttentionTransfer")
        t, s = (unit(_flat(pooled(q, sizes))) for q, sizes in ((t, of_teacher), (s, of_student)))
        return norm(s - t) / 2

    def projections(self, teacher_shapes, student_shapes):
        for pair, *shapes in zip(self.pairs, teacher_shapes, student_shapes, strict=True):
            t, s = (channels_last(shape, self.data_format) for shape in shapes)
            if min(len(t), len(s)) < 3:
                raise ValueError(
                    f"AttentionTransfer of {pair} needs features with axes of places, as those of "
                    f"convolutions. Received: {t} of the teacher, {s} of the student"
                )
            pooling(t, s, f"AttentionTransfer of {pair}")
        return super().projections(teacher_shapes, student_shapes)

    def _map(self, feature):
        feature = to_channels_last(feature, self.data_format)
        powers = ops.square(feature) if self.power == 2 else ops.abs(feature) ** self.power
        return ops.sum(powers, axis=-1, keepdims=True)


def _flat(attention):
    return ops.reshape(attention, (ops.shape(attention)[0], -1))
