"""Removing NaN and infinity."""

import functools
from typing import Literal

from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.transforms._base import Transform


@register
class ZeroNonFinite(Transform):
    """Turns NaN and infinite gradients into zeros, so that one bad batch does not end training.

    Put it first, before clipping and noise. It hides the symptom: find the cause too, and do not
    use it with loss scaling, which needs to see overflow to lower its scale. With `ok` true
    where the entries looked at are all finite:

    ```text
    g = g if ok else 0
    ```

    A zero gradient is not a skipped step: momentum and weight decay still move the weights.

    Args:
        scope: How much one bad entry takes with it: itself (`"entry"`), the gradient of its
            weight (`"weight"`), or those of all weights in this step (`"all"`).

    Example:
        >>> zero = keras_optkit.transforms.ZeroNonFinite("all")
        >>> optimizer = keras_optkit.optimizers.Transformed(keras.optimizers.SGD(0.1), [zero])

    Reference:
        `optax.zero_nans`, which zeroes NaN entries but not infinite ones.
    """

    def __init__(self, scope: Literal["entry", "weight", "all"] = "entry"):
        self.scope = _check.one_of("scope", scope, ("entry", "weight", "all"))

    def __call__(self, gradients, variables, step):
        ok = [ops.isfinite(gradient) for gradient in gradients]
        if self.scope != "entry":
            ok = [ops.all(finite) for finite in ok]
        if self.scope == "all" and ok:
            ok = [functools.reduce(ops.logical_and, ok)] * len(ok)
        return [ops.where(o, g, ops.zeros_like(g)) for o, g in zip(ok, gradients, strict=True)]
