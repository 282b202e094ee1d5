"""Quantization-aware training of whole models."""

import functools
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_optkit as ko
from keras_optkit.compression import (
    QuantizeActivation,
    QuantizedBatchNorm,
    QuantizedLayer,
    calibrate,
    quantization_report,
    quantize_model,
    strip_quantization,
)
from tests import nets

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def small(seed=0):
    """Returns a network with each pattern in it: residual, concatenation, nested, shared."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = layers.BatchNormalization(name="bn_2")(y)
    x = layers.Activation("relu", name="relu_2")(layers.Add(name="add")([x, y]))
    both = [layers.Conv2D(2, 1, name="left")(x), layers.Conv2D(3, 1, name="right")(x)]
    x = layers.AveragePooling2D(2, name="pool")(layers.Concatenate(name="concatenate")(both))
    x = layers.Dropout(0.1, name="dropout")(layers.Flatten(name="flatten")(x))
    shared = layers.Dense(6, activation="tanh", name="shared")
    x = shared(layers.Dense(6, activation="relu", name="dense")(x))
    inside = keras.Input((6,))
    nested = keras.Model(inside, layers.Dense(5, name="deep")(inside), name="nested")
    x = nested(shared(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x), name="small")


def little(seed=0):
    """Returns a network of one convolution with BatchNormalization and ReLU, and a Dense layer."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4, 4, 2), name="image"),
            layers.Conv2D(3, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flatten"),
            layers.Dense(3, name="head"),
        ],
        name="little",
    )


def data(count=32, shape=(6, 6, 2)):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, *shape)).astype("float32"), rng.integers(0, 3, count)


def tiny(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4,), name="x"),
            layers.Dense(8, activation="relu", name="dense"),
            layers.Dense(3, name="head"),
        ],
        name="tiny",
    )


def trained(model, epochs=1, optimizer=None, callbacks=None, count=32, **options):
    """Compiles and trains a model on random data, and returns it."""
    keras.utils.set_random_seed(1)
    model.compile(optimizer or keras.optimizers.Adam(0.01), LOSS, **options)
    x, y = data(count, model.inputs[0].shape[1:])
    model.fit(x, y, epochs=epochs, batch_size=16, verbose=0, callbacks=callbacks)
    return model


def rounders(model):
    return [q.name for q in model.layers if isinstance(q, QuantizeActivation)]


def test_patterns_stay_whole_and_the_model_its_own():
    model = small()
    before = [np.array(w) for w in model.get_weights()]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    quantized = quantize_model(model)
    assert rounders(quantized) == [
        *("image_input", "relu_output", "bn_2_output", "relu_2_output", "concatenate_output"),
        *("dense_output", "shared_output", "shared_output_2", "head"),
    ]
    assert rounders(quantized.get_layer("nested")) == ["deep"]
    assert quantized.output_names == model.output_names == ["head"]
    assert [x.name for x in quantized.inputs] == [x.name for x in model.inputs]
    assert quantized.get_layer("bn").folded
    paths = [w.path for w in quantized.trainable_variables]
    assert any(path.endswith("conv/kernel") for path in paths)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert nodes == [len(layer._inbound_nodes) for layer in model.layers]


def test_strip_gives_the_model_back_bit_for_bit():
    model = small()
    x, _ = data()
    plain = strip_quantization(quantize_model(model))
    assert [layer.name for layer in plain.layers] == [layer.name for layer in model.layers]
    for old, new in zip(model.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(old), ops.convert_to_numpy(new))
    got, expected = plain.predict(x, verbose=0), model.predict(x, verbose=0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)  # the same, but for threads


def test_strip_rounds_weights_on_request():
    quantized = quantize_model(tiny(), weight_bits=3)
    rounded = strip_quantization(quantized, round_weights=True).get_layer("dense").kernel
    expected = quantized.get_layer("dense").rounded("kernel")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(a) for a in (rounded, expected)))
    assert len(np.unique(np.abs(ops.convert_to_numpy(rounded)[:, 0]))) <= 4


@pytest.mark.parametrize("bits", [4, 8])
def test_calibration_finds_the_widest_range(bits):
    model = quantize_model(tiny(), activation_bits=bits)
    x, _ = data(40, (4,))
    float_model = tiny()
    hidden = np.maximum(x @ float_model.weights[0].numpy() + float_model.weights[1].numpy(), 0)
    calibrate(model, 100 * x)  # A second calibration begins anew.
    calibrate(model, x, batch_size=16)
    first, second = (model.get_layer(n) for n in ("x_input", "dense_output"))
    got = [float(ops.convert_to_numpy(v)) for v in (first.minimum, first.maximum)]
    np.testing.assert_allclose(got, [x.min(), x.max()], rtol=1e-6)
    np.testing.assert_allclose(
        float(ops.convert_to_numpy(second.maximum)), hidden.max(), rtol=0.3 if bits == 4 else 0.03
    )
    assert ko.compression.uncalibrated(model) == []
    for given in ([x[:20], x[20:]], iter([(x, None)])):
        assert calibrate(quantize_model(tiny()), given) is not None


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch needs a C++ compiler")
def test_compiled_and_eager_training_agree():
    compiled = trained(quantize_model(tiny()), 2, jit_compile=True)
    eager = trained(quantize_model(tiny()), 2, run_eagerly=True)
    for a, b in zip(compiled.get_weights(), eager.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


SCRIPT = """
import sys, keras, numpy, keras_optkit
x, y = numpy.load(sys.argv[1] + "/x.npy"), numpy.load(sys.argv[1] + "/y.npy")
model = keras.saving.load_model(sys.argv[1] + "/model.keras")
first = model.predict(x, verbose=0)
keras.utils.set_random_seed(3)
model.fit(x, y, batch_size=16, verbose=0, shuffle=False)
numpy.savez(sys.argv[1] + "/out.npz", first, *model.get_weights())
"""


def test_a_new_process_goes_on_bit_for_bit(tmp_path):
    model = trained(quantize_model(little(), weight_bits=4, preserve="zeros"))
    x, y = data(shape=(4, 4, 2))
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    first = model.predict(x, verbose=0)
    keras.utils.set_random_seed(3)
    model.fit(x, y, batch_size=16, verbose=0, shuffle=False)
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], check=True)
    with np.load(tmp_path / "out.npz") as out:
        for got, expected in zip(out.values(), [first, *model.get_weights()], strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("by", ["preserve", "Frozen"])
def test_pruned_weights_stay_zero(by):
    model = tiny()
    ko.compression.prune_once(model, 0.5)
    zeros = [w.numpy() == 0 for w in model.weights[::2]]
    quantized = quantize_model(model, preserve="zeros" if by == "preserve" else None)
    optimizer = keras.optimizers.AdamW(0.01)
    if by == "Frozen":
        optimizer = ko.compression.Pruned(optimizer, 0.0, ko.compression.Frozen(), include="kernel")
    trained(quantized, 2, optimizer)
    for name, where in zip(("dense", "head"), zeros, strict=True):
        wrapper = quantized.get_layer(name if name == "dense" else "head_unrounded")
        kernel = ops.convert_to_numpy(wrapper.layer.kernel)
        assert 0.4 < where.mean() < 0.6
        assert np.all(kernel[where] == 0) and np.any(kernel[~where] != 0)
        assert np.all(ops.convert_to_numpy(wrapper.rounded("kernel"))[where] == 0)


def test_freezing_goes_by_the_epoch():
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            q, n = self.model.layers[1], self.model.get_layer("norm")
            seen.append([float(q.maximum.numpy()), *n.layer.moving_mean.numpy().tolist()])

    keras.utils.set_random_seed(0)
    model = quantize_model(
        keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(2, name="dense"),
                layers.BatchNormalization(name="norm"),
                layers.Dense(3, name="head"),
            ]
        )
    )
    freeze = ko.compression.FreezeQuantization(observer_epoch=1, batchnorm_epoch=2)
    trained(model, 3, callbacks=[freeze, Look()])
    assert seen[0][0] == seen[1][0] == seen[2][0]
    assert seen[0][1:] != seen[1][1:] == seen[2][1:]
    with pytest.raises(ValueError, match="nothing to freeze"):
        trained(tiny(), callbacks=[freeze])


def test_mixed_precision_trains():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = trained(quantize_model(little()))
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert all(w.dtype in ("float32", "bool") for w in model.weights)
    plain = strip_quantization(model)
    assert plain.get_layer("conv").compute_dtype == "float16"


def test_a_head_in_float32_stays_so_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((4,))
        x = layers.Dense(4, name="body")(inputs)
        head = layers.Dense(2, "softmax", dtype="float32", name="head")(x)
        model = quantize_model(keras.Model(inputs, head))
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.output.dtype == "float32"
    inner = next(layer for layer in model.layers if layer.name.startswith("head_"))
    assert inner.before_activation.compute_dtype == "float32"
    assert model.get_layer("body_output").compute_dtype == "float16"
    assert all(w.dtype in ("float32", "bool") for w in model.weights)


def test_strip_keeps_the_zeros_that_were_to_be_kept():
    model = tiny()
    ko.compression.prune_once(model, 0.5)
    zero = ops.convert_to_numpy(model.get_layer("dense").kernel) == 0
    quantized = quantize_model(model, preserve="zeros")
    kernel = quantized.get_layer("dense").layer.kernel
    kernel.assign(kernel + 1)  # as an optimizer that adds noise might do
    stripped = ops.convert_to_numpy(strip_quantization(quantized).get_layer("dense").kernel)
    np.testing.assert_array_equal(stripped == 0, zero)


def test_a_rescaling_is_quantized_unless_it_takes_integers():
    reasons = []
    for dtype in ("float32", "uint8"):
        inputs = keras.Input((4, 4, 3), dtype=dtype)
        x = layers.Rescaling(1 / 255, name="rescaling")(inputs)
        model = keras.Model(inputs, layers.Conv2D(2, 3, name="conv")(x))
        images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3)).astype(dtype)
        quantized = calibrate(quantize_model(model), images)
        expected = model.predict(images, verbose=0)
        got = quantized.predict(images, verbose=0)
        np.testing.assert_allclose(got, expected, atol=0.05 * np.abs(expected).max())
        reasons.append([row.reason for row in quantization_report(quantized).floats])
    assert reasons[0] == [] and "takes integers" in reasons[1][0]


def test_the_report_says_what_is_float_and_why():
    inputs = keras.Input((6, 4), name="x")
    x = layers.Dense(4, name="dense")(inputs)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = layers.Flatten(name="flatten")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    quantized = calibrate(quantize_model(model, exclude="head"), np.ones((2, 6, 4), "float32"))
    report = quantization_report(quantized)
    reasons = {row.layer: row.reason for row in report.floats}
    assert sorted(reasons) == ["attention", "head", "norm"]
    assert reasons["head"] == "excluded" and "float" in reasons["norm"]
    rows = {row.layer: row for row in report.rows}
    assert rows["dense"].weights == "8 bits per tensor"
    assert rows["x"].output == "8 bits in [0, 1]"
    assert "attention" in str(report)
    assert rounders(quantized) == ["x_input", "dense_output"]
    assert all(r.weights in ("float", "") for r in quantization_report(model).rows)


def with_lora():
    model = tiny()
    model.get_layer("dense").enable_lora(2)
    return model


def in_integers():
    model = tiny()
    model.quantize("int8")
    return model


def own():
    model = nets.Subclassed(2)
    model(np.ones((1, 4)))
    return model


def unsupported():
    inputs = keras.Input((6, 4))
    x = layers.LSTM(4, name="lstm")(inputs)
    x = layers.Dense(4, activation="gelu", name="gelu")(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


def first_axis():
    inputs = keras.Input((4, 4))
    return keras.Model(inputs, layers.Dense(2)(layers.BatchNormalization(1, name="norm")(inputs)))


def five_axes():
    inputs = keras.Input((2, 3, 3, 4))
    x = layers.BatchNormalization(name="norm")(layers.Rescaling(2.0, name="scale")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="wide")(x))


def rows_of_numbers():
    inputs = keras.Input((4, 3))
    return keras.Model(inputs, layers.Dense(2)(layers.Rescaling([[1.0], [2], [3], [4]])(inputs)))


def three_addends():
    inputs = keras.Input((4,))
    addends = [layers.Dense(3)(inputs) for _ in range(3)]
    return keras.Model(inputs, layers.Add(name="sum")(addends))


BAD = {
    "of tf_keras|whole model": (lambda: layers.Dense(1), {}, TypeError),
    "not built": (lambda: keras.Sequential([layers.Dense(1)]), {}, ValueError),
    "has none. Build the model from": (own, {}, ValueError),
    "is quantized already.*strip_quantization": (
        lambda: quantize_model(tiny()),
        {},
        ValueError,
    ),
    "holds integers already": (in_integers, {}, ValueError),
    "has LoRA weights": (with_lora, {}, ValueError),
    "`scheme` must be one of 'int8'": (tiny, {"scheme": "int4"}, ValueError),
    "`weight_bits` must be one of 2, 3": (tiny, {"weight_bits": 1}, ValueError),
    "`activation_bits` must be one of": (tiny, {"activation_bits": 9}, ValueError),
    "`preserve` must be": (tiny, {"preserve": "clusters"}, ValueError),
    "matches no layer.*The layers are: dense, head": (tiny, {"exclude": "conv"}, ValueError),
    r"lstm \(LSTM.*gelu \(Dense.*'gelu' in int8.*exclude=\['lstm', 'gelu'\]": (
        unsupported,
        {},
        ValueError,
    ),
    r"norm \(BatchNormalization: it normalizes along axis 1": (first_axis, {}, ValueError),
    r"scale \(.*norm \(.*wide \(.*more than four axes": (five_axes, {}, ValueError),
    r"sum \(Add: LiteRT takes two inputs": (three_addends, {}, ValueError),
    "numbers for more than the last axis": (rows_of_numbers, {}, ValueError),
    "no layer with weights to quantize": (tiny, {"exclude": ".*"}, ValueError),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_quantized_is_refused(message):
    make, arguments, error = BAD[message]
    with pytest.raises(error, match=message):
        quantize_model(make(), **arguments)


def test_what_has_no_int8_form_can_stay_float():
    skipped = quantize_model(unsupported(), on_unsupported="skip")
    excluded = quantize_model(unsupported(), exclude=["lstm", "gelu"])
    assert rounders(skipped) == rounders(excluded) == ["gelu_output", "head"]


def test_other_functions_say_what_they_need():
    for function in (strip_quantization, lambda m: calibrate(m, np.ones((2, 4)))):
        with pytest.raises(ValueError, match="quantize_model"):
            function(tiny())
    with pytest.raises(ValueError, match="no batch"):
        calibrate(quantize_model(tiny()), [])
    model, x = calibrate(quantize_model(tiny()), np.ones((2, 4))), np.ones((2, 4))
    for data in (np.ones((2, 5)), x.tolist(), "x.npy", [[x[0], x]], (x[:, 0], x)):
        with pytest.raises(ValueError, match=r"takes arrays of shape \(None, 4\)\. Received: a ba"):
            calibrate(model, data)
    assert ko.compression.uncalibrated(model) == []


def test_calibration_says_where_nothing_is_finite():
    model = quantize_model(tiny())
    with pytest.raises(ValueError, match="finite values at x_input, dense_output, head, so"):
        calibrate(model, np.full((2, 4), np.nan, "float32"))
    calibrate(model, [np.full((2, 4), np.nan, "float32"), np.ones((2, 4), "float32")])
    assert ko.compression.uncalibrated(model) == []


@pytest.mark.parametrize("data", [None, 5])
def test_calibration_needs_data(data):
    with pytest.raises(TypeError, match=f"`data` must be an array.*data={data}"):
        calibrate(quantize_model(tiny()), data)


def test_calibration_takes_batches_in_any_form():
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    found = []
    batches = ([(x, x[:, 0])], [[x, x[:, 0]]], [{"x": x, "y": x}], iter([x[:3], x[3:]]))
    for data in (x, [x], *batches):
        model = calibrate(quantize_model(tiny()), data)
        found.append(float(ops.convert_to_numpy(model.get_layer("x_input").maximum)))
    np.testing.assert_allclose(found, x.max(), rtol=1e-6)


def test_ranges_inside_of_layers_are_told_apart():
    inputs = keras.Input((4,), name="x")
    x = layers.Dense(3, activation="tanh", name="dense")(inputs)
    model = quantize_model(keras.Model(inputs, layers.Dense(2, "softmax", name="head")(x)))
    names = ["x_input", "dense/before_activation", "head/before_activation"]
    assert ko.compression.uncalibrated(model) == names


@functools.cache
def aware(name, **options):
    """Returns a network trained with floats, then 2 epochs in 8 bits."""
    model = quantize_model(nets.trained(name), **options)
    return nets.train(model, epochs=2, learning_rate=2e-4)


@pytest.mark.parametrize("name", ["mlp", "cnn", pytest.param("mobile", marks=pytest.mark.heavy)])
def test_digits_lose_less_than_a_point(name):
    assert nets.accuracy(aware(name)) >= nets.accuracy(nets.trained(name)) - 0.01


@pytest.mark.heavy
@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("name", ["mlp", "cnn", "mobile"])
def test_training_beats_calibration_at_few_bits(name, bits):
    (x, _), _ = nets.digits()
    rows = []
    for seed in range(5):
        floats = nets.train(nets.NETS[name](seed), seed=seed)
        model = calibrate(quantize_model(floats, weight_bits=bits, activation_bits=bits), x[:512])
        calibrated = nets.accuracy(model)
        nets.train(model, epochs=6, learning_rate=3e-4, seed=seed)
        rows.append((nets.accuracy(floats), calibrated, nets.accuracy(model)))
    table = np.array(rows)
    print(name, bits, "bits: float, calibrated, trained", table.mean(0), table[:, 2] - table[:, 1])
    assert np.mean(table[:, 2]) > np.mean(table[:, 1])


@pytest.mark.parametrize(
    ("options", "head", "conv"),
    [
        ({}, "8 bits per tensor", "8 bits per channel"),
        ({"weight_bits": 7}, "7 bits per channel", "7 bits per channel"),
        ({"per_channel": True}, "8 bits per channel", "8 bits per channel"),
        ({"per_channel": np.True_}, "8 bits per channel", "8 bits per channel"),
        ({"per_channel": False, "weight_bits": 4}, "4 bits per tensor", "4 bits per tensor"),
    ],
)
def test_which_layers_have_a_scale_for_each_channel(options, head, conv):
    inputs = keras.Input((4, 4, 1))
    x = layers.Flatten()(layers.Conv2D(2, 3, name="conv")(inputs))
    x = layers.BatchNormalization()(layers.Dense(3, name="absorbing")(x))
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.ReLU()(x)))
    rows = {
        row.layer: row.weights for row in quantization_report(quantize_model(model, **options)).rows
    }
    assert (rows["head"], rows["conv"]) == (head, conv)
    assert rows["absorbing"].endswith("per channel")


def test_wrapped_layers_are_what_they_say():
    model = quantize_model(small(), weight_bits=4, activation_bits=5, per_channel=False)
    kinds = [type(layer) for layer in model.layers]
    assert kinds.count(QuantizedLayer) == 7 and kinds.count(QuantizedBatchNorm) == 2
    assert all(q.bits == 5 for q in model.layers if isinstance(q, QuantizeActivation))
    assert all(w.weight_bits == 4 for w in model.layers if isinstance(w, QuantizedLayer))
