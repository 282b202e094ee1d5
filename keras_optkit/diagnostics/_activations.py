"""One pass through a model: what each layer puts out, and the gradient by it."""

import dataclasses
import itertools
import math

import keras
import numpy as np
from keras import ops

from keras_optkit import _backend
from keras_optkit.diagnostics._tapped import kernel_of, tapped
from keras_optkit.optimizers._objective import _known


@dataclasses.dataclass
class Activation:
    """What one layer did in one call.

    Args:
        layer: The layer.
        output: Its output.
        before: What its activation was given, or None where it has no weights.
        gradient: The gradient of the loss by the output, or None if there are no targets.
    """

    layer: keras.layers.Layer
    output: np.ndarray
    before: np.ndarray | None
    gradient: np.ndarray | None = None


def activations(model: keras.Model, batch: tuple, training: bool) -> list[Activation]:
    """Runs `model` and returns what its layers did, in the order in which they finished.

    Args:
        model: A built model; it is left as it is.
        batch: `x, y, sample_weight`; the last two may be None.
        training: Whether layers run as in training.
    """
    found: list[Activation] = []

    def look(layer, output, before):
        seen = output if before is None else before
        kept = None if kernel_of(layer) is None else _numpy(seen)
        found.append(Activation(layer, _numpy(output), kept))
        return output

    with _backend.no_gradient(), tapped(model, look):
        _run(model, batch, training)
    if batch[1] is not None:
        for activation, gradient in zip(
            found, _gradients(model, batch, training, found), strict=True
        ):
            activation.gradient = gradient
    return found


def _gradients(model, batch, training, found: list[Activation]) -> list[np.ndarray]:
    """Returns the gradients of the loss by something of 0 that is added to each output."""
    shapes = [activation.output.shape for activation in found]
    ends = np.cumsum([math.prod(shape) for shape in shapes])

    def loss(added, inputs):
        parts = iter([added[a:b] for a, b in itertools.pairwise([0, *map(int, ends)])])
        left = iter(shapes)

        def add(layer, output, before):
            return output + ops.cast(ops.reshape(next(parts), next(left)), output.dtype)

        with tapped(model, add):
            return ops.cast(_run(model, inputs, training), "float32")

    zeros = ops.zeros((int(ends[-1]),), "float32")
    # Not compiled into XLA, which takes longer than this one pass.
    _, gradient = _backend.value_and_gradient(loss, False)(zeros, batch)
    parts = np.split(_numpy(gradient), ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _run(model, batch, training):
    """Returns the loss, or None without targets; what layers assign is dropped."""
    x, y, sample_weight = batch
    # Penalties ask the scope for all weights, also for those that nobody has assigned.
    values = [(v, ops.convert_to_tensor(v)) for v in model.variables]
    with keras.StatelessScope(values, collect_losses=True):
        y_pred = model(x, **_known(model.call, {"training": training}))
        if y is None:
            return None
        options = _known(model.compute_loss, {"training": training})
        return model.compute_loss(x, y, y_pred, sample_weight, **options)


def _numpy(tensor) -> np.ndarray:
    return np.array(ops.convert_to_numpy(tensor), dtype="float64")
