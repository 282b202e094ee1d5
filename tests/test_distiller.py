"""The distiller: its training run, its state, its files, and what it refuses."""

import functools
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.callbacks import GradientMonitor
from keras_optkit.compression import (
    AttentionTransfer,
    DecoupledKD,
    Distiller,
    FeatureKD,
    LogitsKD,
    RelationalKD,
)
from keras_optkit.optimizers import SAM, RAdam
from keras_optkit.testing._models import assert_same, state

from .conftest import BACKEND
from .test_distillation_losses import kd, log_softmax

if BACKEND == "tensorflow":
    from .conftest import two_replicas

JIT = BACKEND == "jax"
SGD = keras.optimizers.SGD
RATE = 0.1
CE = keras.losses.SparseCategoricalCrossentropy
RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4, 4, 2)).astype("float32")
Y = RNG.integers(0, 3, 24)
WEIGHT = RNG.uniform(0, 2, 24).astype("float32")


def dense(width, name, seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Flatten(),
            layers.Dense(width, "tanh", name="body", **kwargs),
            layers.Dense(3, name="head", **kwargs),
        ],
        name=name,
    )


def convolutional(filters, name, seed=0, dtype=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.BatchNormalization(momentum=0.5, name="norm", dtype=dtype),
            layers.Conv2D(filters, 3, padding="same", name="conv", dtype=dtype),
            layers.ReLU(name="relu", dtype=dtype),
            layers.Dropout(0.5, seed=1, name="dropout", dtype=dtype),
            layers.Flatten(),
            layers.Dense(3, name="head", dtype=dtype),
        ],
        name=name,
    )


def losses():
    """Returns one of outputs, one with a projector, and one of features without."""
    return [LogitsKD(2.0), FeatureKD([("conv", "conv")]), AttentionTransfer([("relu", "relu")])]


def fit(model, optimizer=None, epochs=1, **kwargs):
    if optimizer is not None:
        options = {name: kwargs.pop(name) for name in ("loss", "metrics") if name in kwargs}
        steps = kwargs.pop("steps_per_execution", 1)
        jit = kwargs.pop("jit_compile", JIT)
        options.setdefault("loss", CE(from_logits=True))
        model.compile(optimizer, steps_per_execution=steps, jit_compile=jit, **options)
    options = {"x": X, "y": Y, "batch_size": 8, "shuffle": False, "verbose": 0} | kwargs
    return model.fit(epochs=epochs, **options).history


def seeds(model):
    return [np.array(ops.convert_to_numpy(v)) for v in model.variables if "seed" in v.path]


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_a_whole_run_is_that_of_numpy(weight):
    teacher = dense(6, "teacher", seed=1)
    student = dense(2, "student", kernel_regularizer=keras.regularizers.L2(0.01))
    model = Distiller(teacher, student, LogitsKD(2.0), 1.5, student_loss_weight=0.3)
    model.compile(SGD(RATE), CE(from_logits=True), jit_compile=JIT)

    def forward(weights, x):
        w1, b1, w2, b2 = weights
        hidden = np.tanh(x @ w1 + b1)
        return hidden, hidden @ w2 + b2

    weights = [np.float64(w) for w in student.get_weights()]
    of_teacher = [np.float64(w) for w in teacher.get_weights()]
    for step in range(12):
        rows = slice(8 * step % 24, 8 * step % 24 + 8)
        x, y = np.float64(X[rows]).reshape(8, -1), np.eye(3)[Y[rows]]
        w = np.ones(8) if weight is None else np.float64(weight[rows])
        hidden, s = forward(weights, x)
        _, t = forward(of_teacher, x)
        ce = -(y * log_softmax(s)).sum(axis=1)
        expected = {
            "student_loss": (w * ce).mean(),
            "logits_kd_loss": (w * kd(t, s, 2.0)).mean(),
        }
        expected["loss"] = 0.3 * expected["student_loss"] + 0.7 * 1.5 * expected["logits_kd_loss"]
        expected["loss"] += 0.01 * ((weights[0] ** 2).sum() + (weights[2] ** 2).sum())
        soft_s, soft_t = (np.exp(log_softmax(z / 2.0)) for z in (s, t))
        ds = 0.3 * (np.exp(log_softmax(s)) - y) + 0.7 * 1.5 * 2.0 * (soft_s - soft_t)
        ds *= w[:, None] / 8
        dh = (ds @ weights[2].T) * (1 - hidden**2)
        gradients = [x.T @ dh + 0.02 * weights[0], dh.sum(axis=0)]
        gradients += [hidden.T @ ds + 0.02 * weights[2], ds.sum(axis=0)]
        weights = [v - RATE * g for v, g in zip(weights, gradients, strict=True)]
        given = None if weight is None else weight[rows]
        model.reset_metrics()
        logs = model.train_on_batch(X[rows], Y[rows], given, return_dict=True)
        for name, value in expected.items():
            np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=f"{name} {step}")
        assert_same(student.get_weights(), weights, f"step {step}", atol=2e-6)


def test_the_student_runs_once_and_the_teacher_does_not_change():
    teacher, student = convolutional(4, "teacher", 1), convolutional(2, "student")
    before = [*teacher.get_weights(), *seeds(teacher)]
    model = Distiller(teacher, student, [*losses(), DecoupledKD(beta=1.0), RelationalKD(1.0, 1.0)])
    moving, start = student.layers[0].moving_mean, seeds(student)
    expected = np.zeros(2)
    model.compile(RAdam(0.01), CE(from_logits=True), jit_compile=JIT)
    for step in range(3):
        rows = slice(8 * step, 8 * step + 8)
        model.train_on_batch(X[rows], Y[rows])
        expected = 0.5 * expected + 0.5 * np.float64(X[rows]).mean(axis=(0, 1, 2))
        actual = ops.convert_to_numpy(moving)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7, err_msg=f"step {step}")
    (drawn,) = (a - b for a, b in zip(seeds(student), start, strict=True))
    assert sorted(drawn.tolist()) == [0, 3]  # Dropout drew once in each step
    fit(model, epochs=2, validation_data=(X, Y))
    after = [*teacher.get_weights(), *seeds(teacher)]
    assert_same(after, before, "the teacher")
    assert teacher.trainable
    assert len(teacher.trainable_variables) == 6
    learning = {id(v) for v in model.trainable_variables}
    assert not learning & {id(v) for v in teacher.variables}


def test_projectors_learn_and_belong_to_the_distiller():
    teacher, student = convolutional(4, "teacher", 1), convolutional(2, "student")
    model = Distiller(teacher, student, losses())
    (projector,) = model.projectors
    start = projector.get_weights()[0]
    fit(model, RAdam(0.01))
    assert not np.array_equal(projector.get_weights()[0], start)
    assert len(model.trainable_variables) == len(student.trainable_variables) + 2
    assert {"norm", "head"} <= {layer.name for layer in student.layers}
    assert student.predict(X, verbose=0).shape == (24, 3)  # a plain model
    np.testing.assert_array_equal(student.predict(X, verbose=0), model.predict(X, verbose=0))
    assert model.strip() is student


def test_features_that_are_learned_alone():
    teacher, student = convolutional(3, "teacher", 1), convolutional(3, "student", 2)
    model = Distiller(teacher, student, FeatureKD([("conv", "conv")]), student_loss_weight=0)
    history = fit(model, RAdam(0.05), epochs=30, y=None)
    assert history["loss"][-1] < 0.1 * history["loss"][0]
    assert set(history) == {"loss", "feature_kd_loss"}


def test_evaluate_counts_the_penalties():
    student = dense(2, "student", kernel_regularizer="l2", activity_regularizer="l1")
    model = Distiller(dense(6, "teacher", 1), student, LogitsKD(2.0))
    model.compile(SGD(RATE), CE(from_logits=True), metrics=["accuracy"], jit_compile=JIT)
    logs = model.evaluate(X, Y, batch_size=24, return_dict=True, verbose=0)
    hidden, logits = (
        np.float64(ops.convert_to_numpy(x))
        for x in keras.Model(
            student.inputs, [student.get_layer("body").output, student.outputs[0]]
        )(X)
    )
    kernels = sum((np.float64(w) ** 2).sum() for w in student.get_weights()[::2])
    # From 3.14 on, Keras divides what an activity regularizer gives by the size of the batch.
    batch = 24 if tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 14) else 1
    penalties = 0.01 * (kernels + (np.abs(hidden).sum() + np.abs(logits).sum()) / batch)
    expected = 0.5 * (logs["student_loss"] + logs["logits_kd_loss"]) + penalties
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    own = -log_softmax(logits)[np.arange(24), Y].mean()
    np.testing.assert_allclose(logs["student_loss"], own, rtol=1e-5)
    np.testing.assert_allclose(logs["accuracy"], np.mean(logits.argmax(axis=1) == Y), rtol=1e-6)


def test_weights_of_classes_are_weights_of_samples():
    results = []
    by_class = {0: 0.5, 1: 3.0, 2: 1.0}
    samples = np.array([by_class[int(c)] for c in Y], "float32")
    for weighting in ({"class_weight": by_class}, {"sample_weight": samples}, {}):
        model = Distiller(convolutional(3, "teacher", 1), convolutional(2, "student"), losses())
        model.student.get_layer("dropout").rate = 0.0
        fit(model, SGD(0.01), **weighting)
        results.append(model.get_weights())
    assert_same(results[0], results[1], "class_weight", atol=1e-6)
    assert np.abs(results[0][-1] - results[2][-1]).max() > 1e-6


def test_cached_answers_train_the_same():
    results = []
    teacher = convolutional(4, "teacher", 1)
    for cached in (False, True):
        model = Distiller(teacher, convolutional(2, "student"), losses())
        x = model.cached(X, batch_size=5) if cached else X
        valid = {"validation_data": (x, Y), "class_weight": {0: 0.5, 1: 3.0, 2: 1.0}}
        history = fit(model, SGD(0.01), epochs=2, x=x, **valid)
        results.append([*model.get_weights(), *history["loss"], *history["val_loss"]])
    assert_same(results[1], results[0], "cached", atol=1e-6)
    # And so without a teacher.
    shapes = {"conv": (None, 4, 4, 4), "relu": (None, 4, 4, 4)}
    model = Distiller(None, convolutional(2, "student"), losses(), teacher_shapes=shapes)
    history = fit(model, SGD(0.01), epochs=2, x=x, **valid)
    with_teacher = [*model.get_weights(), *history["loss"], *history["val_loss"]]
    assert_same(with_teacher, results[1], "without the teacher")


def test_a_new_process_goes_on_bit_for_bit_without_custom_objects(tmp_path):
    teacher = convolutional(4, "teacher", 1)
    teacher.save(tmp_path / "teacher.keras")
    student = convolutional(2, "student")
    student.get_layer("dropout").rate = 0.0  # whose state Keras does not save
    model = Distiller(teacher, student, losses(), [1.0, 0.5, 1.0], 0.4, name="school")
    fit(model, RAdam(0.01), metrics=["accuracy"])
    for model.save_teacher in (False, True):
        model.save(tmp_path / f"{model.save_teacher}.keras")
    history = fit(model)
    expected = [*state(model), *history["loss"], *history["accuracy"]]
    size = [(tmp_path / f"{name}.keras").stat().st_size for name in (False, True)]
    assert size[0] < size[1]
    script = f"""
import sys
sys.path.insert(0, {__file__.rsplit("/", 2)[0]!r})
import keras, numpy, keras_optkit
from keras_optkit.testing._models import state
from tests.test_distiller import X, fit
for save_teacher in (False, True):
    model = keras.saving.load_model(f"{tmp_path}/{{save_teacher}}.keras")
    assert (type(model).__name__, model.name) == ("Distiller", "school")
    assert model.student_loss_weight == 0.4 and model.distillation_loss_weights[1] == 0.5
    assert (model.teacher is not None) == save_teacher
    predictions = model.predict(X, verbose=0)
    if not save_teacher:
        model.attach(keras.saving.load_model("{tmp_path}/teacher.keras"))
    history = fit(model)
    arrays = [*state(model), *history["loss"], *history["accuracy"]]
    numpy.savez(f"{tmp_path}/{{save_teacher}}.npz", *arrays)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    for save_teacher in (False, True):
        with np.load(tmp_path / f"{save_teacher}.npz") as resumed:
            arrays = [resumed[key] for key in resumed]
        assert_same(arrays, expected, f"save_teacher={save_teacher}")


def test_weights_files_hold_the_student(tmp_path):
    teacher = convolutional(4, "teacher", 1)
    model = Distiller(teacher, convolutional(2, "student"), losses())
    fit(model, RAdam(0.01))
    model.save_weights(tmp_path / "model.weights.h5")
    other = Distiller(convolutional(4, "teacher", 3), convolutional(2, "student", 5), losses())
    theirs = other.teacher.get_weights()
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same(other.get_weights(), model.get_weights(), "student and projectors")
    assert_same(other.teacher.get_weights(), theirs, "the other teacher")


def test_config_holds_every_argument():
    teacher, student = convolutional(4, "teacher", 1), convolutional(2, "student")
    model = Distiller(teacher, student, losses(), [1, 2, 3], 0.2, True, name="school")
    twin = Distiller.from_config(model.get_config())
    assert twin.get_config() == model.get_config()
    assert twin.teacher_shapes == {"conv": (None, 4, 4, 4), "relu": (None, 4, 4, 4)}
    assert [type(loss) for loss in twin.distillation_losses] == [type(loss) for loss in losses()]


@functools.cache
def trained_in(policy):
    keras.config.set_dtype_policy(policy)
    try:
        student = convolutional(2, "student")
    finally:
        keras.config.set_dtype_policy("float32")
    student.get_layer("dropout").rate = 0.0
    model = Distiller(convolutional(4, "teacher", 1), student, losses())
    optimizer = SGD(0.02)
    if policy == "mixed_float16":
        model.compile(SGD(0.02), CE(from_logits=True))
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=256)
    fit(model, optimizer)
    return model.get_weights()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_follows_float32(policy):
    rates = {"mixed_float16": 3e-3, "mixed_bfloat16": 3e-2}
    assert_same(trained_in(policy), trained_in("float32"), policy, atol=rates[policy])


@pytest.mark.skipif(BACKEND == "torch", reason="Keras runs torch eagerly")
def test_the_same_compiled_and_several_steps_a_call():
    def trained(**kwargs):
        student = convolutional(2, "student")
        student.get_layer("dropout").rate = 0.0  # drawn otherwise by XLA
        model = Distiller(convolutional(4, "teacher", 1), student, losses())
        fit(model, SGD(0.02), **kwargs)
        return model.get_weights()

    expected = trained(jit_compile=JIT)
    assert_same(trained(jit_compile=not JIT), expected, "jit_compile", atol=2e-5)
    assert_same(trained(steps_per_execution=3), expected, "steps_per_execution", atol=1e-5)


def test_accumulation_is_a_larger_batch():
    results = []
    for steps, batch in ((3, 8), (None, 24)):
        model = Distiller(dense(6, "teacher", 1), dense(2, "student"), LogitsKD(2.0))
        fit(model, SGD(RATE, gradient_accumulation_steps=steps), batch_size=batch, epochs=2)
        results.append(model.get_weights())
    assert_same(*results, "accumulation", atol=1e-6)


if BACKEND == "tensorflow":

    def test_replicas_equal_one_device():
        results = []
        options = {"epochs": 2, "sample_weight": WEIGHT, "jit_compile": False}

        def make():
            some = [LogitsKD(2.0), FeatureKD([("body", "body")]), DecoupledKD()]
            student = dense(2, "student", kernel_regularizer="l2")
            return Distiller(dense(6, "teacher", 1), student, some)

        history = fit(model := make(), SGD(0.02), **options)
        results.append([*model.get_weights(), *history["loss"], *history["feature_kd_loss"]])
        with two_replicas().scope():
            model = make()
            model.compile(SGD(0.02), CE(from_logits=True), jit_compile=False)
        del options["jit_compile"]
        history = fit(model, **options)
        results.append([*model.get_weights(), *history["loss"], *history["feature_kd_loss"]])
        assert_same(results[1], results[0], "replicas", atol=1e-5)

    def test_replicas_each_keep_their_own_features():
        with two_replicas().scope():
            teacher, student = convolutional(4, "teacher", 1), convolutional(2, "student")
            model = Distiller(teacher, student, losses())
            model.compile(SGD(0.02), CE(from_logits=True), jit_compile=False)
        before = teacher.get_weights()
        assert np.isfinite(fit(model)["loss"]).all()
        assert_same(teacher.get_weights(), before, "the teacher")


if BACKEND == "jax":

    def test_data_parallel_equals_one_device():
        def trained():
            teacher, student = convolutional(4, "teacher", 1), convolutional(2, "student")
            student.get_layer("dropout").rate = 0.0
            model = Distiller(teacher, student, losses())
            fit(model, SGD(0.02))
            return model.get_weights()

        one = trained()
        with keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]).scope():
            two = trained()
        assert_same(two, one, "devices", atol=1e-5)


def test_callbacks_of_this_package_see_a_model_like_any_other():
    model = Distiller(convolutional(4, "teacher", 1), convolutional(2, "student"), losses())
    monitor = GradientMonitor(every=1)
    history = fit(model, RAdam(0.01), callbacks=[monitor])
    norms = [name for name in history if "gradient" in name]
    assert norms
    assert np.isfinite([history[name][-1] for name in norms]).all()


def two_headed(name, seed):
    keras.utils.set_random_seed(seed)
    inputs = {"image": keras.Input((4, 4, 2), name="image")}
    x = layers.Dense(3, "tanh", name="body")(layers.Flatten()(inputs["image"]))
    outputs = {"a": layers.Dense(3, name="a")(x), "b": layers.Dense(2, name="b")(x)}
    return keras.Model(inputs, outputs, name=name)


def test_several_outputs_by_name():
    teacher, student = two_headed("teacher", 1), two_headed("student", 2)
    both = [LogitsKD(2.0), FeatureKD([("body", "body")])]
    model = Distiller(teacher, student, both)
    loss = {"a": CE(from_logits=True), "b": CE(from_logits=True)}
    x, y = {"image": X}, {"a": Y, "b": Y % 2}
    model.compile(SGD(RATE), loss, jit_compile=JIT)
    weights = {"a": WEIGHT, "b": 2 * WEIGHT}
    t, s = (m.predict(x, verbose=0) for m in (teacher, student))
    expected = sum((weights[k] * kd(t[k], s[k], 2.0)).mean() for k in "ab")
    model = Distiller(teacher, student, LogitsKD(2.0))
    model.compile(SGD(RATE), loss, jit_compile=JIT)
    logs = model.train_on_batch(x, y, weights, return_dict=True)
    np.testing.assert_allclose(logs["logits_kd_loss"], expected, rtol=1e-5)
    assert {"student_loss", "a_loss", "b_loss"} <= set(logs)
    model = Distiller(teacher, student, both)
    model.compile(SGD(RATE), loss, jit_compile=JIT)
    assert np.isfinite(model.train_on_batch(model.cached(x), y)).all()
    with pytest.raises(ValueError, match="cannot tell which output's sample weights"):
        model.train_on_batch(x, y, weights)


class Subclassed(keras.Model):
    """A model without a graph, whose `call` knows no `training`."""

    def __init__(self, name=None):
        super().__init__(name=name)
        self.flatten, self.head = layers.Flatten(), layers.Dense(3, name="head")

    def call(self, inputs):
        return self.head(self.flatten(inputs))


def subclassed(name):
    keras.utils.set_random_seed(3)
    model = Subclassed(name)
    model(X[:1])
    return model


def test_subclassed_models_distil_their_outputs():
    model = Distiller(subclassed("teacher"), subclassed("student"), [LogitsKD(), RelationalKD()])
    fit(model, SGD(RATE))
    with pytest.raises(ValueError, match="the student is a subclass with a `call` of its own"):
        Distiller(convolutional(2, "teacher"), subclassed("s"), FeatureKD([("head", "head")]))


def test_losses_of_keras_fit_in():
    theirs = keras.distillation.FeatureDistillation("mse", "conv", "conv")
    teacher, student = convolutional(3, "teacher", 1), convolutional(3, "student", 2)
    model = Distiller(teacher, student, [theirs, FeatureKD([("conv", "conv")])])
    model.compile(SGD(RATE), CE(from_logits=True), run_eagerly=True)
    logs = model.train_on_batch(X, Y, return_dict=True)
    ours = 2 * logs["feature_kd_loss"]
    np.testing.assert_allclose(logs["feature_distillation_loss"], ours, rtol=1e-6)
    with pytest.raises(ValueError, match="one number for a whole batch, which sample weights"):
        model.train_on_batch(X, Y, WEIGHT)


def test_loss_apart_from_training():
    # What `minimize` and the diagnostics do, and any loop of one's own.
    model = Distiller(convolutional(4, "teacher", 1), convolutional(2, "student"), losses())
    model.compile(SGD(RATE), CE(from_logits=True), run_eagerly=True)
    expected = model.test_on_batch(X, Y, return_dict=True)["loss"]
    y_pred = model.predict(X, verbose=0)
    loss = model.compute_loss(
        X, ops.convert_to_tensor(Y), ops.convert_to_tensor(y_pred), None, False
    )
    np.testing.assert_allclose(float(ops.convert_to_numpy(loss)), expected, rtol=1e-5)


def sharing():
    body = layers.Dense(4, name="shared")
    ends = ((name, [keras.Input((4,)), body, layers.Dense(3)]) for name in ("teacher", "student"))
    return [keras.Sequential(end, name=name) for name, end in ends]


def softmax(name):
    end = [keras.Input((4, 4, 2)), layers.Flatten(), layers.Dense(3, "softmax")]
    return keras.Sequential(end, name=name)


def test_bad_models():
    student, teacher = convolutional(2, "student"), convolutional(4, "teacher")
    kd = LogitsKD()
    unbuilt = keras.Sequential([layers.Dense(3)], name="later")
    wide = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Flatten(), layers.Dense(7)], name="wide"
    )
    sigmoid = keras.Sequential([keras.Input((4,)), layers.Dense(3, "sigmoid")])
    cases = [
        ((layers.Dense(3), student, kd), TypeError, "a whole model.*Received: teacher=<Dense"),
        ((teacher, "student", kd), TypeError, "`student` must be a keras.Model"),
        ((unbuilt, student, kd), ValueError, "not built.*Received: teacher='later'"),
        ((teacher, unbuilt, kd), ValueError, "not built.*Received: student='later'"),
        ((student, student, kd), ValueError, "cannot teach itself"),
        ((wide, student, kd), ValueError, r"teacher 'wide', student 'student'.*\(None, 7\).*, 3"),
        ((softmax("soft"), student, kd), ValueError, "teacher 'soft' ends in softmax: pass teach"),
        ((teacher, softmax("soft"), kd), ValueError, "student 'soft' ends in softmax: pass from_"),
        ((softmax("soft"), student, DecoupledKD()), ValueError, "ends in softmax: leave the last"),
        ((teacher, student, LogitsKD(3.0, False)), ValueError, "ends without an activation"),
        ((sigmoid, sigmoid_copy(sigmoid), kd), ValueError, "ends in a sigmoid of 3 units"),
        ((*sharing(), kd), ValueError, "share trainable weights.*shared/kernel"),
        ((teacher, Distiller(teacher, student, kd), kd), ValueError, "cannot wrap a Distiller"),
        ((teacher, SAM(student), kd), ValueError, "cannot wrap a SAM"),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            Distiller(*arguments)
    with pytest.raises(ValueError, match=r"SAM cannot wrap a Distiller"):
        SAM(Distiller(teacher, student, kd))
    Distiller(softmax("soft"), student, LogitsKD(teacher_from_logits=False))
    probabilities = softmax("s")
    Distiller(softmax("soft"), probabilities, LogitsKD(from_logits=False))
    cast = layers.Activation("linear", dtype="float32")
    cast = keras.Sequential([keras.Input((4, 4, 2)), *probabilities.layers, cast])
    Distiller(softmax("soft"), cast, LogitsKD(from_logits=False))


def sigmoid_copy(model):
    return keras.models.clone_model(model)


def test_bad_losses():
    student, teacher = convolutional(2, "student"), convolutional(4, "teacher")
    pairs = [("conv", "conv")]
    cases = [
        (([],), ValueError, "`distillation_losses` must hold a loss"),
        (("kd",), TypeError, "`distillation_losses` must be distillation losses.*'kd'"),
        (
            (LogitsKD(), [1.0, 2.0]),
            ValueError,
            "one number for each loss. Received: 2 weights for 1",
        ),
        (([LogitsKD()] * 2, [1.0]), ValueError, "Received: 1 weights for 2 losses"),
        ((LogitsKD(), -1.0), ValueError, "`distillation_loss_weights` must be at least 0"),
        ((LogitsKD(), 1.0, 1.5), ValueError, r"`student_loss_weight` must be in \[0, 1\]"),
        ((LogitsKD(), 1.0, 0.5, "yes"), TypeError, "`save_teacher` must be True or False"),
        (
            (FeatureKD([("conf", "conv")]),),
            ValueError,
            "in the student 'student'; it has 'norm', 'c",
        ),
        ((FeatureKD([("conv", "x")]),), ValueError, "no layer of that name in the teacher"),
        ((FeatureKD(pairs, None),), ValueError, "2 of the student and 4 of the teacher"),
        ((FeatureKD([("conv", "head")]),), ValueError, "features of as many axes"),
        ((AttentionTransfer([("head", "head")]),), ValueError, "axes of places"),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            Distiller(teacher, student, *arguments)
    with pytest.raises(ValueError, match=r"teacher_shapes=\{'conv': \(None, ...\), ...\}"):
        Distiller(None, student, FeatureKD(pairs))
    shapes = {"conv": (None, 4, 4, 5)}
    with pytest.raises(ValueError, match="whose layer 'conv' has shape"):
        Distiller(None, student, FeatureKD(pairs), teacher_shapes=shapes).attach(teacher)


def test_layers_called_twice():
    inputs = keras.Input((4,))
    twice = layers.Dense(4, name="twice")
    model = keras.Model(inputs, layers.Dense(3)(twice(twice(inputs))), name="student")
    teacher = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="head")])
    with pytest.raises(ValueError, match="'twice' of the student 'student' is called 2 times"):
        Distiller(teacher, model, FeatureKD([("twice", "head")]))


def test_bad_training():
    student = convolutional(2, "student")
    model = Distiller(None, student, LogitsKD(), name="school")
    model.compile("sgd", CE(from_logits=True))
    for call in (model.fit, model.evaluate, model.train_on_batch):
        with pytest.raises(ValueError, match=r"'school' has no teacher; .*distiller.attach"):
            call(X, Y)
    with pytest.raises(ValueError, match="has no teacher"):
        model.cached(X)
    assert model.predict(X, verbose=0).shape == (24, 3)
    model = Distiller(convolutional(4, "teacher"), student, LogitsKD())
    with pytest.raises(ValueError, match=r"no loss, given to `compile`.*student_loss_weight=0"):
        fit(model, "sgd", loss=None)
    with pytest.raises(ValueError, match="no labels `y`"):
        fit(model, "sgd", y=None)
    by_name = "sparse_categorical_crossentropy"
    for loss in (by_name, getattr(keras.losses, by_name), CE(), [by_name], {"head": CE()}):
        with pytest.raises(ValueError, match="'student' ends in logits, and its loss takes prob"):
            fit(model, "sgd", loss=loss)
    fit(model, "sgd")  # which on JAX would fail, had an earlier one failed in the midst of it
