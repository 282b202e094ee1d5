"""What the README's table says of Keras' own pieces and of TF-MOT is so.

A test that fails here is good news: a built-in was mended, and the table is to say so.
"""

import contextlib
import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

pytestmark = pytest.mark.heavy
ROOT = Path(__file__).parents[1]
BACKEND = keras.backend.backend()
SGD = keras.optimizers.SGD
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="is of TensorFlow")
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="is of JAX")


def variable(value, dtype="float32"):
    """Returns a weight."""
    return keras.Variable(np.array(value, dtype="float32"), dtype=dtype)


def stepped(optimizer, weight, gradients):
    """Returns a weight after steps with the given gradients."""
    for gradient in gradients:
        optimizer.apply([ops.cast(ops.convert_to_tensor(gradient), weight.dtype)], [weight])
    return np.array(ops.convert_to_numpy(ops.cast(weight, "float32")))


def linear(optimizer, **options):
    """Returns a compiled `Dense(1)` without a bias, all ones."""
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(optimizer, "mse", **options)
    return model


X, Y = np.ones((8, 1), "float32"), np.zeros((8, 1), "float32")


def test_schedules_count_batches_where_gradients_accumulate():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.0])
    optimizer = SGD(schedule, gradient_accumulation_steps=2)
    weight = variable([1.0])
    ones = [np.ones(1, "float32")] * 2
    assert stepped(optimizer, weight, ones) == 1.0  # the first update had the second batch's rate


@on_tensorflow
@pytest.mark.parametrize("settings", [{"gradient_accumulation_steps": 2}, {"global_clipnorm": 1.0}])
def test_under_a_strategy(settings):
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"]).scope():
        model = linear(SGD(1.0, **settings))
    if "global_clipnorm" not in settings:
        with pytest.raises(RuntimeError, match="`merge_call` called while defining a new graph"):
            model.fit(X, Y, batch_size=4, verbose=0)
        return
    model.fit(9 * X, Y, batch_size=8, verbose=0)
    step = 1.0 - model.get_weights()[0].item()
    assert step == pytest.approx(2.0)  # two steps of norm 1, where one device takes one


@on_tensorflow
def test_repeated_ids_in_an_embedding():
    def second_moment(ids):
        table = keras.layers.Embedding(3, 2, embeddings_initializer="ones")
        model = keras.Sequential([keras.Input((len(ids),), dtype="int32"), table])
        model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
        model.fit(np.array([ids]), np.zeros((1, len(ids), 2)), verbose=0)
        return np.array(model.optimizer.variables[3])[ids[0]]

    def expected(count):  # the gradient of a row is the sum over where it stands
        return 0.001 * np.square(count * 2.0 / (2 * 2))

    np.testing.assert_allclose(second_moment([0, 1]), expected(1), rtol=1e-5)
    assert not np.allclose(second_moment([0, 0]), expected(2), rtol=0.1)


def test_adam_does_not_move_bfloat16_weights():
    weight = variable([1.0], "bfloat16")
    assert stepped(keras.optimizers.Adam(0.1), weight, [np.ones(1, "float32")] * 5) == 1.0


def test_exclude_from_weight_decay_is_lost_on_saving():
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    again = type(optimizer).from_config(optimizer.get_config())
    for each, expected in ((optimizer, 1.0), (again, 0.95)):
        weights = [keras.Variable([1.0], name=name) for name in ("kernel", "bias")]
        each.apply([ops.zeros(1)] * 2, weights)
        assert float(weights[1][0]) == pytest.approx(expected)


def test_weight_decay_is_no_schedule():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    with pytest.raises(Exception):  # noqa: B017  # whatever it is, and wherever it comes
        stepped(keras.optimizers.AdamW(0.1, weight_decay=schedule), variable([1.0]), [np.ones(1)])


def test_deepcopy_drops_the_state():
    optimizer = keras.optimizers.Adam(0.1)
    stepped(optimizer, variable([1.0]), [np.ones(1, "float32")])
    assert optimizer.iterations == 1
    assert copy.deepcopy(optimizer).iterations == 0


def test_lamb_decays_outside_of_the_trust_ratio():
    weight = variable([3.0, 4.0])
    optimizer = keras.optimizers.Lamb(0.1, weight_decay=0.5)
    after = stepped(optimizer, weight, [np.array([1e-3, 0.0], "float32")])
    # Inside of it, the step has the length of lr * norm of the weights: 0.1 * 5.
    assert abs(np.linalg.norm(after - [3.0, 4.0]) - 0.5) > 0.05


@pytest.mark.parametrize("settings", [{"weight_decay": 0.1}, {"warmup_steps": 5}])
def test_schedule_free_is_off_from_its_authors_code(settings):
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("schedulefree")
    gradients = np.random.default_rng(0).normal(size=(30, 4)).astype("float32")
    options = {"learning_rate": 0.1, "epsilon": 1e-8} | settings
    ours = stepped(keras.optimizers.ScheduleFreeAdamW(**options), variable([1.0] * 4), gradients)
    theirs = torch.nn.Parameter(torch.ones(4))
    optimizer = peer.AdamWScheduleFree([theirs], lr=0.1, **settings)
    optimizer.train()
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
    assert np.abs(ours - theirs.detach().numpy()).max() > 0.01


def test_muon_leaves_convolutions_to_adam():
    kernel = keras.Variable(np.random.default_rng(0).normal(size=(3, 3, 4, 8)), name="kernel")
    optimizer = keras.optimizers.Muon(0.1)
    optimizer.build([kernel])
    assert optimizer._should_use_adamw(kernel)


@on_jax
def test_keras_average_fails_in_a_second_fit():
    model = linear(SGD(0.1, use_ema=True))
    model.fit(X, Y, verbose=0)
    # The error itself is hidden by another, of what Keras does at the end of `fit`.
    with pytest.raises(TypeError, match="not callable") as caught:
        model.fit(X, Y, verbose=0)
    assert "donate the same buffer twice" in str(caught.value.__context__)


def test_swap_ema_weights_leaves_the_average_in_after_predict():
    model = linear(SGD(0.1, use_ema=True))
    model.optimizer.build(model.trainable_variables)
    model.optimizer._model_variables_moving_average[0].assign([[5.0]])
    model.predict(X, callbacks=[keras.callbacks.SwapEMAWeights()], verbose=0)
    assert model.get_weights()[0] == 5.0


class Cut(keras.callbacks.Callback):
    """Counts batches, and ends the process, as it were, after so many."""

    def __init__(self, after=10**9):
        super().__init__()
        self.after, self.seen = after, 0

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == self.after:
            raise KeyboardInterrupt


def test_backup_and_restore_repeats_batches(tmp_path):
    def run(after=10**9):
        cut = Cut(after)
        backup = keras.callbacks.BackupAndRestore(tmp_path, save_freq=3)
        with contextlib.suppress(KeyboardInterrupt):
            linear(SGD(0.01)).fit(X, Y, batch_size=1, epochs=2, callbacks=[backup, cut], verbose=0)
        return cut.seen

    assert run(after=6) + run() > 16


def test_dropout_does_not_resume_from_a_file(tmp_path):
    layers = [keras.Input((8,)), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(SGD(0.1), "mse")
    x, y = np.ones((4, 8), "float32"), np.zeros((4, 1), "float32")
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    for each in (model, again):
        each.fit(x, y, verbose=0)
    assert np.abs(model.get_weights()[0] - again.get_weights()[0]).max() > 1e-4


def test_distiller():
    def net():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])

    loss = keras.distillation.LogitsDistillation(temperature=1.0)
    logits = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    teacher, student = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    right = np.mean(np.sum(teacher * np.log(teacher / student), -1))
    found = float(loss.compute_loss(*map(ops.convert_to_tensor, logits)))
    assert abs(found - right) > 0.1

    distiller = keras.distillation.Distiller(net(), net(), distillation_losses=loss)
    distiller.compile("sgd", "mse")
    x, y = np.ones((4, 3), "float32"), np.zeros((4, 4), "float32")
    before = distiller.student.get_weights()
    distiller.fit(x, y, sample_weight=np.zeros(4), verbose=0)
    after = distiller.student.get_weights()
    moved = [np.abs(b - a).max() for a, b in zip(before, after, strict=True)]
    assert max(moved) > 0  # though no sample counts


TFMOT = """
import tempfile
import tensorflow as tf
tf.keras.layers  # before TF-MOT turns `tf.keras` into Keras 2
import keras, numpy as np, tensorflow_model_optimization as tfmot, tf_keras

new = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
for wrong in (
    lambda: tfmot.sparsity.keras.prune_low_magnitude(new),
    lambda: tfmot.quantization.keras.quantize_model(new),
):
    try:
        wrong()
    except ValueError:
        continue
    raise AssertionError("took a model of Keras 3")
linear = tfmot.clustering.keras.CentroidInitialization.LINEAR
assert tfmot.clustering.keras.cluster_weights(new, 4, linear) is None

for layer in (
    tf_keras.layers.LSTM(3),
    tf_keras.layers.Conv1D(3, 2),
    tf_keras.layers.LayerNormalization(),
):
    model = tf_keras.Sequential([tf_keras.layers.InputLayer((5, 4)), layer])
    try:
        tfmot.quantization.keras.quantize_model(model)
    except RuntimeError as error:
        assert "is not supported" in str(error)
        continue
    raise AssertionError(layer.name)

old = tf_keras.Sequential([tf_keras.layers.Dense(3, input_shape=(4,))])
aware = tfmot.quantization.keras.quantize_model(old)
aware.compile("sgd", "mse")
aware.fit(np.ones((4, 4)), np.ones((4, 3)), verbose=0)
with tempfile.TemporaryDirectory() as folder, tfmot.quantization.keras.quantize_scope():
    aware.save(folder + "/aware.keras")
    try:
        tf_keras.models.load_model(folder + "/aware.keras")
    except ValueError as error:
        assert "expected 5 variables, but received 3" in str(error)
    else:
        raise AssertionError("reloads")
"""


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("tensorflow", "tensorflow_model_optimization"))),
    reason="TF-MOT is not installed",
)
def test_tfmot():
    done = subprocess.run(
        [sys.executable, "-c", TFMOT],
        env=os.environ | {"KERAS_BACKEND": "tensorflow", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
