"""Sharpness-aware minimization."""

import functools
import math

import keras
from keras import ops

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.optimizers._model_wrapper import ModelWrapper
from keras_optkit.optimizers._slots import working_dtype
from keras_optkit.transforms._norms import scaled_norm


@register
class SAM(ModelWrapper):
    """Trains a model towards flat minima, where a change of the weights changes the loss little.

    Such minima often generalize better, and bear label noise. In each step the weights `w` climb
    to about the worst point within `rho`, and the gradient found there is the one with which
    any optimizer moves `w`:

    ```text
    e = rho T^2 g / ||T g||        with g = grad loss(w), T = 1, or |w| + eta if adaptive
    w = optimizer(w, grad loss(w + e))
    ```

    The norm is over all weights together. With `adaptive` (ASAM), sharpness does not depend on
    the scale of the weights, which layers may trade among them; `rho` is then larger, about 0.5.
    A step takes two forward and two backward passes, so about twice the time; more on torch, which
    fuses nothing. Both see the same batch and dropout masks. Loss, metrics and BatchNorm statistics
    are of the first, at `w`.

    Predicting, evaluating and saving work as with the model inside; `strip()` gives that one
    back. Gradients that are not finite are handed on as they are, for loss scaling to skip them.
    With gradient accumulation, `e` is that of each batch. Several replicas share one `e`, that
    of the whole batch.

    Args:
        model: The `keras.Model` to train, built or not, without a training step of its own.
        rho: Length of the climb, in units of the weights, or relative if `adaptive`; above 0.
        adaptive: Whether to measure the climb relative to each weight's size.
        eta: Added to the size of each weight if `adaptive`; 0 or more. Where it is 0, weights
            of 0 do not climb.
        name: Name of the wrapper.

    Example:
        >>> model = keras_optkit.optimizers.SAM(model, rho=0.05)
        >>> model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
        >>> history = model.fit(x, y)
        >>> plain = model.strip()

    Reference:
        [Foret et al., 2021](https://arxiv.org/abs/2010.01412), equation 2 and algorithm 1, which
        takes one `e` per replica ("m-sharpness"), not one of all.
        [Kwon et al., 2021](https://arxiv.org/abs/2102.11600), algorithm 1, with the elementwise
        operator; its authors' code has `T = 1` for biases and normalization.
    """

    def __init__(
        self,
        model: keras.Model,
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.01,
        name: str | None = None,
    ):
        super().__init__(model, name)
        self.rho = _check.in_range("rho", rho, low=0, closed="neither")
        self.adaptive = _check.flag("adaptive", adaptive)
        self.eta = _check.in_range("eta", eta, low=0)

    def change_gradients(self, gradients, weights, gradients_at, reference=None):
        climbing = [
            i
            for i, variable in enumerate(self.trainable_variables)
            if gradients[i] is not None
            and math.prod(variable.shape)
            and not variable.overwrite_with_gradient  # whose "gradient" is a new value
        ]
        if not climbing:
            return gradients
        here, at = [], []
        for i in climbing:
            dtype = working_dtype(self.trainable_variables[i])
            here.append(ops.cast(_backend.dense(gradients[i]), dtype))
            at.append(ops.cast(weights[i], dtype))
        t = [ops.abs(w) + self.eta if self.adaptive else None for w in at]
        whole = _backend.sum_over_replicas(here)
        tg = [g if factor is None else factor * g for factor, g in zip(t, whole, strict=True)]
        finite, length = _climb(tg, self.rho)
        climbed = list(weights)
        for i, w, factor, tg_i in zip(climbing, at, t, tg, strict=True):
            e = tg_i * ops.cast(length, tg_i.dtype)
            e = ops.where(finite, e if factor is None else factor * e, 0.0)
            climbed[i] = ops.cast(w + e, weights[i].dtype)
        there = list(gradients_at(climbed))
        for i, first in zip(climbing, here, strict=True):
            if there[i] is not None:
                second = ops.cast(_backend.dense(there[i]), first.dtype)
                there[i] = ops.cast(ops.where(finite, second, first), there[i].dtype)
        return there


def _climb(tensors: list, rho: float) -> tuple:
    """Returns whether the norm of all `tensors` is finite, and `rho / norm`, 0 for a norm of 0."""
    total = functools.reduce(ops.add, [ops.sum(ops.square(t)) for t in tensors])
    usual = ops.logical_and(ops.isfinite(total), total > 1e-20)
    # The gradients of a scaled loss may be large or small beyond their squares.
    scale, ratio = ops.cond(
        usual, lambda: (ops.ones_like(total), ops.sqrt(total)), lambda: scaled_norm(tensors)
    )
    length = rho / ops.maximum(ratio, 1e-30) / scale
    return ops.isfinite(ratio), ops.where(ratio > 0, ops.minimum(length, 1e38), 0.0)
