"""What each kind of layer and operation does to channels.

A rule takes the `Trace`, a `Call` and the `Labels` of its inputs, tells the trace which weights
and arguments the channels touch, and returns the labels of what comes out.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_optkit.compression.channels._rules._operations import OPERATIONS
from keras_optkit.compression.channels._rules._pointwise import POINTWISE
from keras_optkit.compression.channels._rules._shapes import SHAPES
from keras_optkit.compression.channels._rules._weighted import WEIGHTED

LAYERS: dict[type, Callable[..., Any]] = {**WEIGHTED, **POINTWISE, **SHAPES}


def rule_for(operation: keras.Operation) -> Callable[..., Any]:
    """Returns the rule of a layer or of an operation of `keras.ops`.

    It goes by the very class: a subclass may do anything in its `call`.
    """
    kind: type = type(operation)
    if kind in LAYERS:
        return LAYERS[kind]
    # `keras.ops` has functions in public; their classes are told by name.
    if not isinstance(operation, keras.layers.Layer) and kind.__module__.startswith("keras.src"):
        return OPERATIONS.get(kind.__name__, _unknown)
    return _unknown


def _unknown(trace, call, labels):
    return trace.unknown(call, labels)
