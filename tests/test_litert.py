"""Export to LiteRT, judged by Keras' own outputs and by LiteRT's interpreter."""

import functools
import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_optkit as ko
from keras_optkit._backend import litert as backend
from tests import nets

pytest.importorskip("ai_edge_litert")
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
tensorflow_only = pytest.mark.skipif(not ON_TENSORFLOW, reason="only TensorFlow converts models")
export, quantize = ko.compression.export_litert, ko.compression.quantize_post_training


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("litert")


@functools.cache
def trained(name):
    return nets.train(nets.NETS[name](), epochs=4)


@functools.cache
def exported(folder, name):
    return export(trained(name), folder / f"{name}.tflite", require_int8=False)


@functools.cache
def quantized(folder, name, io_dtype="float32"):
    (x, _), _ = nets.digits()
    return quantize(trained(name), folder / f"{name}_{io_dtype}.tflite", x, io_dtype)


class FakeQuant(layers.Layer):
    """Quantizes on trial, between fixed limits."""

    def __init__(self, low, high, **kwargs):
        super().__init__(**kwargs)
        self.low, self.high = low, high

    def call(self, x):
        low, high = ops.convert_to_tensor(self.low), ops.convert_to_tensor(self.high)
        return keras.quantizers.fake_quant_with_min_max_vars(x, low, high, num_bits=8)


class FakeQuantDense(layers.Dense):
    """A Dense layer whose kernel is quantized on trial."""

    def call(self, x):
        kernel = ops.convert_to_tensor(self.kernel)
        high = ops.max(ops.abs(kernel))
        kernel = keras.quantizers.fake_quant_with_min_max_vars(
            kernel, -high, high, num_bits=8, narrow_range=True
        )
        return ops.relu(ops.matmul(x, kernel) + self.bias)


def aware(last="quantized"):
    """Returns a network that is ready for int8, but for the layer `last` if that is "float"."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,), name="x")
    x = FakeQuant(-2.0, 2.0, name="in")(inputs)
    x = FakeQuant(0.0, 3.0, name="out_1")(FakeQuantDense(16, name="dense")(x))
    x = FakeQuant(0.0, 3.0, name="out_2")(FakeQuantDense(4, name="dense_1")(x))
    if last == "float":
        x = layers.Activation("gelu", name="gelu")(layers.Dense(3, name="dense_2")(x))
    return keras.Model(inputs, x, name="aware")


def several():
    """Returns a network of several inputs and outputs, one input of a name Python keeps."""
    keras.utils.set_random_seed(0)
    z, a = keras.Input((4,), name="zeta"), keras.Input((3,), name="lambda")
    both = layers.Concatenate(name="both")(
        [layers.Dense(5, name="dense_z")(z), layers.Dense(2, name="dense_a")(a)]
    )
    heads = layers.Dense(2, name="head_2")(both), layers.Dense(3, name="head_1")(both)
    return keras.Model([z, a], heads, name="several")


@tensorflow_only
@pytest.mark.parametrize("name", nets.NETS)
def test_floats_give_the_outputs_of_keras(name, folder):
    report = exported(folder, name)
    _, (x, _) = nets.digits()
    expected = trained(name).predict(x, verbose=0)
    np.testing.assert_allclose(ko.compression.run_litert(report, x), expected, atol=1e-5)
    assert {op.dtype for op in report.ops} == {"float32"}
    assert report.bytes == report.path.stat().st_size


@tensorflow_only
@pytest.mark.parametrize("name", nets.NETS)
def test_post_training_quantization_is_all_int8_and_agrees(name, folder):
    report = quantized(folder, name)
    assert not report.float_ops
    dtypes = {op.dtype for op in report.ops if op.name not in ("QUANTIZE", "DEQUANTIZE")}
    assert dtypes == {"int8"}
    _, (x, _) = nets.digits()
    expected = trained(name).predict(x, verbose=0).argmax(axis=1)
    found = ko.compression.run_litert(report, x).argmax(axis=1)
    assert np.mean(found == expected) >= 0.99
    if name == "cnn":
        assert report.bytes <= 0.3 * exported(folder, name).bytes


@tensorflow_only
@pytest.mark.parametrize("io_dtype", ["int8", "uint8"])
def test_integers_at_the_border(io_dtype, folder):
    report, floats = quantized(folder, "mlp", io_dtype), quantized(folder, "mlp")
    assert not {"QUANTIZE", "DEQUANTIZE"} & {op.name for op in report.ops} or io_dtype == "uint8"
    (entry,), (exit_,) = report.inputs, report.outputs
    assert (entry.dtype, exit_.dtype) == (io_dtype, io_dtype)
    assert entry.scale == pytest.approx(1 / 255, rel=1e-3)
    assert entry.zero_point == {"int8": -128, "uint8": 0}[io_dtype]
    _, (x, _) = nets.digits()
    found = ko.compression.run_litert(report, x)
    expected = ko.compression.run_litert(floats, x)
    np.testing.assert_allclose(found, expected, atol=exit_.scale * 1.01)
    units = np.rint(x / entry.scale + entry.zero_point).astype(io_dtype)
    np.testing.assert_array_equal(ko.compression.run_litert(report, units), found)


@tensorflow_only
def test_ranges_of_training_end_in_the_file(folder):
    model = aware()
    report = export(model, folder / "aware.tflite", "int8")
    assert [(op.name, op.count, op.dtype) for op in report.ops] == [("FULLY_CONNECTED", 2, "int8")]
    assert report.inputs[0].scale == pytest.approx(4 / 255)
    assert report.outputs[0].scale == pytest.approx(3 / 255)
    x = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
    found = ko.compression.run_litert(report, x)
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=2.01 * 3 / 255)


@tensorflow_only
def test_float_operations_are_named_with_their_layers(folder):
    path = folder / "rest.tflite"
    with pytest.raises(ValueError, match=r"FULLY_CONNECTED \(dense_2\).*GELU \(gelu\)"):
        export(aware("float"), path)
    assert not path.exists()
    report = export(aware("float"), path, require_int8=False)
    assert "GELU (gelu)" in str(report)
    assert [op.layers for op in report.float_ops][-2:] == [("dense_2",), ("gelu",)]


@tensorflow_only
@pytest.mark.parametrize("name", nets.NETS)
def test_models_trained_for_int8_are_all_int8_and_agree(name, folder):
    (x, _), (x_test, _) = nets.digits()
    model = ko.compression.quantize_model(trained(name))
    path = folder / f"{name}_aware.tflite"
    with pytest.raises(ValueError, match=r"(?s)never been measured.*calibrate\(model, data\)"):
        export(model, path)
    ko.compression.calibrate(model, x[:256])
    report = export(model, path, "int8")
    assert {op.dtype for op in report.ops} == {"int8"}
    expected = model.predict(x_test, verbose=0).argmax(axis=1)
    found = ko.compression.run_litert(report, x_test).argmax(axis=1)
    assert np.mean(found == expected) >= 0.99
    if name == "cnn":
        assert report.bytes <= 0.3 * exported(folder, name).bytes
    if name == "mlp":  # of a layer between two others, the converter makes int8 all the same
        some = ko.compression.quantize_model(trained(name), exclude="head")
        ko.compression.calibrate(some, x[:256])
        with pytest.raises(ValueError, match=r"FULLY_CONNECTED \(head\) would compute"):
            export(some, path)


@tensorflow_only
def test_several_inputs_and_outputs(folder):
    model = several()
    rng = np.random.default_rng(0)
    z, a = (rng.normal(size=(40, n)).astype("float32") for n in (4, 3))
    first, second = model.predict([z, a], verbose=0)
    report = export(model, folder / "several.tflite", require_int8=False)
    assert [tensor.name for tensor in report.inputs] == ["zeta", "lambda_"]
    for x in ({"lambda": a, "zeta": z}, {"lambda_": a, "zeta": z}):
        found = ko.compression.run_litert(report, x)
        assert list(found) == ["head_1", "head_2"]
        np.testing.assert_allclose(found["head_1"], second, atol=1e-5)
        np.testing.assert_allclose(found["head_2"], first, atol=1e-5)
    with pytest.raises(ValueError, match=r"must be a dict with .* inputs zeta, lambda_.*list"):
        ko.compression.run_litert(report, [z, a])
    batches = ({"zeta": z[i : i + 8], "lambda": a[i : i + 8]} for i in range(0, 40, 8))
    for data in ([z, a], batches):
        report = quantize(model, folder / "several_int8.tflite", data)
        found = ko.compression.run_litert(report, {"lambda": a, "zeta": z})
        np.testing.assert_allclose(found["head_1"], second, atol=0.1)
        np.testing.assert_allclose(found["head_2"], first, atol=0.1)


@tensorflow_only
def test_dicts_and_an_open_batch(folder):
    inputs = {"b": keras.Input((4,), name="b"), "a": keras.Input((3,), name="a")}
    outputs = {"sum": layers.Dense(2)(layers.Concatenate()([inputs["b"], inputs["a"]]))}
    model = keras.Model(inputs, outputs)
    x = {"a": np.ones((70, 3), "float32"), "b": np.arange(280).reshape(70, 4).astype("float32")}
    report = export(model, folder / "dict.tflite", require_int8=False, batch_size=None)
    assert {tensor.name: tensor.shape for tensor in report.inputs} == {
        "a": (None, 3),
        "b": (None, 4),
    }
    expected = model.predict(x, verbose=0)["sum"]
    found = ko.compression.run_litert(report, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    report = export(model, folder / "dict.tflite", require_int8=False, batch_size=16)
    found = ko.compression.run_litert(report, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@tensorflow_only
def test_half_precision_becomes_float32(folder):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, dtype="mixed_float16")(inputs)
    x = layers.BatchNormalization(dtype="mixed_float16")(x)
    model = keras.Model(inputs, layers.Flatten()(x))
    report = export(model, folder / "half.tflite", require_int8=False)
    assert {op.dtype for op in report.ops} == {"float32"}
    assert model.layers[1].compute_dtype == "float16"
    _, (x, _) = nets.digits()
    found = ko.compression.run_litert(report, x[:8])
    np.testing.assert_allclose(found, model.predict(x[:8], verbose=0), atol=0.01)


@tensorflow_only
def test_loops(folder):
    x = np.random.default_rng(0).normal(size=(6, 5, 2)).astype("float32")
    model = keras.Sequential([keras.Input((5, 2)), layers.GRU(3)])
    report = export(model, folder / "gru.tflite", require_int8=False)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(ko.compression.run_litert(report, x), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"inside loops.*unroll=True"):  # TensorFlow would crash
        quantize(model, folder / "gru_int8.tflite", x)


@tensorflow_only
def test_addends_are_not_taken_for_biases(folder):
    inputs = keras.Input((6,), name="A"), keras.Input((6,), name="a")
    model = keras.Model(inputs, layers.Add()(inputs))
    report = export(model, folder / "add.tflite", require_int8=False)
    assert [op.name for op in report.ops] == ["ADD"]
    assert {tensor.name for tensor in report.inputs} == {"A", "a_1"}


@tensorflow_only
def test_zeros_are_counted_in_the_file(folder):
    model = nets.mlp()
    ko.compression.prune_once(model, 0.75)
    report = export(model, folder / "pruned.tflite", require_int8=False)
    kernels = [weight for weight in report.weights if len(weight.shape) == 2]
    expected = [int(np.sum(ops.convert_to_numpy(v) == 0)) for v in model.trainable_variables[::2]]
    assert sorted(weight.zeros for weight in kernels) == sorted(expected)
    (x, _), _ = nets.digits()
    report = quantize(model, folder / "pruned_int8.tflite", x)
    kernels = [weight for weight in report.weights if len(weight.shape) == 2]
    for weight, zeros in zip(sorted(kernels, key=lambda w: w.zeros), sorted(expected), strict=True):
        assert weight.dtype == "int8" and weight.zeros >= zeros


@tensorflow_only
def test_latency(folder):
    (x, _), _ = nets.digits()
    for source in (trained("mlp"), exported(folder, "mlp"), exported(folder, "mlp").path):
        found = ko.compression.litert_latency(source, repeats=20)
        assert 0 < found.p50 <= found.p90 < 1000
    found = ko.compression.litert_latency(quantized(folder, "mlp", "int8"), x, 2, 5)
    assert str(found).endswith("ms, 2 threads, 5 calls)")
    with pytest.raises(ValueError, match=r"`sample` does not fit.*\(samples, 8, 8, 1\).*\(5, 3\)"):
        ko.compression.litert_latency(exported(folder, "mlp"), np.zeros((5, 3)))


@tensorflow_only
def test_the_report_reads_well(folder):
    text = str(quantized(folder, "cnn", "int8"))
    assert re.search(r"^  CONV_2D +3  int8$", text, re.MULTILINE)
    assert re.search(
        r"^  input \S+: int8 \(1, 8, 8, 1\), scale 0.0039\d+, zero point -128$", text, re.M
    )
    assert text.endswith("float operations: none")
    assert "float operations: CONV_2D (relu_1, bn_1, conv_1), " in str(exported(folder, "cnn"))


X = np.zeros((4, 8, 8, 1), "float32")
WRONG_DATA = {
    "shape": (np.zeros((4, 8, 8)), r"does not fit .* \(samples, 8, 8, 1\).*\(4, 8, 8\)"),
    "empty": (X[:0], "holds no samples"),
    "no batches": ([], "holds no samples"),
    "not finite": (X + np.nan, "must be finite"),
    "wrong name": ({"image_2": X}, "an array for each of the inputs image. Received: image_2"),
}


@tensorflow_only
@pytest.mark.parametrize("case", WRONG_DATA)
def test_data_that_do_not_fit(case, folder):
    data, said = WRONG_DATA[case]
    with pytest.raises(ValueError, match=said):
        quantize(nets.mobile(), folder / "x.tflite", data)


def test_bad_input(folder, tmp_path):
    model, path = nets.mlp(), folder / "x.tflite"
    with pytest.raises(FileNotFoundError, match=r"mkdir -p .*missing"):
        export(model, folder / "missing" / "x.tflite")
    with pytest.raises(ValueError, match=r"must end in .tflite.*x\.lite"):
        export(model, folder / "x.lite")
    with pytest.raises(TypeError, match="`path` must be a path"):
        export(model, 3)
    with pytest.raises(ValueError, match="`io_dtype` must be one of 'float32', 'int8', 'uint8'"):
        export(model, path, "int16")
    with pytest.raises(ValueError, match="not built"):
        export(keras.Sequential([layers.Dense(1)]), path)
    with pytest.raises(
        TypeError, match="`data` must be an array" if ON_TENSORFLOW else "keras.Model"
    ):
        quantize(model if ON_TENSORFLOW else 3, path, 3)
    with pytest.raises(FileNotFoundError, match="no such file"):
        ko.compression.run_litert(folder / "none.tflite", X)
    with pytest.raises(ValueError, match="not a LiteRT file"):
        ko.compression.litert_report(b"0123456789")
    with pytest.raises(TypeError, match="its path, its bytes"):
        ko.compression.litert_report(3)
    with pytest.raises(TypeError, match=r"not a model. Write one with export_litert\(model, path"):
        ko.compression.run_litert(model, X)
    with pytest.raises(ValueError, match="at least 1"):
        ko.compression.litert_latency(path, repeats=0)


def test_a_tf_keras_model(folder, monkeypatch):
    class Foreign:
        pass

    Foreign.__module__ = "tf_keras.src.engine.training"
    with pytest.raises(TypeError, match=r"of tf_keras. Rebuild it"):
        export(Foreign(), folder / "x.tflite")


@tensorflow_only
def test_models_that_cannot_become_files(folder):
    path = folder / "x.tflite"
    with pytest.raises(ValueError, match=r"not trained for int8.*require_int8=False"):
        export(nets.mlp(), path)
    with pytest.raises(ValueError, match=r"not trained for int8.*io_dtype='int8'"):
        export(nets.mlp(), path, "int8", require_int8=False)
    with pytest.raises(ValueError, match="Write it with `export_litert`"):
        quantize(aware(), path, np.zeros((4, 8), "float32"))

    class Own(keras.Model):
        def call(self, x):
            return x

    own = Own()
    own(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="a subclass with a `call` of its own has none"):
        export(own, path, require_int8=False)

    inputs = keras.Input((4,))
    strange = keras.Model(
        inputs, layers.Lambda(lambda x: ops.real(ops.fft2((x[None], x[None]))[0]))(inputs)
    )
    with pytest.raises(ValueError, match=r"converter cannot .* no such operations: .*FFT2D"):
        export(strange, path, require_int8=False)

    assert not path.exists()


@pytest.mark.skipif(ON_TENSORFLOW, reason="TensorFlow converts models")
def test_other_backends_say_where_to_export(folder):
    said = r"(?s)TensorFlow backend.*model.save.*KERAS_BACKEND=tensorflow.*load_model.*"
    with pytest.raises(RuntimeError, match=said + r"export_litert\(model"):
        export(nets.mlp(), folder / "x.tflite")
    with pytest.raises(RuntimeError, match=said + r"quantize_post_training\(model"):
        quantize(nets.mlp(), folder / "x.tflite", X)
    with pytest.raises(RuntimeError, match=said + r"litert_latency\(model"):
        ko.compression.litert_latency(nets.mlp())


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match=r'ai-edge-litert.*pip install "keras_optkit\[litert\]"'):
        backend.interpreter(b"", 1)
