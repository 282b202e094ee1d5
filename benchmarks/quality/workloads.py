"""Small real tasks whose data is made here or comes with Python, scikit-learn or mnist1d."""

import functools
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x, y, held-out x, held-out y


@dataclass(frozen=True)
class Workload:
    """A model, its data, and how long it is trained; `metric` is better when lower."""

    name: str
    model: Callable[[], keras.Model]
    data: Callable[[], Data]
    metric: str
    batch: int
    steps: int
    every: int = 12  # steps between evaluations: Lookahead's slow weights are there every 6

    def loss(self, y, output):
        """Returns what is minimized, a scalar."""
        if self.metric == "squared error":
            return ops.mean(ops.square(output[:, 0] - y))
        return ops.mean(keras.losses.sparse_categorical_crossentropy(y, output, from_logits=True))

    def measure(self, y, output):
        """Returns the metric, a scalar."""
        if self.metric == "% wrong":
            return 100 * ops.mean(ops.cast(ops.argmax(output, -1) != y, "float32"))
        return self.loss(y, output)


def _held_out(x, y, count: int) -> Data:
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype("float32"), y[order].astype("int32")
    return x[:-count], y[:-count], x[-count:], y[-count:]


@functools.cache
def digits() -> Data:
    """Returns scikit-learn's 1797 handwritten digits of 8 by 8 pixels, 600 of them held out."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return _held_out(x.reshape(-1, 8, 8, 1) / 16, y, 600)


@functools.cache
def breast_cancer() -> Data:
    """Returns scikit-learn's 569 tumours of 30 features, 200 of them held out."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return _held_out((x - x.mean(0)) / x.std(0), y, 200)


@functools.cache
def mnist1d() -> Data:
    """Returns the 5000 signals of arXiv 2011.14439, generated, 1000 of them held out."""
    from mnist1d.data import get_dataset_args, make_dataset  # pip install --no-deps mnist1d

    made = make_dataset(get_dataset_args())
    x, held_out = (made[name][..., None].astype("float32") for name in ("x", "x_test"))
    return x, made["y"].astype("int32"), held_out, made["y_test"].astype("int32")


@functools.cache
def characters(length: int = 32) -> Data:
    """Returns windows of the standard library's source, whole modules of it held out."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [path.read_text("utf-8", errors="replace") for path in paths]
    codes = {chr(c): c - 30 for c in range(32, 127)} | {"\n": 1}  # 0 is any other
    text = lambda chosen: np.array([codes.get(c, 0) for t in chosen for c in t], "int32")  # noqa: E731

    def windows(text):
        text = text[: len(text) // (length + 1) * (length + 1)].reshape(-1, length + 1)
        return text[:, :-1], text[:, 1:]

    x, y = windows(text([t for i, t in enumerate(texts) if i % 10]))
    held_x, held_y = windows(text(texts[::10]))
    few = np.random.default_rng(0).permutation(len(held_x))[:96]
    return x, y, held_x[few], held_y[few]


@functools.cache
def adding(length: int = 20) -> Data:
    """Returns sequences of numbers, two of which are marked, and the sum of the two."""
    rng = np.random.default_rng(0)
    count = 10_000
    x = np.zeros((count, length, 2), "float32")
    x[:, :, 0] = rng.uniform(size=(count, length))
    half = length // 2
    marks = np.stack([rng.integers(0, half, count), rng.integers(half, length, count)], 1)
    np.put_along_axis(x[:, :, 1], marks, 1, axis=1)
    y = np.sum(x[:, :, 0] * x[:, :, 1], axis=1)
    return x[:-1000], y[:-1000], x[-1000:], y[-1000:]


def digits_cnn() -> keras.Model:
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(12, 3, activation="relu"),
            layers.Conv2D(24, 3, activation="relu", strides=2),
            layers.Flatten(),
            layers.Dense(10, name="head"),
        ]
    )


def cancer_mlp() -> keras.Model:
    hidden = [layers.Dense(64, "relu") for _ in range(2)]
    return keras.Sequential([layers.Input((30,)), *hidden, layers.Dense(2, name="head")])


def mnist1d_cnn() -> keras.Model:
    convolutions = [
        layers.Conv1D(25, 5, strides=2, padding="same", activation="relu") for _ in range(3)
    ]
    end = [layers.Flatten(), layers.Dense(10, name="head")]
    return keras.Sequential([layers.Input((40, 1)), *convolutions, *end])


class Positions(layers.Layer):
    """Adds a learned vector for each place."""

    def build(self, shape):
        self.embeddings = self.add_weight(shape=shape[1:], initializer="uniform", name="embeddings")

    def call(self, x):
        return x + self.embeddings


def transformer(length: int = 32, width: int = 48, heads: int = 4) -> keras.Model:
    tokens = layers.Input((length,), dtype="int32")
    x = Positions()(layers.Embedding(97, width)(tokens))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, y, use_causal_mask=True)
        y = layers.Dense(2 * width, "gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(y)
    return keras.Model(tokens, layers.Dense(97, name="head")(layers.LayerNormalization()(x)))


def lstm() -> keras.Model:
    return keras.Sequential([layers.Input((20, 2)), layers.LSTM(24), layers.Dense(1, name="head")])


def deep_mlp(depth: int = 12) -> keras.Model:
    start = keras.initializers.VarianceScaling(0.4, "fan_avg")  # gradients shrink 1.6 times a layer
    hidden = [layers.Dense(32, "tanh", kernel_initializer=start) for _ in range(depth)]
    first = [layers.Input((8, 8, 1)), layers.Flatten()]
    return keras.Sequential([*first, *hidden, layers.Dense(10, name="head")])


WORKLOADS = {
    w.name: w
    for w in (
        Workload("digits CNN", digits_cnn, digits, "% wrong", 64, 360),
        Workload("breast cancer MLP", cancer_mlp, breast_cancer, "log loss", 32, 240, 6),
        Workload("deep MLP", deep_mlp, digits, "% wrong", 64, 1200, 24),
        Workload("adding LSTM", lstm, adding, "squared error", 64, 720, 24),
        Workload("digits CNN, batch 1024", digits_cnn, digits, "% wrong", 1024, 60, 6),
        Workload("mnist1d CNN", mnist1d_cnn, mnist1d, "% wrong", 64, 480, 24),
        Workload("character transformer", transformer, characters, "nats a character", 16, 720, 24),
    )
}
