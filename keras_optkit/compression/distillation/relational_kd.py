"""Distillation of how samples lie to each other."""

from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.distillation._loss import Loss
from keras_optkit.compression.distillation._norm import norm, unit
from keras_optkit.compression.distillation._shapes import pair_up


@register
class RelationalKD(Loss):
    """Has the samples of a batch lie to each other as they do for the teacher.

    It distils distances and angles between samples, not where they lie, so outputs of teacher and
    student may differ in size. Suits embeddings. With `x_i` the output for sample `i`, and `mu`
    the mean of `||x_i - x_j||` in the batch, both for teacher and student:

    ```text
    psi_D(i, j) = ||x_i - x_j|| / mu
    psi_A(i, j, k) = cos of the angle at j between x_i - x_j and x_k - x_j
    loss = distance_weight mean over i != j of huber(psi_D(student) - psi_D(teacher))
         + angle_weight mean over different i, j, k of huber(psi_A(student) - psi_A(teacher))
    huber(d) = d^2 / 2 if |d| <= 1 else |d| - 1/2
    ```

    A batch of `n` samples takes memory for `n^3` angles. Weights of samples count by the geometric
    mean of those in a pair or triple, so a sample of weight 0 takes part in none. Replicas of a
    strategy each take the relations in their own part of the batch.

    Args:
        distance_weight: Weight of the distances; 0 or more, 0 leaves them out.
        angle_weight: Weight of the angles; 0 or more.
        pairs: Pairs of names: a layer of the student, then one of the teacher; None compares the
            outputs of the models.

    Raises:
        ValueError: If there is no such layer.

    Example:
        >>> loss = keras_optkit.compression.RelationalKD(distance_weight=25.0, angle_weight=50.0)

    Reference:
        [Park et al., 2019](https://arxiv.org/abs/1904.05068), equations 5 to 10, but means in
        place of sums; its authors' code has pairs and triples of the same samples in the mean too.
    """

    whole_batch = True

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        pairs: Sequence[tuple[str, str]] | None = None,
    ):
        self.distance_weight = _check.in_range("distance_weight", distance_weight, low=0)
        self.angle_weight = _check.in_range("angle_weight", angle_weight, low=0)
        if not self.distance_weight and not self.angle_weight:
            raise ValueError(
                "One of `distance_weight` and `angle_weight` must be greater than 0. "
                f"{_check.received('distance_weight', distance_weight)}"
            )
        self.pairs = () if pairs is None else pair_up("pairs", pairs)

    def values(self, teacher, student, y=None, sample_weight=None, projector=None):
        t, s = _flat(teacher), _flat(student)
        count = ops.cast(ops.shape(s)[0], s.dtype)
        weight = ops.ones_like(s[:, 0])
        if sample_weight is not None:
            weight = ops.cast(ops.reshape(sample_weight, (-1,)), s.dtype)
        different = 1 - ops.eye(ops.shape(s)[0], dtype=s.dtype)  # whether i != j
        share = ops.maximum(count * (count - 1), 1)
        total = ops.zeros((), s.dtype)
        if self.distance_weight:
            between = different * _root(weight, 2)[:, None] * _root(weight, 2)[None, :]
            gap = _distances(s, between) - _distances(t, between)
            total += self.distance_weight * ops.sum(between * _huber(gap)) / share
        if self.angle_weight:
            w = _root(weight, 3)
            # The axes are j, i, k.
            among = different[:, :, None] * different[:, None, :] * different[None, :, :]
            among *= w[:, None, None] * w[None, :, None] * w[None, None, :]
            share = ops.maximum(share * (count - 2), 1)
            total += self.angle_weight * ops.sum(among * _huber(_angles(s) - _angles(t))) / share
        return total * ops.ones_like(weight)  # of which Keras takes the mean, for each replica

    def get_config(self):
        config = super().get_config()
        return config | {"pairs": config["pairs"] or None}


def _flat(outputs):
    size = int(np.prod([int(n) for n in outputs.shape[1:]]))
    return ops.reshape(outputs, (-1, size))


def _root(weight, power):
    return ops.power(weight, 1 / power)


def _distances(points, between):
    found = norm(points[:, None] - points[None, :]) * ops.cast(between > 0, points.dtype)
    mu = ops.sum(between * found) / ops.maximum(ops.sum(between), 1e-12)
    return found / ops.maximum(mu, 1e-12)


def _angles(points):
    directions = unit(points[None, :] - points[:, None])  # from j to i
    return ops.matmul(directions, ops.swapaxes(directions, 1, 2))


def _huber(gap):
    size = ops.abs(gap)
    return ops.where(size <= 1, ops.square(gap) / 2, size - 0.5)
