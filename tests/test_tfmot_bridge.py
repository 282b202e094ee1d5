"""A model of Keras 3 and its twin in tf_keras compute the same."""

import importlib.util

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.compression import tfmot

if importlib.util.find_spec("tensorflow_model_optimization") is None:
    # Not importorskip: that import is the one which changes the process.
    pytest.skip("TF-MOT is not installed", allow_module_level=True)

BACKEND = keras.backend.backend()
table = pytest.mark.skipif(
    BACKEND != "tensorflow",
    reason="what the twin computes does not depend on where the weights came from: see test_graph",
)
L2 = keras.regularizers.L2(0.01)


def scramble(model, seed=0):
    """Gives a model weights none of which is at its start, statistics included."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        value = rng.normal(0, 0.3, weight.shape)
        positive = weight.name in ("moving_variance", "gamma")
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) if positive else value)
    return model


def data(model, seed=0):
    """Returns inputs for a model: whole numbers where it takes such."""
    rng = np.random.default_rng(seed)

    def array(tensor):
        shape = (3, *[n or 5 for n in tensor.shape[1:]])
        if "int" in tensor.dtype:
            return rng.integers(0, 4, shape).astype(tensor.dtype)
        return rng.normal(0, 2, shape).astype("float32")

    return keras.tree.map_structure(array, model._inputs_struct if model.inputs else None)


def flat(outputs):
    return [
        np.asarray(x) for x in keras.tree.flatten(keras.tree.map_structure(np.asarray, outputs))
    ]


def difference(model, inputs=None):
    """Returns the largest difference between a model and its twin; the way back is exact.

    In units of the largest output where that is above 1, as in deep networks without training.
    """
    inputs = data(getattr(model, "_functional", model)) if inputs is None else inputs
    expected = flat(keras.tree.map_structure(ops.convert_to_numpy, model(inputs, training=False)))
    tf_model = tfmot.to_tf_keras(model)
    got = flat(tf_model(inputs, training=False))
    back = tfmot.from_tf_keras(tf_model, like=model)
    for a, b in zip(model.weights, back.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b), a.path)
    again = flat(keras.tree.map_structure(ops.convert_to_numpy, back(inputs, training=False)))
    for a, b in zip(expected, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(expected) == len(got)
    return max(
        np.abs(a.astype("float64") - b).max() / max(1, np.abs(a).max())
        for a, b in zip(expected, got, strict=True)
    )


IMAGE, SERIES, VOLUME, ROW = (8, 8, 6), (8, 6), (5, 5, 5, 2), (6,)

LAYERS = {
    "Activation": (ROW, lambda: layers.Activation("relu")),
    "ActivityRegularization": (ROW, lambda: layers.ActivityRegularization(0.1)),
    "AlphaDropout": (ROW, lambda: layers.AlphaDropout(0.5)),
    "AveragePooling1D": (SERIES, lambda: layers.AveragePooling1D(2, padding="same")),
    "AveragePooling2D": (IMAGE, lambda: layers.AveragePooling2D(3, 2, padding="same")),
    "AveragePooling3D": (VOLUME, lambda: layers.AveragePooling3D(2)),
    "BatchNormalization": (IMAGE, lambda: layers.BatchNormalization(epsilon=1e-2)),
    "BatchNormalization plain": (ROW, lambda: layers.BatchNormalization(center=False, scale=False)),
    "Bidirectional": (
        SERIES,
        lambda: layers.Bidirectional(layers.LSTM(3, return_sequences=True), merge_mode="ave"),
    ),
    "Bidirectional GRU": (SERIES, lambda: layers.Bidirectional(layers.GRU(3))),
    "CenterCrop": (IMAGE, lambda: layers.CenterCrop(4, 4)),
    "Conv1D": (SERIES, lambda: layers.Conv1D(4, 3, padding="causal", dilation_rate=2)),
    "Conv1DTranspose": (SERIES, lambda: layers.Conv1DTranspose(4, 3, strides=2)),
    "Conv2D": (IMAGE, lambda: layers.Conv2D(4, 3, strides=2, activation="relu")),
    "Conv2D groups": (IMAGE, lambda: layers.Conv2D(4, 3, groups=2, padding="same")),
    "Conv2DTranspose": (
        IMAGE,
        lambda: layers.Conv2DTranspose(4, 3, strides=2, padding="same", output_padding=1),
    ),
    "Conv3D": (VOLUME, lambda: layers.Conv3D(3, 2)),
    "Conv3DTranspose": (VOLUME, lambda: layers.Conv3DTranspose(3, 2, strides=2)),
    "ConvLSTM2D": ((4, 6, 6, 2), lambda: layers.ConvLSTM2D(3, 3)),
    "Cropping1D": (SERIES, lambda: layers.Cropping1D(1)),
    "Cropping2D": (IMAGE, lambda: layers.Cropping2D(((1, 2), (0, 1)))),
    "Cropping3D": (VOLUME, lambda: layers.Cropping3D(1)),
    "Dense": (
        ROW,
        lambda: layers.Dense(4, "silu", kernel_regularizer=L2, kernel_constraint="max_norm"),
    ),
    "Dense on a series": (SERIES, lambda: layers.Dense(4, use_bias=False)),
    "Dense in half precision": (ROW, lambda: layers.Dense(4, dtype="mixed_bfloat16")),
    "DepthwiseConv1D": (SERIES, lambda: layers.DepthwiseConv1D(3, depth_multiplier=2)),
    "DepthwiseConv2D": (IMAGE, lambda: layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2)),
    "Dropout": (ROW, lambda: layers.Dropout(0.5, seed=1)),
    "ELU": (ROW, lambda: layers.ELU(0.5)),
    "EinsumDense": (SERIES, lambda: layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d")),
    "Flatten": (IMAGE, lambda: layers.Flatten()),
    "GRU": (SERIES, lambda: layers.GRU(3, return_sequences=True, seed=1)),
    "GRU not reset_after": (SERIES, lambda: layers.GRU(3, reset_after=False)),
    "GaussianDropout": (ROW, lambda: layers.GaussianDropout(0.5)),
    "GaussianNoise": (ROW, lambda: layers.GaussianNoise(0.5)),
    "GlobalAveragePooling1D": (SERIES, lambda: layers.GlobalAveragePooling1D()),
    "GlobalAveragePooling2D": (IMAGE, lambda: layers.GlobalAveragePooling2D(keepdims=True)),
    "GlobalAveragePooling3D": (VOLUME, lambda: layers.GlobalAveragePooling3D()),
    "GlobalMaxPooling1D": (SERIES, lambda: layers.GlobalMaxPooling1D()),
    "GlobalMaxPooling2D": (IMAGE, lambda: layers.GlobalMaxPooling2D()),
    "GlobalMaxPooling3D": (VOLUME, lambda: layers.GlobalMaxPooling3D()),
    "GroupNormalization": (IMAGE, lambda: layers.GroupNormalization(3)),
    "Identity": (ROW, lambda: layers.Identity()),
    "LSTM": (SERIES, lambda: layers.LSTM(3, dropout=0.5, go_backwards=True)),
    "LSTM hard_sigmoid": (SERIES, lambda: layers.LSTM(3, recurrent_activation="hard_sigmoid")),
    "LayerNormalization": (SERIES, lambda: layers.LayerNormalization(epsilon=1e-6)),
    "LayerNormalization axes": (IMAGE, lambda: layers.LayerNormalization(axis=[1, 2, 3])),
    "LeakyReLU": (ROW, lambda: layers.LeakyReLU(0.2)),
    "MaxPooling1D": (SERIES, lambda: layers.MaxPooling1D(2)),
    "MaxPooling2D": (IMAGE, lambda: layers.MaxPooling2D(3, 2, padding="same")),
    "MaxPooling3D": (VOLUME, lambda: layers.MaxPooling3D(2)),
    "PReLU": (IMAGE, lambda: layers.PReLU(shared_axes=[1, 2])),
    "Permute": (SERIES, lambda: layers.Permute((2, 1))),
    "RNN": (SERIES, lambda: layers.RNN(layers.GRUCell(3))),
    "RNN stacked": (SERIES, lambda: layers.RNN([layers.LSTMCell(3), layers.LSTMCell(2)])),
    "ReLU": (ROW, lambda: layers.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.5)),
    "RandomFlip": (IMAGE, lambda: layers.RandomFlip(seed=1)),
    "RandomRotation": (IMAGE, lambda: layers.RandomRotation(0.1)),
    "RandomZoom": (IMAGE, lambda: layers.RandomZoom(0.1)),
    "RepeatVector": (ROW, lambda: layers.RepeatVector(3)),
    "Rescaling": (ROW, lambda: layers.Rescaling(1 / 127.5, offset=-1)),
    "Reshape": (IMAGE, lambda: layers.Reshape((-1, 12))),
    "Resizing": (IMAGE, lambda: layers.Resizing(4, 5)),
    "SeparableConv1D": (SERIES, lambda: layers.SeparableConv1D(4, 3)),
    "SeparableConv2D": (IMAGE, lambda: layers.SeparableConv2D(4, 3, depth_multiplier=2)),
    "SimpleRNN": (SERIES, lambda: layers.SimpleRNN(3)),
    "Softmax": (SERIES, lambda: layers.Softmax(axis=1)),
    "SpatialDropout1D": (SERIES, lambda: layers.SpatialDropout1D(0.5)),
    "SpatialDropout2D": (IMAGE, lambda: layers.SpatialDropout2D(0.5)),
    "SpectralNormalization": (ROW, lambda: layers.SpectralNormalization(layers.Dense(3))),
    "TimeDistributed": (SERIES, lambda: layers.TimeDistributed(layers.Dense(4))),
    "UnitNormalization": (ROW, lambda: layers.UnitNormalization()),
    "UpSampling1D": (SERIES, lambda: layers.UpSampling1D(2)),
    "UpSampling2D": (IMAGE, lambda: layers.UpSampling2D(2)),
    "UpSampling2D bilinear": (IMAGE, lambda: layers.UpSampling2D(2, interpolation="bilinear")),
    "UpSampling3D": (VOLUME, lambda: layers.UpSampling3D(2)),
    "ZeroPadding1D": (SERIES, lambda: layers.ZeroPadding1D(2)),
    "ZeroPadding2D": (IMAGE, lambda: layers.ZeroPadding2D(((0, 1), (0, 1)))),
    "ZeroPadding3D": (VOLUME, lambda: layers.ZeroPadding3D(1)),
}


@table
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    shape, make = LAYERS[name]
    model = scramble(keras.Sequential([keras.Input(shape), make()]))
    assert difference(model) <= 1e-5


ACTIVATIONS = [
    *("celu", "elu", "exponential", "gelu", "glu", "hard_shrink", "hard_sigmoid", "hard_silu"),
    *("hard_swish", "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish"),
    *("relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softmax", "softplus"),
    *("softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "swish", "tanh", "tanh_shrink"),
]


@table
def test_activations():
    x = np.linspace(-7, 7, 282).astype("float32").reshape(1, -1)
    inputs = keras.Input((282,))
    outputs = {name: layers.Activation(name)(inputs) for name in ACTIVATIONS}
    model = keras.Model(inputs, outputs)
    expected = {k: ops.convert_to_numpy(v) for k, v in model(x).items()}
    tf_model = tfmot.to_tf_keras(model)
    for name, value in tf_model(x).items():
        np.testing.assert_allclose(value, expected[name], atol=2e-6, rtol=2e-6, err_msg=name)


def test_activations_survive_tf_keras_cloning():
    from keras_optkit.compression.tfmot._imports import tf_keras

    model = scramble(keras.Sequential([keras.Input((4,)), layers.Dense(3, "hard_sigmoid")]))
    x = data(model._functional)
    tf_model = tfmot.to_tf_keras(model)
    clone = tf_keras().models.clone_model(tf_model)
    clone.set_weights(tf_model.get_weights())
    np.testing.assert_array_equal(clone(x), tf_model(x))


def shared():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    dense = layers.Dense(4, "relu", name="shared")
    merged = [
        kind()([dense(a), dense(b)])
        for kind in (layers.Add, layers.Subtract, layers.Multiply, layers.Average)
    ]
    merged += [layers.Maximum()([dense(a), dense(b)]), layers.Minimum()([dense(a), dense(b)])]
    return keras.Model([a, b], layers.Concatenate()([*merged, layers.Dot(1)([dense(a), dense(b)])]))


def named():
    inputs = {"z": keras.Input((6,), name="one"), "a": keras.Input((3,), name="two")}
    x = layers.Dense(3, name="first")(inputs["z"]) + inputs["a"]
    outputs = {"sum": x, "pair": (layers.Dense(2)(x), layers.Dense(1)(x))}
    return keras.Model(inputs, outputs)


def block(name):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(3, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="bn"),
        ],
        name=name,
    )


def nested():
    inputs = keras.Input((8, 8, 3))
    inner = block("inner")
    x = layers.Dropout(0.5)(inner(inner(inputs), training=False))
    return keras.Sequential([keras.Model(inputs, block("other")(x)), layers.Flatten()])


def masked():
    words = keras.Input((7,), dtype="int32")
    x = layers.Embedding(5, 4, mask_zero=True)(words)
    x = layers.Dropout(0.5)(x)
    both = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    return keras.Model(words, [layers.GRU(3)(both), layers.LSTM(2)(x * 2.0), both])


def masking():
    series = keras.Input((4, 2))
    return keras.Model(series, layers.LSTM(3)(layers.Masking(0.0)(ops.relu(series))))


def explicit_mask():
    series = keras.Input((4, 2))
    return keras.Model(series, layers.SimpleRNN(3)(series, mask=series[:, :, 0] > 0))


def states():
    source, target = keras.Input((5, 3)), keras.Input((6, 3))
    encoded, h, c = layers.LSTM(4, return_state=True, return_sequences=True)(source)
    decoded = layers.LSTM(4, return_sequences=True)(target, initial_state=[h, c])
    attended = layers.Attention()([decoded, encoded])
    more = layers.AdditiveAttention(use_scale=False)([decoded, encoded])
    return keras.Model([source, target], [attended, more, layers.Dense(2)(decoded)])


def transformer():
    words = keras.Input((6,), dtype="int32")
    x = layers.Embedding(4, 8)(words)
    attention = layers.MultiHeadAttention(2, 4, dropout=0.1, name="mha")
    y, scores = attention(x, x, return_attention_scores=True, use_causal_mask=True)
    x = layers.LayerNormalization()(x + y)
    y = layers.Dense(8)(layers.Dense(16, activation=keras.activations.gelu)(x))
    cross = layers.MultiHeadAttention(1, 4, use_bias=False, output_shape=5)
    return keras.Model(words, [cross(query=x, value=y, key=x), scores])


GRAPHS = {
    f.__name__: f
    for f in (shared, named, nested, masked, masking, explicit_mask, states, transformer)
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graph(name):
    if BACKEND != "tensorflow" and name not in ("shared", "named", "nested", "transformer"):
        pytest.skip("recurrent layers one operation at a time are slow on JAX and torch")
    assert difference(scramble(GRAPHS[name]())) <= 1e-5


@table
def test_what_is_frozen_stays_so():
    inputs = keras.Input((8, 8, 3))
    frozen = block("frozen")
    frozen.trainable = False
    model = keras.Sequential([frozen, layers.Flatten(), layers.Dense(2, name="head")])
    twin = tfmot.to_tf_keras(keras.Model(inputs, model(inputs)))
    assert [w.name for w in twin.trainable_weights] == ["head/kernel:0", "head/bias:0"]


def test_normalization():
    layer = layers.Normalization(axis=-1)
    layer.adapt(np.random.default_rng(0).normal(3, 2, (50, 6)).astype("float32"))
    assert difference(keras.Sequential([keras.Input((6,)), layer, layers.Dense(2)])) <= 1e-5


OPERATIONS = {
    "arithmetic": lambda x, y, n: [x + y, x - 2, 3 * x, x / 2, 1 / (4 + ops.abs(x)), -x, x**2],
    "more arithmetic": lambda x, y, n: [x // 2, x % 3, ops.maximum(x, y), ops.minimum(x, 0.5)],
    "broadcasting": lambda x, y, n: [
        x * y[:, :1],
        x + y[:, None, 0, :],
        x * np.arange(3, dtype=np.float32),
    ],
    "dtypes": lambda x, y, n: [n + 0.5, n * n, ops.cast(n, "float32") * x, n / 2, ops.mean(n)],
    "elementwise": lambda x, y, n: [
        *(f(x) for f in (ops.exp, ops.expm1, ops.floor, ops.ceil, ops.round, ops.sign, ops.square)),
        *(f(x) for f in (ops.sin, ops.cos, ops.tanh, ops.reciprocal, ops.erf)),
        *(f(ops.abs(x)) for f in (ops.log, ops.log1p, ops.sqrt, ops.rsqrt)),
        ops.clip(x, -1, 2),
    ],
    "activations": lambda x, y, n: [
        *(f(x) for f in (ops.relu, ops.relu6, ops.sigmoid, ops.silu, ops.hard_sigmoid, ops.selu)),
        *(f(x) for f in (ops.hard_silu, ops.softplus, ops.softsign, ops.log_sigmoid, ops.gelu)),
        *(f(x) for f in (ops.softmax, ops.log_softmax, ops.leaky_relu, ops.elu, ops.celu)),
        ops.gelu(x, approximate=False),
        ops.softmax(x, axis=1),
        ops.leaky_relu(x, 0.3),
        ops.elu(x, alpha=2.0),
    ],
    "reductions": lambda x, y, n: [
        *(f(x, axis=1) for f in (ops.mean, ops.sum, ops.max, ops.min, ops.prod, ops.var, ops.std)),
        ops.mean(x, axis=(1, 2), keepdims=True),
        ops.sum(x, axis=-1, keepdims=True),
        ops.logsumexp(x, axis=-1),
        ops.any(x > 1, axis=1),
        ops.all(x > -1, axis=1),
    ],
    "comparisons": lambda x, y, n: [
        ops.where(ops.logical_and(x > 0, ops.logical_not(y >= 1)), x, 0.0),
        ops.where(ops.logical_or(ops.equal(n, 2), n < 1), n, -n),
        ops.not_equal(n, 0),
        n <= 1.5,
    ],
    "shapes": lambda x, y, n: [
        ops.reshape(x, (-1, 12)),
        ops.reshape(x, (-1, 3)),
        ops.reshape(x, (-1, 2, 6)),
        ops.transpose(x, (0, 2, 1)),
        ops.swapaxes(x, 1, 2),
        ops.squeeze(ops.expand_dims(x, 1), 1),
        x[:, 1:3, ::-1],
        x[..., 0],
        ops.flip(x, axis=1),
        ops.repeat(x, 2, axis=1),
        ops.concatenate([x, y], axis=-1),
        ops.concatenate([x, x], axis=0),
        ops.stack([x, y], axis=1),
    ],
    "products": lambda x, y, n: [
        ops.matmul(x, ops.transpose(y, (0, 2, 1))),
        ops.einsum("abc,adc->abd", x, y),
    ],
    "images": lambda x, y, n: [
        ops.mean(x[..., None], axis=[1, 2]),
        ops.mean(x[..., None], axis=[2, 1], keepdims=True),
    ],
}


@table
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name):
    x, y = keras.Input((4, 3)), keras.Input((4, 3))
    n = keras.Input((4, 3), dtype="int32")
    model = keras.Model([x, y, n], OPERATIONS[name](x, y, n))
    inputs = data(model)
    expected = flat([ops.convert_to_numpy(z) for z in model(inputs)])
    tf_model = tfmot.to_tf_keras(model)
    for a, b in zip(expected, tf_model(inputs), strict=True):
        assert a.dtype == b.dtype.as_numpy_dtype
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
    again = type(tf_model).from_config(tf_model.get_config())
    for a, b in zip(tf_model(inputs), again(inputs), strict=True):
        np.testing.assert_array_equal(a, b)


APPLICATIONS = {
    "DenseNet121": 64,
    "EfficientNetB0": 64,
    "InceptionV3": 96,
    "MobileNetV2": 64,
    "MobileNetV3Large": 64,
    "MobileNetV3Small": 64,
    "NASNetMobile": 64,
    "ResNet50": 64,
    "Xception": 96,
}


@pytest.mark.heavy
@table
@pytest.mark.parametrize("name", APPLICATIONS)
def test_application(name):
    size = APPLICATIONS[name]
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in ("moving_mean", "beta", "bias"):
            weight.assign(rng.normal(0, 0.1, weight.shape))
        elif weight.name in ("moving_variance", "gamma"):
            weight.assign(rng.uniform(0.7, 1.3, weight.shape))
    found = difference(model, rng.uniform(0, 255, (2, size, size, 3)).astype("float32"))
    print(f"{name}: {found:.1e}")
    assert found <= 1e-5
