"""Distillation of features."""

from collections.abc import Sequence

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.distillation._loss import Loss
from keras_optkit.compression.distillation._shapes import (
    FORMATS,
    channels_last,
    pair_up,
    pooled,
    pooling,
    to_channels_last,
)


@register
class FeatureKD(Loss):
    """Has layers inside of the student put out what layers of the teacher do.

    It guides the student earlier than logits can, which helps a deep and thin one most. With
    features `f_t` of the teacher, `f_s` of the student, and a projector `r`:

    ```text
    loss = sum over pairs of 1/2 mean (f_t - r(f_s))^2
    ```

    Where the numbers of channels differ, `r` is a Dense layer on the channels, thus a convolution
    of 1 x 1, which the `Distiller` owns and trains beside the student. Where sizes differ, the
    larger is pooled by averages.

    Args:
        pairs: Pairs of names: a layer of the student, then one of the teacher.
        projector: `"auto"` makes projectors where needed; None refuses channels that differ.
        data_format: `"channels_last"` or `"channels_first"`, where images have their channels;
            None is as `keras.config.image_data_format()`.

    Raises:
        ValueError: If there is no such layer, or shapes cannot be brought together.

    Example:
        >>> teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(9, name="wide")])
        >>> loss = keras_optkit.compression.FeatureKD([("head", "wide")])
        >>> distiller = keras_optkit.compression.Distiller(teacher, model, loss)
        >>> [layer.name for layer in distiller.projectors]
        ['projector_head_wide']

    Reference:
        [Romero et al., 2015](https://arxiv.org/abs/1412.6550), equation 3, but the mean in place
        of the sum, so that weights do not depend on sizes, and a projector without activation.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, str]],
        projector: str | None = "auto",
        data_format: str | None = None,
    ):
        self.pairs = pair_up("pairs", pairs)
        self.projector = _check.one_of("projector", projector, ("auto", None))
        self.data_format = _check.one_of("data_format", data_format, FORMATS)

    def values(self, teacher, student, y=None, sample_weight=None, projector=None):
        t = to_channels_last(teacher, self.data_format)
        s = to_channels_last(student, self.data_format)
        of_teacher, of_student = pooling(t.shape, s.shape, "FeatureKD")
        t, s = pooled(t, of_teacher), pooled(s, of_student)
        if projector is not None:
            s = projector(s)
        elif t.shape[-1] != s.shape[-1]:
            raise ValueError(
                "FeatureKD needs a projector between features of other numbers of channels. "
                f"Received: {tuple(t.shape)} of the teacher, {tuple(s.shape)} of the student"
            )
        each = ops.mean(ops.square(t - s), axis=-1) / 2
        # Places in a sequence may be masked; those of an image are one sample's.
        places = tuple(range(1, len(each.shape)))
        return ops.mean(each, axis=places) if len(places) > 1 else each

    def projections(self, teacher_shapes, student_shapes):
        found: list[int | None] = []
        for pair, *shapes in zip(self.pairs, teacher_shapes, student_shapes, strict=True):
            t, s = (channels_last(shape, self.data_format) for shape in shapes)
            pooling(t, s, f"FeatureKD of {pair}")
            if t[-1] != s[-1] and self.projector is None:
                raise ValueError(
                    f"FeatureKD of {pair} needs a projector between features of other numbers of "
                    f'channels, {s[-1]} of the student and {t[-1]} of the teacher: pass "auto". '
                    f"{_check.received('projector', self.projector)}"
                )
            found.append(None if t[-1] == s[-1] else t[-1])
        return found
