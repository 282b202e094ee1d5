"""Layer-sequential unit variance."""

import keras
import numpy as np
from keras import ops

from keras_optkit.diagnostics._activations import activations
from keras_optkit.diagnostics._tapped import kernel_of

TOLERANCE = 0.01  # of a variance of 1; the paper's 0.1 leaves as much to the layers behind
TRIALS = 10


def rescaled(model: keras.Model, batch: tuple, training: bool) -> dict[str, float]:
    """Gives each layer with a kernel a variance of 1 before its activation, in order.

    Returns:
        What each kernel was multiplied by, under the names of layers.

    Args:
        model: A built model.
        batch: `x, y, sample_weight`, of which the inputs are used.
        training: Whether layers run as in training.
    """
    inputs = (batch[0], None, None)
    order = [one.layer for one in activations(model, inputs, training) if one.before is not None]
    factors: dict[str, float] = {}
    for layer in dict.fromkeys(order):
        kernel = kernel_of(layer)
        factor = 1.0
        for _ in range(TRIALS):  # one is enough but for biases and normalization
            found = activations(model, inputs, training)
            before = next(one.before for one in found if one.layer is layer)
            deviation = 0.0 if before is None else float(np.std(before))
            if not (0 < deviation < np.inf):
                raise ValueError(
                    "`rescale` needs activations that differ and are finite; initialize with "
                    "random weights, and look at the batch. Received: activations of "
                    f"{layer.name!r} with a standard deviation of {deviation:.3g}"
                )
            if abs(deviation**2 - 1) < TOLERANCE:
                break
            kernel.assign(ops.convert_to_numpy(kernel) / deviation)
            factor /= deviation
        factors[layer.name] = factor
    return factors
