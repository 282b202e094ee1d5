"""Activation functions: which LiteRT runs in int8, and how."""

from keras import activations

# Part of the operation before: they cost nothing, and nothing is rounded in between.
FUSED = ("linear", "relu", "relu6")
# Their own kernels, in which the output has a fixed range.
FIXED = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}
OTHERS = ("leaky_relu", "silu", "hard_silu")


def name_of(activation) -> str:
    """Returns the name of an activation function, the same for all spellings of one."""
    if activation is None:
        return "linear"
    return getattr(activation, "__name__", type(activation).__name__)


def fuses(activation) -> bool:
    """Tells whether nothing is rounded before this activation."""
    return name_of(activation) in FUSED


def supported(activation) -> bool:
    """Tells whether LiteRT has an activation in int8, as Keras' own function of that name."""
    name = name_of(activation)
    known = name in (*FUSED, *FIXED, *OTHERS)
    return known and (activation is None or activation is activations.get(name))
