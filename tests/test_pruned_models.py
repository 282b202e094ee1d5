"""Pruned in models of every kind, and what it costs in accuracy and saves in bytes."""

import gzip
import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from keras_optkit import compression
from keras_optkit.compression import PolynomialSparsity, Pruned
from tests import nets

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)


def share_of_zeros(variable):
    return float(np.mean(keras.ops.convert_to_numpy(variable) == 0))


class Subclassed(keras.Model):
    """A model that no graph describes."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = layers.Dense(4, "relu"), layers.Dense(1)

    def call(self, x):
        for _ in range(2):  # a layer that is used twice
            x = x + self.hidden(x)
        return self.head(x)


def shared():
    one, other = keras.Input((4,)), keras.Input((4,))
    dense = layers.Dense(6, "tanh")
    merged = layers.Concatenate()([dense(one), dense(other)])
    return keras.Model([one, other], layers.Dense(1)(merged))


def attention():
    words = keras.Input((5,), dtype="int32")
    x = layers.Embedding(10, 8)(words)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return keras.Model(words, layers.Dense(1)(layers.GlobalAveragePooling1D()(x)))


def recurrent():
    return keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.Bidirectional(layers.GRU(4, return_sequences=True)),
            layers.LSTM(4),
            layers.Dense(1),
        ]
    )


def nested():
    inner = keras.Sequential(
        [keras.Input((8, 8, 2)), layers.SeparableConv2D(4, 3), layers.Conv2D(4, 3)], name="inner"
    )
    return keras.Sequential([keras.Input((8, 8, 2)), inner, layers.Flatten(), layers.Dense(1)])


def normal(*shape):
    return RNG.normal(size=(16, *shape)).astype("float32")


# A maker, its inputs, and the number of weights that are pruned.
MODELS = {
    "subclassed": (Subclassed, lambda: normal(4), 2),
    "shared": (shared, lambda: [normal(4), normal(4)], 2),
    "attention": (attention, lambda: RNG.integers(0, 10, (16, 5)), 6),
    "recurrent": (recurrent, lambda: normal(5, 3), 7),
    "nested": (nested, lambda: normal(8, 8, 2), 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_is_pruned_and_saved_as_it_is(name, tmp_path):
    make, inputs, count = MODELS[name]
    keras.utils.set_random_seed(0)
    model, x, y = make(), inputs(), RNG.normal(size=(16, 1))
    schedule = PolynomialSparsity(0.0, 0.5, 1, 3, frequency=1)
    # JAX is slow without, TensorFlow is slow to compile.
    model.compile(
        Pruned(keras.optimizers.Adam(0.01), schedule), "mse", jit_compile=BACKEND == "jax"
    )
    model.fit(x, y, batch_size=4, verbose=0)
    names = ("kernel", "embeddings", "recurrent_kernel", "pointwise_kernel")
    kernels = [v for v in model.trainable_variables if v.path.split("/")[-1] in names]
    others = [v for v in model.trainable_variables if all(v is not k for k in kernels)]
    assert len(kernels) == count == len(model.optimizer._masks)
    for v in kernels:
        size = int(np.prod(v.shape))
        assert share_of_zeros(v) == (size - max(round(size / 2), 1)) / size, v.path
    assert not any(share_of_zeros(v) for v in others if "bias" not in v.path)
    if name == "subclassed":
        return  # which Keras loads only where its class is registered
    model = compression.strip_pruning(model)
    model.save(tmp_path / "stripped.keras")
    with zipfile.ZipFile(tmp_path / "stripped.keras") as file:
        config = json.loads(file.read("config.json"))
    assert "keras_optkit" not in json.dumps(config), "needs nothing of ours to load"
    plain = keras.saving.load_model(tmp_path / "stripped.keras")
    assert type(plain.optimizer).__name__ == "Adam"
    np.testing.assert_array_equal(plain.predict(x, verbose=0), model.predict(x, verbose=0))


# Convolutions on torch take minutes on a small machine.
@getattr(pytest.mark, "heavy" if BACKEND == "torch" else "slow")
def test_digits_at_three_quarters_lose_a_point_at_most_and_weigh_two_fifths():
    model = nets.trained("cnn")
    accuracy, size = nets.accuracy(model), gzipped(model)
    (x, y), _ = nets.digits()
    rate = keras.optimizers.schedules.CosineDecay(3e-3, 12 * 19, alpha=0.05)
    model.compile(keras.optimizers.Adam(rate), model.loss, jit_compile=BACKEND == "jax")
    schedule = PolynomialSparsity(0.3, 0.75, 1, 96, frequency=19)
    compression.prune_low_magnitude(model, schedule)
    step = compression.UpdatePruningStep()
    keras.utils.set_random_seed(0)
    model.fit(x, y, batch_size=64, epochs=12, verbose=0, callbacks=[step])
    model = compression.strip_pruning(model)
    rows = [r for r in compression.sparsity_report(model).rows if r.path.endswith("/kernel")]
    assert [row.zeros for row in rows] == [row.size - round(row.size / 4) for row in rows]
    pruned, smaller = nets.accuracy(model), gzipped(model)
    print(f"accuracy {accuracy:.4f} -> {pruned:.4f}, gzip {size:,} -> {smaller:,} bytes")
    assert pruned >= accuracy - 0.01
    assert smaller <= 0.4 * size


def gzipped(model):
    """Returns the bytes of a model's weights, compressed."""
    return len(gzip.compress(b"".join(w.tobytes() for w in model.get_weights())))
