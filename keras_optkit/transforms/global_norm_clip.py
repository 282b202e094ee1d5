"""Clipping by the norm of all gradients together."""

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.transforms._base import Transform
from keras_optkit.transforms._norms import clip, filled, norms_for


@register
class GlobalNormClip(Transform):
    """Keeps the step's whole gradient no longer than `max_norm`, and its direction.

    The usual guard against exploding gradients in recurrent networks and transformers. All
    weights are scaled by one factor, so the direction of the step does not change. With `n` the
    Euclidean norm of all entries of all gradients:

    ```text
    g = g * min(1, max_norm / n)
    ```

    A NaN or an infinity among the entries leaves no norm to clip by: all gradients then stay as
    they are, so that loss scaling sees it, or a `ZeroNonFinite` placed before removes it. Finite
    entries whose squares overflow float32 are clipped like any other.

    Args:
        max_norm: Largest norm, in units of the gradient; greater than 0.

    Example:
        >>> clip = keras_optkit.transforms.GlobalNormClip(1.0)
        >>> optimizer = keras_optkit.optimizers.Transformed(keras.optimizers.SGD(0.1), [clip])

    Reference:
        [Pascanu et al., 2013](https://arxiv.org/abs/1211.5063), algorithm 1. The factor is
        exact; `torch.nn.utils.clip_grad_norm_` divides by `n + 1e-6`. Keras' own
        `global_clipnorm` clips each replica before the sum; transforms come after it.
    """

    def __init__(self, max_norm: float):
        self.max_norm = _check.in_range("max_norm", max_norm, low=0, closed="neither")

    def __call__(self, gradients, variables, step):
        entries = filled(gradients, variables)
        if not entries:
            return list(gradients)
        (norm,) = norms_for(self.max_norm, [(entries, None)])
        return [clip(gradient, norm, self.max_norm) for gradient in gradients]
