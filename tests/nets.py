"""Small networks and real data for tests."""

import functools

import keras
import numpy as np
from keras import layers


@functools.cache
def digits():
    """Returns images of 8 x 8 x 1 in [0, 1] and labels: 1197 to train, 600 to test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = (images[order] / 16).astype("float32").reshape(-1, 8, 8, 1)
    y = labels[order].astype("int32")
    return (x[:1197], y[:1197]), (x[1197:], y[1197:])


class Subclassed(keras.Model):
    """A model that is no graph of layers."""

    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)


def mlp(seed=0):
    """Returns a network of Dense layers."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="dense_1"),
            layers.Dense(32, activation="relu", name="dense_2"),
            layers.Dense(10, name="head"),
        ],
        name="mlp",
    )


def cnn(seed=0):
    """Returns a plain convolutional network of 121,000 weights, with BatchNormalization."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *_conv(32, 1),
            *_conv(64, 2),
            layers.MaxPooling2D(name="pool"),
            *_conv(64, 3),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="dense"),
            layers.Dense(10, name="head"),
        ],
        name="cnn",
    )


def _conv(filters, number):
    return [
        layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv_{number}"),
        layers.BatchNormalization(momentum=0.8, name=f"bn_{number}"),
        layers.ReLU(name=f"relu_{number}"),
    ]


def mobile(seed=0):
    """Returns a network in MobileNetV2's manner: depthwise, expansion, residual."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU(6.0, name="stem_relu")(
        layers.BatchNormalization(momentum=0.8, name="stem_bn")(x)
    )
    x = _block(x, 16, 1, "a")
    x = _block(x, 24, 2, "b")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="head")(x), name="mobile")


def _block(x, filters, strides, name):
    y = layers.Conv2D(48, 1, use_bias=False, name=f"{name}_expand")(x)
    y = layers.ReLU(6.0, name=f"{name}_relu_1")(
        layers.BatchNormalization(momentum=0.8, name=f"{name}_bn_1")(y)
    )
    y = layers.DepthwiseConv2D(
        3, strides=strides, padding="same", use_bias=False, name=f"{name}_depthwise"
    )(y)
    y = layers.ReLU(6.0, name=f"{name}_relu_2")(
        layers.BatchNormalization(momentum=0.8, name=f"{name}_bn_2")(y)
    )
    y = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")(y)
    y = layers.BatchNormalization(momentum=0.8, name=f"{name}_bn_3")(y)
    return layers.Add(name=f"{name}_add")([x, y]) if x.shape == y.shape else y


NETS = {"mlp": mlp, "cnn": cnn, "mobile": mobile}


def train(model, epochs=8, learning_rate=3e-3, seed=0):
    """Trains a network on the digits, and returns it."""
    keras.utils.set_random_seed(seed)
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    (x, y), _ = digits()
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


@functools.cache
def _trained(name):
    return train(NETS[name]()).get_weights()


def trained(name):
    """Returns a new, compiled copy of a trained network; each is trained once a process."""
    model = NETS[name]()
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.set_weights(_trained(name))
    return model


def accuracy(model, part=1):
    """Returns the share of digits, by default of the test part, that a model gets right."""
    x, y = digits()[part]
    return float(np.mean(model.predict(x, verbose=0).argmax(axis=1) == y))
