"""From Keras 3 to tf_keras."""

import re
from typing import Any

import keras
from keras import tree

from keras_optkit.compression import _graph
from keras_optkit.compression._models import keras_model
from keras_optkit.compression.tfmot._calls import needed
from keras_optkit.compression.tfmot._configs import Untranslatable
from keras_optkit.compression.tfmot._imports import tf_keras
from keras_optkit.compression.tfmot._layers import twin
from keras_optkit.compression.tfmot._operations import operation_layer
from keras_optkit.compression.tfmot.copy_weights import copy_weights

WHAT = "to_tf_keras"
NAMES = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")  # that tf_keras takes for scopes


def to_tf_keras(model: keras.Model) -> Any:
    """Makes a tf_keras model of the same graph, weights and outputs.

    TF-MOT, and much else from before Keras 3, works on models of Keras 2, which live on in the
    package tf_keras. This rebuilds a Functional or Sequential model there, layer by layer from
    their configs, and copies the weights through NumPy, so the backend of Keras may be any;
    TensorFlow must be installed. Nested models, shared layers, masks, several or named inputs and
    outputs, and common functions of `keras.ops` come along; what has no counterpart is refused.

    Args:
        model: A built Functional or Sequential model. It stays as it is.

    Returns:
        A `tf_keras.Model`, not compiled; a `tf_keras.Sequential` for a Sequential.

    Raises:
        ValueError: If the model has no graph or is not built, or if anything in it has no
            counterpart in tf_keras: all layers and arguments are named at once.
        ImportError: If TensorFlow or tf_keras is missing.

    Example:
        ```python
        from keras_optkit.compression import tfmot

        tf_model = tfmot.to_tf_keras(model)
        tf_model.compile("adam", "mse")
        ```
    """
    _graph.functional(keras_model(model, WHAT), WHAT)
    translation = _Translation()
    result = translation.model(model)
    if translation.problems:
        listed = "\n  ".join(dict.fromkeys(translation.problems))
        raise ValueError(
            f"{WHAT} cannot express all of model {model.name!r} in tf_keras:\n  {listed}\n"
            "Replace these layers, or use the compression that needs no tf_keras: `Pruned` and "
            "`quantize_model` in keras_optkit.compression."
        )
    copy_weights(model, result)
    return result


class _Translation:
    """The layers made so far, by the layer that each is for, and what went wrong."""

    def __init__(self):
        self.layers: dict[int, Any] = {}
        self.problems: list[str] = []

    def model(self, model: Any) -> Any:
        """Returns the twin of a model, or None after a problem."""
        if isinstance(model, keras.Sequential):
            return self._sequential(model)
        inside = _graph.functional(model, WHAT)
        inputs = tree.map_structure(_input, inside._inputs_struct)
        known = dict(zip(map(id, inside.inputs), tree.flatten(inputs), strict=True))
        for call in needed(model, WHAT, self.problems):
            outputs = self._call(call, known)
            if outputs is not None:
                known |= dict(zip(map(id, call.outputs), outputs, strict=True))
        outputs = tree.map_structure(lambda x: known.get(id(x)), inside._outputs_struct)
        return None if self.problems else tf_keras().Model(inputs, outputs, name=model.name)

    def _sequential(self, model: Any) -> Any:
        tensor = _graph.functional(model, WHAT).inputs[0]
        layers = [self._layer(layer) for layer in model.layers]
        if self.problems:
            return None
        first = tf_keras().layers.InputLayer(
            batch_input_shape=tensor.shape, dtype=tensor.dtype, name=_name(tensor)
        )
        return tf_keras().Sequential([first, *layers], name=model.name)

    def _call(self, call: _graph.Call, known: dict[int, Any]) -> list | None:
        """Returns the outputs of a call in tf_keras, or None after a problem."""
        try:
            if isinstance(call.operation, keras.layers.Layer):
                layer, args, kwargs = self._layer(call.operation), call.args, call.kwargs
            else:
                _check_name(call.operation)
                layer, tensors = operation_layer(call)
                args, kwargs = (tensors if len(tensors) > 1 else tensors[0],), {}
        except Untranslatable as problem:
            self.problems.append(_told(call.operation, problem))
            return None
        if self.problems:
            return None

        def new(value):
            return known[id(value)] if isinstance(value, keras.KerasTensor) else value

        args, kwargs = tree.map_structure(new, (args, kwargs))
        return tree.flatten(layer(*args, **kwargs))

    def _layer(self, layer: keras.layers.Layer) -> Any:
        if id(layer) not in self.layers:
            try:
                _check_name(layer)
                made = self.model(layer) if isinstance(layer, keras.Model) else twin(layer)
            except Untranslatable as problem:
                self.problems.append(_told(layer, problem))
                made = None
            except (TypeError, ValueError) as error:  # a value that tf_keras does not take
                self.problems.append(_told(layer, Untranslatable(f"tf_keras refuses it: {error}")))
                made = None
            self.layers[id(layer)] = made
        return self.layers[id(layer)]


def _input(tensor: keras.KerasTensor) -> Any:
    return tf_keras().Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=_name(tensor))


def _name(tensor: keras.KerasTensor) -> str:
    return tensor._keras_history.operation.name


def _check_name(operation: keras.Operation) -> None:
    if not NAMES.fullmatch(operation.name):
        raise Untranslatable(
            "tf_keras takes no such name; letters, digits and _.-/> are allowed, and it must not "
            "begin with an underscore"
        )


def _told(operation: keras.Operation, problem: Exception) -> str:
    return f"{type(operation).__name__} {operation.name!r}: {problem}"
