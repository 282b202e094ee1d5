"""The Fisher information of a model's weights."""

from typing import Any, Literal

import keras
import numpy as np

from keras_optkit import _check
from keras_optkit.continual._fisher import LABELS, Fisher
from keras_optkit.diagnostics._whole import whole
from keras_optkit.optimizers._problem import check_data, check_loss

Labels = Literal["exact", "sampled", "empirical"]


def fisher_diagonal(
    model: keras.Model,
    x: Any,
    y: Any = None,
    labels: Labels = "exact",
    *,
    loss: Any = None,
    n_samples: int | None = None,
    batch_size: int = 128,
    seed: int = 0,
    verbose: int = 1,
) -> list[np.ndarray]:
    """Measures how much each weight matters to what a model has learned.

    It is the diagonal of the Fisher information: the mean over samples of the squared gradient of
    each one's loss, `loss = -log p(y | x, w)`. A change `d` of the weights changes the predicted
    distributions by about `sum F d^2 / 2`, in nats, which is why EWC holds weights in its
    proportion. The labels may be

    ```text
    exact      F = mean over x of sum over y of p(y | x, w) (grad log p(y | x, w))^2
    sampled    one y for each x, drawn from p(y | x, w); right in the mean, and cheaper
    empirical  the y given with x
    ```

    `exact` takes as many backward passes for a sample as the model has outputs. The squared
    gradient of a batch's mean loss, which some libraries use, is another quantity, smaller by
    about the size of the batch. Layers run as in inference, penalties of the model do not count,
    and models under a mixed policy are computed in float32. The model is left as it is: weights,
    statistics and seeds.

    If the loss is a mean over several outputs, such as the positions of a sequence, so is `F`. A
    mean squared error over `N` outputs is that of normally distributed targets of variance `N / 2`.
    With `MaskedCrossentropy`, `p` is over the classes that compete with the label given with `x`.

    Samples are differentiated one by one in a compiled loop, which works for every layer; all of a
    batch at once where they can be mapped; and in closed form, several times to tens of times as
    fast, where only `Dense` layers are trained, in a graph of Keras' own layers.

    Processes that train one model together all call this, each with its share of the data; they
    get the mean over the samples of all, and draw other random numbers.

    Args:
        model: A built model. Its optimizer is not used, so `loss` can replace `compile`.
        x: Inputs as an array, or a list or dict of arrays; or a `PyDataset`, a `tf.data.Dataset`
            or another finite source of batches with targets, which is read once.
        y: Targets, which only `labels="empirical"` and the loss `MaskedCrossentropy` need.
        labels: `"exact"`, `"sampled"` or `"empirical"`.
        loss: A loss, its name, or a function of `y_true` and `y_pred`, in place of the compiled
            one.
        n_samples: Samples to use at most, in all processes together, chosen at random; None for
            all.
        batch_size: Samples to take at a time, 1 or more; the result does not depend on it.
        seed: Of the random choice of samples and labels, 0 or more.
        verbose: 1 for a progress bar, 0 for silence.

    Returns:
        One float64 array for each of `model.trainable_variables`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `model` is not built, has no loss or nothing to train; if `labels` need a
            likelihood and that of the loss is not known; or if a gradient is not finite.

    Example:
        >>> fisher = keras_optkit.continual.fisher_diagonal(model, x, verbose=0)
        >>> [f.shape for f in fisher]
        [(4, 1), (1,)]

    Reference:
        [Kirkpatrick et al., 2017](https://arxiv.org/abs/1612.00796), equation 3;
        [Kunstner et al., 2019](https://arxiv.org/abs/1905.12558) on what labels do.
        [van de Ven, 2025](https://arxiv.org/abs/2502.11756) compares them in EWC.
    """
    check_loss(model, loss, "to differentiate")
    check_options(labels, n_samples, batch_size, seed, verbose)
    x, y = samples(x, y, labels)
    fisher = Fisher(model, labels, model if loss is None else loss)
    return fisher(x, y, n_samples, batch_size, seed, verbose)


def check_options(labels, n_samples, batch_size, seed, verbose) -> None:
    """Refuses what `fisher_diagonal` does not take."""
    _check.one_of("labels", labels, LABELS)
    if n_samples is not None:
        _check.integer("n_samples", n_samples, low=1)
    _check.integer("batch_size", batch_size, low=1)
    _check.integer("seed", seed, low=0)
    _check.one_of("verbose", verbose, (0, 1))


def samples(x: Any, y: Any, labels: str) -> tuple[Any, Any]:
    """Returns inputs and targets as arrays, from arrays or whatever yields batches."""
    if y is None and not hasattr(x, "shape") and not isinstance(x, (list, tuple, dict)):
        x, y, *_ = whole(x)
    check_data(x, y, None)
    if y is None and labels == "empirical":
        raise ValueError('`y` must be given for labels="empirical". Received: y=None')
    return x, y
