"""EWC in an optimizer against the formula in float64, and against the penalty in the loss."""

import keras
import numpy as np
import pytest

from keras_optkit.continual import EWC, ContinualModel, EWCOptimizer, fisher_diagonal
from keras_optkit.testing._models import assert_same, data, fit, network
from tests import oracles

BACKEND = keras.backend.backend()
RATE = 0.125
JIT = BACKEND == "jax"
SGD = keras.optimizers.SGD


def three_tasks(model, optimizer, strength):
    """Yields the weights after each of three tasks, the same as `EWC` and its proximal form."""
    x, y = data(8)
    model.compile(optimizer, "mse", jit_compile=JIT)
    for task, target in enumerate((y, -y, y**2)):
        if task and strength is None:
            fisher = fisher_diagonal(model, x, verbose=0)
            optimizer.consolidate(model.trainable_variables, fisher)
        elif task:
            model.consolidate(x)
        model.fit(x, target, epochs=3, shuffle=False, verbose=0)
        yield model.get_weights() if strength is None else model.strip().get_weights()


@pytest.mark.parametrize("update", ["gradient", "proximal"])
def test_it_does_what_the_penalty_does(update):
    inner = SGD(RATE, momentum=0.9)
    ours = three_tasks(network(), EWCOptimizer(inner, 0.5, update=update), None)
    ewc = EWC(0.5, update="loss" if update == "gradient" else "proximal")
    theirs = three_tasks(ContinualModel(network(), [ewc]), SGD(RATE, momentum=0.9), 0.5)
    for task, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert_same(a, b, f"task {task}", atol=3e-6)


@pytest.mark.parametrize("update", ["gradient", "proximal"])
def test_every_step_is_the_formulas(update):
    rng = np.random.default_rng(0)
    model = network()
    weights = [np.float64(w) for w in model.get_weights()]
    importances = [rng.random(w.shape) for w in weights]
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([1, 2], [RATE, RATE / 2, RATE / 4])
    optimizer = EWCOptimizer(SGD(rate, momentum=0.9), 2.0, update=update)
    optimizer.consolidate(model.trainable_variables, importances)
    anchors, judges = weights, [oracles.SGD(0.9) for _ in weights]
    for step in range(4):
        gradients = [rng.normal(size=w.shape) for w in weights]
        optimizer.apply(
            [keras.ops.convert_to_tensor(g, "float32") for g in gradients],
            model.trainable_variables,
        )
        now = RATE / 2 ** max(0, min(step - 1, 2))
        new = []
        for w, g, f, a, judge in zip(weights, gradients, importances, anchors, judges, strict=True):
            if update == "gradient":
                new.append(judge.step(w, g + 2.0 * f * (w - a), now))
            else:
                moved = judge.step(w, g, now)
                new.append((moved + now * 2.0 * f * a) / (1 + now * 2.0 * f))
        weights = new
        assert_same(model.get_weights(), weights, f"step {step}", atol=3e-6)


def test_a_huge_strength_is_stable_if_proximal():
    x, y = data(8)
    optimizer = EWCOptimizer("adam", 1e8, update="proximal")
    model = fit(network(), optimizer, data=(x, y))
    before = model.get_weights()
    optimizer.consolidate(model.trainable_variables, [np.ones(w.shape) for w in before])
    fit(model, data=(x, -y), epochs=3)
    assert_same(model.get_weights(), before, "held", atol=1e-6)


def test_what_does_not_work_is_said():
    variables = network().trainable_variables
    ones = [np.ones(v.shape) for v in variables]
    with pytest.raises(ValueError, match="`strength` must be at least 0"):
        EWCOptimizer("sgd", -1.0)
    with pytest.raises(ValueError, match="`update` must be one of 'gradient', 'proximal'"):
        EWCOptimizer("sgd", 1.0, update="loss")
    optimizer = EWCOptimizer("sgd", 1.0)
    with pytest.raises(ValueError, match="must have one array for each of `variables`"):
        optimizer.consolidate(variables, ones[:2])
    with pytest.raises(ValueError, match="must be finite and at least 0"):
        optimizer.consolidate(variables, [-one for one in ones])
    optimizer.consolidate(variables, ones)
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.consolidate(network().trainable_variables, ones)
