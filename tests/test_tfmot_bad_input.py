"""What the bridge and TF-MOT's wrappers refuse, and what they say."""

import importlib.util

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.compression import ConstantSparsity, tfmot
from keras_optkit.compression.tfmot import _imports
from tests import nets

if importlib.util.find_spec("tensorflow_model_optimization") is None:
    # Not importorskip: that import is the one which changes the process.
    pytest.skip("TF-MOT is not installed", allow_module_level=True)

tf_keras = _imports.tf_keras()


slow_to_build = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="TF-MOT works on tf_keras models, which are the same on every backend",
)


def network(units=3):
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(units, name="first"), layers.Dense(2, name="head")],
        name="network",
    )


def train(model):
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)


@keras.saving.register_keras_serializable("tests")
class Mine(layers.Layer):
    def call(self, x):
        return x


CALLS = {
    "to_tf_keras": tfmot.to_tf_keras,
    "prune": lambda m: tfmot.prune(m, train),
    "cluster": lambda m: tfmot.cluster(m, train, 4),
    "quantize": lambda m: tfmot.quantize(m, train),
}


@pytest.mark.parametrize("name", CALLS)
def test_models_that_are_none(name):
    call = CALLS[name]
    twin = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    with pytest.raises(TypeError, match=r"takes models of Keras 3, and this one is of tf_keras"):
        call(twin)
    with pytest.raises(TypeError, match=r"`model` must be a keras.Model. Received: model=3"):
        call(3)
    with pytest.raises(ValueError, match="is not built"):
        call(keras.Sequential([layers.Dense(2)]))
    built = nets.Subclassed(2)
    built(np.ones((1, 4)))
    with pytest.raises(ValueError, match="a subclass with a `call` of its own has none"):
        call(built)


def test_all_that_cannot_be_translated_is_named_at_once():
    inputs = keras.Input((4, 4))
    x = layers.Lambda(lambda x: x, name="lambda_1")(inputs)
    x = layers.RMSNormalization(name="rms")(x)
    x = Mine(name="mine")(x)
    x = layers.Dense(4, "sparsemax", name="sparse")(x)
    x = layers.Dense(4, kernel_regularizer=Regularizer(), name="regularized")(x)
    x = layers.Activation(layers.ReLU(), name="object")(x)
    x = layers.Dense(4, lambda x: x, name="nameless")(x)
    x = layers.Dense(4, relu, name="namesake")(x)
    x = layers.Dense(4, name="a name")(x)
    x = ops.cumsum(x, axis=1)
    x = layers.Attention(name="attention")([x, x])
    inner = keras.Sequential([keras.Input((4, 4)), layers.RMSNormalization(name="inside")])
    with pytest.raises(ValueError, match="cannot express all of model") as caught:
        tfmot.to_tf_keras(keras.Model(inputs, inner(x), name="model"))
    said = str(caught.value)
    for part in (
        "Lambda 'lambda_1': its config does not tell all that it does",
        "RMSNormalization 'rms': tf_keras has no layer for it",
        "Mine 'mine': this layer is not of Keras itself",
        "Dense 'sparse': activation='sparsemax' has no counterpart",
        "Dense 'regularized': kernel_regularizer=Regularizer has no counterpart",
        "Activation 'object': activation=ReLU has no counterpart",
        "Dense 'nameless': activation=<lambda> is a function of",
        "Dense 'namesake': activation=relu is a function of",
        "Dense 'a name': tf_keras takes no such name",
        "Cumsum",
        "RMSNormalization 'inside'",
        "`quantize_model`",
    ):
        assert part in said, said
    assert "attention" not in said


def relu(x):
    return ops.minimum(x, 0)


@keras.saving.register_keras_serializable("tests")
class Regularizer(keras.regularizers.Regularizer):
    def __call__(self, x):
        return ops.sum(x)

    def get_config(self):
        return {}


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (layers.MultiHeadAttention(2, 2, use_gate=True, name="mha"), "mha': use_gate=True"),
        (layers.Resizing(4, 4, antialias=True, name="resize"), "resize': antialias=True"),
    ],
    ids=["gate", "antialias"],
)
def test_an_argument_without_counterpart_is_named(layer, said):
    inputs = keras.Input((8, 8, 3))
    outputs = layer(inputs, inputs) if "mha" in layer.name else layer(inputs)
    with pytest.raises(ValueError, match=f"{said} has no counterpart in tf_keras"):
        tfmot.to_tf_keras(keras.Model(inputs, outputs))


def test_a_quantized_model_is_refused():
    model = network()
    model.quantize("int8")
    with pytest.raises(ValueError, match="first': it is quantized or has LoRA"):
        tfmot.to_tf_keras(model)


def test_copy_weights_names_layers_and_shapes():
    twin = tfmot.to_tf_keras(network(5))
    with pytest.raises(ValueError) as caught:
        tfmot.copy_weights(network(), twin)
    assert "first: kernel is (4, 3) in the source, (4, 5) in the target" in str(caught.value)
    assert "head: kernel is (3, 2) in the source, (5, 2) in the target" in str(caught.value)
    other = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="other")])
    with pytest.raises(ValueError) as caught:
        tfmot.copy_weights(other, network())
    assert "other: only in the source" in str(caught.value)
    assert "first: only in the target" in str(caught.value)
    no_bias = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="first", use_bias=False),
            layers.Dense(2, name="head"),
        ]
    )
    with pytest.raises(
        ValueError, match=r"first: shapes \[\(4, 3\)\] in the source, \[\(4, 3\), \(3,\)\]"
    ):
        tfmot.copy_weights(no_bias, network())
    with pytest.raises(TypeError, match="`target` must be a model"):
        tfmot.copy_weights(network(), 3)
    with pytest.raises(ValueError, match="`source` is not built"):
        tfmot.copy_weights(keras.Sequential([layers.Dense(2)]), network())


def test_from_tf_keras_takes_the_right_kinds():
    model = network()
    with pytest.raises(TypeError, match="`tf_model` must be a model of tf_keras"):
        tfmot.from_tf_keras(model, like=model)
    with pytest.raises(TypeError, match="takes models of Keras 3"):
        tfmot.from_tf_keras(tfmot.to_tf_keras(model), like=tfmot.to_tf_keras(model))


@slow_to_build
def test_fit_must_be_a_function_and_train():
    model = network()
    for call in (
        lambda fit: tfmot.prune(model, fit),
        lambda fit: tfmot.cluster(model, fit, 2),
        lambda fit: tfmot.quantize(model, fit),
    ):
        with pytest.raises(TypeError, match="`fit` must be a function of a tf_keras model"):
            call(3)
    with pytest.warns(UserWarning, match=r"tfmot.prune has changed nothing"):
        tfmot.prune(model, lambda m: None)
    with pytest.warns(UserWarning, match=r"has pruned nothing.*Steps taken: 1\."):
        tfmot.prune(model, train)
    found = tfmot.prune(
        model, by_position, pruning_schedule=ConstantSparsity(0.5, 1), pruning_policy=HeadOnly()
    )
    zeros = [np.sum(ops.convert_to_numpy(layer.kernel) == 0) for layer in found.layers]
    assert zeros == [0, 3]


class HeadOnly:
    """A policy of TF-MOT, which may not be installed."""

    def allow_pruning(self, layer):
        return layer.name == "head"

    def ensure_model_supports_pruning(self, model):
        assert isinstance(model, tf_keras.Model)


def by_position(model):
    step = _imports.tfmot().sparsity.keras.UpdatePruningStep()
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 4)), np.ones((4, 2)), 4, 2, 0, [step])


@slow_to_build
def test_nothing_to_prune_or_cluster():
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(name="bn")])
    for call in (tfmot.prune, lambda m, fit: tfmot.cluster(m, fit, 4)):
        with pytest.raises(ValueError, match=r"finds no layer.*BatchNormalization 'bn'"):
            call(model, train)


@slow_to_build
def test_quantize_names_all_layers_that_tfmot_refuses():
    inner = keras.Sequential([keras.Input((4, 3)), layers.Dense(3)], name="inner")
    inputs = keras.Input((4, 3))
    x = layers.LSTM(3, name="lstm", return_sequences=True)(inner(inputs))
    x = layers.LayerNormalization(name="norm")(x)
    with pytest.raises(ValueError) as caught:
        tfmot.quantize(keras.Model(inputs, x, name="model"), train)
    for part in (
        "Sequential 'inner'",
        "LSTM 'lstm'",
        "LayerNormalization 'norm'",
        "quantize_model",
    ):
        assert part in str(caught.value)
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(2), layers.Activation("hard_silu", name="hard")], name="m"
    )
    with pytest.raises(ValueError, match=r"(?s)TF-MOT cannot quantize model 'm'.*quantize_model"):
        tfmot.quantize(model, train)


def test_arguments():
    model = network()
    with pytest.raises(ValueError, match="`scheme` must be one of '8bit', 'prune_preserve'"):
        tfmot.quantize(model, train, scheme="int8")
    with pytest.raises(ValueError, match="`io_dtype` must be one of"):
        tfmot.quantize(model, train, io_dtype="float16")
    with pytest.raises(ValueError, match="`number_of_clusters` must be an integer of at least 2"):
        tfmot.cluster(model, train, 1)
    with pytest.raises(ValueError, match="`cluster_centroids_init` must be one of"):
        tfmot.cluster(model, train, 4, cluster_centroids_init="nearest")
    with pytest.raises(ValueError, match=r"one of 'pruning_schedule', 'block_size', .*='sparsity'"):
        tfmot.prune(model, train, sparsity=0.5)
    with pytest.raises(TypeError, match=r"sparsity schedule of TF-MOT.*pruning_schedule=0\.5"):
        tfmot.prune(model, train, pruning_schedule=0.5)
    with pytest.raises(TypeError, match=r"`block_size` must be a pair.*block_size=4"):
        tfmot.prune(model, train, block_size=4)
    with pytest.raises(ValueError, match="`block_pooling_type` must be one of 'AVG', 'MAX'"):
        tfmot.prune(model, train, block_pooling_type="mean")
    with pytest.raises(ValueError, match="`sparsity_m_by_n` must be a pair of integers, zeros"):
        tfmot.prune(model, train, sparsity_m_by_n=(4, 2))
    images = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 3, name="conv")])
    with pytest.raises(ValueError, match=r"other kernels: Conv2D 'conv'.*block_size=\(4, 4\)"):
        tfmot.prune(images, train, block_size=[4, 4])
    with pytest.raises(TypeError, match=r"from_tf_keras takes models of Keras 3.*like="):
        tfmot.from_tf_keras(model, like=tfmot.to_tf_keras(model))
