"""The loss that a diagnosis looks at: of a model, on data that stay."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit import _check
from keras_optkit.diagnostics._whole import whole
from keras_optkit.optimizers._objective import Objective
from keras_optkit.optimizers._precision import HALF
from keras_optkit.optimizers._problem import check_data, check_loss, check_start


def fixed_loss(
    model: keras.Model, data: Any, loss: Any, batch_size: int | None, training: bool
) -> Objective:
    """Returns the loss as a function of the weights, after all checks of the arguments."""
    _check.flag("training", training)
    if batch_size is not None:
        _check.integer("batch_size", batch_size, low=1)
    check_loss(model, loss, "to look at")
    low = [v.path for v in model.trainable_variables if v.dtype in HALF]
    if low:
        raise ValueError(
            "`model` must keep its weights in float32: what happens between two numbers in half "
            "precision cannot be seen. A mixed policy, such as "
            '`keras.config.set_dtype_policy("mixed_bfloat16")`, keeps them so. Received: half '
            f"precision in {', '.join(low[:8])}"
        )
    x, y, sample_weight, size = whole(data)
    check_data(x, y, sample_weight)
    size = size if batch_size is None else batch_size
    return Objective(model, x, y, sample_weight, loss, size, training)


class Curvature:
    """The Hessian at the weights the model has when this is made, times NumPy vectors.

    Args:
        objective: The loss.
        told: Called after each product with the number of them so far.
    """

    def __init__(self, objective: Objective, told=lambda products: None):
        self.objective = objective
        self.products = 0
        self._told = told
        self._x = objective.start()
        self.loss = objective.value(self._x)
        if math.isfinite(self.loss):
            check_start(objective, self.loss, 0.0, objective.value(self._x))
        self.dtype = np.dtype(keras.backend.standardize_dtype(self._x.dtype))
        self.size = int(self._x.shape[0])

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        vector = ops.convert_to_tensor(vector.astype(self.dtype))
        result = ops.convert_to_numpy(self.objective.product(self._x, vector))
        if not np.isfinite(result).all():
            raise NotFiniteError(
                "The second derivatives of the loss must be finite at the weights of the model. "
                f"Received: a loss of {self.loss:.6g}, and a Hessian that is not finite; look for "
                "`sqrt`, `norm` or `log` of what can be 0"
            )
        self.products += 1
        self._told(self.products)
        return result


class NotFiniteError(ValueError):
    """There is no Hessian."""
