"""TF-MOT prunes, clusters and quantizes models of Keras 3."""

import functools
import importlib.util

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.compression import ConstantSparsity, PolynomialSparsity, tfmot
from keras_optkit.compression.tfmot import _imports
from tests import nets

if importlib.util.find_spec("tensorflow_model_optimization") is None:
    # Not importorskip: that import is the one which changes the process.
    pytest.skip("TF-MOT is not installed", allow_module_level=True)

tf_keras = _imports.tf_keras()

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="TF-MOT works on tf_keras models, which are the same on every backend",
)


# Of another backend TF-MOT sees only the weights, and one test shows that these come and go.
heavy_elsewhere = (
    pytest.mark.heavy if keras.backend.backend() != "tensorflow" else lambda test: test
)


def tensorflow_only_case(value):
    return pytest.param(value, marks=tensorflow_only)


def small(seed=0):
    """Returns a convolutional network that TF-MOT can treat in all ways."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv"),
            layers.BatchNormalization(momentum=0.8, name="bn"),
            layers.ReLU(name="relu"),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(32, activation="relu", name="dense"),
            layers.Dense(10, name="head"),
        ],
        name="small",
    )


@functools.cache
def trained_weights():
    """Trains as a tf_keras model, which takes as long on every backend."""
    tf_model = tfmot.to_tf_keras(small())
    fit(5, 3e-3)(tf_model)
    return tfmot.from_tf_keras(tf_model, like=small()).get_weights()


def trained():
    model = small()
    model.set_weights(trained_weights())
    return model


def fit(epochs, learning_rate=1e-3):
    """Returns a function that trains a tf_keras model on the digits."""

    def run(model):
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_keras.optimizers.Adam(learning_rate), loss)
        model.fit(*nets.digits()[0], batch_size=64, epochs=epochs, verbose=0)

    return run


def kernels(model):
    return {w.path: ops.convert_to_numpy(w) for w in model.weights if w.name == "kernel"}


def interpret(content, x):
    """Returns what a LiteRT file with float inputs gives, and its interpreter."""
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = interpreter_module.Interpreter(model_content=content)
    (entry,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(entry["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(out["index"]), interpreter


def accuracy(outputs):
    return np.mean(np.argmax(outputs, axis=1) == nets.digits()[1][1])


@functools.cache
def pruned_by_magnitude():
    """Returns a trained network in which half of each kernel is zero."""
    model = trained()
    for variable in model.weights:
        if variable.name == "kernel":
            value = ops.convert_to_numpy(variable)
            variable.assign(np.where(np.abs(value) < np.median(np.abs(value)), 0, value))
    return model


def seeded(function):
    keras.utils.set_random_seed(0)
    tf_keras.utils.set_random_seed(0)
    return function()


def test_prune_gives_a_plain_model_with_the_zeros():
    model = trained()
    schedule = PolynomialSparsity(0.2, 0.75, 0, 30, frequency=10)
    pruned = tfmot.prune(model, fit(3, 3e-3), pruning_schedule=schedule)
    assert type(pruned) is keras.Sequential
    assert [layer.name for layer in pruned.layers] == [layer.name for layer in model.layers]
    for path, kernel in kernels(pruned).items():
        assert np.sum(kernel == 0) == kernel.size - round(kernel.size * 0.25), path
    assert all(np.all(k != 0) for k in kernels(model).values())
    assert accuracy(pruned.predict(nets.digits()[1][0], verbose=0)) > 0.8


@tensorflow_only
def test_prune_does_what_tfmot_does():
    """Judge: TF-MOT around the whole tf_keras model, with its callback by hand."""
    library = _imports.tfmot().sparsity.keras
    schedule = library.ConstantSparsity(0.5, 4, frequency=5)

    def by_hand():
        whole = library.prune_low_magnitude(tfmot.to_tf_keras(trained()), schedule)
        whole.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        whole.fit(x, y, epochs=2, verbose=0, callbacks=[library.UpdatePruningStep()])
        return library.strip_pruning(whole)

    def simply(model):
        model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(x, y, epochs=2, verbose=0)

    x, y = nets.digits()[0][0][:256], nets.digits()[0][1][:256]
    expected = seeded(by_hand)
    got = seeded(lambda: tfmot.prune(trained(), simply, pruning_schedule=schedule))
    for a, b in zip(expected.weights, tfmot.to_tf_keras(got).weights, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.name)


@tensorflow_only
def test_prune_reaches_nested_and_recurrent_layers():
    series = keras.Input((6, 4))
    inner = keras.Sequential([keras.Input((6, 4)), layers.Conv1D(4, 3, name="conv")], name="inner")
    x = layers.Dropout(0.1)(inner(series))  # a recorded training=False would stop all pruning
    x = ops.relu(layers.LSTM(4, name="lstm")(x))
    model = keras.Model(series, layers.Dense(2, name="head")(x))

    def simply(tf_model):
        tf_model.compile("sgd", "mse")
        tf_model.fit(np.ones((8, 6, 4)), np.ones((8, 2)), epochs=2, verbose=0)

    pruned = tfmot.prune(model, simply, pruning_schedule=ConstantSparsity(0.5, 1))
    found = {w.path: np.mean(ops.convert_to_numpy(w) == 0) for w in pruned.weights}
    halved = [path for path, share in found.items() if path.endswith("kernel")]
    assert len(halved) == 4
    assert {path: found[path] for path in halved} == dict.fromkeys(halved, 0.5)


@functools.cache
def clustered(sparse):
    """Returns a trained network, half of it zero or not, and the same after clustering."""
    start = pruned_by_magnitude() if sparse else trained()
    return start, tfmot.cluster(start, fit(1, 1e-4), 8, preserve_sparsity=sparse)


@heavy_elsewhere
@pytest.mark.parametrize("preserve", [False, tensorflow_only_case(True)])
def test_cluster_leaves_few_values(preserve):
    model, result = clustered(preserve)
    assert type(result) is keras.Sequential
    for path, kernel in kernels(result).items():
        assert 4 <= len(np.unique(kernel)) <= 8, path
        if preserve:
            assert np.all(kernel[kernels(model)[path] == 0] == 0), path
    assert accuracy(result.predict(nets.digits()[1][0], verbose=0)) > 0.7


@heavy_elsewhere
def test_quantize_gives_int8():
    x = nets.digits()[1][0]
    content, qat = tfmot.quantize(trained(), fit(2, 3e-3))
    outputs, interpreter = interpret(content, x)
    assert accuracy(outputs) > 0.9
    assert np.mean(outputs.argmax(1) == qat.predict(x, verbose=0).argmax(1)) >= 0.99
    assert int8_share(interpreter) == 1


@pytest.mark.heavy
@tensorflow_only
def test_quantize_takes_int8_at_the_door():
    content, _ = tfmot.quantize(trained(), fit(1), io_dtype="int8")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(
        model_content=content
    )
    (entry,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert entry["dtype"] is out["dtype"] is np.int8


@pytest.mark.heavy
@tensorflow_only
def test_prune_preserve_keeps_the_zeros():
    model = pruned_by_magnitude()
    content, _ = tfmot.quantize(model, fit(1), "prune_preserve")
    for kernel, integers in zip(kernels(model).values(), integer_kernels(content), strict=True):
        assert np.all(integers[kernel == 0] == 0)
        assert np.mean(integers == 0) < 0.6  # and not because all is zero


@tensorflow_only
@pytest.mark.parametrize(
    "scheme",
    [pytest.param("cluster_preserve", marks=pytest.mark.heavy), "prune_cluster_preserve"],
)
def test_cluster_preserve_keeps_the_number_of_values(scheme):
    sparse = scheme == "prune_cluster_preserve"
    _, start = clustered(sparse)
    content, _ = tfmot.quantize(start, fit(1, 1e-4), scheme)
    for kernel, integers in zip(kernels(start).values(), integer_kernels(content), strict=True):
        per = integers.reshape(-1, integers.shape[-1]).T if integers.ndim == 4 else [integers]
        assert max(len(np.unique(part)) for part in per) <= 8  # conv kernels have a scale a channel
        if sparse:
            assert np.all(integers[kernel == 0] == 0)


def int8_share(interpreter):
    """Returns the share of the operations, but for those at the door, whose outputs are int8."""
    kinds = {t["index"]: t["dtype"] for t in interpreter.get_tensor_details()}
    inner = [
        op
        for op in interpreter._get_ops_details()
        if op["op_name"] not in ("QUANTIZE", "DEQUANTIZE", "DELEGATE")
    ]
    assert {"CONV_2D", "FULLY_CONNECTED"} <= {op["op_name"] for op in inner}
    return np.mean([all(kinds[i] is np.int8 for i in op["outputs"]) for op in inner])


def integer_kernels(content):
    """Returns the integers of the three kernels of `small`, in the layout of Keras."""
    _, interpreter = interpret(content, nets.digits()[1][0][:1])
    found = {}
    for op in interpreter._get_ops_details():
        if op["op_name"] in ("CONV_2D", "FULLY_CONNECTED"):
            value = interpreter.get_tensor(op["inputs"][1])
            assert value.dtype == np.int8
            found[op["inputs"][1]] = np.moveaxis(value, 0, -1)
    return list(found.values())
