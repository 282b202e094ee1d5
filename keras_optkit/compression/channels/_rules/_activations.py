"""Which activations act on each entry alone."""

import keras
from keras import activations, layers

NAMES = (
    "celu",
    "elu",
    "exponential",
    "gelu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "tanh",
    "tanh_shrink",
    "threshold",
)
FUNCTIONS = [getattr(activations, name) for name in NAMES if hasattr(activations, name)]
LAYERS = (layers.ReLU, layers.LeakyReLU, layers.ELU)


def elementwise(activation) -> bool:
    """Tells whether an activation is known to act on each entry alone."""
    if isinstance(activation, keras.layers.Activation):
        activation = activation.activation
    return activation is None or activation in FUNCTIONS or type(activation) in LAYERS
