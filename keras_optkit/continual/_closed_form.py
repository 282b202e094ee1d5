"""Gradients of single samples where only dense layers are trained, from one pass over a batch.

The gradient of a kernel is the outer product of a layer's inputs and of the gradient by what its
activation gets, and so is a measure of it that is multiplicative, such as a square. A backward pass
gives both for all samples at once (Goodfellow, 2015, https://arxiv.org/abs/1510.01799).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_optkit import _backend

APART = 1e-4  # by how much outputs may depend on the other samples of a batch
BOTH, FIRST, SECOND = slice(0, 2), slice(0, 1), slice(1, 2)


class Place(NamedTuple):
    """A dense layer, and where its weights are among the trainable variables."""

    layer: keras.layers.Dense
    kernel: Any
    bias: Any = None


class ClosedForm:
    """Does what a result of `_backend.per_sample_sum` does, for models that `find` knows.

    Args:
        forward: A function of weights, inputs and other state, which returns the outputs, and the
            inputs of each dense layer.
        places: The dense layers.
        value: What to differentiate: a function of the outputs for a batch of one, of its row, and
            of a number below `repeats`.
        measure: Of each gradient; that of a product must be the product of both.
        repeats: How often each sample counts.
        jit: Whether to compile by XLA.
    """

    def __init__(
        self,
        forward: Callable,
        places: list[Place],
        value: Callable,
        measure: Callable,
        repeats: int,
        jit: bool,
    ):
        self._forward, self._places = forward, places
        self._value, self._measure = value, measure
        self._sums = _backend.gradient_sums(self._shifted, self._losses, measure, repeats, jit)
        self._compiled = _backend.value(self._totals, jit)

    def __call__(self, weights: list, rows: dict, shares, state: list) -> list:
        *totals, off = self._compiled(weights, rows, shares, state)
        if float(off) > APART:
            raise NotImplementedError  # outputs depend on other samples of the batch
        return totals

    def _totals(self, weights, rows, shares, state):
        shifts = [ops.zeros((shares.shape[0], place.layer.units)) for place in self._places]
        slopes, entering = self._sums(shifts, weights, rows, state)
        totals: list[Any] = [None] * len(weights)
        for place, slope, inputs in zip(self._places, slopes, entering, strict=True):
            lengths = self._measure(inputs) * shares[:, None]
            totals[place.kernel] = ops.matmul(ops.transpose(lengths), slope)
            if place.bias is not None:
                totals[place.bias] = ops.matmul(shares[None], slope)[0]
        return [*totals, self._off(weights, rows["x"], state)]

    def _off(self, weights, x, state):
        """Returns by how much outputs for two samples differ from those for each alone."""

        def outputs(part):
            return self._forward(weights, tree.map_structure(lambda leaf: leaf[part], x), state)[0]

        both, one, two = map(outputs, (BOTH, FIRST, SECOND))
        off = ops.max(ops.abs(both - ops.concatenate([one, two])))
        return off / (ops.max(ops.abs(both)) + APART)

    def _shifted(self, shifts, weights, rows, state):
        """Returns the outputs, as a list, and the inputs of the dense layers."""
        with _shifting([place.layer for place in self._places], shifts):
            output, *entering = self._forward(weights, rows["x"], state)
        return [output], entering

    def _losses(self, outputs, r, weights, rows, state):
        """Returns the sum over samples of what is to be differentiated."""

        def one(both):
            return self._value(*tree.map_structure(lambda leaf: leaf[None], both), r)

        return ops.sum(ops.vectorized_map(one, (outputs[0], rows)))


@contextlib.contextmanager
def _shifting(layers: list, shifts: list) -> Iterator[None]:
    """Adds to what the activations of dense layers get."""
    plain = [layer.activation for layer in layers]

    def moved(activation, shift):
        return lambda z: z + shift if activation is None else activation(z + shift)

    try:
        for layer, activation, shift in zip(layers, plain, shifts, strict=True):
            layer.__dict__["activation"] = moved(activation, shift)
        yield
    finally:
        for layer, activation in zip(layers, plain, strict=True):
            layer.__dict__["activation"] = activation


def find(model: keras.Model) -> tuple[keras.Model, list[Place]] | None:
    """Returns what `ClosedForm` needs, or None if the model trains more than dense layers.

    Else it is a graph of Keras' own layers, in which each dense layer that is trained is called
    once, on inputs of shape `(batch, features)`.
    """
    inside: Any = getattr(model, "_functional", None) or model
    if not hasattr(inside, "_nodes_by_depth") or len(inside.outputs) != 1:
        return None
    if isinstance(inside._outputs_struct, dict):
        return None
    at = {id(v): i for i, v in enumerate(model.trainable_variables)}
    places, entering = [], []
    for node in (node for part in inside._nodes_by_depth.values() for node in part):
        layer = node.operation
        if not _of_keras(layer):
            return None
        mine = layer.trainable_variables
        if not mine:
            continue
        known = type(layer) is keras.layers.Dense and len(mine) <= 2 and len(mine[0].shape) == 2
        if not known or len(node.input_tensors[0].shape) != 2:
            return None
        indices = [at.pop(id(v), None) for v in mine]
        if None in indices:  # called twice, or of two layers
            return None
        places.append(Place(layer, *indices))
        entering.append(node.input_tensors[0])
    if at:
        return None
    return keras.Model(inside._inputs_struct, [*inside.outputs, *entering]), places


def _of_keras(layer: Any) -> bool:
    """Whether it is a layer that is known to look at each sample by itself."""
    if not isinstance(layer, keras.layers.Layer) or getattr(layer, "stateful", False):
        return False
    parts = list(layer._flatten_layers())
    own = all(type(part).__module__.startswith("keras.src.") for part in parts)
    return own and not any(isinstance(part, keras.layers.Lambda) for part in parts)
