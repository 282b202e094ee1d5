"""The same model with fewer channels."""

from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_optkit import _check
from keras_optkit.compression._graph import replay
from keras_optkit.compression.channels._trace import Trace


class Rebuild:
    """Makes models anew; a layer or a nested model that is used twice is made once.

    Args:
        trace: The trace of the model.
        mask: For each channel whether it stays.
    """

    def __init__(self, trace: Trace, mask: np.ndarray):
        self.trace, self.mask = trace, mask
        self._made: dict[int, tuple[Any, Any]] = {}

    def __call__(self) -> keras.Model:
        """Returns the new model, with its part of the weights."""
        model = self._model(self.trace.model)
        for old, new in self._made.values():
            if not isinstance(old, keras.Model):
                self._copy(old, new)
        return model

    def _model(self, model: Any) -> keras.Model:
        if isinstance(model, keras.Sequential):
            tensor = model.inputs[0]
            name = tensor._keras_history.operation.name
            start = keras.Input(batch_shape=self._shape(tensor), dtype=tensor.dtype, name=name)
            new = keras.Sequential([start, *map(self._layer, model.layers)], name=model.name)
        else:
            new = replay(model, self._run, self.trace.what, shape=self._shape)
        if not model.trainable:
            new.trainable = False
        return new

    def _run(self, call, args, kwargs):
        operation = call.operation
        if isinstance(operation, keras.layers.Layer):
            return self._layer(operation)(*args, **kwargs)
        settings = self.trace.settings.get(id(operation))
        if settings:  # a reshape
            return ops.reshape(*args, newshape=self._changed({}, operation, settings)["newshape"])
        return operation(*args, **kwargs)

    def _layer(self, layer: Any) -> Any:
        if id(layer) not in self._made:
            nested = id(layer) in self.trace.nested
            self._made[id(layer)] = (layer, self._model(layer) if nested else self._clone(layer))
        return self._made[id(layer)][1]

    def _clone(self, layer: Any) -> Any:
        settings = self.trace.settings.get(id(layer), {})
        if type(layer) is keras.layers.Lambda:
            return _lambda(layer)
        try:
            config = layer.get_config()
            return type(layer).from_config(self._changed(config, layer, settings))
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                "prune_channels makes each layer anew from its config, and "
                f"{self.trace.path(layer)!r} cannot be made from its own. Give its class a "
                "`get_config` that returns all arguments of the constructor. "
                f"{_check.received('layer', layer)}"
            ) from error

    def _changed(self, config: dict, operation, settings) -> dict:
        for (name, position), ids in settings.items():
            count = int(self.mask[ids].sum())
            if position is None:
                config[name] = count
            else:
                values = list(config.get(name, getattr(operation, name)))
                values[position] = count
                config[name] = tuple(values)
        return config

    def _shape(self, tensor) -> tuple:
        shape, labels = list(tensor.shape), self.trace.inputs[id(tensor)]
        if len(labels.ids):
            shape[labels.axis] = int(self.mask[labels.ids].sum())
        return tuple(shape)

    def _copy(self, old, new) -> None:
        for source, target in zip(old.weights, new.weights, strict=True):
            value = ops.convert_to_numpy(source)
            found = self.trace.slices.get(id(source))
            for axis, ids in found.axes.items() if found else ():
                value = np.compress(self.mask[ids], value, axis=axis)
            target.assign(value)


def _lambda(layer: Any) -> Any:
    """Returns a new Lambda of the same functions.

    A config holds their code without what it refers to, and Keras does not load code unasked.
    """
    functions = layer.function, layer._output_shape, layer.mask, layer.arguments
    return keras.layers.Lambda(*functions, **keras.layers.Layer.get_config(layer))


def compile_like(model: keras.Model, new: Any) -> None:
    """Compiles `new` as `model` is compiled, with an optimizer and metrics of its own."""
    if not getattr(model, "compiled", False):
        return
    optimizer: Any = model.optimizer
    # What Keras keeps to write into the file; losses and metrics as they were given.
    arguments = dict(model._compile_config.config)
    for name in ("metrics", "weighted_metrics"):
        arguments[name] = tree.map_structure(_anew, arguments.get(name))
    arguments["optimizer"] = type(optimizer).from_config(optimizer.get_config())
    new.compile(**arguments)


def _anew(metric):
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric
