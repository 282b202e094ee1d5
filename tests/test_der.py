"""DER and DER++ against the paper in float64, step by step, and what they promise."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_optkit.callbacks import TrainingState
from keras_optkit.continual import (
    DER,
    EWC,
    ContinualModel,
    DERpp,
    ReplayBuffer,
    ReplayDataset,
    _logit_replay,
)
from keras_optkit.testing._models import assert_same
from tests import oracles
from tests.conftest import two_replicas
from tests.tracing import Counting

BACKEND = keras.backend.backend()
RATE = 0.125  # the same in float32 and float64
JIT = BACKEND == "jax"
SGD = keras.optimizers.SGD
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy


def tasks(rows=12):
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=(rows, 4)).astype("float32"), rng.choice(group, rows))
        for group in ([0, 2], [1, 3])
    ]


def classifier(activation=None, body=()):
    keras.utils.set_random_seed(0)
    head = layers.Dense(4, activation)
    return keras.Sequential([layers.Input((4,)), layers.Dense(3, "tanh"), *body, head])


def learner(penalties, buffer=None, optimizer=None, model=None):
    buffer = ReplayBuffer(7, seed=3) if buffer is None else buffer
    made = ContinualModel(model or classifier(), penalties, buffer)
    loss = CROSSENTROPY(from_logits=True)
    made.compile(optimizer or SGD(RATE, momentum=0.9), loss, metrics=["accuracy"], jit_compile=JIT)
    return made


def fit(model, x, y, **options):
    return model.fit(x, y, **({"batch_size": 4, "verbose": 0} | options))


def logits_of(weights, x):
    kernel, bias, head, head_bias = weights
    hidden = np.tanh(np.float64(x) @ kernel + bias)
    return hidden, hidden @ head + head_bias


class Judge:
    """Algorithms 1 and 2 with batches as given; it knows outputs by the inputs they are of."""

    at_ends = False  # of tasks, instead of in each step, outputs are kept

    def __init__(self, start, alpha, beta):
        self.weights = [np.float64(w) for w in start]
        self.alpha, self.beta, self.known = alpha, beta, {}
        self.optimizers = [oracles.SGD(0.9) for _ in start]

    def step(self, x, y, count, weights):
        """Returns the loss before the step; parts are `count` and then as many as there are."""
        began = bool(self.known)
        hidden, h = logits_of(self.weights, x)
        e = np.exp(h - h.max(1, keepdims=True))
        p = e / e.sum(1, keepdims=True)
        part = np.arange(len(x)) // count
        weight = np.array([weights[row.tobytes()] for row in x])
        # New samples, then those to match, then those to classify.
        factor = np.array([1, 0, (self.beta or 0) * began])[part] * weight / count
        loss = -np.sum(factor * np.log(p[np.arange(len(x)), y]))
        error = factor[:, None] * (p - np.eye(4)[y])
        for i in np.flatnonzero(part == 1) if began else ():
            apart = h[i] - self.known[x[i].tobytes()]
            loss += self.alpha * weight[i] / count * np.sum(apart**2)
            error[i] += self.alpha * weight[i] / count * 2 * apart
        if not self.at_ends:
            self._keep(x[:count], h)
        back = error @ self.weights[2].T * (1 - hidden**2)
        gradient = [np.float64(x).T @ back, back.sum(0), hidden.T @ error, error.sum(0)]
        self.weights = [
            o.step(w, g, RATE)
            for o, w, g in zip(self.optimizers, self.weights, gradient, strict=True)
        ]
        return loss

    def keep(self, x):
        """Notes outputs of the weights as they are."""
        self._keep(x, logits_of(self.weights, x)[1])

    def _keep(self, x, h):
        self.known |= {row.tobytes(): outputs for row, outputs in zip(x, h, strict=False)}


class Record(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.weights, self.means = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.strip().get_weights())
        self.means.append(float(logs["loss"]))

    def losses(self):
        sums = np.array(self.means) * (1 + np.arange(len(self.means)))
        return np.diff(sums, prepend=0)


@pytest.fixture
def batches(monkeypatch):
    """The batches of the last `fit`, by number."""
    seen, original = {}, _logit_replay.LogitReplay.__getitem__

    def get(self, index):
        seen[index] = original(self, index)
        return seen[index]

    monkeypatch.setattr(_logit_replay.LogitReplay, "__getitem__", get)
    return seen


@pytest.mark.parametrize("name", ["DER", "DER++", "DER++ at the ends of tasks"])
def test_every_step_and_loss_is_the_papers(name, batches):
    penalty, beta = (DER(0.5), None) if name == "DER" else (DERpp(0.5, 0.25), 0.25)
    at_ends = name.endswith("tasks")
    if at_ends:
        penalty = DERpp(0.5, 0.25, fill="consolidate")
    model, step = learner(penalty), 0
    judge, record = Judge(model.strip().get_weights(), 0.5, beta), Record()
    without = Judge(model.strip().get_weights(), 0.0, beta)
    judge.at_ends = without.at_ends = at_ends
    weights = {}
    for x, y in tasks():
        given = np.linspace(0.5, 2, len(x)).astype("float32")
        weights |= {row.tobytes(): w for row, w in zip(x, given, strict=True)}
        fit(model, x, y, sample_weight=given, callbacks=[record])
        assert len(batches) == 3
        for index, loss in enumerate(record.losses()):
            step += 1
            inputs, targets, _ = batches[index]
            assert len(inputs) == 4 * (2 if beta is None else 3)
            message = f"step {step}"
            expected = judge.step(inputs, targets.targets, 4, weights)
            without.step(inputs, targets.targets, 4, weights)
            np.testing.assert_allclose(loss, expected, rtol=2e-5, err_msg=message)
            for a, e in zip(record.weights[index], judge.weights, strict=True):
                np.testing.assert_allclose(a, e, rtol=1e-5, atol=3e-6, err_msg=message)
        if at_ends:
            assert model.buffer.seen == (0 if step == 3 else 12)
            model.consolidate(x, y)
            for one in (judge, without):
                one.keep(x)
            weights |= dict.fromkeys(weights, 1.0)
        old_x, _, extras = model.buffer.data()
        kept = np.array([judge.known[row.tobytes()] for row in old_x])
        np.testing.assert_allclose(extras["logits"], kept, rtol=1e-5, atol=3e-6)
    assert model.buffer.seen == 24
    plain = CROSSENTROPY(from_logits=True)(y, logits_of(judge.weights, x)[1])
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0)[0], plain, rtol=1e-5)
    apart = zip(judge.weights, without.weights, strict=True)
    assert max(np.abs(a - b).max() for a, b in apart) > 1e-2  # or all this would hold without


if BACKEND == "torch":

    def test_torch_agrees_on_the_distance():
        import torch
        from torch.nn import functional as F

        from keras_optkit.continual._penalty import Step

        model = learner(DER(0.5))
        ((penalty, kept),) = model._memory.held
        rng = np.random.default_rng(0)
        outputs, logits = (torch.tensor(rng.normal(size=(6, 4)), dtype=torch.float32) for _ in "ab")
        kept.slots["logits"][0].assign(np.r_[logits, np.zeros((2, 4))])
        rows = np.arange(6)
        remembered = _logit_replay.Remembered(None, rows, rows, np.ones(6, "float32"))
        ours = penalty.loss(kept, Step(None, outputs, None, remembered, training=False))
        # Mammoth's, which takes the mean over the classes too.
        torch.testing.assert_close(ours, 0.5 * 4 * F.mse_loss(outputs, logits))


def test_goes_on_from_the_middle_of_an_epoch(tmp_path):
    def script(at, *callbacks):
        model = learner([DERpp(0.5, 0.5, fill="consolidate")])
        for number, (x, y) in enumerate(tasks()):
            resumes = [TrainingState(at / str(number), every=1)] if at else []
            fit(model, x, y, epochs=3, callbacks=[*callbacks, *resumes])
            model.consolidate(x, y)
        return [*model.get_weights(), *keras.tree.flatten(model.buffer.data())]

    expected, interrupted = script(None), Interrupt(9 + 5)  # in the second task's second epoch
    with pytest.raises(KeyboardInterrupt):
        script(tmp_path, interrupted)
    assert_same(script(tmp_path), expected, "went on")
    model, (x, y) = learner([DERpp(0.5, 0.5)]), tasks()[0]
    before = model.get_weights()
    with pytest.raises(ValueError, match="cannot resume training in which samples join the buffer"):
        fit(model, x, y, callbacks=[TrainingState(tmp_path / "stream")])
    assert_same(model.get_weights(), before, "nothing has changed")


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 0


class Interrupt(keras.callbacks.Callback):
    def __init__(self, after=2):
        super().__init__()
        self.after = after

    def on_train_batch_end(self, batch, logs=None):
        self.after -= 1
        if not self.after:
            raise KeyboardInterrupt


def test_logits_stay_with_their_samples(tmp_path):
    # Without a step the outputs never change, so those in the buffer are known.
    (x, y), (x_2, y_2) = tasks()
    buffer = ReplayBuffer(9, policy="class_balanced", seed=1)
    model = learner(DERpp(0.5, 0.5, replay_batch_size=3), buffer, SGD(1e-30))

    def check(message):
        old_x, _, extras = model.buffer.data()
        expected = model.strip().predict(old_x, verbose=0)
        np.testing.assert_allclose(extras["logits"], expected, atol=1e-6, err_msg=message)

    fit(model, x, y, epochs=3)
    assert buffer.seen == 36
    check("several epochs")
    before = model.strip().get_weights()
    fit(model, x_2[:10], y_2[:10])
    assert buffer.seen == 46  # the last batch is filled up, but not the buffer
    check("an incomplete batch")
    fit(model, x_2, y_2, callbacks=[Stop()])
    check("stopped")
    with pytest.raises(KeyboardInterrupt):
        fit(model, x_2, y_2, callbacks=[Interrupt()])
    check("interrupted")
    path = f"{tmp_path}/model.keras"
    fit(model, x, y, callbacks=[keras.callbacks.ModelCheckpoint(path, save_freq=2)])
    model = keras.saving.load_model(path)
    check("saved in the middle")
    assert_same(model.strip().get_weights(), before, "no step was taken", atol=1e-20)
    buffer = model.buffer
    buffer.clear()
    fit(model, x, y)
    check("cleared")


@pytest.mark.skipif(BACKEND == "torch", reason="Keras runs torch eagerly")
@pytest.mark.parametrize("fill", ["training", "consolidate"])
def test_tasks_compile_nothing_anew(fill):
    layer = Counting()
    model = learner([DERpp(0.5, 0.5, fill=fill)], model=classifier(body=[layer]))
    counts = []
    for i, (x, y) in enumerate([*tasks(), *tasks(10)]):
        model.strengths = [1.0 + i]
        fit(model, x, y, epochs=2)
        model.consolidate(x, y)
        counts.append(layer.traced)
    assert counts[0] > 0
    assert len(set(counts)) == 1, counts
    assert model.penalties[0].alpha == 4.0


def test_mixed_precision_follows_float32():
    results = []
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            inside = classifier()
        finally:
            keras.config.set_dtype_policy("float32")
        scaled = keras.optimizers.LossScaleOptimizer(SGD(RATE), initial_scale=256.0)
        model = learner([DERpp(0.25, 0.5)], None, scaled, inside)
        for x, y in tasks():
            fit(model, x, y)
        results.append([*model.strip().get_weights(), model.buffer.extras["logits"]])
    assert_same(*results[::-1], "float16", atol=8e-3)


def run(model):
    for x, y in tasks():
        fit(model, x, y, epochs=2)
        model.consolidate(x, y)
    return [*model.get_weights(), model.buffer.extras["logits"]]


if BACKEND == "tensorflow":

    def test_replicas_equal_one_device():
        one = learner([DERpp(0.5, 0.5), EWC(0.5)])
        with two_replicas().scope():
            two = learner([DERpp(0.5, 0.5), EWC(0.5)])
        assert_same(run(two), run(one), "replicas", atol=1e-5)


if BACKEND == "jax":

    def test_data_parallel_equals_one_device():
        one = run(learner([DERpp(0.5, 0.5)]))
        with keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]).scope():
            two = run(learner([DERpp(0.5, 0.5)]))
        assert_same(two, one, "devices", atol=1e-5)


def test_what_does_not_work_is_said():
    (x, y), _ = tasks()
    for make, message in (
        (lambda: DER(-1.0), "`alpha` must be at least 0"),
        (lambda: DERpp(1.0, -1.0), "`beta` must be at least 0"),
        (lambda: DER(1.0, 0), "`replay_batch_size` must be an integer of at least 1"),
        (lambda: DERpp(1.0, 1.0, fill="ends"), "`fill` must be one of 'training', 'consolidate'"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="DERpp replays samples from a buffer, so give one"):
        ContinualModel(classifier(), DERpp(1.0, 1.0))
    with pytest.raises(ValueError, match="Only one of `penalties` can be DER or DERpp"):
        learner([DER(1.0), DERpp(1.0, 1.0)])
    with pytest.raises(ValueError, match=r"ends in a softmax\. Leave the softmax out"):
        learner([DER(1.0)], model=classifier("softmax"))
    single = keras.Sequential([layers.Input((4,)), layers.Dense(1)])
    with pytest.raises(ValueError, match="one output for each class"):
        learner([DER(1.0)], model=single)
    buffer = ReplayBuffer(7)
    buffer.add(x, y)
    model = learner([DER(1.0)], buffer)
    before, held = model.get_weights(), buffer.data()
    with pytest.raises(ValueError, match="the buffer holds 7 samples without `logits`"):
        fit(model, x, y)
    buffer.clear()
    buffer.add(x, y, logits=np.zeros((12, 3), "float32"))
    with pytest.raises(ValueError, match="`logits` must be like what the buffer holds"):
        fit(model, x, y)
    at_ends = learner([DER(1.0, fill="consolidate")], buffer)
    with pytest.raises(ValueError, match="`logits` must be like what the buffer holds"):
        at_ends.consolidate(x, y, pretrained=True)
    with pytest.raises(ValueError, match="The buffer keeps samples of each task: call"):
        at_ends.consolidate(pretrained=True)
    assert at_ends.tasks == 0
    assert_same(model.get_weights(), before, "nothing has changed")
    assert_same(buffer.data()[:2], held, "nothing has changed")
    buffer.clear()
    with pytest.raises(TypeError, match="must be arrays, since DER makes batches of its own"):
        fit(model, ReplayDataset(x, y, buffer), None)
    model.compile("sgd", CROSSENTROPY(from_logits=True, reduction="sum"))
    with pytest.raises(ValueError, match="the loss must be a mean over the batch"):
        fit(model, x, y)
