"""How much each channel matters."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_optkit import _check
from keras_optkit.compression.channels._groups import Group, Groups
from keras_optkit.compression.channels._trace import Trace
from keras_optkit.diagnostics import _random_state
from keras_optkit.diagnostics._fixed_loss import fixed_loss

Importance = str | Callable[[Any, np.ndarray], Any]


def scores(
    trace: Trace, groups: Groups, chosen: list[Group], importance: Importance, data: Any
) -> dict[str, np.ndarray]:
    """Returns the importance of each channel of the chosen groups."""
    if importance == "bn_scale":
        total, signed = _sum(trace, groups, _scales(trace, groups, chosen)), False
    elif importance == "taylor":
        total, signed = _sum(trace, groups, _slopes(trace, groups, chosen, data)), True
    else:
        function = _norms if importance == "l2" else importance
        total, signed = _sum(trace, groups, _by_layer(trace, function)), False
    total = np.abs(total) if signed else total
    return {group.public.name: total[group.roots] for group in chosen}


def _sum(trace: Trace, groups: Groups, parts) -> np.ndarray:
    total = np.zeros(len(groups.roots))
    for ids, values in parts:
        np.add.at(total, groups.roots[ids], values)
    return total


def _by_layer(trace: Trace, function):
    for producer in trace.producers.values():
        kernel = np.moveaxis(_array(producer.kernel), producer.axis, -1)
        values = np.asarray(function(producer.layer, kernel), "float64")
        if values.shape != producer.ids.shape or not np.isfinite(values).all():
            raise ValueError(
                "`importance` must return one finite number for each filter, so for the layer "
                f"{producer.path!r} an array of shape {producer.ids.shape}. Received: {values!r}"
            )
        yield producer.ids, values


def _norms(layer, kernel: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(kernel.reshape(-1, kernel.shape[-1]).astype("float64") ** 2, axis=0))


def _scales(trace: Trace, groups: Groups, chosen: list[Group]):
    parts = [(found.axes[0], np.abs(_array(found.variable))) for found in trace.gammas.values()]
    scaled = np.zeros(len(groups.roots), bool)
    for ids, _ in parts:
        scaled[groups.roots[ids]] = True
    missing = [group.public.name for group in chosen if not scaled[group.roots].all()]
    if missing:
        raise ValueError(
            '`importance="bn_scale"` goes by the gamma of a BatchNormalization, and these groups '
            f"of channels go through none that has one: {', '.join(missing)}. Take "
            'importance="l2", or name them in `exclude`.'
        )
    return parts


def _slopes(trace: Trace, groups: Groups, chosen: list[Group], data: Any):
    """Yields the sum over the weights of each filter of gradient times weight."""
    model: Any = trace.model
    if data is None:
        raise ValueError(
            '`importance="taylor"` needs `data=(x, y)` to take the gradient of the loss on. '
            f"{_check.received('data', data)}"
        )
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            '`importance="taylor"` goes by the gradient of the loss, and the model has none. Call '
            f"`model.compile(...)` first. {_check.received('model', model.name)}"
        )
    trained = np.zeros(len(groups.roots), bool)
    for producer in trace.producers.values():
        if producer.kernel.trainable:
            trained[groups.roots[producer.ids]] = True
    missing = [group.public.name for group in chosen if not trained[group.roots].all()]
    if missing:
        raise ValueError(
            '`importance="taylor"` goes by gradients, and no layer that makes these groups of '
            f"channels is trainable: {', '.join(missing)}. Set `trainable = True`, take "
            'importance="l2", or name them in `exclude`.'
        )
    with _random_state.kept():
        objective = fixed_loss(model, data, None, None, training=False)
        start = objective.start()
        gradient = ops.convert_to_numpy(objective(start, start)[1])
    sizes = np.cumsum([int(np.prod(v.shape)) for v in objective.variables])[:-1]
    slopes = {
        id(v): g.reshape(v.shape).astype("float64") * _array(v)
        for v, g in zip(objective.variables, np.split(gradient, sizes), strict=True)
    }
    for producer in trace.producers.values():
        if id(producer.kernel) in slopes:
            terms = np.moveaxis(slopes[id(producer.kernel)], producer.axis, -1)
            yield producer.ids, terms.reshape(-1, terms.shape[-1]).sum(axis=0)
            if id(producer.bias) in slopes:
                yield producer.ids, slopes[id(producer.bias)]


def _array(variable) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(variable, "float32"))
