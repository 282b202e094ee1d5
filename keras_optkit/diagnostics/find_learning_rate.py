"""Learning rate range test."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_optkit import _check, _processes
from keras_optkit.diagnostics import _random_state
from keras_optkit.diagnostics._batches import source
from keras_optkit.diagnostics._borrowed import borrowed
from keras_optkit.diagnostics._learning_rate_range import LearningRateRange
from keras_optkit.diagnostics._sweep import Sweep


def find_learning_rate(
    model: keras.Model,
    data: Any,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    batch_size: int = 32,
    smoothing: float = 0.9,
    diverge: float = 4.0,
    seeds: Sequence[int] = (0, 1, 2),
    verbose: int = 1,
) -> LearningRateRange:
    """Trains for a few steps over a range of learning rates, to see which of them are good.

    Before training, to find where to begin: too low a rate changes nothing, too high a rate makes
    the loss rise, and a good one is where it falls fast. With `t` from 0 to `steps - 1`:

    ```text
    learning_rate_t = low (high / low)^(t / (steps - 1))
    stops where s_t > diverge min(s_0, ..., s_{t-1}), or at a loss that is NaN or infinite
    ```

    `s` is the running mean of the losses of batches. The model trains as in `fit`, with its own
    optimizer from its present state, but for the learning rate, which takes the place of any
    schedule; multipliers of groups still apply, and the optimizers of a `MultiOptimizer` keep
    their ratio to the first. Steps are updates, so gradients that accumulate take more batches.

    Afterwards all is as before: weights, moving statistics, seeds of layers, the optimizer, the
    compiled step, and the global random numbers; also if there is an exception. Only an optimizer
    that was not built is built then. The weights and the optimizer's state are kept in host memory
    meanwhile. On JAX, processes that train one model together all call this, each with its share of
    the data, and find the same. On TensorFlow find the rate in one process, before there are
    several: a strategy deals out the batches of a source that it cannot divide, and some get lost.

    Args:
        model: A built and compiled model.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, as in `fit`, or a `PyDataset`, both
            shuffled; or a `tf.data.Dataset` or another source of such batches, in its own order.
            Data that do not suffice are repeated.
        low: First learning rate, greater than 0.
        high: Last learning rate, greater than `low`.
        steps: Number of learning rates, 10 or more. Steps that are too large jump over
            the good rates: some 10 for each power of 10 is few.
        batch_size: Samples in a batch of arrays, 1 or more; as in training, since good rates depend
            on it.
        smoothing: Decay per step of the running mean of losses, in [0, 1). It lags behind by
            `smoothing / (1 - smoothing)` steps, and so do the rates that are found.
        diverge: How many times the lowest running mean is too much, greater than 1.
        seeds: One run for each of these integers of 0 or more, which shuffle the data; the losses
            are averaged.
        verbose: 1 for a progress bar, 0 for silence.

    Raises:
        TypeError: If an argument is of the wrong type, such as data that can be read only once.
        ValueError: If a number is out of its range, there are no data, or `model` is not built or
            not compiled, or several processes train it by TensorFlow.

    Example:
        >>> found = keras_optkit.diagnostics.find_learning_rate(model, (x, y), verbose=0)
        >>> axes = found.plot()
        >>> found.suggestion > 0
        True

    Reference:
        [Smith, 2015](https://arxiv.org/abs/1506.01186), section 3.3, with rates that grow
        exponentially. `lr_find` of fastai and of Lightning, which smooth by 0.98 and so find
        higher rates; fastai's `valley` and `minimum` are here too.
    """
    _check.instance("model", model, keras.Model, "a keras.Model")
    low = _check.in_range("low", low, 0, closed="neither")
    high = _check.in_range("high", high, low, closed="neither")
    steps = _check.integer("steps", steps, low=10)
    _check.integer("batch_size", batch_size, low=1)
    smoothing = _check.in_range("smoothing", smoothing, 0, 1, closed="left")
    diverge = _check.in_range("diverge", diverge, 1, closed="neither")
    _check.one_of("verbose", verbose, (0, 1))
    seeds = _seeds(seeds)
    _check_model(model)
    batches = source(data, batch_size)

    rates = np.geomspace(low, high, steps)
    bar = keras.utils.Progbar(None, unit_name="batch", verbose=verbose)
    losses, stopped = [], []
    with _random_state.kept(), borrowed(model) as put_back:
        sweep = Sweep(model, rates, smoothing, diverge, lambda: bar.add(1))
        with sweep.followed():
            for seed in seeds:
                sweep.begin()
                model.fit(
                    batches(seed),
                    steps_per_epoch=sweep.batches,
                    shuffle=False,  # `batches` does
                    # Such a list comes with neither a History nor a progress bar.
                    callbacks=keras.callbacks.CallbackList([sweep], model=model),
                )
                losses.append(sweep.losses[:steps])
                stopped.append(rates[len(losses[-1]) - 1] if sweep.diverged else np.nan)
                put_back()
    reached = max(map(len, losses))
    padded = [run + [np.nan] * (reached - len(run)) for run in losses]
    return LearningRateRange(rates[:reached], np.array(padded), smoothing, np.array(stopped))


def _seeds(seeds: Any) -> tuple[int, ...]:
    if isinstance(seeds, str) or not isinstance(seeds, Sequence) or not seeds:
        raise TypeError(
            f"`seeds` must be one or more integers, as in (0,). {_check.received('seeds', seeds)}"
        )
    return tuple(_check.integer(f"seeds[{i}]", seed, low=0) for i, seed in enumerate(seeds))


def _check_model(model: keras.Model) -> None:
    if not model.built:
        raise ValueError(
            "`model` must be built; call it once, as in `model(x[:1])`, or give it an Input. "
            f"Received: model={model.name!r}, which has no weights yet"
        )
    if not model.compiled or getattr(model, "optimizer", None) is None:
        raise ValueError(
            "`model` must be compiled with an optimizer: call `model.compile(optimizer=..., "
            f"loss=...)` first. Received: model={model.name!r}, which is not"
        )
    if keras.backend.backend() == "tensorflow" and (count := _processes.place(model)[1]) > 1:
        raise ValueError(
            "`model` must be of one process on TensorFlow, where batches would get lost between "
            "several. Find the rate before they start, without a strategy, with batches of as "
            f"many samples as all of them take together. Received: model={model.name!r}, which "
            f"{count} processes train"
        )
