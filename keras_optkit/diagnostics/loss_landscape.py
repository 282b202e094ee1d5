"""The loss around given weights, or between them."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_optkit import _check
from keras_optkit.diagnostics._directions import differences, filter_normalized, given
from keras_optkit.diagnostics._fixed_loss import fixed_loss
from keras_optkit.diagnostics._landscape import LossLandscape
from keras_optkit.diagnostics._surface import Surface, among, values
from keras_optkit.optimizers._problem import check_start


def loss_landscape(
    model: keras.Model,
    data: Any,
    dimensions: Literal[1, 2] | None = None,
    *,
    between: Sequence[Sequence[Any]] | None = None,
    span: tuple[float, float] | None = None,
    points: int = 21,
    loss: Any = None,
    batch_size: int | None = None,
    training: bool = False,
    seed: int = 0,
    verbose: int = 1,
) -> LossLandscape:
    """Computes the loss on a line or a plane through the space of weights.

    Around the weights of the model, to compare how sharp two minima are: a random direction says
    nothing by itself, since a network that is rescaled from layer to layer has the same loss, so
    each filter of a direction is made as long as that filter of the weights. Or between given
    weights, to see whether a barrier separates two checkpoints. With coordinates `a`, `b`:

    ```text
    loss(w + a d + b e)        d_ij = r_ij |w_ij| / |r_ij|     r random normal; i layer, j filter
    loss(u + a (v - u))        between=(u, v)
    loss(u + a (v - u) + b (w - u))    between=(u, v, w)
    ```

    As in the paper, random directions leave biases and the scales, offsets and statistics of
    normalization where they are, and so all weights with one axis, and all that do not train.
    Between given weights all floating-point ones move, statistics too, so that the ends are the
    given models. Every point is computed by one compiled function. The model is left as it is.

    Args:
        model: A built model. Its optimizer is not used, so `loss` can replace `compile`.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, as in `fit`; or a `PyDataset`, a
            `tf.data.Dataset` or another finite source of such batches, which is read once.
        dimensions: 1 for a line and 2 for a plane; None for a plane, or for what `between` spans.
        between: Two or three sets of weights, each as `model.get_weights()` returns them.
        span: First and last coordinate; None for (-1, 1), or for (0, 1) with `between`.
        points: Number of coordinates along each direction, 2 or more; odd, they include the
            middle.
        loss: A loss, its name, or a function of `y_true` and `y_pred`, in place of the compiled
            one; penalties of the model are added to it.
        batch_size: Samples to compute at a time, if all of them do not fit into memory; the result
            is that of all at once. Needs a loss that is a mean over samples. Datasets come with
            their own.
        training: Run layers as in training. As `False`, BatchNormalization uses its moving
            statistics, and Dropout does nothing.
        seed: Seed of the random directions, 0 or more.
        verbose: 1 for a progress bar, 0 for silence.

    Example:
        >>> line = keras_optkit.diagnostics.loss_landscape(model, (x, y), 1, points=5, verbose=0)
        >>> line.coordinates
        array([-1. , -0.5,  0. ,  0.5,  1. ])

    Reference:
        [Li et al., 2018](https://arxiv.org/abs/1712.09913), section 4; filters are the units of
        `transforms.AdaptiveClip`. [Goodfellow et al., 2015](https://arxiv.org/abs/1412.6544) for
        the line between two models.
    """
    _check.one_of("dimensions", dimensions, (None, 1, 2))
    points = _check.integer("points", points, low=2)
    _check.integer("seed", seed, low=0)
    _check.one_of("verbose", verbose, (0, 1))
    low, high = _span(span, (-1.0, 1.0) if between is None else (0.0, 1.0))
    objective = fixed_loss(model, data, loss, batch_size, training)
    weights = list(model.weights)
    if between is None:
        origin, generator = values(weights), np.random.default_rng(seed)
        trained = objective.variables
        drawn = [filter_normalized(trained, generator) for _ in range(dimensions or 2)]
        directions = [among(weights, trained, direction) for direction in drawn]
    else:
        origin, *ends = given(weights, between, dimensions)
        directions = [differences(weights, origin, end) for end in ends]

    loss_at = Surface(objective, weights, origin, directions)
    coordinates = np.linspace(low, high, points)
    here = (0.0,) * len(directions)
    first = loss_at(here)
    check_start(objective, first, 0.0, loss_at(here))
    bar = keras.utils.Progbar(points ** len(directions), unit_name="point")
    losses = []
    for place in itertools.product(coordinates, repeat=len(directions)):
        losses.append(loss_at(place))
        if verbose:
            bar.update(len(losses))
    shape = (points,) * len(directions)
    return LossLandscape(coordinates, np.reshape(losses, shape), origin, directions)


def _span(span: Any, default: tuple[float, float]) -> tuple[float, float]:
    if span is None:
        return default
    if not isinstance(span, (tuple, list)) or len(span) != 2:
        raise TypeError(f"`span` must be two numbers. {_check.received('span', span)}")
    low, high = (_check.in_range("span", number) for number in span)
    if low >= high:
        raise ValueError(f"`span` must be ascending. {_check.received('span', span)}")
    return low, high
