"""Pruned: a whole run against float64 NumPy, exact sparsity in every mode, and what it refuses."""

import keras
import numpy as np
import pytest

from keras_optkit import compression, optimizers
from keras_optkit.compression import ConstantSparsity, PolynomialSparsity, Pruned
from keras_optkit.testing._models import assert_same, data, fit, network, state
from tests.conftest import two_replicas

BACKEND = keras.backend.backend()
SGD = keras.optimizers.SGD
X, Y = data()


def numpy(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def zeros(model):
    return [int((numpy(v) == 0).sum()) for v in model.trainable_variables if "kernel" in v.path]


class Oracle:
    """`network()` on mean squared error, with momentum and TF-MOT's magnitude pruning."""

    def __init__(self, weights, schedule, learning_rate=0.05, momentum=0.9):
        self.weights = [np.array(w, "float64") for w in weights]
        self.speed = [np.zeros_like(w) for w in self.weights]
        self.masks = {i: np.ones_like(self.weights[i]) for i in (0, 2)}
        self.schedule, self.learning_rate, self.momentum = schedule, learning_rate, momentum
        self.updates = 0

    def step(self, x, y):
        a, a0, b, b0 = self.weights
        h = np.tanh(x @ a + a0)
        error = 2 * (h @ b + b0 - y) / y.size
        back = error @ b.T * (1 - h**2)
        gradients = [x.T @ back, back.sum(0), h.T @ error, error.sum(0)]
        for w, v, g in zip(self.weights, self.speed, gradients, strict=True):
            v[...] = self.momentum * v - self.learning_rate * g
            w += v
        self.updates += 1
        self.mask(self.updates + 1)

    def mask(self, step):
        begin, end, frequency, sparsity = self.schedule
        due = begin <= step <= end and (step - begin) % frequency == 0
        for i, mask in self.masks.items():
            if due:
                size = mask.size
                keep = int(max(np.round(np.float32(size) * (1 - np.float32(sparsity(step)))), 1))
                order = np.argsort(-np.abs(self.weights[i]).ravel(), kind="stable")
                mask.ravel()[...] = 0
                mask.ravel()[order[:keep]] = 1
            self.weights[i] *= mask


@pytest.mark.parametrize("jit_compile", [False, True])
def test_equals_numpy_at_every_step(jit_compile):
    if jit_compile and BACKEND == "torch":
        pytest.skip("torch.compile is not what is tested here")
    schedule = PolynomialSparsity(0.2, 0.7, begin_step=3, end_step=18, frequency=5)
    model = network()
    oracle = Oracle(model.get_weights(), (3, 18, 5, lambda s: float(schedule(s))))
    model.compile(Pruned(SGD(0.05, momentum=0.9), schedule), "mse", jit_compile=jit_compile)
    for step in range(24):
        rows = slice(8 * (step % 4), 8 * (step % 4) + 8)
        model.train_on_batch(X[rows], Y[rows])
        oracle.step(X[rows].astype("float64"), Y[rows].astype("float64"))
        for ours, judge in zip(model.get_weights(), oracle.weights, strict=True):
            np.testing.assert_allclose(ours, judge, atol=1e-6, err_msg=f"step {step}")
            np.testing.assert_array_equal(ours == 0, judge == 0, err_msg=f"step {step}")
    assert zeros(model) == [8, 2]  # of 12 and 3, with 0.7


MODES = {
    "plain": {},
    "jit": {"compile": {"jit_compile": True}},
    "four steps at once": {"compile": {"steps_per_execution": 4}},
    "mixed_float16": {"dtype": "mixed_float16"},
    "bfloat16": {"dtype": "bfloat16"},
    "accumulating": {"optimizer": {"gradient_accumulation_steps": 2}},
}
ACC = "accumulating"


# Of our own rules, one that accumulates together with its wrapper.
@pytest.mark.parametrize(("mode", "inner"), [*((m, "adam") for m in MODES), (ACC, "ours")])
def test_sparsity_is_exact_at_every_step_after_the_last_turn(mode, inner):
    options = MODES[mode]
    if BACKEND == "torch" and mode in ("jit", "four steps at once"):
        pytest.skip("the torch backend of Keras runs eagerly, step by step")
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(zeros(self.model))

    rule = {"adam": keras.optimizers.Adam, "ours": optimizers.RAdam}[inner](0.01)
    schedule = PolynomialSparsity(0.0, 0.75, begin_step=1, end_step=5, frequency=2)
    model = network(dtype=options.get("dtype"))
    optimizer = Pruned(rule, schedule, **options.get("optimizer", {}))
    model.compile(optimizer, "mse", **options.get("compile", {}))
    fit(model, epochs=6, callbacks=[Look()])
    after = 8 if mode == "accumulating" else 4  # batches until the turn at step 5 has acted
    after = -(-after // 4) if mode == "four steps at once" else after
    assert seen[after:] and all(s == [9, 2] for s in seen[after:]), seen
    assert after == 1 or sum(seen[0]) < 11


def test_two_replicas_prune_like_one_device():
    if BACKEND != "tensorflow":
        pytest.skip("tf.distribute is TensorFlow's")

    def make():
        return Pruned(SGD(0.1, momentum=0.9), ConstantSparsity(0.5, 2, frequency=3))

    alone = fit(network(), make(), epochs=3)
    with two_replicas().scope():
        model = network()
        optimizer = make()
    shared = fit(model, optimizer, epochs=3)
    assert_same(shared.get_weights(), alone.get_weights(), "replicas", atol=1e-6)
    assert zeros(shared) == zeros(alone) == [6, 1]


@pytest.mark.parametrize("method", ["gradient", "rigl"])  # the contract has magnitude
def test_resumes_bit_for_bit_between_two_turns(method, tmp_path):
    schedule = PolynomialSparsity(0.2, 0.7, 2, 14, frequency=4)
    model = fit(network(), Pruned(keras.optimizers.Adam(0.02), schedule, method), epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(state(fit(loaded, epochs=2)), state(fit(model, epochs=2)), method)
    assert zeros(loaded) == [8, 2]


def test_the_first_gradient_counts_where_masks_are_made_at_step_1():
    model = network()
    weights = [w.astype("float64") for w in model.get_weights()]
    (first,) = gradient_of_body(weights)
    fit(model, Pruned(SGD(0.0), ConstantSparsity(0.5, 1, 1), "gradient"), data=(X[:8], Y[:8]))
    saliency = np.abs(weights[0] * first).ravel()
    kept = np.sort(np.argsort(-saliency, kind="stable")[:6])
    np.testing.assert_array_equal(np.flatnonzero(model.get_weights()[0]), kept)


def gradient_of_body(weights):
    """Returns the gradient of the first kernel, from the oracle's own step."""
    oracle = Oracle(weights, (99, 99, 1, None), learning_rate=1.0, momentum=0.0)
    oracle.step(X[:8].astype("float64"), Y[:8].astype("float64"))
    return [weights[0] - oracle.weights[0]]


def test_averages_that_the_inner_optimizer_leaves_in_the_model_are_pruned():
    inner = SGD(0.1, use_ema=True, ema_momentum=0.5)
    model = fit(network(), Pruned(inner, ConstantSparsity(0.5, 3, 3)))
    assert zeros(model) == [6, 1]
    averages = [numpy(a) for a in model.optimizer._model_variables_moving_average]
    kept = [w != 0 for w in model.get_weights()]
    assert any((w == a).all() for w, a in zip(model.get_weights(), averages, strict=True))
    for weight, average, mask in zip(model.get_weights(), averages, kept, strict=True):
        np.testing.assert_array_equal(weight[mask], average[mask])


@pytest.mark.parametrize("method", ["rigl", "set"])
def test_training_is_sparse_throughout(method):
    model = network()
    optimizer = Pruned(SGD(0.05), ConstantSparsity(0.5, 1, 30, frequency=3), method)
    model.compile(optimizer, "mse", jit_compile=BACKEND == "jax")
    changed, before = 0, None
    for step in range(20):
        model.train_on_batch(X[:8], Y[:8])
        masks = [numpy(m) for m in optimizer._masks]
        assert [int(m.sum()) for m in masks] == [6, 2], step
        for weight, mask in zip(model.get_weights()[::2], masks, strict=True):
            assert (weight[~mask] == 0).all(), step
        if before is not None:
            moved = any((a != b).any() for a, b in zip(before, masks, strict=True))
            changed += moved
            assert not moved or (step + 2 - 1) % 3 == 0, f"masks changed at step {step}"
        before = masks
    assert changed


def test_sparse_training_gives_pruned_weights_no_gradient_and_a_start_at_zero():
    model = network()
    optimizer = Pruned(SGD(0.05, momentum=0.9), ConstantSparsity(0.5, 1, frequency=4), "set")
    model.compile(optimizer, "mse", jit_compile=BACKEND == "jax")
    for step in range(9):
        before = [numpy(m) for m in optimizer._masks] if optimizer.built else None
        model.train_on_batch(X[:8], Y[:8])
        if before is None:
            continue
        for weight, old, new in zip(
            model.get_weights()[::2], before, map(numpy, optimizer._masks), strict=True
        ):
            assert (weight[new & ~old] == 0).all(), step


def test_frozen_keeps_the_zeros_there_are():
    model = fit(network(), Pruned("sgd", ConstantSparsity(0.5, 1)), epochs=2)
    before = [w == 0 for w in model.get_weights()]
    fit(model, Pruned(keras.optimizers.Adam(0.05), 0.0, "frozen"), epochs=2)
    after = [w == 0 for w in model.get_weights()]
    assert_same(after, before, "zeros")
    assert zeros(model) == [6, 1]


def test_a_weight_comes_back_if_one_update_makes_it_large():
    schedule = ConstantSparsity(0.5, 1, frequency=1)
    model = network()
    kernel = np.array([[1.0, 0.9, 0.8], [0.7, 0.6, 0.5], [0.4, 0.3, 0.2], [0.1, 0.05, 0.01]])
    model.layers[0].kernel.assign(kernel)
    fit(model, Pruned(SGD(0.0), schedule))
    kept = model.get_weights()[0] != 0
    model.layers[0].kernel.assign(kernel[::-1])
    fit(model)
    np.testing.assert_array_equal(model.get_weights()[0] != 0, kept[::-1])


def test_include_and_exclude():
    model = network()
    optimizer = Pruned(SGD(0.1), 0.5, exclude="head")
    fit(model, optimizer)
    assert zeros(model) == [6, 0]
    model = network()
    fit(model, Pruned(SGD(0.1), 0.4, include=["body/bias", "head"]))
    assert [int((w == 0).sum()) for w in model.get_weights()] == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Pruned("sgd", 1.0), ValueError, r"`sparsity` must be in \[0, 1\)"),
        (lambda: Pruned("sgd", 0.5, "small"), ValueError, "`method` must be one of"),
        (lambda: Pruned("sgd", 0.5, compression.NofM), TypeError, r"not a class: NofM\(\)"),
        (lambda: Pruned(Pruned("sgd")), ValueError, "Use one Pruned"),
        (
            lambda: Pruned(optimizers.SkipNonFinite(Pruned("sgd"))),
            ValueError,
            "Use one Pruned",
        ),
        (
            lambda: optimizers.Lookahead(optimizers.SkipNonFinite(Pruned("sgd"))),
            ValueError,
            r"Wrap the other way round: Pruned\(Lookahead",
        ),
        (lambda: Pruned(optimizers.Averaged("sgd")), ValueError, "would not be pruned"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda: Pruned("sgd", include="nothing"), "Pruned finds no weight to prune.*body/kernel"),
        (lambda: Pruned("sgd", exclude=".*"), "finds no weight to prune"),
        (
            lambda: Pruned("sgd", 0.5, compression.Block(), include="bias"),
            "Block prunes matrices.*exclude=.*body/bias",
        ),
        (
            lambda: Pruned("sgd", 0.5, compression.NofM(), include="bias"),
            "two axes or more.*body/bias",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Pruned")
def test_nothing_that_can_be_pruned(optimizer, message):
    with pytest.raises(ValueError, match=message):
        optimizer().build(network().trainable_variables)


def test_prune_low_magnitude_and_strip_keep_the_rest():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((6, 6, 2)),
            layers.Conv2D(4, 3, name="conv"),
            layers.DepthwiseConv2D(3, name="spatial"),
            layers.Flatten(),
            layers.Dense(2, name="head"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    x, y = np.ones((8, 6, 6, 2), "float32"), np.ones((8, 2), "float32")
    model.fit(x, y, verbose=0)
    slots = [numpy(v) for v in model.optimizer.variables]
    pruned = compression.prune_low_magnitude(model, ConstantSparsity(0.5, 1), include=None)
    assert pruned is model and isinstance(model.optimizer, Pruned)
    inner = model.optimizer.inner_optimizer
    assert_same([numpy(v) for v in inner.variables], slots, "the inner optimizer's state")
    history = model.fit(x, y, verbose=0, callbacks=[compression.UpdatePruningStep()])
    assert "mae" in history.history
    report = compression.sparsity_report(model)
    shares = {row.path.split("/")[-2]: row.sparsity for row in report.rows if "kernel" in row.path}
    assert shares == {"conv": 0.5, "spatial": 0.0, "head": 0.5}
    with pytest.raises(ValueError, match=r"prunes already.*call `strip_pruning\(model\)` first"):
        compression.prune_low_magnitude(model)
    weights = model.get_weights()
    assert compression.strip_pruning(model) is model and model.optimizer is inner
    assert_same(model.get_weights(), weights, "stripped")
    with pytest.raises(ValueError, match="nothing to strip"):
        compression.strip_pruning(model)
    with pytest.raises(ValueError, match="Call `prune_low_magnitude` after"):
        model.fit(x, y, verbose=0, callbacks=[compression.UpdatePruningStep()])


def test_prune_low_magnitude_under_a_loss_scale():
    model = network(dtype="mixed_float16")
    model.compile(keras.optimizers.LossScaleOptimizer(SGD(0.1), initial_scale=64), "mse")
    compression.prune_low_magnitude(model, ConstantSparsity(0.5, 1))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.optimizer.initial_scale == 64
    fit(model)
    assert zeros(model) == [6, 1]


def test_tfmot_arguments_choose_the_method():
    def method(**arguments):
        model = network()
        model.compile("sgd", "mse")
        arguments |= {"exclude": "head"} if "block_size" in arguments else {}
        return compression.prune_low_magnitude(model, **arguments).optimizer.method

    assert isinstance(method(), compression.Magnitude)
    block = method(block_size=(2, 3), block_pooling_type="MAX")
    assert block.get_config() == compression.Block((2, 3), "max").get_config()
    assert method(sparsity_m_by_n=(1, 4)).get_config() == compression.NofM(3, 4).get_config()
    for wrong in ((2, 2), (0, 4), 2, (1, 2, 3)):
        with pytest.raises(ValueError, match="`sparsity_m_by_n` must be a pair"):
            method(sparsity_m_by_n=wrong)


def test_m_by_n_without_a_schedule_prunes_at_once_and_once_as_in_tfmot():
    model = network()
    model.compile(SGD(0.1), "mse")
    fit(compression.prune_low_magnitude(model, sparsity_m_by_n=(2, 4)))
    assert zeros(model) == [6, 1]  # the 3 inputs of the head make a shorter group
    schedule = model.optimizer.sparsity
    assert [s for s in range(1, 999) if schedule.due(s)] == [1]


def test_a_model_that_cannot_be_pruned_is_left_as_it_was():
    model = network()
    model.compile("sgd", "mse")
    before = model.optimizer
    with pytest.raises(ValueError, match="finds no weight"), pytest.warns(UserWarning):
        compression.prune_low_magnitude(model, include="nothing")
    with pytest.raises(ValueError, match=r"Block prunes matrices.*exclude=\['.*bias', '.*bias'\]"):
        compression.prune_low_magnitude(model, block_size=(2, 2), include="bias")
    for size in (4, None):
        with pytest.raises(TypeError, match="`block_size` must be a pair of integers, rows"):
            compression.prune_low_magnitude(model, block_size=size)
    assert model.optimizer is before and not before.built
    inner = SGD(0.1, gradient_accumulation_steps=4, loss_scale_factor=2.0)
    model.compile(inner, "mse", jit_compile=False)
    with pytest.raises(ValueError, match="finds no weight"):
        compression.prune_low_magnitude(model, exclude=".*")
    assert model.optimizer.gradient_accumulation_steps == 4
    assert model.optimizer.loss_scale_factor == 2.0
    fit(model)  # as before, sums of gradients included


@pytest.mark.parametrize("rule", [keras.optimizers.Adam, optimizers.RAdam])
def test_strip_gives_back_what_the_wrapper_took_over(rule):
    settings = {"gradient_accumulation_steps": 2, "loss_scale_factor": 4.0}

    def trained(prune):
        model = network()
        model.compile(rule(0.01, **settings), "mse", jit_compile=BACKEND == "jax")
        if prune:
            compression.prune_low_magnitude(model, ConstantSparsity(0.0, 1))
        fit(model)
        if prune:
            compression.strip_pruning(model)
            assert isinstance(model.optimizer, rule)
        return fit(model)

    plain, stripped = trained(False), trained(True)
    for name, value in settings.items():
        assert getattr(stripped.optimizer, name) == value
    assert int(stripped.optimizer.iterations) == int(plain.optimizer.iterations)
    assert_same(stripped.get_weights(), plain.get_weights(), "weights", atol=1e-6)
    model = network()
    model.compile(Pruned(rule(0.01), **settings), "mse", jit_compile=False)  # not built yet
    assert compression.strip_pruning(model).optimizer.gradient_accumulation_steps == 2
    fit(model)


@pytest.mark.parametrize("method", ["gradient", "movement", "rigl"])
def test_a_gradient_that_the_inner_optimizer_skips_spoils_no_choice(method):
    model = network()
    inner = optimizers.SkipNonFinite(SGD(0.1))
    optimizer = Pruned(inner, ConstantSparsity(0.5, 1, frequency=1), method)
    model.compile(optimizer, "mse", jit_compile=BACKEND == "jax")
    for i, x in enumerate((X[:8], np.full_like(X[:8], np.nan), X[8:16])):
        model.train_on_batch(x, Y[:8])
        assert [int(numpy(m).sum()) for m in optimizer._masks] == [6, 2], f"batch {i}"
    assert np.isfinite(model.get_weights()[0]).all()
    assert all(np.isfinite(numpy(s)).all() for s in optimizer._scores)


def test_a_model_that_has_diverged_is_not_made_to_look_well():
    model = network()
    model.layers[0].kernel.assign(np.full((4, 3), np.nan))
    compression.prune_once(model, 0.5)
    assert int(np.isnan(model.get_weights()[0]).sum()) == 6


def test_a_schedule_of_ones_own():
    class Always(compression.SparsitySchedule):
        def due(self, step):
            return True

        def progress(self, step):
            return 0.0

        def __call__(self, step):
            return 0.5

    assert zeros(fit(network(), Pruned(SGD(0.1), Always()))) == [6, 1]


def test_no_warning_of_depthwise_layers_that_are_not_trained(recwarn):
    layers = keras.layers
    spatial = layers.DepthwiseConv2D(3, name="spatial", trainable=False)
    model = keras.Sequential([layers.Input((4, 4, 2)), spatial, layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse")
    compression.prune_low_magnitude(model)
    assert not [w for w in recwarn if "matches none" in str(w.message)]


@pytest.mark.parametrize("prune", [compression.prune_once, compression.prune_low_magnitude])
def test_layers_whose_kernels_are_merged_or_quantized_are_refused(prune):
    model = network()
    model.layers[0].enable_lora(1)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="body with LoRA"):
        prune(model)
    prune(model, exclude="body")
    model = network()
    model.quantize("int8")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"exclude=\[.*body.*head.*\].*int8 weights"):
        prune(model)


def test_an_optimizer_refuses_adapters_of_kernels_that_do_not_train():
    model = network()
    model.layers[0].enable_lora(1)
    variables = model.trainable_variables
    with pytest.raises(ValueError, match=r"exclude=\['.*body'\].*body with LoRA"):
        Pruned("sgd").build(variables)
    optimizer = Pruned("sgd", exclude="body")
    optimizer.build(variables)
    assert [v.name for v in optimizer._weights()] == ["kernel"]
    Pruned("sgd", include="lora_kernel_.").build(variables)


def test_prune_once():
    model = network()
    before = model.get_weights()
    report = compression.prune_once(model, 0.5)
    assert zeros(model) == [6, 1] and report.zeros == 7 + 4  # biases begin as 0
    assert "50.0%" in str(report) and report.size == model.count_params()
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new[new != 0], old[new != 0])
        assert np.abs(old[new == 0]).max() <= np.abs(old[new != 0]).min(initial=np.inf)
    compression.prune_once(network(), method=compression.NofM(1, 2))
    with pytest.raises(ValueError, match="needs no training"):
        compression.prune_once(network(), method="movement")


@pytest.mark.parametrize(
    "function",
    [compression.prune_once, compression.prune_low_magnitude, compression.sparsity_report],
)
def test_models_that_cannot_be_pruned(function):
    with pytest.raises(ValueError, match="not built"):
        function(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(TypeError, match="such as `include`"):
        function(network().layers[0])
    foreign = type("Model", (), {"__module__": "tf_keras.src.engine.training"})()
    with pytest.raises(TypeError, match="of tf_keras"):
        function(foreign)
    with pytest.raises(TypeError, match=r"a keras\.Model"):
        function(3)


def test_prune_low_magnitude_wants_a_compiled_model():
    with pytest.raises(ValueError, match=r"Call `model.compile"):
        compression.prune_low_magnitude(network())
