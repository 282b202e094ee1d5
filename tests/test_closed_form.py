"""Measures of single samples from one pass over a batch, against one sample at a time."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit import _backend
from keras_optkit.continual import MaskedCrossentropy, _closed_form, _per_sample, fisher_diagonal
from keras_optkit.testing._models import assert_same
from tests import nets

CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy
ROWS = 11
X = np.random.default_rng(0).normal(size=(ROWS, 6)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, ROWS)


def sequential(*body, shape=(6,)):
    keras.utils.set_random_seed(0)
    return keras.Sequential([layers.Input(shape), *body])


def network(**kwargs):
    body = layers.Dense(5, "tanh", **kwargs), layers.Dropout(0.5), layers.Dense(4, layers.ReLU())
    return sequential(*body, layers.Dense(3))


def backbone():
    body = layers.Conv2D(2, 2, activation="relu"), layers.BatchNormalization(), layers.Flatten()
    for layer in body:
        layer.trainable = False
    return sequential(layers.Reshape((3, 2, 1)), *body, layers.Dense(3))


def half_frozen():
    model = network()
    model.layers[0].trainable = False
    return model


def branches():
    keras.utils.set_random_seed(0)
    entry = keras.Input((6,))
    left, right = layers.Dense(3, "tanh")(entry), layers.Dense(2)(entry)
    return keras.Model(entry, layers.Dense(3)(layers.Concatenate()([left, right])))


LOGITS = CROSSENTROPY(from_logits=True)
KNOWN = {
    "network": (network, LOGITS),
    "without a bias": (lambda: network(use_bias=False), LOGITS),
    "half frozen": (half_frozen, LOGITS),
    "frozen backbone": (backbone, LOGITS),
    "branches": (branches, LOGITS),
    "softmax": (lambda: sequential(layers.Dense(3, "softmax")), CROSSENTROPY()),
    "heads": (network, MaskedCrossentropy([(0, 1), (2,)])),
}


@pytest.mark.parametrize("labels", ["exact", "sampled", "empirical"])
@pytest.mark.parametrize("name", KNOWN)
def test_dense_layers_are_measured_as_one_by_one(name, labels, monkeypatch):
    make, loss = KNOWN[name]
    model, results = make(), []
    for fast in (True, False):
        with monkeypatch.context() as patch:
            if fast:
                patch.delattr(_backend, "per_sample_sum")  # no other way
            else:
                patch.setattr(_per_sample, "CLOSED_FORM", False)
            # Of four batches, the last one not full.
            found = fisher_diagonal(model, X, Y, labels, loss=loss, batch_size=3, verbose=0)
        results.append(found)
    for i, (ours, expected) in enumerate(zip(*results, strict=True)):
        np.testing.assert_allclose(
            ours, expected, rtol=1e-5, atol=1e-6 * expected.max(), err_msg=f"variable {i}"
        )
    assert all(array.max() > 0 for array in results[0])


class Scale(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, inputs):
        return inputs * self.scale


def twice():
    entry, layer = keras.Input((6,)), layers.Dense(6)
    return keras.Model(entry, layer(layer(entry)))


def low_rank():
    model = sequential(layers.Dense(3))
    model.layers[0].enable_lora(2)
    return model


def subclassed():
    model = nets.Subclassed(3)
    model(X)
    return model


OTHERS = {
    "a convolution": lambda: sequential(
        layers.Reshape((6, 1)), layers.Conv1D(2, 2), layers.Flatten(), layers.Dense(3)
    ),
    "BatchNormalization": lambda: sequential(layers.BatchNormalization(), layers.Dense(3)),
    "positions": lambda: sequential(layers.Reshape((2, 3)), layers.Dense(3), layers.Flatten()),
    "a layer of somebody": lambda: sequential(Scale(), layers.Dense(3)),
    "a Lambda": lambda: sequential(layers.Lambda(lambda x: 2 * x), layers.Dense(3)),
    "twice": twice,
    "low rank": low_rank,
    "subclassed": subclassed,
    "an operation": lambda: keras.Model(
        entry := keras.Input((6,)), ops.mean(layers.Dense(3)(entry), 0, keepdims=True)
    ),
    "a dict": lambda: keras.Model(entry := keras.Input((6,)), {"a": layers.Dense(3)(entry)}),
    "two outputs": lambda: keras.Model(
        entry := keras.Input((6,)), [layers.Dense(3)(entry), layers.Dense(2)(entry)]
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_left_to_the_loop(name):
    assert _closed_form.find(OTHERS[name]()) is None


def test_samples_that_depend_on_each_other_are_left_to_the_loop():
    model = sequential(layers.Dense(3), layers.Softmax(axis=0), layers.Dense(3))
    assert _closed_form.find(model) is not None
    found = fisher_diagonal(model, X, Y, "empirical", loss=LOGITS, verbose=0)
    assert_same([f.max() for f in found[:2]], [0.0, 0.0], "a softmax over one sample")


def test_activations_are_as_before():
    model = network()
    before = [layer.activation for layer in model.layers if hasattr(layer, "activation")]
    fisher_diagonal(model, X, loss=LOGITS, verbose=0)
    after = [layer.activation for layer in model.layers if hasattr(layer, "activation")]
    assert all(a is b for a, b in zip(before, after, strict=True))
