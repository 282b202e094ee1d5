"""The distributions of targets whose negative log-likelihood is a loss of Keras.

Each knows two scalar functions of the outputs `f` for one sample, whose squared gradients give the
diagonal of the Fisher information: summed over `terms`, exactly, or for one draw of the targets,
in the mean. Where a sample has several outputs for which the loss is a mean (positions of a
sequence, several binary targets), the Fisher information is the mean over them too.
"""

from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from keras_optkit.continual.masked_crossentropy import MaskedCrossentropy

TINY = 1e-30  # below it a probability counts as one that does not change


class Likelihood(Protocol):
    """What is known of the targets given the outputs for one sample."""

    head: Callable | None  # which of the outputs count, given the labels too; None for all

    def terms(self, shape: tuple) -> int:
        """Returns how many terms there are, for outputs of this shape."""
        ...

    def term(self, f, r) -> Any:
        """Returns term `r`, whose squared gradients sum to the Fisher information."""
        ...

    def noise(self, shape: tuple, samples: int, rng: np.random.Generator) -> np.ndarray:
        """Returns the random numbers that determine the targets of all samples."""
        ...

    def drawn(self, f, noise) -> Any:
        """Returns what has the gradient of the loss for targets drawn from `f`."""
        ...


class Softmax:
    """One of several classes, for each position: categorical cross-entropy."""

    def __init__(self, from_logits: bool, head: Callable | None = None):
        self.from_logits, self.head = from_logits, head

    def terms(self, shape):
        return int(np.prod(shape))

    def term(self, f, r):
        log_p = self._log_probabilities(f)
        p = ops.stop_gradient(ops.exp(log_p))
        return _entry(ops.sqrt(p / log_p.shape[0]) * log_p, r)

    def noise(self, shape, samples, rng):
        return rng.random((samples, int(np.prod(shape[:-1]))), "float32")

    def drawn(self, f, noise):
        log_p = self._log_probabilities(f)
        positions, classes = log_p.shape
        below = ops.cumsum(ops.stop_gradient(ops.exp(log_p)), axis=-1)
        # Of the sum, which is not quite 1: classes of probability 0 at the end are never drawn.
        below = below < ops.reshape(noise, (positions, 1)) * below[:, -1:]
        label = ops.sum(ops.cast(below, "int32"), axis=-1)
        one = ops.cast(ops.arange(classes)[None] == label[:, None], log_p.dtype)
        return ops.sum(one * log_p) / positions**0.5

    def _log_probabilities(self, f):
        f = ops.reshape(f, (-1, f.shape[-1]))
        if self.from_logits:
            return ops.log_softmax(f)
        return ops.log(ops.maximum(f / ops.sum(f, axis=-1, keepdims=True), TINY))


class Bernoulli:
    """Yes or no for each output: binary cross-entropy."""

    head: Callable | None = None

    def __init__(self, from_logits: bool):
        self.from_logits = from_logits

    def terms(self, shape):
        return int(np.prod(shape))

    def term(self, f, r):
        z, p, q = self._logits(f)
        return _entry(ops.sqrt(p * q / z.shape[0]) * z, r)

    def noise(self, shape, samples, rng):
        return rng.random((samples, int(np.prod(shape))), "float32")

    def drawn(self, f, noise):
        z, p, _ = self._logits(f)
        error = p - ops.cast(ops.reshape(noise, z.shape) < p, p.dtype)
        return ops.sum(error * z) / z.shape[0] ** 0.5

    def _logits(self, f):
        """Returns logits, and the probabilities of yes and of no, constant."""
        f = ops.reshape(f, (-1,))
        if self.from_logits:
            return f, *map(ops.stop_gradient, (ops.sigmoid(f), ops.sigmoid(-f)))
        z = ops.log(ops.maximum(f, TINY)) - ops.log(ops.maximum(1 - f, TINY))
        return z, ops.stop_gradient(f), ops.stop_gradient(1 - f)


class Gaussian:
    """Normally distributed targets, of the variance that makes the mean squared error their loss.

    For `N` outputs this is `N / 2`.
    """

    head: Callable | None = None

    def terms(self, shape):
        return int(np.prod(shape))

    def term(self, f, r):
        f = ops.reshape(f, (-1,))
        return _entry(f, r) * (2 / f.shape[0]) ** 0.5

    def noise(self, shape, samples, rng):
        return rng.standard_normal((samples, int(np.prod(shape))), "float32")

    def drawn(self, f, noise):
        f = ops.reshape(f, (-1,))
        return ops.sum(ops.reshape(noise, f.shape) * f) * (2 / f.shape[0]) ** 0.5


def likelihood(loss: Any) -> Likelihood:
    """Returns the distribution whose negative log-likelihood `loss` is.

    Raises:
        ValueError: If none is known.
    """
    known: Any = keras.losses.get(loss) if isinstance(loss, (str, dict)) and loss else loss
    crossentropies = (
        keras.losses.SparseCategoricalCrossentropy,
        keras.losses.CategoricalCrossentropy,
    )
    plain = getattr(known, "axis", -1) == -1 and getattr(known, "ignore_class", None) is None
    if type(known) is MaskedCrossentropy:
        return Softmax(from_logits=True, head=known.head)
    if type(known) in crossentropies and plain:
        return Softmax(known.from_logits)
    if type(known) is keras.losses.BinaryCrossentropy and plain:
        return Bernoulli(known.from_logits)
    if type(known) is keras.losses.MeanSquaredError or known is keras.losses.mean_squared_error:
        return Gaussian()
    if known in (
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.categorical_crossentropy,
    ):
        return Softmax(from_logits=False)
    if known is keras.losses.binary_crossentropy:
        return Bernoulli(from_logits=False)
    raise ValueError(
        'Exact and sampled labels need a loss whose likelihood is known: "mean_squared_error", '
        '"binary_crossentropy", "categorical_crossentropy" or "sparse_categorical_crossentropy", '
        "the Keras class of one of them, over the last axis and without an ignored class, or "
        'MaskedCrossentropy. For other losses, or several at once, use labels="empirical". '
        f"Received: loss={loss!r}"
    )


def _entry(values, r):
    """Returns entry `r` of the flat `values`; a mask, since `r` may be a tensor."""
    values = ops.reshape(values, (-1,))
    return ops.sum(values * ops.cast(ops.arange(values.shape[0]) == r, values.dtype))
