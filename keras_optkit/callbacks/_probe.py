"""A compiled forward pass over a probe that says how the layers' outputs lie."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit import _backend
from keras_optkit.callbacks._layer_outputs import (
    RELU,
    captured,
    limited_layers,
    limits,
    unit_axis,
)


class Probe:
    """Looks at the outputs of a model's layers on one batch; changes no statistics and no seeds.

    Args:
        model: A built model.
        inputs: What to call it with.
        margin: How near to a limit an output counts as saturated, as a share of the range.
    """

    def __init__(self, model: keras.Model, inputs: Any, margin: float):
        self.model, self.margin = model, margin
        self.inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
        self._mode = {"training": False} if model._call_has_training_arg else {}
        if not all(layer.built for layer in model._flatten_layers()):
            model(self.inputs, **self._mode)  # TensorFlow would build it in its first step
        self.watched = limited_layers(model)
        self.layers: list[str] = []
        self._variables = [*model.trainable_variables, *model.non_trainable_variables]
        self._compute = _backend.value(self._look, jit=keras.backend.backend() == "jax")

    def __call__(self) -> list[tuple[np.ndarray | None, float]]:
        """Returns, for each of `layers`, which units are 0 on all samples, and how many saturate.

        The first is None, or the second NaN, where the activation cannot.
        """
        values = [_backend.read(variable) for variable in self._variables]
        found = []
        for result in self._compute(values, self.inputs):
            array = keras.ops.convert_to_numpy(result)
            found.append((~array, np.nan) if array.ndim else (None, float(array)))
        return found

    def _look(self, values, inputs):
        mapping = list(zip(self._variables, values, strict=True))
        with captured(self.watched) as outputs, keras.StatelessScope(mapping):
            self.model(inputs, **self._mode)
        self.layers = list(outputs)
        return [self._result(self.watched[name], outs) for name, outs in outputs.items()]

    def _result(self, layer, outputs):
        low, high = limits(layer) or RELU
        if high is None:
            alive = [ops.any(ops.not_equal(o, 0), axis=_others(layer, o)) for o in outputs]
            return alive[0] if len(alive) == 1 else ops.any(ops.stack(alive), axis=0)
        near = (high - low) * self.margin
        shares = [
            ops.mean(ops.cast(ops.logical_or(o < low + near, o > high - near), "float32"))
            for o in outputs
        ]
        return sum(shares) / len(shares)


def _others(layer, output):
    rank = len(output.shape)
    return tuple(axis for axis in range(rank) if axis != unit_axis(layer, rank))
