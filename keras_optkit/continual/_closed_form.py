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
from keras_optkit.optimizers._precision import full_precision

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
        wide: A model of the outputs, and of the inputs of each dense layer.
        places: The dense layers.
        variables: The trainable variables.
        others: All other variables.
        scalar: A function of the outputs for a batch of one, of other arrays, and of a number.
        measure: Of each gradient; that of a product must be the product of both.
        repeats: How often each sample counts.
        jit: Whether to compile by XLA.
    """

    def __init__(
        self,
        wide: keras.Model,
        places: list[Place],
        variables: list,
        others: list,
        scalar: Callable,
        measure: Callable,
        repeats: int,
        jit: bool,
    ):
        self._wide, self._places, self._measure = wide, places, measure
        self._variables, self._others, self._scalar = variables, others, scalar
        self._sums = _backend.gradient_sums(self._forward, self._losses, measure, repeats, jit)
        self._compiled = _backend.value(self._totals, jit)
        self._apart = False

    def __call__(self, weights: list, rows: dict, shares, state: list) -> list:
        *totals, off = self._compiled(weights, rows, shares, state)
        if not self._apart and float(off) > APART:
            raise NotImplementedError  # outputs depend on other samples of the batch
        self._apart = True
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
            rows = {"x": tree.map_structure(lambda leaf: leaf[part], x)}
            return self._forward([], weights, rows, state)[0][0]

        both, one, two = map(outputs, (BOTH, FIRST, SECOND))
        off = ops.max(ops.abs(both - ops.concatenate([one, two])))
        return off / (ops.max(ops.abs(both)) + APART)

    def _forward(self, shifts, weights, rows, state):
        """Returns the outputs, and the inputs of the dense layers."""
        held = [(self._variables, weights), (self._others, state)]
        mapping = [pair for part in held for pair in zip(*part, strict=True)]
        layers = [place.layer for place in self._places] if shifts else []
        with full_precision(self._wide), keras.StatelessScope(mapping), _shifted(layers, shifts):
            found = self._wide(rows["x"], training=False)
        return found[:1], found[1:]

    def _losses(self, outputs, r, weights, rows, state):
        """Returns the sum over samples of what is to be differentiated."""
        arrays = {name: array for name, array in rows.items() if name != "x"}

        def one(row):
            output, others = tree.map_structure(lambda leaf: leaf[None], row)
            return ops.cast(self._scalar(output, others, r), "float32")

        return ops.sum(ops.vectorized_map(one, (outputs[0], arrays)))


@contextlib.contextmanager
def _shifted(layers: list, shifts: list) -> Iterator[None]:
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
