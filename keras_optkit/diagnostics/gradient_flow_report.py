"""How well gradients reach the layers of a model."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit import _check, _match
from keras_optkit.diagnostics import _random_state
from keras_optkit.diagnostics._fixed_loss import fixed_loss
from keras_optkit.diagnostics._gradient_flow import GradientFlow, GradientFlowRow


def gradient_flow_report(
    model: keras.Model,
    batch: Any,
    *,
    loss: Any = None,
    training: bool = True,
    vanishing: float = 1e-5,
    exploding: float = 1e3,
) -> GradientFlow:
    """Measures the gradient of each layer on one batch, and says what is wrong with it.

    To see at a glance why a deep network does not learn; `callbacks.GradientMonitor` does it while
    `fit` runs. With gradient `g` and weights `w` of a layer, all of its tensors together:

    ```text
    gradient_norm = |g|    weight_norm = |w|    ratio = |g| / |w|    share = |g| / max |g|
    ```

    The loss is that of training, penalties included; layers compute in float32, so without a loss
    scale. The model is left as it is: weights, moving statistics and random numbers.

    Args:
        model: A built model.
        batch: `(x, y)` or `(x, y, sample_weight)` of arrays; or a finite dataset of batches, all
            of which are read.
        loss: A loss, its name, or a function of `y_true` and `y_pred`, in place of the compiled
            one; penalties of the model are added to it.
        training: Run layers as in training, with Dropout and the statistics of this batch.
        vanishing: Share of the largest layer's gradient norm, in (0, 1), below which a gradient
            is tiny.
        exploding: Gradient norm, greater than 0, above which a layer is flagged.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a number is out of its range, or `model` is not built, has no loss, nothing
            to train, or weights in half precision.

    Example:
        >>> report = keras_optkit.diagnostics.gradient_flow_report(model, (x, y))
        >>> worst = min(report.rows, key=lambda row: row.gradient_norm).layer

    Reference:
        [Glorot and Bengio, 2010](https://proceedings.mlr.press/v9/glorot10a.html), section 4.2.
    """
    vanishing = _check.in_range("vanishing", vanishing, 0, 1, closed="neither")
    exploding = _check.in_range("exploding", exploding, 0, closed="neither")
    with _random_state.kept():
        objective = fixed_loss(model, batch, loss, None, training)
        start = objective.start()
        value, gradient, _, _ = objective(start, start)
        gradient = ops.convert_to_numpy(gradient).astype("float64")
        weights = ops.convert_to_numpy(start).astype("float64")
    squares: dict[str, np.ndarray] = {}
    position = 0
    for variable in objective.variables:
        part = slice(position, position := position + math.prod(variable.shape))
        both = np.array([np.sum(gradient[part] ** 2), np.sum(weights[part] ** 2)])
        path = _match.path(variable)
        layer = path.rpartition("/")[0] or path
        squares[layer] = squares.get(layer, 0) + both
    norms = {layer: np.sqrt(both).tolist() for layer, both in squares.items()}
    largest = max((g for g, _ in norms.values() if math.isfinite(g)), default=0.0)
    rows = [
        GradientFlowRow(layer, g, w, g / largest if largest else math.nan)
        for layer, (g, w) in norms.items()
    ]
    return GradientFlow(value, rows, vanishing, exploding)
