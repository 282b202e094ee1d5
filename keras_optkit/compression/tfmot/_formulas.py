"""The functions of `keras.ops` in TensorFlow's words."""

import functools
from collections.abc import Callable
from typing import Any

from keras_optkit.compression.tfmot._activations import own

# Each takes the settings of the operation, then the arguments of its call.
Formula = Callable[..., Any]


@functools.cache
def formulas() -> dict[str, Formula]:
    """Returns the functions by class name of the operation."""
    return _elementwise() | _comparisons() | _reductions() | _shapes() | _products()


def _elementwise() -> dict[str, Formula]:
    import tensorflow as tf

    def casting(function):  # Keras promotes dtypes; TensorFlow refuses to mix them.
        return lambda s, *args: function(*(tf.cast(x, s["to"]) for x in args))

    binary = {
        "Add": tf.add,
        "Subtract": tf.subtract,
        "Multiply": tf.multiply,
        "Divide": tf.divide,
        "TrueDivide": tf.divide,
        "FloorDivide": tf.math.floordiv,
        "Mod": tf.math.floormod,
        "Power": tf.pow,
        "Maximum": tf.maximum,
        "Minimum": tf.minimum,
    }
    alike = (
        *("Ceil", "Cos", "Erf", "Exp", "Expm1", "Floor", "Log", "Log1p", "Negative", "Reciprocal"),
        *("Round", "Rsqrt", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Square", "Tan", "Tanh"),
    )
    unary = {name: getattr(tf.math, name.lower()) for name in alike}
    unary |= {
        "Absolute": tf.abs,
        "Relu": tf.nn.relu,
        "Selu": tf.nn.selu,
        "Silu": tf.nn.silu,
        "Softsign": tf.nn.softsign,
    }
    unary |= {_class_name(name): function for name, function in own().items()}
    return {name: casting(function) for name, function in (binary | unary).items()} | {
        "Cast": lambda s, x: tf.cast(x, s["dtype"]),
        "Clip": lambda s, x: tf.clip_by_value(tf.cast(x, s["to"]), s["x_min"], s["x_max"]),
        "Celu": lambda s, x: (
            tf.maximum(x, 0) + s["alpha"] * tf.math.expm1(tf.minimum(x, 0) / s["alpha"])
        ),
        "Elu": lambda s, x: tf.where(x > 0, x, s["alpha"] * tf.math.expm1(tf.minimum(x, 0))),
        "Gelu": lambda s, x: tf.nn.gelu(x, approximate=s["approximate"]),
        "LeakyRelu": lambda s, x: tf.nn.leaky_relu(x, s["negative_slope"]),
        "LogSoftmax": lambda s, x: tf.nn.log_softmax(x, axis=s["axis"]),
        "OnesLike": lambda s, x: tf.ones_like(x, dtype=s["to"]),
        "Softmax": lambda s, x: tf.nn.softmax(x, axis=s["axis"]),
        "StopGradient": lambda s, variable: tf.stop_gradient(variable),
        "ZerosLike": lambda s, x: tf.zeros_like(x, dtype=s["to"]),
    }


def _comparisons() -> dict[str, Formula]:
    import tensorflow as tf

    def alike(function):
        return lambda s, *args: function(*(tf.cast(x, s["common"]) for x in args))

    def logical(function):
        return lambda s, *args: function(*(tf.cast(x, "bool") for x in args))

    return {
        "Equal": alike(tf.equal),
        "NotEqual": alike(tf.not_equal),
        "Greater": alike(tf.greater),
        "GreaterEqual": alike(tf.greater_equal),
        "Less": alike(tf.less),
        "LessEqual": alike(tf.less_equal),
        "LogicalAnd": logical(tf.logical_and),
        "LogicalOr": logical(tf.logical_or),
        "LogicalNot": logical(tf.logical_not),
        "Where": lambda s, condition, x1, x2: tf.where(
            tf.cast(condition, "bool"), tf.cast(x1, s["to"]), tf.cast(x2, s["to"])
        ),
    }


def _reductions() -> dict[str, Formula]:
    import tensorflow as tf

    def over(function, dtype):
        return lambda s, x: function(
            tf.cast(x, dtype or s["to"]), axis=s["axis"], keepdims=s["keepdims"]
        )

    known = {"Mean": "mean", "Sum": "sum", "Prod": "prod", "Var": "variance", "Std": "std"}
    known |= {"Max": "max", "Min": "min", "Amax": "max", "Amin": "min"}
    reductions = {
        name: over(getattr(tf.math, f"reduce_{short}"), None) for name, short in known.items()
    }
    return reductions | {
        "Any": over(tf.reduce_any, "bool"),
        "All": over(tf.reduce_all, "bool"),
        "Logsumexp": over(tf.reduce_logsumexp, None),
    }


def _shapes() -> dict[str, Formula]:
    import tensorflow as tf

    def flip(s, x):
        axis = range(len(x.shape)) if s["axis"] is None else s["axis"]
        return tf.reverse(x, [axis] if isinstance(axis, int) else list(axis))

    def permuted(x, settings):
        order = list(range(len(x.shape)))
        a, b = settings["axis1"], settings["axis2"]
        order[a], order[b] = order[b], order[a]
        return tf.transpose(x, order)

    return {
        "Concatenate": lambda s, xs: tf.concat([tf.cast(x, s["to"]) for x in xs], s["axis"]),
        "ExpandDims": lambda s, x: tf.expand_dims(x, s["axis"]),
        "Flip": flip,
        "GetItem": lambda s, x, key: x[tuple(key) if isinstance(key, (list, tuple)) else key],
        "Repeat": lambda s, x: tf.repeat(x, s["repeats"], axis=s["axis"]),
        "Reshape": lambda s, x: tf.reshape(x, [-1 if n is None else n for n in s["newshape"]]),
        "Squeeze": lambda s, x: tf.squeeze(x, s["axis"]),
        "Stack": lambda s, xs: tf.stack([tf.cast(x, s["to"]) for x in xs], s["axis"]),
        "Swapaxes": lambda s, x: permuted(x, s),
        "Transpose": lambda s, x: tf.transpose(x, s["axes"]),
    }


def _products() -> dict[str, Formula]:
    import tensorflow as tf

    def cast(s, tensors):
        return [tf.cast(x, s["to"]) for x in tensors]

    return {
        "Einsum": lambda s, *xs: tf.einsum(s["subscripts"], *cast(s, xs)),
        "Matmul": lambda s, *xs: tf.matmul(*cast(s, xs)),
    }


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
