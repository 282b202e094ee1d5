"""Gradient transforms for any optimizer."""

from collections.abc import Sequence
from typing import Unpack

import keras
from keras import ops

from keras_optkit._registry import register
from keras_optkit.optimizers._arguments import transforms_of
from keras_optkit.optimizers._wrapper import Wrapper, WrapperKwargs
from keras_optkit.transforms import Transform


@register
class Transformed(Wrapper):
    """Gives any optimizer, Keras' own too, gradient transforms.

    The transforms see the gradients that count: unscaled, summed over replicas, accumulated. The
    rules of this package take them by themselves, as `gradient_transforms=[...]`.

    Args:
        inner_optimizer: The optimizer that gets the transformed gradients, or its name.
        transforms: `keras_optkit.transforms`, applied in this order.
        **kwargs: Those of `Wrapper`.

    Example:
        >>> clip = keras_optkit.transforms.AdaptiveClip(0.01)
        >>> optimizer = keras_optkit.optimizers.Transformed(keras.optimizers.Adam(), [clip])
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        transforms: Sequence[Transform],
        **kwargs: Unpack[WrapperKwargs],
    ):
        super().__init__(inner_optimizer, **kwargs)
        self.transforms = transforms_of("transforms", transforms)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        for transform in self.transforms:
            transform.build(variables)

    def before(self, gradients, variables):
        step = ops.cast(self.updates + 1, "float32")
        for transform in self.transforms:
            gradients = transform(gradients, variables, step)
        return gradients
