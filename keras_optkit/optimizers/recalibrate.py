"""Statistics of BatchNormalization for weights that were never trained with."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit import _check


def recalibrate_batchnorm(model: keras.Model, data: Any, batch_size: int = 32) -> None:
    """Measures the statistics of all BatchNormalization layers anew, over `data`.

    A model holds moving averages of what its layers saw while training. Averaged weights make
    other activations, so evaluated with the old statistics they do badly. This runs `data`
    through the model once, in training mode, and gives each layer the mean over batches of what
    it sees. Nothing but those statistics changes.

    Args:
        model: A built model, holding the weights to evaluate: after `fit`, or after
            `optimizer.use_evaluation_weights()`.
        data: Inputs as an array or a list or dict of arrays, or an iterable of batches such as
            a `tf.data.Dataset` or a `keras.utils.PyDataset`: of inputs, or of tuples that begin
            with them. A few thousand examples are enough.
        batch_size: Examples in a batch, if `data` is arrays; as in training.

    Raises:
        ValueError: If `model` is not built, has no BatchNormalization layer that is trainable, or
            `data` is empty.

    Example:
        >>> network = [keras.layers.Dense(3), keras.layers.BatchNormalization()]
        >>> model = keras.Sequential([keras.layers.Input((4,)), *network])
        >>> keras_optkit.optimizers.recalibrate_batchnorm(model, x)

    Reference:
        [Izmailov et al., 2018](https://arxiv.org/abs/1803.05407), section 3.2;
        `torch.optim.swa_utils.update_bn`.
    """
    _check.instance("model", model, keras.Model, "a keras.Model")
    _check.integer("batch_size", batch_size, low=1)
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.built and layer.trainable
    ]
    if not layers:
        raise ValueError(
            "`model` must be built and have BatchNormalization layers that are trainable; without "
            f"them there is nothing to recalibrate. {_check.received('model', model.name)}"
        )
    state = [(v, ops.convert_to_numpy(v)) for v in model.non_trainable_variables]
    statistics = [v for layer in layers for v in (layer.moving_mean, layer.moving_variance)]
    momenta = [(layer, layer.momentum) for layer in layers]
    sums, count = [0.0] * len(statistics), 0
    try:
        for layer in layers:
            layer.momentum = 0.0  # leaves what a batch shows in the statistics
        for variable in statistics:
            variable.assign(ops.zeros(variable.shape))  # 0 times a NaN would be one
        for batch in _batches(data, batch_size):
            model(batch, training=True)
            sums = [s + ops.convert_to_numpy(v) for s, v in zip(sums, statistics, strict=True)]
            count += 1
        if count == 0:
            raise ValueError("`data` must hold at least one batch. Received: none")
        means = {id(v): s / count for v, s in zip(statistics, sums, strict=True)}
        state = [(v, means.get(id(v), old)) for v, old in state]
    finally:
        for layer, momentum in momenta:
            layer.momentum = momentum
        for variable, value in state:
            variable.assign(value)


def _batches(data, batch_size):
    """Yields the inputs of each batch."""
    arrays = keras.tree.flatten(data) if isinstance(data, (list, tuple, dict)) else [data]
    if all(hasattr(a, "shape") for a in arrays):
        length = min(len(a) for a in arrays)
        for start in range(0, length, batch_size):
            rows = slice(start, start + batch_size)
            yield keras.tree.map_structure(lambda a, rows=rows: np.asarray(a)[rows], data)
        return
    count = len(data) if isinstance(data, keras.utils.PyDataset) else None
    batches = data if count is None else (data[i] for i in range(count))
    for batch in batches:
        inputs = batch[0] if isinstance(batch, tuple) else batch
        yield keras.tree.map_structure(ops.convert_to_tensor, inputs)
