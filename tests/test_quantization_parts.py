"""The parts of quantization-aware training, judged by the paper in float64 and by Keras."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_optkit as ko
from keras_optkit import _backend
from keras_optkit.compression.quantization._fake_quant import (
    fake_quant_activation,
    fake_quant_weight,
)

QuantizeActivation = ko.compression.QuantizeActivation


def paper(x, low, high, bits, narrow=False):
    """Rounds as in Jacob et al., 2018, and tells where rounding is far from a tie."""
    x = np.asarray(x, "float64")
    first, last = int(narrow), 2**bits - 1
    scale = (high - low) / (last - first)
    zero = np.clip(np.round(first - low / scale), first, last)
    steps = x / scale
    clear = np.abs(steps - np.floor(steps) - 0.5) > 1e-3
    rounded = np.clip(np.floor(steps + 0.5) + zero, first, last)
    return (rounded - zero) * scale, clear


def assert_rounds(got, x, low, high, bits, narrow=False):
    expected, clear = paper(x, low, high, bits, narrow)
    assert clear.mean() > 0.6
    np.testing.assert_allclose(np.asarray(got)[clear], expected[clear], rtol=1e-5, atol=1e-6)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.0, 6.0), (-3.0, 0.0), (-0.013, 1.71)])
def test_activations_are_rounded_as_in_the_paper(bits, low, high):
    x = 3 * normal(1000)
    got = fake_quant_activation(
        ops.convert_to_tensor(x), *(ops.convert_to_tensor(e, "float32") for e in (low, high)), bits
    )
    assert_rounds(ops.convert_to_numpy(got), x, low, high, bits)
    assert len(np.unique(ops.convert_to_numpy(got))) <= 2**bits
    zero = fake_quant_activation(ops.zeros(1), *map(ops.convert_to_tensor, (low, high)), bits)
    assert ops.convert_to_numpy(zero).tolist() == [0.0]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("form", ["per_channel", "per_tensor", "depthwise", "whole"])
def test_weights_are_rounded_as_in_the_paper(bits, form):
    kernel = normal(3, 3, 4, 5) * np.linspace(0.1, 2, 5).astype("float32")
    kernel[..., 1] = 0
    kernel[0, 0] = 0
    options = {
        "per_channel": {},
        "per_tensor": {"per_channel": False},
        "depthwise": {"depthwise": True},
        "whole": {"whole": True},
    }[form]
    got = ops.convert_to_numpy(fake_quant_weight(ops.convert_to_tensor(kernel), bits, **options))
    view, seen = (
        (kernel.reshape(3, 3, -1), got.reshape(3, 3, -1))
        if form == "depthwise"
        else ((kernel, got))
    )
    for channel in range(view.shape[-1]):
        part = view if form in ("per_tensor", "whole") else view[..., channel]
        limit = float(np.abs(part).max()) or 1.0
        assert_rounds(seen[..., channel], view[..., channel], -limit, limit, bits, narrow=True)
    assert np.all(got[kernel == 0] == 0)


def test_gradients_pass_straight_through_in_the_range():
    x = np.array([-1.5, -0.9, -0.2, 0.0, 0.4, 1.9, 2.5], "float32")
    factors = ops.convert_to_tensor(np.arange(1.0, 8.0, dtype="float32"))

    def rounded(point):
        ends = (ops.convert_to_tensor(-1.0), ops.convert_to_tensor(2.0))
        return ops.sum(factors * fake_quant_activation(point, *ends, bits=8))

    def weighed(point):
        return ops.sum(factors * fake_quant_weight(ops.reshape(point, (7, 1)), 3)[:, 0])

    _, gradient = _backend.value_and_gradient(rounded, False)(ops.convert_to_tensor(x))
    inside = (x >= -1) & (x <= 2)
    np.testing.assert_allclose(ops.convert_to_numpy(gradient), np.arange(1, 8) * inside)
    _, gradient = _backend.value_and_gradient(weighed, False)(ops.convert_to_tensor(x))
    np.testing.assert_allclose(ops.convert_to_numpy(gradient), np.arange(1, 8))


def ends(layer):
    return [float(ops.convert_to_numpy(v)) for v in (layer.minimum, layer.maximum)]


def test_a_range_follows_the_batches_from_the_first():
    layer = QuantizeActivation(4, momentum=0.7)
    batches = [2 + normal(50, seed=1), normal(50, seed=2), -3 + 0.1 * normal(50, seed=3)]
    low = high = None
    for step, batch in enumerate(batches):
        got = layer(ops.convert_to_tensor(batch), training=True)
        a, b = min(batch.min(), 0), max(batch.max(), 0)
        low = a if low is None else 0.7 * low + 0.3 * a
        high = b if high is None else 0.7 * high + 0.3 * b
        np.testing.assert_allclose(ends(layer), [low, high], rtol=1e-5, err_msg=f"step {step}")
        assert_rounds(ops.convert_to_numpy(got), batch, low, high, 4)
    layer(ops.convert_to_tensor(np.array([1.0, np.nan, np.inf], "float32")), training=True)
    np.testing.assert_allclose(ends(layer), [low, high], rtol=1e-5)
    layer.observing.assign(False)
    layer(ops.convert_to_tensor(100 * batches[0]), training=True)
    layer(ops.convert_to_tensor(100 * batches[0]))
    np.testing.assert_allclose(ends(layer), [low, high], rtol=1e-5)


def test_nothing_but_zeros_gives_a_range_too():
    layer = QuantizeActivation()
    got = layer(ops.zeros((3,)), training=True)
    assert ops.convert_to_numpy(got).tolist() == [0, 0, 0]
    assert ends(layer) == [0.0, 1.0]


def test_a_fixed_range_stays():
    layer = QuantizeActivation(2, fixed_range=(0, 1))
    got = layer(ops.convert_to_tensor([-1.0, 0.2, 0.6, 9.0]), training=True)
    np.testing.assert_allclose(ops.convert_to_numpy(got), [0, 1 / 3, 2 / 3, 1], rtol=1e-6)
    with pytest.raises(ValueError, match="`fixed_range` must be a pair"):
        QuantizeActivation(fixed_range=(1, 2))


def test_an_unknown_range_is_not_used():
    layer = QuantizeActivation(name="after_conv")
    with pytest.raises(ValueError, match=r"'after_conv' has never been measured.*calibrate"):
        layer(ops.ones((3,)))
    model = keras.Sequential([keras.Input((3,)), QuantizeActivation()])
    if keras.backend.backend() == "jax":  # A compiled step hides the flag.
        with pytest.warns(UserWarning, match="never been measured"):
            model.predict(np.ones((1, 3)), verbose=0)
    else:
        with pytest.raises(ValueError, match="never been measured"):
            model.predict(np.ones((1, 3)), verbose=0)
    model.set_weights([np.array(0.0), np.array(1.0), np.array(True), np.array(True)])
    assert model(np.ones((1, 3))).shape == (1, 3)


LAYERS = {
    "Dense": (lambda **k: layers.Dense(4, **k), (5,)),
    "Dense of images": (lambda **k: layers.Dense(4, **k), (3, 3, 5)),
    "Conv1D": (lambda **k: layers.Conv1D(4, 3, strides=2, padding="same", **k), (9, 3)),
    "causal Conv1D": (
        lambda **k: layers.Conv1D(4, 3, dilation_rate=2, padding="causal", **k),
        (9, 3),
    ),
    "Conv2D": (lambda **k: layers.Conv2D(4, (3, 2), strides=2, padding="same", **k), (7, 7, 3)),
    "Conv2D in groups": (lambda **k: layers.Conv2D(4, 3, groups=2, **k), (7, 7, 2)),
    "Conv1DTranspose": (lambda **k: layers.Conv1DTranspose(4, 3, strides=2, **k), (5, 3)),
    "Conv2DTranspose": (lambda **k: layers.Conv2DTranspose(4, 3, strides=2, **k), (5, 5, 3)),
    "DepthwiseConv1D": (
        lambda **k: layers.DepthwiseConv1D(3, depth_multiplier=2, strides=2, **k),
        (9, 3),
    ),
    "DepthwiseConv2D": (
        lambda **k: layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, **k),
        (7, 7, 3),
    ),
    "SeparableConv1D": (lambda **k: layers.SeparableConv1D(4, 3, padding="same", **k), (9, 3)),
    "SeparableConv2D": (lambda **k: layers.SeparableConv2D(4, 3, strides=2, **k), (7, 7, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_quantized_layer_is_the_layer_with_rounded_kernels(name):
    make, shape = LAYERS[name]
    x = ops.convert_to_tensor(normal(2, *shape))
    layer = make(activation="relu", bias_initializer="ones")
    quantized = ko.compression.QuantizedLayer(layer, weight_bits=3)
    quantized.build((None, *shape))
    if quantized.between is not None:  # Its rounding has a test of its own: make it fine.
        quantized.between.fixed_range = None
        quantized.between.call = lambda inputs, training=False: inputs
    ways = (False, True) if "Dense" in name else (False,)  # else they are one
    outputs = [ops.convert_to_numpy(quantized(x, training=training)) for training in ways]
    for kernel in quantized.kernels():
        value = ops.convert_to_numpy(quantized.rounded(kernel))
        assert len(np.unique(value / np.abs(value).max())) > 3
        getattr(layer, kernel).assign(value)
    expected = ops.convert_to_numpy(layer(x))
    for got in outputs:
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert tuple(quantized.compute_output_shape((None, *shape)))[1:] == expected.shape[1:]


@pytest.mark.parametrize("shape", [(3,), (4, 3), (5, 5, 3)])
@pytest.mark.parametrize("affine", [True, False])
def test_a_lone_batchnorm_is_that_of_keras(shape, affine):
    x = ops.convert_to_tensor(normal(8, *shape))
    norm = layers.BatchNormalization(center=affine, scale=affine)
    norm.build((None, *shape))
    for i, weight in enumerate(norm.weights):
        weight.assign(0.5 + np.abs(normal(3, seed=i)))
    expected = ops.convert_to_numpy(norm(x))
    lone = ko.compression.QuantizedBatchNorm(norm, folded=False)
    np.testing.assert_allclose(ops.convert_to_numpy(lone(x)), expected, rtol=1e-4, atol=1e-5)


def test_a_frozen_batchnorm_rests():
    x = ops.convert_to_tensor(3 + normal(16, 3))
    norm, twin = layers.BatchNormalization(), layers.BatchNormalization()
    layer = ko.compression.QuantizedBatchNorm(norm)
    for _ in range(3):
        got, expected = layer(x, training=True), twin(x, training=True)
        np.testing.assert_allclose(ops.convert_to_numpy(got), ops.convert_to_numpy(expected))
    np.testing.assert_allclose(norm.get_weights(), twin.get_weights())
    layer.frozen.assign(True)
    got = layer(x, training=True)
    np.testing.assert_allclose(
        ops.convert_to_numpy(got), ops.convert_to_numpy(twin(x, training=False)), rtol=1e-6
    )
    np.testing.assert_allclose(norm.get_weights(), twin.get_weights())


def test_a_rescaling_is_that_of_keras():
    x = ops.convert_to_tensor(normal(2, 4, 4, 3))
    for plain in (layers.Rescaling(1 / 3, -0.5), layers.Rescaling([1.0, 2.0, 3.0])):
        got = ops.convert_to_numpy(ko.compression.QuantizedRescaling(plain)(x))
        np.testing.assert_allclose(got, ops.convert_to_numpy(plain(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_a_rescaling_takes_integers(dtype):
    x = ops.convert_to_tensor(np.arange(48).reshape(1, 4, 4, 3).astype(dtype))
    plain = layers.Rescaling(1 / 127.5, -1)
    got = ops.convert_to_numpy(ko.compression.QuantizedRescaling(plain)(x))
    np.testing.assert_allclose(got, ops.convert_to_numpy(plain(x)), rtol=1e-5, atol=1e-6)
