"""N:M sparsity."""

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.compression.pruning._method import Method


@register
class NofM(Method):
    """Keeps the `n` largest of each `m` weights in a row, the pattern that hardware runs fast.

    In a row along the axis that a matrix multiplication sums over, the inputs: the last axis but
    one of a `Dense` or convolution kernel. The kernels of `MultiHeadAttention` have heads there:
    leave them out. Where `m` does not divide it, the last group is
    shorter. The sparsity is `1 - n / m` whatever the schedule says, which only tells when.

    Args:
        n: Weights to keep in each group, at least 1.
        m: Weights in a group, more than `n`.

    Example:
        >>> method = keras_optkit.compression.NofM(2, 4)
        >>> optimizer = keras_optkit.compression.Pruned("adam", sparsity=0.5, method=method)

    Reference:
        [Mishra et al., 2021](https://arxiv.org/abs/2104.08378), section 3, for 2:4. TF-MOT's
        `sparsity_m_by_n=(z, m)` counts zeros: `NofM(m - z, m)`.
    """

    def __init__(self, n: int = 2, m: int = 4):
        self.n = _check.integer("n", n, low=1)
        self.m = _check.integer("m", m, low=2)
        if self.n >= self.m:
            raise ValueError(
                "`n`, the weights to keep, must be less than `m`, the weights in a group. "
                f"Received: n={n}, m={m}"
            )

    def check(self, paths, shapes):
        others = {p: s for p, s in zip(paths, shapes, strict=True) if len(s) < 2}
        if others:
            raise ValueError(
                "NofM groups weights of two axes or more, along the last but one. Leave the others "
                f"out with `exclude={[*others]}`. Received: "
                + ", ".join(f"{path} of shape {shape}" for path, shape in others.items())
            )

    def select(self, candidates):
        return [self._mask(ops.abs(w)) for w in candidates.weights]

    def _mask(self, scores):
        rows = ops.moveaxis(scores, -2, -1)
        shape, inputs = tuple(rows.shape), rows.shape[-1]
        padding = -inputs % self.m
        rows = ops.pad(rows, [(0, 0)] * (len(shape) - 1) + [(0, padding)], constant_values=-1.0)
        groups = ops.reshape(rows, (*shape[:-1], -1, self.m))
        one, other = groups[..., :, None], groups[..., None, :]
        index = ops.arange(self.m)
        first = ops.logical_and(other == one, index[None, :] < index[:, None])
        ahead = ops.sum(ops.cast(ops.logical_or(other > one, first), "int32"), axis=-1)
        mask = ops.reshape(ahead < self.n, (*shape[:-1], inputs + padding))[..., :inputs]
        return ops.moveaxis(mask, -1, -2)
