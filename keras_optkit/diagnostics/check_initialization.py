"""Whether a model starts out with activations and gradients of a sensible size."""

import collections
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_optkit import _check
from keras_optkit.diagnostics import _random_state
from keras_optkit.diagnostics._activations import Activation, activations
from keras_optkit.diagnostics._initialization import Initialization, InitializationRow
from keras_optkit.diagnostics._rescale import rescaled
from keras_optkit.diagnostics._tapped import kernel_of
from keras_optkit.optimizers._problem import check_data

RELUS = ("relu", "elu", "gelu", "silu", "swish", "mish", "celu", "glu")


def check_initialization(
    model: keras.Model, batch: Any, *, rescale: bool = False, training: bool = False
) -> Initialization:
    """Measures the size of activations and gradients in each layer of a fresh model.

    Where it grows or shrinks from layer to layer, a deep network does not learn. In a wide layer
    of `n` inputs `a`, with random weights of variance `v`, and gradients going back to them from
    `m` units:

    ```text
    Var(z) = n v E[a^2]      Var(dL/da) = m v Var(dL/dz)
    ```

    so `v = 1 / n` keeps the size of linear layers, and `v = 2 / n` of relu, which halves `E[a^2]`.
    A variance that changes a hundredfold from the first hidden layer to the last is too much, of
    gradients ten-thousandfold; and of constant weights the units never come to differ. The report
    names the initializer that fits the activations.

    The model is left as it is, but for `rescale=True`: that divides the kernel of each layer in
    turn by the standard deviation of what the layer gives to its activation, until this is 1.

    Args:
        model: A built model; compiled, to measure gradients. Layers inside of recurrent ones, of
            `TimeDistributed` and the like are not looked at one by one.
        batch: Inputs as an array or a dict of arrays, or `(x,)`; with `(x, y)` or
            `(x, y, sample_weight)` gradients are measured too.
        rescale: Change the weights. The report is of the model as it is then.
        training: Run layers as in training. As `False`, BatchNormalization uses its moving
            statistics, 0 and 1 in a fresh model, and so normalizes nothing.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `model` is not built, or there are targets and it is not compiled; if
            `rescale` meets a layer whose outputs are all the same.

    Example:
        >>> report = keras_optkit.diagnostics.check_initialization(model, (x, y))
        >>> report.verdict
        []

    Reference:
        [Glorot and Bengio, 2010](https://proceedings.mlr.press/v9/glorot10a.html), equations 5
        and 6, also for sigmoid; [He et al., 2015](https://arxiv.org/abs/1502.01852), equation 7.
        [Mishkin and Matas, 2015](https://arxiv.org/abs/1511.06422), algorithm 1, for `rescale`,
        which does not make weights orthonormal before.
    """
    _check.instance("model", model, keras.Model, "a keras.Model")
    _check.flag("rescale", rescale)
    _check.flag("training", training)
    if not model.built:
        raise ValueError(
            "`model` must be built; call it once, as in `model(x[:1])`, or give it an Input. "
            f"Received: model={model.name!r}, which has no weights yet"
        )
    given = _batch(batch)
    if given[1] is not None and not model.compiled:
        raise ValueError(
            "Gradients need a loss: call `model.compile(loss=...)`, or leave the targets out, as "
            f"in `(x,)`. Received: model={model.name!r}, which is not compiled"
        )
    with _random_state.kept():
        factors = rescaled(model, given, training) if rescale else {}
        found = activations(model, given, training)
    if not found:
        raise ValueError(
            "`model` must be made of Keras layers whose outputs are floating-point numbers. "
            f"Received: model={model.name!r}, which ran none"
        )
    calls = collections.Counter(id(activation.layer) for activation in found)
    count: collections.Counter = collections.Counter()
    rows = []
    for i, one in enumerate(found):
        count[id(one.layer)] += 1
        again = f" (call {count[id(one.layer)]})" if calls[id(one.layer)] > 1 else ""
        rows.append(_row(one, again, _activation(found, i)))
    return Initialization(rows, factors)


def _row(one: Activation, again: str, activation: str) -> InitializationRow:
    kernel = kernel_of(one.layer)
    weights = None if kernel is None else ops.convert_to_numpy(kernel)
    return InitializationRow(
        layer=one.layer.name + again,
        mean=float(one.output.mean()),
        std=float(one.output.std()),
        zeros=float(np.mean(one.output == 0)),
        before=None if one.before is None else float(one.before.std()),
        gradient=None if one.gradient is None else float(one.gradient.std()),
        constant=weights is not None and weights.size > 1 and bool(np.ptp(weights) == 0),
        activation=activation,
    )


def _activation(found: list[Activation], place: int) -> str:
    """Returns the kind of the first activation in the layer or in those up to the next kernel."""
    for i, one in enumerate(found[place:]):
        if i and one.before is not None:
            break
        function = getattr(one.layer, "activation", None) or one.layer
        name = getattr(function, "__name__", type(function).__name__).lower().replace("_", "")
        for kind in ("selu", "sigmoid"):
            if kind in name:
                return kind
        if any(kind in name for kind in RELUS):
            return "relu"
    return "tanh"


def _batch(batch: Any) -> tuple:
    if isinstance(batch, (tuple, list)):
        if not 1 <= len(batch) <= 3:
            raise ValueError(
                "`batch` must be inputs, `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Received: a "
                f"{type(batch).__name__} of {len(batch)}"
            )
        given = keras.utils.unpack_x_y_sample_weight(tuple(batch))
    else:
        given = batch, None, None
    check_data(*given)
    return tree.map_structure(
        lambda leaf: None if leaf is None else ops.convert_to_tensor(leaf),
        tuple(given),
        none_is_leaf=True,
    )
