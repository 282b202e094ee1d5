"""Settings that follow a schedule, against rules that are told their settings in each step."""

import keras
import numpy as np
import pytest

from keras_optkit.optimizers import (
    LARS,
    AdaBelief,
    Lookahead,
    RAdam,
    Scheduled,
    ScheduleFreeSGD,
    SkipNonFinite,
    Transformed,
)
from keras_optkit.schedules import LinearDecay, OneCycle, OneCycleMomentum
from keras_optkit.testing._models import assert_same, data, fit, network
from tests import judges, oracles
from tests.conftest import two_replicas
from tests.oracles import assert_steps, follow, make_weights, run

BACKEND = keras.backend.backend()
SHAPES = {"dense/kernel": (3, 2), "dense/bias": (2,)}
STEPS = 9
FALL = LinearDecay(0.9, steps=6, final=0.5)
DECAY = LinearDecay(0.3, steps=6)


def falls(t):
    """`FALL` from its definition."""
    return 0.9 + (0.5 - 0.9) * min(t, 6) / 6


def decays(t):
    return 0.3 * (1 - min(t, 6) / 6)


class Told:
    """A judge whose settings are set before each step, from their definitions."""

    def __init__(self, judge, **settings):
        self.judge, self.settings = judge, settings
        self.t = 0

    @property
    def m(self):
        return self.judge.m

    def step(self, w, g, learning_rate):
        for name, value in self.settings.items():
            setattr(self.judge, name, value(self.t))
        self.t += 1
        return self.judge.step(w, g, learning_rate)


def adam(**kwargs):
    return keras.optimizers.Adam(0.1, beta_1=0.9, **kwargs)


# What to train with, the settings that follow, and the judge.
CASES = {
    "SGD": (
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        {"momentum": FALL},
        lambda: Told(oracles.SGD(nesterov=True), momentum=falls),
    ),
    "Adam": (adam, {"beta_1": FALL}, lambda: Told(oracles.AdamW(), beta_1=falls)),
    "AdamW": (
        lambda: keras.optimizers.AdamW(0.1, weight_decay=0.3),
        {"beta_1": FALL, "weight_decay": DECAY},
        lambda: Told(oracles.AdamW(), beta_1=falls, weight_decay=decays),
    ),
    "RAdam": (
        lambda: RAdam(0.1, weight_decay=0.3),
        {"beta_1": FALL, "weight_decay": DECAY},
        lambda: Told(oracles.RAdam(), beta_1=falls, weight_decay=decays),
    ),
    "AdaBelief": (
        lambda: AdaBelief(0.1, epsilon=1e-8),
        {"beta_1": FALL, "beta_2": FALL},
        lambda: Told(judges.AdaBelief(epsilon=1e-8), beta_1=falls, beta_2=falls),
    ),
    "LARS": (
        lambda: LARS(1.0, trust_coefficient=0.1, exclude=[]),
        {"momentum": FALL},
        lambda: Told(oracles.LARS(trust_coefficient=0.1), momentum=falls),
    ),
    "through a wrapper": (
        lambda: Lookahead(keras.optimizers.SGD(0.1, momentum=0.9), sync_period=2),
        {"momentum": FALL},
        lambda: oracles.Lookahead(Told(oracles.SGD(), momentum=falls), sync_period=2),
    ),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", CASES)
def test_settings_of_each_step(name, jit):
    make, schedules, judge = CASES[name]
    start, gradients = oracles.problem(SHAPES, STEPS)
    optimizer = Scheduled(make(), schedules)
    weights = make_weights(start)
    ours = list(run(optimizer, weights, gradients, jit))
    rate = 1.0 if name == "LARS" else 0.1
    expected = follow([judge() for _ in SHAPES], start.values(), gradients, [rate] * STEPS)
    assert_steps(ours, expected, tolerance=3e-6)
    constant = list(run(make(), make_weights(start), gradients, jit))
    assert np.abs(constant[-1][0] - ours[-1][0]).max() > 1e-3, "the schedule changes nothing"
    assert_restored(optimizer, make())


def assert_restored(optimizer, fresh):
    rule = getattr(fresh, "rule", fresh)
    for setting in optimizer.schedules:
        assert getattr(optimizer.rule, setting) == getattr(rule, setting)
        assert type(getattr(optimizer.rule, setting)) is float


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_one_cycle_is_that_of_torch(shape):
    torch = pytest.importorskip("torch")
    steps = 12
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.95)
    strategy = "cos" if shape == "cosine" else shape
    cycle = torch.optim.lr_scheduler.OneCycleLR(sgd, 0.1, steps, anneal_strategy=strategy)
    settings = []
    for step in range(steps):
        settings.append([sgd.param_groups[0][name] for name in ("lr", "momentum")])
        sgd.step()
        if step < steps - 1:  # torch must not be asked beyond
            cycle.step()
    rates, momenta = zip(*settings, strict=True)
    # torch has the rate outside of the velocity, Keras inside, so the rule is Keras'.
    start, gradients = oracles.problem(SHAPES, steps)
    told = [Told(oracles.SGD(), momentum=lambda t: momenta[t]) for _ in SHAPES]
    expected = list(follow(told, start.values(), gradients, rates))
    rate = OneCycle(0.1, steps, shape=shape)
    for momentum in (rate.momentum(), OneCycleMomentum(steps, shape=shape)):
        inner = keras.optimizers.SGD(rate, momentum=0.95)
        optimizer = Scheduled(inner, {"momentum": momentum})
        assert_steps(run(optimizer, make_weights(start), gradients, jit=True), expected)


def test_counts_updates():
    def make(**kwargs):
        return Scheduled(keras.optimizers.SGD(0.1, momentum=0.9, **kwargs), {"momentum": FALL})

    whole = fit(network(), make(), epochs=2)
    halves = fit(network(), make(gradient_accumulation_steps=2), epochs=2, batch_size=4)
    assert_same(halves.get_weights(), whole.get_weights(), "accumulated", atol=1e-6)
    assert_restored(halves.optimizer, keras.optimizers.SGD(0.1, momentum=0.9))


def test_around_and_inside_other_wrappers():
    def sgd():
        return keras.optimizers.SGD(0.1, momentum=0.9)

    plain = fit(network(), Scheduled(sgd(), {"momentum": FALL}), epochs=2)
    for optimizer in (
        SkipNonFinite(Scheduled(sgd(), {"momentum": FALL})),
        Scheduled(SkipNonFinite(Transformed(sgd(), [])), {"momentum": FALL}),
        Scheduled(Scheduled(sgd(), {"momentum": FALL}), {"momentum": DECAY}),  # the inner one wins
    ):
        model = fit(network(), optimizer, epochs=2)
        assert_same(model.get_weights(), plain.get_weights(), repr(optimizer), atol=1e-6)
        assert optimizer.rule.momentum == 0.9


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("name", ["SGD", "RAdam", "AdaBelief"])
def test_other_dtypes(name, dtype):
    make, schedules, judge = CASES[name]
    start, gradients = oracles.problem(SHAPES, STEPS)
    weights = make_weights(start, dtype)
    ours = list(run(Scheduled(make(), schedules), weights, gradients, jit=True))
    expected = follow([judge() for _ in SHAPES], start.values(), gradients, [0.1] * STEPS)
    assert_steps(ours, expected, tolerance=3e-6 if dtype == "float64" else 5e-2)


def test_settings_come_back_after_an_exception():
    class Fails(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            raise KeyboardInterrupt

    optimizer = Scheduled(Fails(0.1, momentum=0.9), {"momentum": FALL})
    start, gradients = oracles.problem(SHAPES, 1)
    with pytest.raises(KeyboardInterrupt):
        list(run(optimizer, make_weights(start), gradients))
    assert optimizer.rule.momentum == 0.9


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute")
@pytest.mark.parametrize("name", ["SGD", "RAdam"])
def test_settings_come_back_under_a_strategy(name):
    make, schedules, _ = CASES[name]
    with two_replicas().scope():
        model = network()
        model.compile(Scheduled(make(), schedules), "mse", jit_compile=False)
    fit(model)
    assert_restored(model.optimizer, make())


def test_goes_on_from_a_file(tmp_path):
    schedules = {"beta_1": FALL, "weight_decay": DECAY}
    model = fit(network(), Scheduled(keras.optimizers.AdamW(0.1, weight_decay=0.3), schedules))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(fit(loaded).get_weights(), fit(model).get_weights(), "went on")


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ({"beta_3": FALL}, "'beta_3' of Adam is 'missing'"),
        ({"weight_decay": FALL}, "'weight_decay' of Adam is None"),
        ({"amsgrad": FALL}, "'amsgrad' of Adam is False"),
        ({"learning_rate": FALL}, "give it a schedule of the learning rate as its `learning_rate`"),
        ({"name": FALL}, "'name' of Adam is 'adam"),
    ],
)
def test_names_of_settings(schedules, message):
    with pytest.raises(ValueError, match="must name settings of the optimizer inside") as error:
        Scheduled(adam(), schedules)
    assert message in str(error.value)
    with pytest.raises(ValueError, match=r"floats other than 0.*'momentum' of SGD is 0\.0"):
        Scheduled(keras.optimizers.SGD(0.1), {"momentum": FALL})
    # The average that is evaluated takes one `beta_1` for all steps.
    with pytest.raises(ValueError, match=r"'beta_1' of ScheduleFreeSGD is 0\.9"):
        Scheduled(ScheduleFreeSGD(0.1), {"beta_1": FALL})


def test_what_is_no_schedule():
    with pytest.raises(TypeError, match=r"`schedules\['beta_1'\]` must be a schedule"):
        Scheduled(adam(), {"beta_1": 0.9})
    with pytest.raises(TypeError, match="`schedules` must be a dict from names of settings"):
        Scheduled(adam(), FALL)


@pytest.mark.skipif(BACKEND == "torch", reason="where each step has its numbers in Python")
def test_a_setting_that_is_computed_with_in_python_is_named():
    optimizer = Scheduled(RAdam(0.1), {"beta_2": FALL})
    start, gradients = oracles.problem(SHAPES, 1)
    with pytest.raises(TypeError, match="`schedules` must not name 'beta_2' here"):
        list(run(optimizer, make_weights(start), gradients))
    assert optimizer.rule.beta_2 == 0.999


def test_under_fit_it_is_what_eager_steps_are():
    make, schedules, _ = CASES["AdamW"]
    compiled = fit(network(), Scheduled(make(), schedules), jit_compile=BACKEND != "torch")
    eager = network()
    eager.compile(Scheduled(make(), schedules), "mse", run_eagerly=BACKEND != "jax")
    fit(eager, data=data())
    assert_same(compiled.get_weights(), eager.get_weights(), "eager", atol=1e-5)
