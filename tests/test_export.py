"""Models leave Keras without anything that only training needs."""

import functools
import math

import keras
import numpy as np
import pytest

from keras_optkit import compression, continual, optimizers
from keras_optkit.testing._models import data, fit, network
from tests.test_contract import ALIKE, INSTANCES, OPTIMIZERS

tf = pytest.importorskip("tensorflow")
BACKEND = keras.backend.backend()

KINDS = [name for name in OPTIMIZERS if name not in ALIKE]


@pytest.mark.skipif(BACKEND == "torch", reason="Keras cannot: torch to SavedModel")
@pytest.mark.parametrize("name", KINDS)
def test_export_gives_a_saved_model_that_plain_tensorflow_serves(name, tmp_path):
    model = fit(network(), INSTANCES[name]())
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    served = loaded.serve(data()[0])
    np.testing.assert_allclose(served, model.predict(data()[0], verbose=0), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.saved_model needs TF's own")
@pytest.mark.parametrize("name", KINDS)
def test_tf_saved_model_and_checkpoint(name, tmp_path):
    model = fit(network(), INSTANCES[name]())
    tf.saved_model.save(model, str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    (served,) = loaded.signatures["serving_default"](tf.constant(data()[0])).values()
    np.testing.assert_allclose(served, model.predict(data()[0], verbose=0), rtol=1e-6, atol=1e-6)
    tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))


# Trained models of each kind, with all that has to stay behind: slots, averages, masks, teachers,
# anchors, importances, gradients of the other point.


def averaged():
    return fit(network(), optimizers.Averaged(optimizers.Lookahead("adam"), decay=0.5))


def pruned():
    schedule = compression.ConstantSparsity(0.5, begin_step=0, frequency=1)
    return fit(network(), compression.Pruned("adam", schedule))


def quantized():
    return fit(compression.quantize_model(network()), "adam")


def distilled():
    teacher = fit(network(), "adam")
    return fit(compression.Distiller(network(), teacher, compression.LogitsKD()), "adam")


def continued():
    learner = continual.ContinualModel(network(), [continual.EWC(1.0), continual.SI(1.0)])
    fit(learner, "adam")
    learner.consolidate(*data())
    return fit(learner)


def flattened():
    return fit(optimizers.SAM(network()), "adam")


MODELS = (averaged, pruned, quantized, distilled, continued, flattened)


@functools.cache
def model_of(kind):
    return kind()


def entries(path):
    """Returns how many numbers a SavedModel holds, and the largest of the arrays."""
    shapes = [shape for _, shape in tf.train.list_variables(str(path / "variables" / "variables"))]
    sizes = sorted(map(math.prod, shapes))
    return sum(sizes), sizes[-1]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Returns the numbers in a model that was never compiled."""
    path = tmp_path_factory.mktemp("bare")
    network().export(path, verbose=False)
    return entries(path)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras cannot: torch to SavedModel")
@pytest.mark.parametrize("kind", MODELS)
def test_saved_model_holds_what_inference_needs(kind, bare, tmp_path):
    model, x = model_of(kind), data()[0]
    model.export(tmp_path, verbose=False)
    found, largest = entries(tmp_path)
    # Of a range: minimum, maximum, and three flags; Keras on TensorFlow writes all twice.
    ranges = 2 * 5 * 10 if kind is quantized else 0
    assert bare[0] <= found <= bare[0] + ranges
    assert largest == bare[1]
    expected = model.predict(x, verbose=0)
    loaded = tf.saved_model.load(str(tmp_path))
    served = loaded.serve(x)
    np.testing.assert_allclose(served, expected, rtol=1e-6, atol=1e-6)
    if BACKEND == "tensorflow":
        back = keras.layers.TFSMLayer(tmp_path, call_endpoint="serve")(x)
        np.testing.assert_allclose(back, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the converter is TensorFlow's")
@pytest.mark.parametrize("kind", [averaged, continued])
def test_litert_file_holds_what_inference_needs(kind, tmp_path):
    pytest.importorskip("ai_edge_litert")
    path, x = tmp_path / "model.tflite", data(1)[0]
    model = getattr(model_of(kind), "model", model_of(kind))  # inside of a learner
    report = compression.export_litert(model, path, require_int8=False)
    assert report.parameters == network().count_params()
    served = compression.LiteRTModel(path).predict(x)
    np.testing.assert_allclose(served, model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [k for k in MODELS if BACKEND != "torch" or k is not quantized])
def test_onnx_file_holds_what_inference_needs(kind, tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip(
        {"tensorflow": "tf2onnx", "jax": "jax2onnx", "torch": "onnxscript"}[BACKEND]
    )
    model, path = model_of(kind), str(tmp_path / "model.onnx")
    model.export(path, format="onnx", verbose=False)
    kept = [math.prod(array.dims) for array in onnx.load(path).graph.initializer]
    assert sum(n for n in kept if n > 2) <= sum(w.size for w in network().get_weights()) + 16
    options = runtime.SessionOptions()  # else it rounds the weights once more, by scales of its own
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = runtime.InferenceSession(path, options)
    (entry,) = session.get_inputs()
    x = data(32 if isinstance(entry.shape[0], str) else entry.shape[0])[0]
    (served,) = session.run(None, {entry.name: x})
    np.testing.assert_allclose(served, model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
