"""How sharp a minimum can be for an optimizer to stay in it."""

import keras
from keras import ops

from keras_optkit.callbacks._transparent import Transparent
from keras_optkit.optimizers._model_wrapper import ModelWrapper
from keras_optkit.optimizers.averaged import Averaged
from keras_optkit.optimizers.skip_non_finite import SkipNonFinite

# They hand on the gradients, and leave the path of the weights as it is.
FAITHFUL = (Transparent, keras.optimizers.LossScaleOptimizer, Averaged, SkipNonFinite)


def stability_limit(model: keras.Model) -> float | None:
    """Returns the sharpness above which gradient descent diverges on a quadratic, if it is known.

    It is known for `keras.optimizers.SGD`. With momentum `beta`, the iteration along an
    eigenvector of the Hessian has its eigenvalues inside the unit circle below

    ```text
    2 (1 + beta) / learning_rate    or, with nesterov, 2 (1 + beta) / (learning_rate (1 + 2 beta))
    ```
    """
    optimizer = model.optimizer
    while isinstance(optimizer, FAITHFUL):
        optimizer = optimizer.inner_optimizer
    plain = isinstance(optimizer, keras.optimizers.SGD)
    # On torch `keras.optimizers.SGD()` is a subclass; those of users may do anything.
    ours = type(optimizer).__module__.partition(".")[0] == "keras"
    if not (plain and ours) or isinstance(model, ModelWrapper):
        return None
    rate = float(ops.convert_to_numpy(optimizer.learning_rate))
    if rate <= 0:
        return None
    beta = float(optimizer.momentum)
    return 2 * (1 + beta) / (rate * (1 + 2 * beta if optimizer.nesterov else 1))
