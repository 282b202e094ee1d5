"""Channels really removed, against the same model with zeros for the removed rows."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_optkit import compression
from keras_optkit.compression._graph import functional
from keras_optkit.compression.channels import _target
from keras_optkit.compression.channels._choice import count
from keras_optkit.compression.litert.litert_latency import LiteRTLatency
from tests import channels_oracle as oracle
from tests import nets

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)


def image(size=6, channels=3):
    return keras.Input((size, size, channels), name="image")


def conv(filters, kernel=3, **kwargs):
    return layers.Conv2D(filters, kernel, padding="same", **kwargs)


def head(x):
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    return layers.Dense(3, name="head")(x)


def chain():
    return keras.Sequential(
        [
            image(),
            conv(8, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Dropout(0.5, noise_shape=(None, 1, 1, 1)),
            conv(4, activation="relu"),
            layers.Flatten(),
            layers.Dense(6, activation="tanh"),
            layers.Dense(3, name="head"),
        ]
    )


def spatial():
    inputs = image()
    x = conv(8)(inputs)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.AveragePooling2D(2)(layers.Activation("gelu")(x))
    x = layers.UpSampling2D(2)(layers.Cropping2D(1)(x))
    x = layers.Resizing(3, 3)(layers.Rescaling(2.0, 0.5)(x))
    x = layers.SpatialDropout2D(0.2)(layers.LeakyReLU()(x))
    x = layers.PReLU(shared_axes=[1, 2])(conv(8)(x))
    x = layers.PReLU()(conv(6)(x))
    return keras.Model(inputs, head(x))


def residual():
    inputs = image()
    x = conv(8, activation="relu")(inputs)
    y = layers.BatchNormalization()(conv(8)(layers.ReLU()(conv(8)(x))))
    x = layers.Add()([x, y])
    y = layers.Subtract()([x, conv(8)(x)])
    x = layers.Average()([layers.Maximum()([x, y]), layers.Minimum()([x, y])])
    return keras.Model(inputs, head(x))


def concatenation():
    inputs = image()
    a, b = conv(6, activation="relu")(inputs), conv(4)(inputs)
    x = layers.BatchNormalization()(layers.Concatenate()([a, b, a]))
    y = conv(16, 1)(layers.ReLU()(x))  # channels of two groups, one of them twice
    x = layers.Concatenate()([layers.Add()([x, y]), inputs])
    return keras.Model(inputs, head(conv(8)(x)))


def along_height():
    inputs = image()
    x = layers.Concatenate(axis=1)([conv(8)(inputs), conv(8, activation="relu")(inputs)])
    return keras.Model(inputs, head(x))


def depthwise():
    inputs = image()
    x = conv(8, activation="relu")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2, activation="relu")(x)
    x = layers.SeparableConv2D(6, 3)(x)
    return keras.Model(inputs, head(x))


def grouped():
    inputs = image()
    x = conv(8, activation="relu")(inputs)
    x = conv(16, groups=8, activation="relu")(x)
    x = conv(8, groups=2, activation="relu")(conv(8)(x))
    return keras.Model(inputs, head(conv(8)(x)))


def flattened():
    inputs = image(4)
    x = conv(8, activation="relu")(inputs)
    a = layers.Dense(6, activation="relu")(layers.Flatten()(x))
    b = layers.Dense(6)(layers.Reshape((-1,))(x))
    c = layers.Dense(6)(layers.Reshape((4 * 4 * 8,))(x))
    d = layers.Dense(6)(layers.Reshape((16, 8))(x))
    d = layers.GlobalMaxPooling1D()(layers.Permute((2, 1))(layers.Permute((2, 1))(d)))
    return keras.Model(inputs, head(layers.Concatenate()([a, b, c, d])))


def squeeze_excite():
    inputs = image()
    x = conv(8, activation="relu")(inputs)
    y = layers.GlobalAveragePooling2D()(x)
    y = layers.Reshape((1, 1, 8))(y)
    y = layers.Conv2D(8, 1, activation="hard_sigmoid")(layers.Conv2D(4, 1, activation="relu")(y))
    x = layers.Multiply()([x, y])
    y = layers.Dense(4, activation="relu")(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply()([x, layers.Dense(8, activation="sigmoid")(y)])
    y = conv(8, 1, activation="sigmoid")(layers.GlobalMaxPooling2D(keepdims=True)(x))
    return keras.Model(inputs, head(layers.Multiply()([y, x])))


def attention_over_space():
    inputs = image()
    x = conv(8, activation="relu")(inputs)
    return keras.Model(inputs, head(x * conv(1, activation="sigmoid")(x)))


def operations():
    inputs = image(4)
    x = ops.relu(conv(8)(inputs))
    x = ops.add(x, ops.clip(conv(8)(x), 0.0, 1.0)) * 0.5
    x = x * keras.activations.hard_sigmoid(conv(8)(x) + 3.0) - ops.square(x) / 7.0
    x = ops.concatenate([x, ops.tanh(conv(4)(x))], axis=-1)
    y = ops.mean(x, axis=(1, 2), keepdims=True)
    x = ops.maximum(conv(12, 1)(y), x)
    y = ops.reshape(x, (-1, 16, 12))
    y = layers.Dense(6)(ops.max(ops.transpose(y, (0, 2, 1)), axis=2))
    z = ops.squeeze(ops.expand_dims(ops.mean(x, axis=[1, 2]), 1), 1)
    return keras.Model(inputs, head(ops.concatenate([y, z, ops.reshape(x, (-1, 192))], -1)))


def shared():
    inputs = image()
    twice = conv(8, activation="relu", name="twice")
    norm = layers.BatchNormalization()
    x = conv(8)(inputs)
    x = norm(twice(twice(norm(x))))
    return keras.Model(inputs, head(layers.Concatenate()([x, twice(x)])))


def nested():
    start = keras.Input((None, None, 8), name="features")
    block = keras.Model(start, layers.Add()([start, conv(8, activation="relu", name="c")(start)]))
    tail = keras.Sequential(
        [keras.Input((8,)), layers.Dense(6, activation="relu"), layers.Dense(4)], name="tail"
    )
    inputs = image()
    x = block(conv(8)(block(conv(8, activation="relu", name="c")(inputs))))
    return keras.Model(inputs, head(tail(layers.GlobalAveragePooling2D()(x))))


def transposed():
    inputs = image(4)
    x = conv(8, activation="relu")(inputs)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(inputs, conv(2)(layers.Conv2DTranspose(4, 3)(x)))


def sequence():
    inputs = keras.Input((10, 3))
    x = layers.Conv1D(8, 3, padding="causal", activation="relu")(inputs)
    x = layers.BatchNormalization()(layers.ZeroPadding1D(1)(x))
    x = layers.SeparableConv1D(8, 3, activation="relu")(layers.MaxPooling1D(2)(x))
    x = layers.Conv1DTranspose(6, 3)(layers.UpSampling1D(2)(x))
    x = layers.DepthwiseConv1D(3)(layers.Dense(8, activation="relu")(x))
    return keras.Model(inputs, head(layers.GlobalMaxPooling1D()(x)))


def volume():
    inputs = keras.Input((4, 4, 4, 2))
    x = layers.Conv3D(8, 2, activation="relu")(inputs)
    x = layers.AveragePooling3D(2)(layers.UpSampling3D(2)(x))
    x = layers.Conv3D(4, 2, activation="relu")(x)
    return keras.Model(inputs, head(layers.Flatten()(x)))


def words():
    inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(11, 8)(inputs)
    x = layers.Dense(8, activation="relu")(x)
    return keras.Model(inputs, head(layers.GlobalAveragePooling1D()(x)))


def several_ends():
    a, b = image(4), keras.Input((5,), name="numbers")
    x = layers.Flatten()(conv(8, activation="relu")(a))
    y = layers.Dense(8, activation="relu", name="y")(b)
    x = layers.Add()([layers.Dense(8, activation="relu")(x), y])
    outputs = {"one": head(x), "two": layers.Dense(2, activation="softmax", name="two")(x)}
    return keras.Model({"image": a, "numbers": b}, outputs)


GRAPHS = {
    f.__name__: f
    for f in (
        *(chain, spatial, residual, concatenation, along_height, depthwise, grouped, flattened),
        *(squeeze_excite, attention_over_space, operations, shared, nested, transposed, sequence),
        *(volume, words, several_ends),
    )
}


def batch(model, size=4, seed=0):
    rng = np.random.default_rng(seed)

    def drawn(tensor):
        shape = (size, *tensor.shape[1:])
        whole = "int" in tensor.dtype
        return rng.integers(0, 11, shape) if whole else rng.normal(size=shape).astype("float32")

    return keras.tree.map_structure(drawn, functional(model, "")._inputs_struct)


# Sizes of the groups that can be pruned, in the order of the layers that make them, by hand.
PRUNABLE = {
    "chain": [8, 4, 6],
    "spatial": [8, 8, 6],
    "residual": [8, 8],
    "concatenation": [6, 4, 8],
    "along_height": [8],
    "depthwise": [8, 8, 6],
    "grouped": [8, 8],
    "flattened": [8, 6, 6, 6, 6],
    "squeeze_excite": [8, 4, 4],
    "attention_over_space": [8],
    "operations": [8, 4, 6],
    "shared": [8],
    "nested": [8, 6, 4],
    "transposed": [8, 6, 4],
    "sequence": [8, 8, 6, 8],
    "volume": [8, 4],
    "words": [8, 8],
    "several_ends": [8, 8],
}


@pytest.mark.parametrize("name", GRAPHS)
def test_removed_is_as_good_as_zero(name):
    model = oracle.randomize(GRAPHS[name]())
    small, plan = compression.prune_channels(model, 0.5, round_to=2, return_plan=True)
    assert plan.groups == tuple(compression.channel_groups(model))
    free = [group for group in plan.groups if not group.frozen_reason]
    assert sorted(group.channels for group in free) == sorted(PRUNABLE[name])
    for group in free:  # with steps of 2 half of 6 is as close to 2 as to 4
        assert len(plan.kept[group.name]) == {4: 2, 6: 4, 8: 4}[group.channels]
    assert plan.parameters == (model.count_params(), small.count_params())
    assert oracle.error(model, small, batch(model)) < 1e-5


@pytest.mark.skipif(BACKEND == "tensorflow", reason="has no channels_first on a CPU")
def test_channels_first():
    first = {"data_format": "channels_first"}
    inputs = keras.Input((3, 6, 6))
    x = conv(8, activation="relu", **first)(inputs)
    x = layers.BatchNormalization(axis=1)(layers.MaxPooling2D(2, **first)(x))
    y = layers.GlobalAveragePooling2D(**first)(x)
    y = layers.Reshape((8, 1, 1))(layers.Dense(8, activation="sigmoid")(y))
    x = layers.Multiply()([x, y])
    x = layers.Concatenate(axis=1)([x, conv(4, **first)(x)])
    x = layers.PReLU(shared_axes=[2, 3])(layers.DepthwiseConv2D(2, **first)(x))
    x = layers.Dense(6)(layers.Flatten(**first)(x))
    model = oracle.randomize(keras.Model(inputs, layers.Dense(3)(x)))
    small = compression.prune_channels(model, 0.5, round_to=2)
    sizes = [v.shape[-1] for v in small.weights if v.name == "kernel" and len(v.shape) > 1]
    assert sizes == [4, 4, 2, 1, 4, 3]
    assert oracle.error(model, small, batch(model)) < 1e-5


@keras.saving.register_keras_serializable("channels")
class Mixing(layers.Layer):
    def call(self, inputs):
        return inputs + ops.flip(inputs, axis=-1)


class Subclassed(layers.Dense):
    pass


LAST = {
    "LayerNormalization": (lambda x: layers.LayerNormalization()(x), "statistics"),
    "GroupNormalization": (lambda x: layers.GroupNormalization(2)(x), "statistics"),
    "UnitNormalization": (lambda x: layers.UnitNormalization()(x), "statistics"),
    "BatchNormalization": (lambda x: layers.BatchNormalization(axis=1)(x), "not known"),
    "softmax": (lambda x: layers.Activation("softmax")(x), "may mix"),
    "Softmax": (lambda x: layers.Softmax()(x), "statistics"),
    "own": (lambda x: Mixing(name="own")(x), '"own" (Mixing) is not known'),
    "subclass": (lambda x: Subclassed(8)(x), "Subclassed"),
    "Lambda": (lambda x: layers.Lambda(lambda y: ops.flip(y, axis=-1) * 2)(x), "Lambda"),
    "LSTM": (lambda x: layers.LSTM(4)(x), "LSTM"),
    "attention": (lambda x: layers.MultiHeadAttention(1, 2)(x, x), "MultiHeadAttention"),
    "dropout": (lambda x: layers.Dropout(0.5, noise_shape=(None, 1, 8))(x), "Dropout"),
    "constant": (lambda x: x * np.arange(8.0, dtype="float32"), "Multiply"),
    "item": (lambda x: x[..., :4], "GetItem"),
    "reshape": (lambda x: layers.Reshape((5, 4, 2))(x), "spreads"),
    "mean": (lambda x: ops.mean(x, axis=-1, keepdims=True) + x, "goes over channels"),
    "permute": (lambda x: layers.Dense(4)(layers.Permute((2, 1))(x)), "mixes positions"),
    "input": (lambda x: layers.Add()([x, layers.Input((5, 8), name="second")]), '"second"'),
    "pooling": (lambda x: layers.MaxPooling1D(2, data_format="channels_first")(x), "MaxPooling1D"),
}


@pytest.mark.parametrize("name", LAST)
def test_what_is_not_known_keeps_its_channels(name):
    change, why = LAST[name]
    inputs = keras.Input((5, 3), name="first")
    x = change(layers.Dense(8, name="before")(layers.Dense(8, name="free")(inputs)))
    model = keras.Model(keras.utils.get_source_inputs(x), layers.Dense(4)(layers.Flatten()(x)))
    groups = {group.name: group for group in compression.channel_groups(model)}
    assert why in groups["before"].frozen_reason
    assert groups["free"].frozen_reason is None
    oracle.randomize(model)
    small = compression.prune_channels(model, 0.5, round_to=4)
    assert small.get_layer("free").units == 4 and small.get_layer("before").units == 8
    assert oracle.error(model, small, batch(model)) < 1e-5


def test_mixed_precision_stays():
    inputs = image()
    policy = keras.DTypePolicy("mixed_bfloat16")
    x = conv(8, dtype=policy, activation="relu")(inputs)
    x = layers.BatchNormalization(dtype=policy)(conv(8, dtype=policy)(x))
    x = layers.GlobalAveragePooling2D(dtype=policy)(x)
    model = oracle.randomize(keras.Model(inputs, layers.Dense(3, dtype="float32")(x)))
    small = compression.prune_channels(model, 0.5, round_to=2)
    policies = [layer.dtype_policy.name for layer in small.layers]
    assert policies == [layer.dtype_policy.name for layer in model.layers]
    assert {v.dtype for v in small.weights} == {"float32"}
    assert oracle.error(model, small, batch(model)) < 2e-2  # of which bfloat16 has 4e-3


@given(st.integers(1, 100), st.floats(0.01, 0.99), st.integers(1, 16))
def test_how_many_stay(channels, ratio, round_to):
    number = count(channels, ratio, round_to)
    possible = {n for n in range(1, channels) if n % round_to == 0} | {channels}
    assert number in possible and number >= min(round_to, channels)
    distance = abs(number - (1 - ratio) * channels)
    assert all(distance <= abs(n - (1 - ratio) * channels) for n in possible)


def two_blocks():
    """A residual block, compiled: the outputs of `a` and `c` go together."""
    inputs = image(4)
    a = conv(8, name="a", activation="relu")(inputs)
    b = layers.BatchNormalization(name="norm_b")(conv(8, name="b")(a))
    c = layers.BatchNormalization(name="norm_c")(conv(8, name="c")(layers.ReLU()(b)))
    x = layers.GlobalAveragePooling2D()(layers.Add()([a, c]))
    model = oracle.randomize(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def arrays(model, layer):
    return [ops.convert_to_numpy(w).astype("float64") for w in model.get_layer(layer).weights]


def norms(model, layer):
    return np.linalg.norm(arrays(model, layer)[0].reshape(-1, 8), axis=0)


def largest(scores, number=4):
    return tuple(sorted(np.argsort(scores)[-number:].tolist()))


def kept(model, **arguments):
    return compression.prune_channels(model, 0.5, round_to=2, return_plan=True, **arguments)[1].kept


def test_importance_by_norms_and_scales():
    model = two_blocks()
    found = kept(model)
    assert found["b"] == largest(norms(model, "b"))
    assert found["a"] == largest(norms(model, "a") + norms(model, "c"))
    found = kept(model, importance="bn_scale")
    assert found["b"] == largest(np.abs(arrays(model, "norm_b")[0]))
    assert found["a"] == largest(np.abs(arrays(model, "norm_c")[0]))
    assert found["head"] == (0, 1)


def test_importance_by_a_function():
    seen = {}

    def first(layer, kernel):
        seen[layer.name] = kernel.shape
        return -np.arange(kernel.shape[-1])

    assert kept(two_blocks(), importance=first)["b"] == (0, 1, 2, 3)
    assert seen == {"a": (3, 3, 3, 8), "b": (3, 3, 8, 8), "c": (3, 3, 8, 8), "head": (8, 2)}


def test_importance_by_taylor_is_the_slope_of_the_loss():
    # The slope as a channel's filters shrink all at once, from differences of the loss.
    model = two_blocks()
    x, y = batch(model, 16), RNG.normal(size=(16, 2)).astype("float32")

    def loss():
        return float(np.mean((model.predict_on_batch(x).astype("float64") - y) ** 2))

    def slope(layers_, channel, step=2e-2):
        weights, values = [w for n in layers_ for w in model.get_layer(n).weights], []
        before = [ops.convert_to_numpy(w) for w in weights]
        for sign in (1, -1):
            for weight, value in zip(weights, before, strict=True):
                changed = value.copy()
                changed[..., channel] *= 1 + sign * step
                weight.assign(changed)
            values.append(loss())
        for weight, value in zip(weights, before, strict=True):
            weight.assign(value)
        return abs(values[0] - values[1]) / (2 * step)

    found = kept(model, importance="taylor", data=(x, y))
    assert found["b"] == largest([slope(["b"], i) for i in range(8)])
    assert found["a"] == largest([slope(["a", "c"], i) for i in range(8)])


def test_targets_are_met_and_not_by_far():
    model = oracle.randomize(residual())
    multiplications = 36 * 9 * (3 * 8 + 3 * 8 * 8) + 8 * 3
    for name, before in (("params", model.count_params()), ("flops", 2 * multiplications)):
        small, plan = compression.prune_channels(
            model, round_to=1, return_plan=True, **{f"target_{name}": before // 2}
        )
        costs = {"params": plan.parameters, "flops": plan.flops}[name]
        assert costs[0] == before and costs[1] <= before // 2
        # One channel more in each group, which is the next larger ratio, is too much.
        a, b = (len(k) for k in plan.kept.values() if len(k) != 3)
        assert a == b
        counts = {
            "params": lambda n: 28 * n + 3 * (9 * n * n + n) + 4 * n + 3 * n + 3,
            "flops": lambda n: 2 * (36 * 9 * (3 * n + 3 * n * n) + 3 * n),
        }[name]
        assert counts(8) == before and counts(a) == costs[1] and counts(a + 1) > before // 2
        weights = model.get_weights()
        assert oracle.error(model, small, batch(model)) < 1e-5
        model.set_weights(weights)


def test_flops_of_other_layers():
    bare = {"use_bias": False}
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, strides=2, padding="same", **bare)(inputs)  # 4 x 4
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, **bare)(x)
    x = layers.SeparableConv2D(8, 3, padding="same", **bare)(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, **bare)(x)  # 8 x 8
    model = keras.Model(inputs, layers.Dense(5, **bare)(x))
    _, plan = compression.prune_channels(model, 0.5, round_to=2, return_plan=True)
    by_hand = 16 * 9 * 4 * 8, 16 * 9 * 16, 16 * (9 * 16 + 16 * 8), 16 * 4 * 8 * 4, 64 * 4 * 5
    assert plan.flops[0] == 2 * sum(by_hand)
    if BACKEND == "tensorflow":
        assert plan.flops[0] == profiled(model)


def profiled(model):
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2 as frozen,
    )

    shape = (1, *model.inputs[0].shape[1:])
    function = tf.function(model).get_concrete_function(tf.TensorSpec(shape))
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    graph = frozen(function).graph
    return tf.compat.v1.profiler.profile(
        graph,
        options=tf.compat.v1.profiler.ProfileOptionBuilder(options).with_empty_output().build(),
    ).total_float_ops


def test_the_new_model_is_compiled_and_the_old_one_stays(tmp_path):
    model = GRAPHS["operations"]()
    oracle.randomize(model)
    loss, metric = keras.losses.MeanSquaredError(), keras.metrics.MeanAbsoluteError(name="far")
    model.compile(keras.optimizers.Adam(0.02, beta_1=0.8), loss, metrics=[metric])
    model.layers[1].trainable = False
    x = batch(model)
    y = np.zeros((4, 3), "float32")
    before = [np.array(w) for w in model.get_weights()], model.predict_on_batch(x)
    small = compression.prune_channels(model, 0.5, round_to=2)
    assert small.optimizer is not model.optimizer
    assert small.optimizer.get_config() == model.optimizer.get_config()
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert not small.layers[1].trainable and small.layers[2].trainable
    losses = small.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0] and metric.result() == 0
    for a, b in zip(before[0], model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(before[1], model.predict_on_batch(x))
    for number, either in enumerate((model, small)):
        either.save(tmp_path / f"{number}.keras")
        again = keras.saving.load_model(tmp_path / f"{number}.keras")
        expected = either.predict_on_batch(x)
        np.testing.assert_allclose(again.predict_on_batch(x), expected, rtol=1e-5, atol=1e-6)


def test_include_and_exclude():
    model = two_blocks()
    assert len(kept(model, include="b")["a"]) == 8 and len(kept(model, include="b")["b"]) == 4
    assert len(kept(model, exclude=["c"])["a"]) == 8 and len(kept(model, exclude="c")["b"]) == 4


def test_the_plan_reads_well():
    _, plan = compression.prune_channels(two_blocks(), 0.5, round_to=2, return_plan=True)
    assert str(plan).splitlines() == [
        "group  channels  kept  why",
        "a             8     4",
        "b             8     4",
        "head          2     2  it is an output of the model",
        "parameters: 1,474 -> 450",
        "FLOPs: 43,808 -> 12,688",
    ]
    group = plan.groups[0]
    assert str(group) == "a: 8 channels, made by 1 other layer too"
    assert group.producers == ("a", "c") and set(group.layers) == {"a", "b", "c", "norm_c", "head"}


def foreign():
    """Stands for a model of tf_keras, which would take seconds to import."""
    return type("Model", (), {"__module__": "tf_keras.src.engine.training"})()


def small_net(**kwargs):
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(16, name="one", **kwargs),
            layers.LayerNormalization(name="norm"),
            layers.Dense(16, name="two"),
            layers.Dense(2, name="head"),
        ],
        name="net",
    )


def own_model():
    model = nets.Subclassed(8)
    model(np.zeros((1, 4)))
    return model


def changed(model, change):
    change(model)
    return model


def without_config():
    class Scale(layers.Layer):
        def __init__(self, factor):
            super().__init__(name="scale")
            self.factor = factor

        def call(self, x):
            return self.factor * x

    inputs = keras.Input((4,))
    x = Scale(2.0)(layers.Dense(16)(inputs))
    return keras.Model(inputs, layers.Dense(2)(layers.Dense(16)(x)))


def prune(model=None, *arguments, **named):
    return compression.prune_channels(small_net() if model is None else model, *arguments, **named)


def any_size():
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, layers.Conv2D(2, 1)(layers.Conv2D(16, 1)(inputs)))


@keras.saving.register_keras_serializable("test_channels")
class Stepped(keras.Model):
    def train_step(self, *args):
        return super().train_step(*args)


def test_a_training_step_that_is_lost_is_missed():
    net = small_net()
    with pytest.warns(UserWarning, match="trains without the `train_step` of Stepped"):
        small = prune(Stepped(net.inputs, net.outputs), 0.5)
    assert type(small).__name__ == "Functional"
    with pytest.warns(UserWarning, match="quantize_model returns a plain keras.Model"):
        compression.quantize_model(Stepped(small.inputs, small.outputs), on_unsupported="skip")


BAD = {
    "tf_keras": (lambda: prune(foreign(), 0.5), TypeError, "this one is of tf_keras"),
    "layer": (lambda: prune(layers.Dense(2), 0.5), TypeError, "a whole model, not one layer"),
    "subclass": (lambda: prune(own_model(), 0.5), ValueError, "no graph|has none"),
    "unbuilt": (lambda: prune(keras.Sequential([layers.Dense(2)]), 0.5), ValueError, "not built"),
    "none": (lambda: prune(), ValueError, "exactly one of .* Received: none"),
    "both": (lambda: prune(None, 0.5, target_params=9), ValueError, "ratio=0.5, target_params=9"),
    "zero": (lambda: prune(None, 0.0), ValueError, r"`ratio` must be in \(0, 1\)"),
    "one": (lambda: prune(None, 1), ValueError, r"`ratio` must be in \(0, 1\)"),
    "percent": (lambda: prune(None, "50 %"), TypeError, "`ratio` must be a number"),
    "importance": (lambda: prune(None, 0.5, importance="l1"), ValueError, '"?l2"?.*Received'),
    "round_to": (lambda: prune(None, 0.5, round_to=0), ValueError, "`round_to` .* at least 1"),
    "few params": (
        lambda: prune(target_params=100),
        ValueError,
        "`target_params` must be less than the 418 weights .* the 266 .* target_params=100$",
    ),
    "many params": (lambda: prune(target_params=999), ValueError, "418 .* needs no pruning"),
    "few flops": (lambda: prune(target_flops=9), ValueError, "less than the 704 FLOPs .* 416"),
    "any size": (lambda: prune(any_size(), target_flops=99), ValueError, "fixed size"),
    "exclude": (
        lambda: prune(None, 0.5, exclude="tow"),
        ValueError,
        "'tow' matches none.* layers are head, one, two",
    ),
    "include": (lambda: prune(None, 0.5, include="tow"), ValueError, "'tow' matches none"),
    "frozen": (
        lambda: prune(None, 0.5, include="one"),
        ValueError,
        r"must stay. one: 16 channels, kept: the statistics of \"norm\" \(LayerNormalization\)",
    ),
    "in and ex": (
        lambda: prune(None, 0.5, include="two", exclude="t.o"),
        ValueError,
        "both match the channels of 'two'",
    ),
    "nothing": (
        lambda: prune(None, 0.5, exclude="two"),
        ValueError,
        "no channels to remove.* one: 16 channels, kept: .*; two: 16 channels, excluded; head",
    ),
    "too few": (lambda: prune(None, 0.5, round_to=16), ValueError, "no more than round_to=16"),
    "little": (lambda: prune(None, 0.1), ValueError, "ratio of 0.1 removes nothing"),
    "bn_scale": (lambda: prune(None, 0.5, importance="bn_scale"), ValueError, "none .*: two. Take"),
    "no data": (lambda: prune(None, 0.5, importance="taylor"), ValueError, "needs `data="),
    "no loss": (
        lambda: prune(None, 0.5, importance="taylor", data=(np.zeros((2, 4)), np.zeros((2, 2)))),
        ValueError,
        r"Call `model.compile",
    ),
    "not trained": (
        lambda: prune(
            changed(two_blocks(), lambda m: setattr(m.get_layer("b"), "trainable", False)),
            0.5,
            importance="taylor",
            round_to=4,
            data=(np.zeros((2, 4, 4, 3)), np.zeros((2, 2))),
        ),
        ValueError,
        "no layer .* is trainable: b. Set",
    ),
    "shape": (
        lambda: prune(None, 0.5, importance=lambda layer, kernel: [1.0]),
        ValueError,
        r"one finite number for each filter, so for the layer 'one' an array of shape \(16,\)",
    ),
    "nan": (
        lambda: prune(None, 0.5, importance=lambda layer, kernel: kernel[0] * np.nan),
        ValueError,
        "one finite number",
    ),
    "quantized": (
        lambda: prune(changed(small_net(), lambda m: m.quantize("int8")), 0.5),
        ValueError,
        "quantized layers: one, two, head. Remove channels first",
    ),
    "lora": (
        lambda: prune(changed(small_net(), lambda m: m.layers[2].enable_lora(2)), 0.5),
        ValueError,
        "LoRA layers: two. Merge",
    ),
    "no config": (lambda: prune(without_config(), 0.5), ValueError, "'scale' cannot be made"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_say_what_to_do(name):
    call, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.heavy
@pytest.mark.parametrize("importance", ["l2", "taylor"])
def test_half_the_channels_of_a_digits_net_recover(importance):
    (x, y), _ = nets.digits()
    model = nets.trained("cnn")
    small = compression.prune_channels(model, 0.5, importance=importance, data=(x, y))
    assert small.count_params() < 0.26 * model.count_params()
    keras.utils.set_random_seed(0)
    small.fit(x, y, batch_size=64, epochs=6, verbose=0)
    assert nets.accuracy(small) > nets.accuracy(model) - 0.01


def test_channel_groups_refuses_the_same():
    for model, kind in ((foreign(), TypeError), (own_model(), ValueError)):
        with pytest.raises(kind, match="channel_groups"):
            compression.channel_groups(model)


def test_latency_is_searched_for(monkeypatch):
    # Time in proportion to the weights, so that the answer is known.
    asked = []

    def timed(model, sample):
        asked.append((model.count_params(), np.shape(sample)))
        return LiteRTLatency(model.count_params() / 1000, 1.0, 1, 200)

    monkeypatch.setattr(_target, "litert_latency", timed)
    model = residual()
    before = model.count_params()
    for data in (batch(model), (batch(model), 0), [(batch(model), 0)]):
        small, plan = prune(
            model, target_latency=before / 2000, round_to=1, return_plan=True, data=data
        )
        assert plan.latency == (before / 1000, small.count_params() / 1000)
        assert 0.8 * before < 2 * small.count_params() <= before
    assert set(asked[1:]) >= {(small.count_params(), (4, 6, 6, 3))} and len(asked) <= 24
    assert f"latency: {before / 1000:.3g} ms -> " in str(plan)
    with pytest.raises(ValueError, match=f"less than the {before / 1000:.4g} milliseconds"):
        prune(model, target_latency=100.0, round_to=1)


@st.composite
def networks(draw):
    """Networks of few layers, each fed by any tensor before, merged in all ways that fit."""
    inputs = keras.Input((4, 4, 3))
    known = [inputs]
    for _ in range(draw(st.integers(2, 6))):
        x = draw(st.sampled_from(known))
        y = draw(st.sampled_from([t for t in known if t.shape == x.shape]))
        kind = draw(
            st.sampled_from(["conv", "depthwise", "add", "concatenate", "gate", "separable"])
        )
        filters = draw(st.sampled_from([4, 6]))
        if kind == "conv":
            x = layers.BatchNormalization()(conv(filters)(x))
        elif kind == "depthwise":
            x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=filters // 3)(x)
        elif kind == "separable":
            x = layers.SeparableConv2D(filters, 3, padding="same")(x)
        elif kind == "add":
            x = layers.Add()([x, y])
        elif kind == "concatenate":
            x = layers.Concatenate()([x, draw(st.sampled_from(known))])
        else:
            gate = layers.Dense(x.shape[-1], activation="sigmoid")(ops.mean(y, axis=(1, 2)))
            x = x * ops.reshape(gate, (-1, 1, 1, x.shape[-1]))
        known.append(layers.LeakyReLU()(x))
    x = layers.Concatenate()([known[-1], conv(4)(draw(st.sampled_from(known)))])
    x = layers.Flatten()(x) if draw(st.booleans()) else layers.GlobalMaxPooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def random_networks(model, ratio, round_to):
    oracle.randomize(model)
    small, plan = compression.prune_channels(model, ratio, round_to=round_to, return_plan=True)
    assert plan.parameters == (model.count_params(), small.count_params())
    assert oracle.error(model, small, batch(model), least=0) < 1e-5


ARGUMENTS = networks(), st.sampled_from([0.3, 0.5, 0.8]), st.sampled_from([1, 2])
few = settings(max_examples=5, deadline=None, derandomize=True)
many = settings(max_examples=150, deadline=None)
test_random_networks = few(given(*ARGUMENTS)(random_networks))
test_many_random_networks = pytest.mark.heavy(many(given(*ARGUMENTS)(random_networks)))


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow can export")
def test_latency_is_refused_elsewhere():
    with pytest.raises(RuntimeError, match="KERAS_BACKEND=tensorflow"):
        prune(target_latency=0.1)
