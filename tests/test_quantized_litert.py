"""Models trained for int8, exported to LiteRT: judged by its interpreter."""

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_optkit as ko
from keras_optkit.compression import calibrate, export_litert, quantize_model, run_litert
from tests import nets

pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="only TensorFlow converts models"
)


@functools.cache
def aware(name):
    """Returns a network trained with floats, then for an epoch in 8 bits."""
    model = quantize_model(nets.trained(name))
    return nets.train(model, epochs=1, learning_rate=1e-3)


@pytest.mark.parametrize("name", ["mlp", "cnn", pytest.param("mobile", marks=pytest.mark.heavy)])
def test_digits_are_the_same_in_int8(name, tmp_path):
    (x, _) = nets.digits()[1]
    report = export_litert(aware(name), tmp_path / "int8.tflite")
    assert report.float_ops == ()
    got = np.asarray(run_litert(report, x)).argmax(axis=1)
    agree = np.mean(got == aware(name).predict(x, verbose=0).argmax(axis=1))
    floats = export_litert(nets.trained(name), tmp_path / "float.tflite", require_int8=False)
    print(f"{name}: agree {agree:.4f}, {report.bytes} of {floats.bytes} bytes")
    assert agree >= 0.99
    if name == "cnn":
        assert report.bytes <= 0.3 * floats.bytes


def conv(filters=4, **kwargs):
    return layers.Conv2D(filters, 3, padding="same", **kwargs)


def squeeze_and_excite(x):
    s = layers.Reshape((1, 1, 3))(layers.GlobalAveragePooling2D()(x))
    return layers.Multiply()([x, layers.Dense(3, activation="sigmoid")(s)])


def branches(x):
    y = conv()(x)
    return layers.Concatenate()([conv()(y), layers.MaxPooling2D(3, 1, padding="same")(y)])


def residual(x):
    y = conv(3, activation="relu")(x)
    return layers.ReLU()(layers.Add()([y, layers.BatchNormalization()(conv(3)(y))]))


GRAPHS = {
    "dense and norm": lambda x: layers.ReLU()(
        layers.BatchNormalization()(layers.Dense(5)(layers.Flatten()(x)))
    ),
    "dense of images": lambda x: layers.Dense(5, activation="relu")(x),
    "conv1d": lambda x: layers.BatchNormalization()(
        layers.Conv1D(4, 3, padding="causal")(layers.Reshape((36, 3))(x))
    ),
    "conv1d transposed": lambda x: layers.Conv1DTranspose(4, 3, strides=2, activation="relu")(
        layers.Reshape((36, 3))(x)
    ),
    "depthwise1d": lambda x: layers.DepthwiseConv1D(3, strides=2, padding="same")(
        layers.Reshape((36, 3))(x)
    ),
    "separable1d": lambda x: layers.ReLU()(
        layers.BatchNormalization()(layers.SeparableConv1D(4, 3)(layers.Reshape((36, 3))(x)))
    ),
    "groups": lambda x: conv(6, groups=3)(x),
    "separable": lambda x: layers.ReLU(6.0)(
        layers.BatchNormalization()(layers.SeparableConv2D(4, 3)(x))
    ),
    "depthwise": lambda x: layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")(x),
    "transposed": lambda x: layers.ReLU()(
        layers.BatchNormalization()(layers.Conv2DTranspose(4, 3, strides=2)(x))
    ),
    "residual": residual,
    "branches": branches,
    "squeeze and excite": squeeze_and_excite,
    "lone norm": lambda x: conv()(layers.ReLU()(layers.BatchNormalization()(x))),
    "rescaling": lambda x: conv()(layers.Rescaling(0.5, -0.1)(x)),
    "pools": lambda x: layers.AveragePooling2D(2)(
        layers.ZeroPadding2D(1)(layers.UpSampling2D(2)(conv()(x)))
    ),
    "bilinear": lambda x: layers.UpSampling2D(2, interpolation="bilinear")(conv()(x)),
    "softmax": lambda x: layers.Dense(4, activation="softmax")(layers.Flatten()(x)),
    "tanh": lambda x: conv(activation="tanh")(x),
    "silu": lambda x: conv(activation="silu")(x),
    "hard_silu": lambda x: conv(activation="hard_silu")(x),
    "leaky": lambda x: layers.LeakyReLU()(conv()(x)),
    "prelu": lambda x: layers.PReLU()(conv()(x)),
    "nested": lambda x: keras.Sequential([keras.Input((6, 6, 3)), conv(), layers.ReLU()])(x),
    "operations": lambda x: keras.ops.relu(conv(3)(x) + x),
    "hard sigmoid of MobileNetV3": lambda x: conv()(layers.ReLU(6.0)(conv()(x) + 3.0) * (1 / 6)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_kind_of_layer_computes_in_int8(name, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3), name="x")
    model = keras.Model(inputs, GRAPHS[name](inputs))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape) * (1 - 2 * (weight.name == "beta")))
    x = rng.normal(size=(32, 6, 6, 3)).astype("float32")
    quantized = calibrate(quantize_model(model), x)
    report = export_litert(quantized, tmp_path / "model.tflite")
    assert report.float_ops == ()
    got, expected = np.asarray(run_litert(report, x)), quantized.predict(x, verbose=0)
    step = report.outputs[0].scale or (expected.max() - expected.min()) / 255
    assert np.abs(got - expected).max() <= 3.1 * step
    assert np.abs(got - expected).mean() <= 0.6 * step


def test_zeros_stay_zeros_in_the_file(tmp_path):
    model = nets.mlp()
    ko.compression.prune_once(model, 0.75, include="kernel")
    kernels = [w.numpy() for w in model.weights if w.name == "kernel"]
    (x, _), _ = nets.digits()
    quantized = calibrate(quantize_model(model, preserve="zeros"), x[:64])
    report = export_litert(quantized, tmp_path / "model.tflite")
    integers = constants(tmp_path / "model.tflite")
    assert len(integers) == len(kernels)
    for kernel in kernels:
        held = next(v for v in integers if v.size == kernel.size).reshape(kernel.T.shape)
        assert np.all(held[kernel.T == 0] == 0)
        assert np.sum(held == 0) <= 1.05 * np.sum(kernel == 0)
    assert sum(w.zeros for w in report.weights if w.dtype == "int8") == sum(
        int(np.sum(v == 0)) for v in integers
    )


def constants(path):
    """Returns the int8 kernels in a file, as its interpreter has them."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    integers = [d for d in interpreter.get_tensor_details() if d["dtype"] is np.int8]
    kernels = [d for d in integers if d["shape"][0] > 1]  # activations are of one sample
    return [interpreter.get_tensor(d["index"]) for d in kernels]


def test_activations_of_few_bits_have_8_in_the_file(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = layers.MaxPooling2D(2)(conv(activation="relu")(inputs))
    x = layers.Flatten()(conv(activation="tanh")(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 3)).astype("float32")
    for weight_bits in (4, 8):
        few = quantize_model(model, weight_bits=weight_bits, activation_bits=4)
        report = export_litert(calibrate(few, x), tmp_path / "model.tflite")
        assert report.float_ops == ()
        kernels = {weight.dtype for weight in report.weights if len(weight.shape) == 4}
        assert kernels == {f"int{weight_bits}"}
        eight = quantize_model(model, weight_bits=weight_bits)
        eight.set_weights(few.get_weights())  # its ranges too
        expected = eight.predict(x, verbose=0)
        step = np.ptp(expected) / 255
        assert np.abs(run_litert(report, x) - expected).mean() <= 1.5 * step
        assert np.abs(few.predict(x, verbose=0) - expected).mean() > 4 * step


def test_mixed_precision_computes_in_int8_too(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((6, 6, 3))
        x = layers.ReLU()(layers.BatchNormalization()(conv()(inputs)))
        x = layers.GlobalAveragePooling2D()(x)
        outputs = layers.Dense(3, activation="softmax", dtype="float32")(x)
        x = np.random.default_rng(0).normal(size=(32, 6, 6, 3)).astype("float32")
        quantized = calibrate(quantize_model(keras.Model(inputs, outputs)), x)
    finally:
        keras.config.set_dtype_policy("float32")
    report = export_litert(quantized, tmp_path / "model.tflite")
    assert report.float_ops == ()
    got, expected = run_litert(report, x), quantized.predict(x, verbose=0)
    np.testing.assert_allclose(got, expected, atol=3.1 / 256)


def test_inputs_may_have_the_names_of_keywords(tmp_path):
    inputs = {name: keras.Input((4,), name=name) for name in ("lambda", "class")}
    added = layers.Add()([layers.Dense(3)(x) for x in inputs.values()])
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(8, 4)).astype("float32") for name in inputs}
    quantized = calibrate(quantize_model(keras.Model(inputs, added)), x)
    report = export_litert(quantized, tmp_path / "model.tflite")
    assert {tensor.name for tensor in report.inputs} == {"lambda_", "class_"}
    expected = quantized.predict(x, verbose=0)
    step = np.ptp(expected) / 255
    np.testing.assert_allclose(run_litert(report, x), expected, atol=1.1 * step)


def test_ranges_that_nobody_has_measured_are_all_named(tmp_path):
    quantized = quantize_model(nets.mlp())
    names = ko.compression.uncalibrated(quantized)
    assert len(names) > 1
    with pytest.raises(ValueError, match=f"those of {', '.join(names)}.*calibrate"):
        export_litert(quantized, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


FROM_JAX = """
import sys, keras, keras_optkit as ko
from tests import nets
model = ko.compression.quantize_model(nets.mlp())
nets.train(model, epochs=1)
model.save(sys.argv[1])
"""


def test_a_model_trained_on_jax_exports_the_same_file(tmp_path):
    pytest.importorskip("jax")
    path = str(tmp_path / "jax.keras")
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", FROM_JAX, path], check=True, env=environment)
    loaded = keras.saving.load_model(path)
    keras.backend.clear_session()  # so that unnamed layers have the names they have there
    twin = quantize_model(nets.mlp())
    twin.set_weights(loaded.get_weights())
    first = export_litert(loaded, tmp_path / "a.tflite")
    second = export_litert(twin, tmp_path / "b.tflite")
    assert first.float_ops == ()
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()
    assert first.bytes == second.bytes
