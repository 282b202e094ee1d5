"""Several devices give what one gives."""

import contextlib
import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_optkit import compression, continual, optimizers, transforms
from keras_optkit.callbacks import GradientMonitor, SwapAveragedWeights
from keras_optkit.testing._models import assert_same, data, fit, network, state
from tests.conftest import BACKEND, two_replicas
from tests.test_contract import KEPT, MAKERS

SGD = keras.optimizers.SGD
MAKERS = MAKERS | {
    "accumulating": lambda: optimizers.RAdam(
        0.01, gradient_accumulation_steps=2, use_ema=True, ema_overwrite_frequency=2
    ),
    "accumulating for Keras' optimizer": lambda: optimizers.Lookahead(
        keras.optimizers.AdamW(0.01, gradient_accumulation_steps=2), sync_period=2
    ),
    "clipping tightly": lambda: optimizers.Transformed(SGD(0.1), [transforms.GlobalNormClip(0.01)]),
}

# Those that the model is evaluated with at other weights than it trains at.
SWAPPING = ("Averaged", "ScheduleFreeAdamW", "ScheduleFreeSGD")
# What several replicas may do differently; the others are `heavy` for more than two.
FOUR = ("accumulating",)


def quantized():
    """Returns a model that rounds, without BatchNormalization: each replica has its own."""
    keras.utils.set_random_seed(0)
    body = layers.SeparableConv2D(4, 2, activation="relu")
    stack = [keras.Input((4, 4, 2)), body, layers.Flatten(), layers.Dense(1)]
    return compression.quantize_model(keras.Sequential(stack))


def rounded():
    """Returns the weights and ranges of a model trained to round, on the devices there are."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 4, 4, 2)).astype("float32")
    return fit(quantized(), SGD(0.01), data=(x, x[:, 0, 0, :1])).get_weights()


if BACKEND == "tensorflow":
    import tensorflow as tf

    def four_replicas():
        """Returns a strategy that shares no numbers of sums with that of two replicas."""
        reduction = tf.distribute.ReductionToOneDevice()
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(4)], reduction)

    def train(name, strategy=None, **kwargs):
        """Returns a trained model; on one device eagerly, since that needs no compiling."""
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = network()
            model.compile(MAKERS[name](), "mse", jit_compile=False, run_eagerly=not strategy)
        return fit(model, epochs=2, **kwargs)

    @pytest.mark.parametrize("name", MAKERS)
    def test_mirrored_strategy_equals_one_device(name):
        one, two = train(name), train(name, two_replicas())
        assert_same(two.get_weights(), one.get_weights(), name, atol=1e-5)

    @pytest.mark.parametrize(
        "name", [n if n in FOUR else pytest.param(n, marks=pytest.mark.heavy) for n in MAKERS]
    )
    def test_four_replicas_equal_one_device(name):
        one, four = train(name), train(name, four_replicas())
        assert_same(four.get_weights(), one.get_weights(), name, atol=1e-5)

    def test_ranges_are_those_of_all_replicas():
        one = rounded()
        with two_replicas().scope():
            two = rounded()
        assert_same(two, one, "quantized", atol=1e-5)

    @pytest.mark.parametrize("name", SWAPPING)
    def test_evaluation_weights_under_a_strategy(name):
        seen = []
        for strategy in (None, two_replicas()):
            swap = SwapAveragedWeights()
            model = train(name, strategy, callbacks=[swap], validation_data=data(8))
            seen.append([model.get_weights()])  # `fit` ends at the evaluation weights
            inside = strategy.scope if strategy else contextlib.nullcontext
            for scope in (inside, contextlib.nullcontext):
                for swap in ("use_training_weights", "use_evaluation_weights"):
                    with scope():
                        getattr(model.optimizer, swap)()
                    seen[-1].append(model.get_weights())
        for number, (one, two) in enumerate(zip(*seen, strict=True)):
            assert_same(two, one, f"{name}, look {number}", atol=1e-5)
            assert_same(two, seen[1][number % 2], f"{name}: there and back", atol=1e-6)
        assert np.abs(seen[1][0][0] - seen[1][1][0]).max() > 1e-4


if BACKEND == "jax":
    import jax

    SHARDED = {
        r".*(query|key|value)/kernel": (None, "model", None),
        r".*attention_output/kernel": ("model", None, None),
        r".*up/kernel": (None, "model"),
        r".*up/bias": ("model",),
        r".*down/kernel": ("model", None),
    }

    def model_parallel():
        """Returns two times four devices: for parts of the batch, and for parts of weights."""
        devices = keras.distribution.list_devices()
        mesh = keras.distribution.DeviceMesh((2, 4), ["batch", "model"], devices)
        layout = keras.distribution.LayoutMap(mesh)
        for path, axes in SHARDED.items():
            layout[path] = axes
        return keras.distribution.ModelParallel(layout_map=layout)

    def transformer():
        """Returns a transformer of two blocks."""
        keras.utils.set_random_seed(0)
        inputs = x = keras.Input((3, 8))
        for i in range(2):
            attention = layers.MultiHeadAttention(4, 2, use_bias=False, name=f"attention_{i}")
            x = layers.LayerNormalization(name=f"norm_{i}")(x + attention(x, x))
            inner = layers.Dense(16, "gelu", name=f"up_{i}_up")(x)
            x = x + layers.Dense(8, name=f"down_{i}_down")(inner)
        return keras.Model(inputs, layers.Dense(1, name="head")(x[:, 0]))

    def sequences():
        rng = np.random.default_rng(0)
        x = rng.normal(size=(32, 3, 8)).astype("float32")
        return x, x[:, 0, :1] * x[:, 1, :1]

    def on_first(array):
        """Returns the bytes of an array that lie on the first device."""
        first = jax.devices()[0]
        return sum(s.data.nbytes for s in array.addressable_shards if s.device == first)

    # Every kind of state: slots, scalars, sums, averages, slow weights, anchors, masks, scores.
    def together():
        rule = optimizers.LAMB(
            0.01, use_ema=True, gradient_accumulation_steps=2, global_clipnorm=1.0, cautious=True
        )
        inner = optimizers.Lookahead(continual.EWCOptimizer(rule, 2.0, "proximal"), sync_period=2)
        sparsity = compression.ConstantSparsity(0.5, 2, frequency=2)
        return compression.Pruned(inner, sparsity, "movement")

    def trained(make, wrap=lambda model: model, **kwargs):
        """Returns a transformer after some steps, and its weights, on one device and on eight."""
        found = []
        for scope in (contextlib.nullcontext(), model_parallel().scope()):
            with scope:
                model = fit(wrap(transformer()), make(), data=sequences(), **kwargs)
                if isinstance(model, continual.ContinualModel):
                    model.consolidate(*sequences())
                    fit(model, data=sequences())
                found.append(model.get_weights())
        return model, *found

    @pytest.mark.parametrize("name", MAKERS)
    def test_data_parallel_equals_one_device(name):
        one = fit(network(), MAKERS[name](), epochs=2).get_weights()
        with keras.distribution.DataParallel().scope():
            eight = fit(network(), MAKERS[name](), epochs=2).get_weights()
        assert_same(eight, one, name, atol=1e-5)

    def test_model_parallel_equals_one_device():
        penalties = [continual.L2Anchor(0.5, "proximal"), continual.L2Anchor(2.0)]
        model, one, eight = trained(together, lambda m: continual.ContinualModel(m, penalties))
        assert_same(eight, one, "together", atol=2e-5)
        lies_as_the_weights(model, model.optimizer.variables)
        anchors_lie_as_the_weights(model)

    @pytest.mark.heavy
    def test_anchors_of_ewc_lie_as_the_weights():
        penalties = [continual.EWC(2.0), continual.MAS(2.0)]
        wrap = functools.partial(continual.ContinualModel, penalties=penalties)
        model, one, eight = trained(lambda: optimizers.RAdam(0.01), wrap)
        assert_same(eight, one, "continual", atol=2e-5)
        anchors_lie_as_the_weights(model)

    @pytest.mark.heavy
    @pytest.mark.parametrize("name", MAKERS)
    def test_every_optimizer_under_model_parallel(name):
        found, monitor = [], GradientMonitor(every=2)
        look = keras.callbacks.LambdaCallback(
            on_train_end=lambda logs=None: found.append(np.array(monitor.gradient_norms))
        )
        model, one, eight = trained(MAKERS[name], callbacks=[monitor, look])
        if name != "clipping tightly":  # which keeps nothing
            lies_as_the_weights(model, model.optimizer.variables)
        if name == "SOAP":  # Of equal eigenvalues, here of 0, rounding chooses the eigenvectors.
            return
        np.testing.assert_allclose(*found, rtol=1e-4)
        pairs = zip(eight, one, strict=True)
        off = np.concatenate([np.abs(a - b).ravel() for a, b in pairs])
        # In fewer bits, what falls on another side of a boundary is a unit off.
        assert off.max() < (1e-3 if name in KEPT else 2e-5)
        assert (off > 2e-5).mean() < 0.01

    def anchors_lie_as_the_weights(model):
        for penalty, state in model._memory.held:
            for slot in penalty.slots:
                pairs = zip(state.slots[slot], model.trainable_variables, strict=True)
                for variable, weight in pairs:
                    assert variable.value.sharding == weight.value.sharding, variable.path

    def lies_as_the_weights(model, variables):
        """Checks where state of the shape of a weight lies, and that it is no more than due."""
        weights = {v.path.replace("/", "_"): v.value for v in model.trainable_variables}
        found = set()
        for variable in variables:
            owner = max((n for n in weights if variable.name.startswith(n)), key=len, default=None)
            if owner and weights[owner].shape == variable.shape:
                due = on_first(weights[owner]) * variable.value.dtype.itemsize // 4
                assert variable.value.sharding == weights[owner].sharding, variable.path
                assert on_first(variable.value) == due, variable.path
                found.add(owner)
        assert found == weights.keys()

    def wide():
        keras.utils.set_random_seed(0)
        hidden = [layers.Dense(16, "tanh"), layers.Dense(8, "tanh")]
        model = keras.Sequential([keras.Input((4,)), *hidden, layers.Dense(1)])
        rule = optimizers.RAdam(0.01, use_ema=True, gradient_accumulation_steps=2)
        model.compile(compression.Pruned(optimizers.Lookahead(rule, sync_period=2), 0.5), "mse")
        return model

    def test_state_in_parts_trains_as_whole_state_does(tmp_path):
        one = fit(wide(), epochs=2)
        one.save(tmp_path / "one.keras")
        with keras.distribution.DataParallel().scope():
            eight = wide()
            optimizers.shard_state(eight)
            fit(eight, epochs=2)
            assert_same(eight.get_weights(), one.get_weights(), "in parts", atol=1e-5)
            eight.save(tmp_path / "eight.keras")
            loaded = keras.saving.load_model(tmp_path / "eight.keras")
            fit(loaded)  # whole, until it is told otherwise
            optimizers.shard_state(loaded)
            _, resumed = fit(loaded), fit(fit(eight))
            assert_same(state(loaded), state(resumed), "resumed", atol=1e-5)
        for model in (eight, loaded):
            # Momentum, velocity, sum, average, slow weights and mask of two kernels.
            every = [v.value for v in model.optimizer.variables]
            large = [array for array in every if array.shape in ((4, 16), (16, 8))]
            assert len(large) == 12
            assert all(8 * on_first(array) == array.nbytes for array in large)
            assert sum(map(on_first, every)) < 0.25 * sum(array.nbytes for array in every)
        fit(whole := keras.saving.load_model(tmp_path / "eight.keras"))  # on one device again
        assert_same(whole.get_weights(), fit(one).get_weights(), "gathered", atol=1e-5)

    def test_state_in_parts_of_weights_in_parts():
        with model_parallel().scope():
            model = transformer()
            model.compile(keras.optimizers.Adam(0.01), "mse")
            optimizers.shard_state(model)
        (kernel,) = (v for v in model.trainable_variables if v.path == "up_0_up/kernel")
        momenta = [v for v in model.optimizer.variables if "up_0_up_kernel" in v.path]
        assert [on_first(v.value) for v in momenta] == [on_first(kernel.value) // 2] * 2
        assert tuple(momenta[0].value.sharding.spec) == ("batch", "model")

    def test_ranges_are_those_of_all_devices():
        one = rounded()
        with keras.distribution.DataParallel().scope():
            eight = rounded()
        assert_same(eight, one, "quantized", atol=1e-5)


def test_state_in_parts_needs_devices():
    model = network()
    with pytest.raises(RuntimeError, match="there is none"):
        optimizers.shard_state(model)
    with pytest.raises(TypeError, match="`model` must be"):
        optimizers.shard_state("model")
