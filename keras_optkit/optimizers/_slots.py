"""State variables of optimizers."""

from typing import Any

import keras
from keras import ops
from keras.distribution import TensorLayout

from keras_optkit import _backend, _match


def working_dtype(variable) -> str:
    """Returns the dtype to compute in: that of `variable`, but never less than float32.

    In bfloat16 `0.999` is `1.0`, so `1 - beta_2**t` is 0 and Adam's step with it.
    """
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def add_slot(optimizer, variable, name: str, shape=None, dtype=None, start=0):
    """Adds a state variable for `variable`, filled with `start`: shaped and placed like it.

    Or of another shape, and then whole on every device. By default in the dtype to compute in.

    To start it at the weight's value, assign a copy in the first step: TensorFlow calls `build`
    while tracing and would drop an assignment there, and weights may be set after it.
    """
    shape = tuple(variable.shape if shape is None else shape)
    layout = layout_of(variable)
    if isinstance(layout, TensorLayout) and shape != tuple(variable.shape):
        # Said, or a `LayoutMap` might take the slot, by its path, for the weight.
        layout = TensorLayout((None,) * len(shape), layout.device_mesh)
    return optimizer.add_variable(
        shape=shape,
        initializer=keras.initializers.Constant(start) if start else "zeros",
        dtype=dtype or working_dtype(variable),
        layout=layout,
        name=f"{_match.path(variable).replace('/', '_').replace(':', '_')}_{name}",
    )


def layout_of(variable) -> Any:
    """Returns how `variable` is spread over devices, or None where there are no layouts."""
    return getattr(variable, "_layout", None)


def lay_out(variable, layout: Any) -> None:
    """Spreads `variable` over devices, if there is a layout."""
    if layout is not None:
        variable._layout = layout
        variable.assign(read(variable))


def read(variable, dtype: str | None = None):
    """Returns `variable`, or a tensor as it is, as a tensor: not all of `ops` take variables."""
    tensor = _backend.read(variable) if isinstance(variable, keras.Variable) else variable
    return tensor if dtype is None else ops.cast(tensor, dtype)


def copy(variable):
    """Returns the value of `variable` in memory of its own, since JAX donates buffers."""
    return ops.copy(read(variable, working_dtype(variable)))
