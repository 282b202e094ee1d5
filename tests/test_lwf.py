"""LwF against the paper in float64, step by step, and what it promises."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.continual import (
    ContinualModel,
    LwF,
    MaskedCrossentropy,
)
from keras_optkit.testing._models import assert_same
from tests import nets, oracles
from tests.conftest import two_replicas
from tests.tracing import Counting

BACKEND = keras.backend.backend()
RATE = 0.125  # the same in float32 and float64
JIT = BACKEND == "jax"
SGD = keras.optimizers.SGD
GROUPS = [[0, 2], [1, 3], [4]]
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy


def tasks(rows=8):
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=(rows, 4)).astype("float32"), rng.choice(group, rows)) for group in GROUPS
    ]


def classifier(*, softmax=False, body=()):
    keras.utils.set_random_seed(0)
    head = layers.Dense(5, "softmax" if softmax else None)
    return keras.Sequential([layers.Input((4,)), layers.Dense(3, "tanh"), *body, head])


def learner(penalties, model=None, loss=None, optimizer=None, buffer=None):
    made = ContinualModel(classifier() if model is None else model, penalties, buffer)
    loss = loss or CROSSENTROPY(from_logits=True)
    made.compile(optimizer or SGD(RATE, momentum=0.9), loss, jit_compile=JIT)
    return made


def logits_of(weights, x):
    kernel, bias, head, head_bias = weights
    hidden = np.tanh(np.float64(x) @ kernel + bias)
    return hidden, hidden @ head + head_bias


def softmax(z, among):
    e = np.where(among, np.exp(z - z.max(1, keepdims=True)), 0)
    return e / e.sum(1, keepdims=True)


class Judge:
    """Cross-entropy among `rivals` of the label, and of old and new outputs in each head."""

    def __init__(self, start, strength, temperature, heads, masked):
        self.weights = [np.float64(w) for w in start]
        self.strength, self.temperature = strength, temperature
        self.heads, self.masked = [np.isin(np.arange(5), head) for head in heads], masked
        self.optimizers = [oracles.SGD(0.9) for _ in start]
        self.seen, self.old = np.zeros(5, bool), None

    def step(self, x, y, weight=1.0):
        """Returns the loss before the step."""
        hidden, z = logits_of(self.weights, x)
        rivals = np.array([np.isin(np.arange(5), GROUPS[g]) for g in (0, 1, 0, 1, 2)])[y]
        p = softmax(z, rivals if self.masked else True)
        own = np.eye(5)[y]
        share = np.broadcast_to(weight, len(x))[:, None] / len(x)
        loss = -np.sum(share[:, 0] * np.log(np.sum(own * p, 1)))
        error = share * (p - own)
        for head in self.heads if self.old is not None else ():
            head = head & self.seen
            if not head.any():
                continue
            T = self.temperature
            q = softmax(logits_of(self.old, x)[1] / T, head)
            p = softmax(z / T, head)
            log_p = np.log(np.where(head, p, 1))
            loss -= self.strength * np.sum(share * q * log_p)
            error = error + self.strength * share * (p - q) / T
        back = error @ self.weights[2].T * (1 - hidden**2)
        gradient = [np.float64(x).T @ back, back.sum(0), hidden.T @ error, error.sum(0)]
        self.weights = [
            o.step(w, g, RATE)
            for o, w, g in zip(self.optimizers, self.weights, gradient, strict=True)
        ]
        return loss

    def end(self, y):
        self.old = self.weights
        self.seen[y] = True


@pytest.fixture(scope="module")
def weighted():
    return np.linspace(0.25, 2, 8).astype("float32")


VARIANTS = {
    "one head": ({}, [range(5)], False),
    "a head for each task": ({"groups": GROUPS}, GROUPS, True),
    "probabilities": ({"from_logits": False}, [range(5)], False),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_step_and_loss_is_the_papers(name, weighted):
    options, heads, masked = VARIANTS[name]
    loss = CROSSENTROPY(from_logits=name != "probabilities")
    model = learner(
        [LwF(1.5, temperature=2.5, **options)],
        classifier(softmax=name == "probabilities"),
        MaskedCrossentropy(GROUPS) if masked else loss,
    )
    judge = Judge(model.strip().get_weights(), 1.5, 2.5, heads, masked)
    without = Judge(model.strip().get_weights(), 0.0, 2.5, heads, masked)
    step = 0
    for x, y in tasks():
        for weight in (None, weighted, None):
            step += 1
            model.reset_metrics()  # Keras 3.12 reports the mean over batches
            loss = float(model.train_on_batch(x, y, weight))
            factor = 1.0 if weight is None else weight
            message = f"step {step}"
            expected = judge.step(x, y, factor)
            without.step(x, y, factor)
            np.testing.assert_allclose(loss, expected, rtol=1e-5, err_msg=message)
            for a, e in zip(model.strip().get_weights(), judge.weights, strict=True):
                np.testing.assert_allclose(a, e, rtol=1e-5, atol=3e-6, err_msg=message)
        model.consolidate(x, y)
        judge.end(y)
        without.end(y)
    evaluated = model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(evaluated, judge.step(x, y), rtol=1e-5)
    apart = zip(judge.weights, without.weights, strict=True)
    assert max(np.abs(a - b).max() for a, b in apart) > 1e-2  # or all this would hold without


if BACKEND == "torch":

    def test_torch_agrees_on_the_gradient():
        import torch
        from torch.nn import functional as F

        (x, y), (x_2, y_2), _ = tasks()
        model = learner([LwF(1.0, temperature=2.0)])
        model.consolidate(x, y, pretrained=True)
        model.consolidate(x, y_2)
        old = torch.tensor(model.strip().predict(x_2, verbose=0)[:, :4])
        (penalty, kept), outputs = model._memory.held[0], torch.randn(8, 5, requires_grad=True)
        from keras_optkit.continual._penalty import Step

        ours = penalty.loss(kept, Step(x_2, outputs, None))
        # Avalanche's, then the cross-entropy with the factor of Hinton et al.
        log_p, q = F.log_softmax(outputs[:, :4] / 2, 1), F.softmax(old / 2, 1)
        peers = {
            1.0: F.kl_div(log_p, q, reduction="batchmean"),
            4.0: -4 * (q * log_p).sum(1).mean(),
        }
        (mine,) = torch.autograd.grad(ours, outputs, retain_graph=True)
        for factor, peer in peers.items():
            (theirs,) = torch.autograd.grad(peer, outputs, retain_graph=True)
            np.testing.assert_allclose(factor * mine, theirs, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(ours.item(), peers[4.0].item() / 4, rtol=1e-6)


def stateful():
    adding = layers.ActivityRegularization(l2=0.5)  # a loss, which must count once
    return classifier(body=[layers.BatchNormalization(), layers.Dropout(0.25, seed=1), adding])


def test_the_old_model_leaves_no_trace():
    (x, y), (x_2, y_2), _ = tasks()
    results = []
    for penalties in ([LwF(0.0)], []):
        inside = stateful()
        model = learner(penalties, inside)
        for task in ((x, y), (x_2, y_2)):
            history = model.fit(*task, epochs=2, batch_size=4, shuffle=False, verbose=0).history
            model.consolidate(*task)
        losses = [history["loss"], model.evaluate(x, y, verbose=0)]
        results.append([*map(ops.convert_to_numpy, inside.variables), *losses])
        assert model.strip() is inside
    assert_same(*results, "statistics and seeds too", atol=1e-6)


def test_before_the_first_consolidate_it_does_nothing():
    (x, y), *_ = tasks()
    results = []
    for penalties in ([LwF(9.0)], []):
        model = learner(penalties)
        model.fit(x, y, shuffle=False, verbose=0)
        results.append([*model.strip().get_weights(), model.evaluate(x, y, verbose=0)])
    assert_same(*results, "before", atol=1e-6)


def test_the_old_weights_are_a_copy():
    (x, y), (x_2, y_2), _ = tasks()
    model = learner([LwF(1.0)], stateful())
    model.fit(x, y, verbose=0)
    model.consolidate(x, y)
    kept = model.strip().get_weights()
    old = model._memory.held[0][1].slots["old"]
    model.fit(x_2, y_2, verbose=0)
    assert_same([ops.convert_to_numpy(v) for v in old], kept, "they stay")
    for v, w in zip(old, model.strip().weights, strict=True):
        assert not np.shares_memory(*map(ops.convert_to_numpy, (v, w)))
        assert not v.trainable


@pytest.mark.skipif(BACKEND == "torch", reason="Keras runs torch eagerly")
def test_tasks_compile_nothing_anew():
    layer = Counting()
    model, counts = learner([LwF(1.0, groups=GROUPS)], classifier(body=[layer])), []
    for i, (x, y) in enumerate(tasks()):
        model.strengths = [1.0 + i]
        model.fit(x, y, verbose=0)
        model.consolidate(x, y)
        counts.append(layer.traced)
    assert counts[0] > 0
    assert len(set(counts)) == 1, counts


def test_mixed_precision_follows_float32():
    results = []
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            inside = classifier()
        finally:
            keras.config.set_dtype_policy("float32")
        scaled = keras.optimizers.LossScaleOptimizer(SGD(RATE), initial_scale=256.0)
        model = learner([LwF(1.0)], inside, None, scaled)
        for x, y in tasks():
            model.fit(x, y, epochs=2, verbose=0)
            model.consolidate(x, y)
        results.append(model.strip().get_weights())
    assert_same(*results[::-1], "float16", atol=4e-3)


def run_two_tasks(model):
    for x, y in tasks()[:2]:
        model.fit(x, y, epochs=2, batch_size=4, shuffle=False, verbose=0)
        model.consolidate(x, y)
    return model.get_weights()


if BACKEND == "tensorflow":

    def test_replicas_equal_one_device():
        one = learner([LwF(2.0)])
        with two_replicas().scope():
            two = ContinualModel(classifier(), LwF(2.0))
            loss = CROSSENTROPY(from_logits=True)
            two.compile(SGD(RATE, momentum=0.9), loss, jit_compile=False)
        assert_same(run_two_tasks(two), run_two_tasks(one), "replicas", atol=1e-5)


def test_what_does_not_work_is_said():
    (x, y), *_ = tasks()
    for options, message in (
        ({"strength": -1.0}, "`strength` must be at least 0"),
        ({"temperature": 0.0}, "`temperature` must be greater than 0"),
        ({"classes": "new"}, "`classes` must be one of 'seen', 'all'"),
        ({"groups": [[0], []]}, "`groups` must hold the classes of one task at least"),
    ):
        with pytest.raises(ValueError, match=message):
            LwF(**options)
    images = keras.Sequential([layers.Input((4, 4)), layers.Dense(3)])
    for wrong in (keras.Sequential([layers.Input((4,)), layers.Dense(1)]), images):
        with pytest.raises(ValueError, match="one output for each class"):
            ContinualModel(wrong, LwF(1.0))
    with pytest.raises(ValueError, match=r"ends in a softmax\. Pass from_logits=False, or better"):
        ContinualModel(classifier(softmax=True), LwF(1.0))
    with pytest.raises(ValueError, match="was told of probabilities"):
        ContinualModel(classifier(), LwF(1.0, from_logits=False))
    with pytest.raises(ValueError, match="`groups` must hold numbers of outputs"):
        ContinualModel(classifier(), LwF(1.0, groups=[[0, 5]]))
    subclassed = nets.Subclassed(5)
    subclassed(x)
    model = learner([LwF(1.0)], subclassed)
    before = model.get_weights()
    for wrong, message in (
        ((x,), 'or use LwF[(]classes="all"[)]'),
        ((x, y + 0.5), "needs labels that are numbers of outputs, from 0 to 4"),
        ((x, y - 1), "needs labels that are numbers of outputs, from 0 to 4"),
        ((x, y + 5), "needs labels that are numbers of outputs, from 0 to 4"),
    ):
        with pytest.raises(ValueError, match=message):
            model.consolidate(*wrong, pretrained=True)
    assert_same(model.get_weights(), before, "nothing has changed")
    model.consolidate(x, np.eye(5)[y], pretrained=True)  # one-hot
    seen = ops.convert_to_numpy(model._memory.held[0][1].slots["seen"][0])
    np.testing.assert_array_equal(seen, [1, 0, 1, 0, 0])
    unlabelled = learner([LwF(1.0, classes="all")])
    unlabelled.consolidate(pretrained=True)
    assert np.isfinite(unlabelled.train_on_batch(x, y))
