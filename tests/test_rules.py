"""Each rule against its paper in float64, at every step, and against somebody else's code."""

import warnings
from itertools import repeat

import keras
import numpy as np
import pytest

from keras_optkit import optimizers, schedules
from keras_optkit.optimizers import Group
from tests import judges, oracles
from tests.oracles import assert_steps, follow, make_weights, optax_steps, run

SHAPES = {"dense/kernel": (4, 4), "conv/kernel": (2, 3, 5), "dense/bias": (3,), "gain": ()}
AXES = [1, 2, 0, 0]  # how many are a kernel's rows
BIASES = [False, False, True, False]
RATE = 0.05


def problem(steps, seed=0, shapes=SHAPES):
    return oracles.problem(shapes, steps, seed, scaled=True)


def alike(judge, **settings):
    return lambda: [judge(**settings) for _ in SHAPES]


def each(judge, name, values, **settings):
    return lambda: [judge(**{name: value}, **settings) for value in values]


o, j = optimizers, judges
# A rule with settings, and its judges.
PAPERS = {
    "AdaBelief": (lambda **k: o.AdaBelief(RATE, **k), alike(j.AdaBelief)),
    "AdaBelief, decay": (
        lambda **k: o.AdaBelief(RATE, beta_1=0.0, epsilon=1e-6, weight_decay=0.1, **k),
        alike(j.AdaBelief, beta_1=0.0, epsilon=1e-6, weight_decay=0.1),
    ),
    "Adan": (lambda **k: o.Adan(RATE, **k), alike(j.Adan)),
    "Adan, decay": (
        lambda **k: o.Adan(RATE, 0.9, 0.8, 0.95, weight_decay=0.1, **k),
        alike(j.Adan, beta_1=0.9, beta_2=0.8, beta_3=0.95, weight_decay=0.1),
    ),
    "ADOPT": (lambda **k: o.ADOPT(RATE, **k), alike(j.ADOPT)),
    "ADOPT, decay": (
        lambda **k: o.ADOPT(RATE, beta_2=0.9, clip_power=None, weight_decay=0.1, **k),
        alike(j.ADOPT, beta_2=0.9, clip_power=None, weight_decay=0.1),
    ),
    "AdEMAMix": (lambda **k: o.AdEMAMix(RATE, **k), alike(j.AdEMAMix)),
    "AdEMAMix, warmups": (
        lambda **k: o.AdEMAMix(
            RATE, alpha=8.0, alpha_warmup=20, beta_3_warmup=30, weight_decay=0.1, **k
        ),
        alike(j.AdEMAMix, alpha=8.0, alpha_warmup=20, beta_3_warmup=30, weight_decay=0.1),
    ),
    "LAMB": (
        lambda **k: o.LAMB(RATE, weight_decay=0.1, **k),
        each(j.LAMB, "excluded", BIASES, weight_decay=0.1),
    ),
    "LAMB, limits": (
        lambda **k: o.LAMB(RATE, min_norm=2.0, max_norm=4.0, exclude=(), **k),
        alike(j.LAMB, min_norm=2.0, max_norm=4.0),
    ),
    "Muon": (
        lambda **k: o.Muon(RATE, weight_decay=0.1, **k),
        each(j.Muon, "axes", AXES, weight_decay=0.1),
    ),
    "Muon, original": (
        lambda **k: o.Muon(RATE, momentum=0.9, nesterov=False, scale="original", **k),
        each(j.Muon, "axes", AXES, momentum=0.9, nesterov=False, scale="original"),
    ),
    "NovoGrad": (lambda **k: o.NovoGrad(RATE, **k), alike(j.NovoGrad)),
    "NovoGrad, decay": (
        lambda **k: o.NovoGrad(RATE, 0.9, 0.25, epsilon=1e-3, weight_decay=0.1, **k),
        alike(j.NovoGrad, beta_1=0.9, beta_2=0.25, epsilon=1e-3, weight_decay=0.1),
    ),
    "RAdam": (lambda **k: o.RAdam(RATE, **k), alike(oracles.RAdam)),
    "ScheduleFreeAdamW": (
        lambda **k: o.ScheduleFreeAdamW(RATE, weight_decay=0.1, **k),
        alike(j.ScheduleFree, beta_2=0.999, weight_decay=0.1),
    ),
    "ScheduleFreeSGD": (
        lambda **k: o.ScheduleFreeSGD(RATE, 0.8, weight_power=2.0, weight_decay=0.1, **k),
        alike(j.ScheduleFree, beta_1=0.8, weight_power=2.0, weight_decay=0.1),
    ),
    "Yogi": (lambda **k: o.Yogi(RATE, **k), alike(j.Yogi)),
    "Yogi, decay": (
        lambda **k: o.Yogi(RATE, beta_2=0.9, initial_accumulator=0.1, weight_decay=0.1, **k),
        alike(j.Yogi, beta_2=0.9, initial_accumulator=0.1, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", PAPERS)
def test_follows_the_paper(name):
    make, panel = PAPERS[name]
    start, gradients = problem(60)
    expected = follow(panel(), start.values(), gradients, repeat(RATE))
    assert_steps(run(make(), make_weights(start), gradients), expected, 2e-6)


@pytest.mark.parametrize("name", [name for name in PAPERS if "," not in name])
def test_follows_the_paper_when_compiled(name):
    make, panel = PAPERS[name]
    start, gradients = problem(12)
    expected = follow(panel(), start.values(), gradients, repeat(RATE))
    assert_steps(run(make(), make_weights(start), gradients, jit=True), expected, 2e-6)


SQUARE = {"dense/kernel": (4, 4), "conv/kernel": (2, 3, 6), "dense/bias": (3,), "gain": ()}


@pytest.mark.parametrize("max_dimension", [100, 5])
def test_soap_follows_the_paper(max_dimension):
    # Both correlations of a square matrix are of full rank, so their eigenvectors are certain.
    few = {"conv/kernel": (2, 2, 6), "wide/kernel": (3, 7)}  # their longer side keeps its axes
    shapes = SQUARE if max_dimension == 100 else SQUARE | few
    start, gradients = problem(40, shapes=shapes)
    settings = {"max_dimension": max_dimension, "weight_decay": 0.1}
    panel = [j.SOAP(axes, every=5, **settings) for axes in [*AXES, 1][: len(shapes)]]
    expected = follow(panel, start.values(), gradients, repeat(RATE))
    optimizer = o.SOAP(RATE, precondition_every=5, **settings)
    assert_steps(run(optimizer, make_weights(start), gradients, jit=True), expected, 3e-5)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "compiled"])
def test_prodigy_follows_the_paper(jit):
    start, gradients = valley(8 if jit else 20)
    decays = [0.1, 0.0, 0.1, 0.1]
    rates = np.linspace(1, 0.5, len(gradients), dtype="float32")
    expected = list(
        judges.prodigy(
            start.values(),
            gradients,
            rates,
            decays,
        )
    )
    rate = keras.optimizers.schedules.PolynomialDecay(1.0, len(rates) - 1, 0.5)
    groups = [Group("conv", weight_decay=0.0)]
    optimizer = o.Prodigy(rate, weight_decay=0.1, groups=groups)
    assert_steps(run(optimizer, make_weights(start), gradients, jit), expected, 1e-6)
    estimate = float(optimizer.variables[-2].numpy())
    assert jit or estimate > 0.02, f"the estimate has not grown: {estimate}"


def valley(steps, shapes=SHAPES):
    """Returns a problem whose gradients point one way, mostly: a way to go for Prodigy."""
    start, gradients = problem(steps, shapes=shapes)
    rng = np.random.default_rng(7)
    slope = [rng.normal(size=shape) for shape in shapes.values()]
    tilted = [
        [np.float32(0.1 * g + s) for g, s in zip(step, slope, strict=False)] for step in gradients
    ]
    return start, tilted


def test_prodigy_is_the_same_in_other_units():
    # A larger start for the estimate, and a larger problem, scale the steps alike.
    start, gradients = valley(40)
    larger = {path: 8 * value for path, value in start.items()}
    ours = run(o.Prodigy(), make_weights(start), gradients)
    theirs = run(o.Prodigy(initial_estimate=8e-6), make_weights(larger), gradients)
    assert_steps(ours, [[w / 8 for w in weights] for weights in theirs])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_cautious_follows_the_paper(weight_decay):
    class Plain(o.Optimizer):
        slots = ("momentum", "velocity")

        def direction(self, gradient, weight, step, slots):
            m, v = 0.9 * slots[0] + 0.1 * gradient, 0.999 * slots[1] + 0.001 * gradient**2
            return m / (1 - 0.9**step) / ((v / (1 - 0.999**step)) ** 0.5 + 1e-8), (m, v)

    start, gradients = problem(30)
    panel = [j.Cautious(weight_decay=weight_decay) for _ in start]
    expected = follow(panel, start.values(), gradients, repeat(RATE))
    optimizer = Plain(RATE, weight_decay=weight_decay, cautious=True)
    # Python's powers of a float32 step lose digits of `1 - 0.999^step`.
    assert_steps(run(optimizer, make_weights(start), gradients), expected, 1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "AdaBelief",
        "Adan",
        "ADOPT",
        "AdEMAMix",
        "LAMB",
        "LARS",
        "Muon",
        "NovoGrad",
        "Prodigy",
        "RAdam",
        "SOAP",
        "Yogi",
    ],
)
def test_cautious_moves_against_the_gradient_only(name):
    optimizer = getattr(optimizers, name)(0.1, cautious=True)
    start, gradients = problem(12)
    weights = make_weights(start)
    before, against = list(start.values()), 0
    for step, after in zip(gradients, run(optimizer, weights, gradients), strict=True):
        for w, g, new in zip(before, step, after, strict=True):
            assert ((new - w) * g <= 1e-12).all()
            against += ((new - w) * g < 0).sum()
        before = after
    assert against > 100


def optax_cases():
    optax = pytest.importorskip("optax")
    contrib = optax.contrib
    rate, decay = float(np.float32(RATE)), 0.1
    decayed = optax.add_decayed_weights(decay)
    return {
        "AdaBelief": (o.AdaBelief(RATE), optax.adabelief(rate)),
        "Adan": (
            # The one beta_2 at which optax, which takes 1 - beta_2 for beta_2 ahead, is right.
            o.Adan(RATE, beta_2=0.5),
            optax.adan(rate, b2=0.5, eps_root=0.0),
        ),
        "ADOPT": (
            o.ADOPT(RATE, clip_power=None),
            optax.chain(
                contrib.scale_by_adopt(b1=0.9, b2=0.9999, eps=1e-6, use_clipping=False),
                optax.scale_by_learning_rate(rate),
            ),
        ),
        "AdEMAMix": (o.AdEMAMix(RATE, weight_decay=0.1), contrib.ademamix(rate, weight_decay=0.1)),
        "LAMB": (
            o.LAMB(RATE, weight_decay=decay, exclude=()),
            optax.lamb(rate, weight_decay=decay),
        ),
        "NovoGrad": (
            o.NovoGrad(RATE, 0.9, 0.25, epsilon=1e-6, weight_decay=decay),
            optax.novograd(rate, weight_decay=decay),
        ),
        "Yogi": (
            o.Yogi(RATE, weight_decay=decay, initial_accumulator=1e-6),
            optax.chain(
                optax.scale_by_yogi(initial_accumulator_value=1e-6),
                decayed,
                optax.scale_by_learning_rate(rate),
            ),
        ),
    }


@pytest.mark.parametrize(
    "name", ["AdaBelief", "Adan", "ADOPT", "AdEMAMix", "LAMB", "NovoGrad", "Yogi"]
)
def test_agrees_with_optax(name):
    jax = pytest.importorskip("jax")
    start, gradients = problem(40, seed=1)
    with jax.enable_x64(True):
        optimizer, transformation = optax_cases()[name]
        theirs = list(optax_steps(transformation, start, gradients))
    # Yogi's optax starts the mean at 1e-6 too.
    tolerance = 1e-4 if name == "Yogi" else 2e-6
    assert_steps(run(optimizer, make_weights(start), gradients), theirs, tolerance)


def test_prodigy_agrees_with_optax():
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    start, gradients = valley(16)
    with jax.enable_x64(True):
        theirs = list(optax_steps(optax.contrib.prodigy(1.0, estim_lr0=0.01), start, gradients))
    optimizer = o.Prodigy(initial_estimate=0.01, bias_correction=True)
    assert_steps(run(optimizer, make_weights(start), gradients), theirs, 1e-5)


def test_muon_agrees_with_optax():
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    shapes = {"dense/kernel": (6, 3), "wide/kernel": (3, 6), "dense/bias": (3,)}
    start, gradients = problem(20, shapes=shapes)
    with jax.enable_x64(True):
        rate = float(np.float32(RATE))
        # Its own name for weights by their place in sorted order; vectors go to Adam.
        muon = optax.contrib.muon(rate, eps=1e-7, nesterov=False, adam_b2=0.95)
        theirs = list(optax_steps(muon, start, gradients))
    optimizer = o.Muon(RATE, nesterov=False, scale="original", epsilon=1e-8)
    assert_steps(run(optimizer, make_weights(start), gradients), theirs, 1e-5)


def torch_steps(make, start, gradients, turn=lambda x: x):
    """Yields the weights after each step of torch; `turn` is between Keras' axes and torch's."""
    torch = pytest.importorskip("torch")
    weights = [torch.tensor(turn(np.float64(w)), device="cpu") for w in start.values()]
    optimizer = make(torch, weights)
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = torch.tensor(turn(np.float64(gradient)), device="cpu")
        optimizer.step()
        yield [turn(weight.detach().numpy()).copy() for weight in weights]


@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
def test_muon_agrees_with_torch(scale):
    shapes = {"dense/kernel": (6, 3), "wide/kernel": (3, 6)}
    start, gradients = problem(20, shapes=shapes)
    theirs = torch_steps(
        lambda torch, weights: torch.optim.Muon(
            weights, float(np.float32(RATE)), weight_decay=0.1, adjust_lr_fn=scale
        ),
        start,
        gradients,
        np.transpose,
    )
    optimizer = o.Muon(RATE, scale=scale, weight_decay=0.1)
    # torch iterates in bfloat16, whose 8 bits are all that agrees.
    assert_steps(run(optimizer, make_weights(start), gradients), theirs, 0.02)


@pytest.mark.parametrize("rule", ["AdamW", "SGD"])
def test_schedule_free_agrees_with_its_authors(rule):
    schedulefree = pytest.importorskip("schedulefree")
    start, gradients = problem(100, seed=1)
    settings = {"lr": float(np.float32(RATE)), "warmup_steps": 10, "weight_decay": 0.1}

    def make(torch, weights):
        kind = getattr(schedulefree, f"{rule}ScheduleFree")
        optimizer = kind(weights, **settings, foreach=False)
        optimizer.train()
        return optimizer

    theirs = torch_steps(make, start, gradients)
    rate = schedules.Warmup(RATE, 10)
    optimizer = getattr(o, f"ScheduleFree{rule}")(rate, weight_decay=0.1)
    assert_steps(run(optimizer, make_weights(start), gradients), theirs, 1e-5)


@pytest.mark.parametrize("beta_2", [None, 0.999], ids=["SGD", "AdamW"])
def test_schedule_free_evaluates_at_the_average(beta_2):
    start, gradients = problem(30)
    panel = [judges.ScheduleFree(beta_2=beta_2, weight_decay=0.1) for _ in start]
    training = list(follow(panel, start.values(), gradients, repeat(RATE)))[-1]
    weights = make_weights(start)
    rule = o.ScheduleFreeSGD if beta_2 is None else o.ScheduleFreeAdamW
    optimizer = rule(RATE, weight_decay=0.1)
    list(run(optimizer, weights, gradients))
    assert optimizer.use_evaluation_weights()
    assert_steps([oracles.read(weights)], [[judge.x for judge in panel]], 3e-6)
    assert not optimizer.use_evaluation_weights()
    optimizer.use_training_weights()
    assert_steps([oracles.read(weights)], [training], 3e-6)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "compiled"])
def test_schedule_free_finds_its_way_back(jit):
    start, gradients = problem(10)
    straight, detour = make_weights(start), make_weights(start)
    expected = list(run(o.ScheduleFreeSGD(RATE), straight, gradients))[-1]
    optimizer = o.ScheduleFreeSGD(RATE)
    list(run(optimizer, detour, gradients[:5], jit))
    optimizer.use_evaluation_weights()
    *_, actual = run(optimizer, detour, gradients[5:], jit)
    assert_steps([actual], [expected], 1e-6)


@pytest.mark.parametrize(
    ("shape", "path", "rows"),
    [
        ((2, 3, 4, 5), "conv/kernel", 24),
        ((6, 2, 3), "attention/query/kernel", 6),
        ((2, 3, 6), "attention/attention_output/kernel", 6),
    ],
)
def test_muon_flattens_between_inputs_and_outputs(shape, path, rows):
    (weight,) = make_weights({path: np.zeros(shape)})
    gradient = np.float32(np.random.default_rng(0).normal(size=shape))
    next(run(o.Muon(1.0, newton_schulz_steps=10), [weight], [[gradient]]))
    moved = weight.numpy().reshape(rows, -1)
    scale = 0.2 * max(moved.shape) ** 0.5
    values = np.linalg.svd(moved / scale, compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.3  # ones, flattened otherwise they are not


@pytest.mark.parametrize(
    "path",
    [
        "token/embeddings",
        "output/reverse_embeddings",
        "head/kernel",
        "separable_conv2d/depthwise_kernel",
        "query/bias",
    ],
)
def test_muon_leaves_ends_to_adamw(path):
    start, gradients = problem(5, shapes={"dense/kernel": (3, 3), path: (4, 3)})
    panel = [j.Muon(1), j.Muon(0)]
    expected = follow(panel, start.values(), gradients, repeat(RATE))
    assert_steps(run(o.Muon(RATE), make_weights(start), gradients), expected, 2e-6)


BAD = {
    "AdaBelief": [
        ({"epsilon": 0.0}, "`epsilon` must be greater than 0"),
        ({"beta_1": 1.0}, "beta_1"),
    ],
    "Adan": [({"beta_3": 1.0}, r"`beta_3` must be in \[0, 1\)"), ({"beta_2": -0.1}, "beta_2")],
    "ADOPT": [({"epsilon": 0}, "`epsilon` must be greater"), ({"clip_power": -1}, "clip_power")],
    "AdEMAMix": [
        ({"beta_3": 0.5}, r"`beta_3` must be in \[0.9, 1\). Received: beta_3=0.5"),
        ({"alpha_warmup": 0}, "`alpha_warmup` must be an integer of at least 1"),
        ({"beta_1": 0.0, "beta_3_warmup": 5}, r"`beta_1` must be in \(0, 1\)"),
    ],
    "LAMB": [
        ({"min_norm": 2.0, "max_norm": 1.0}, "`max_norm` must be greater than 2"),
        ({"exclude": "("}, "valid regular expressions"),
    ],
    "Muon": [
        ({"coefficients": (1.0, 2.0)}, "`coefficients` must be three numbers"),
        ({"scale": "adam"}, "`scale` must be one of 'match_rms_adamw', 'original'"),
        ({"newton_schulz_steps": 0}, "newton_schulz_steps"),
    ],
    "NovoGrad": [({"epsilon": 0.0}, "`epsilon` must be greater than 0")],
    "Prodigy": [
        ({"initial_estimate": 0.0}, "`initial_estimate` must be greater than 0"),
        ({"groups": [Group("bias", lr_multiplier=0)]}, r"must be 1 for Prodigy.*frozen.*Group"),
    ],
    "SOAP": [({"precondition_every": 0}, "precondition_every"), ({"max_dimension": 0}, "max_dim")],
    "ScheduleFreeAdamW": [
        ({"beta_1": 0.0}, r"`beta_1` must be in \(0, 1\)"),
        ({"use_ema": True}, "`use_ema` must be False"),
        ({"cautious": True}, "`cautious` must be False"),
    ],
    "Yogi": [({"initial_accumulator": -1.0}, "initial_accumulator"), ({"beta_2": 1.0}, "beta_2")],
}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [(name, *case) for name, cases in BAD.items() for case in cases],
    ids=str,
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(optimizers, name)(**arguments)


def test_muon_needs_a_matrix():
    weights = make_weights({"dense/bias": np.ones(3), "head/kernel": np.ones((3, 3))})
    with pytest.raises(ValueError, match=r"Muon trains matrices, and there is none.*head/kernel"):
        o.Muon().build(weights)


@pytest.mark.parametrize("rule", [o.ScheduleFreeAdamW, o.ScheduleFreeSGD])
def test_schedule_free_warns_of_a_schedule_that_decays(rule):
    cosine = keras.optimizers.schedules.CosineDecay(0.1, 1000)
    with pytest.warns(UserWarning, match="takes the place of a decaying learning rate"):
        rule(schedules.Warmup(cosine, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        rule(schedules.Warmup(0.1, 10))
        rule(0.1)


def test_soap_accumulates():
    # Rounding turns the eigenvectors of small eigenvalues, and a step's share along them.
    start, gradients = problem(8, shapes=SQUARE)
    halves = [[g + s * 0.5 * g for g in step] for step in gradients for s in (1, -1)]
    whole = list(run(o.SOAP(RATE), make_weights(start), gradients))
    accumulated = run(o.SOAP(RATE, gradient_accumulation_steps=2), make_weights(start), halves)
    assert_steps(list(accumulated)[1::2], whole, 1e-3)


def test_muon_and_soap_find_the_matrices_of_real_layers():
    inputs = keras.layers.Input((4, 4, 2))
    hidden = keras.layers.DepthwiseConv2D(3)(keras.layers.Conv2D(3, 2)(inputs))
    hidden = keras.layers.Reshape((1, 3))(hidden)
    hidden = keras.layers.MultiHeadAttention(2, 3, name="attention")(hidden, hidden)
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(hidden))
    optimizer = o.Muon()
    optimizer.build(model.trainable_variables)
    slots = {v.path.split("/", 1)[1] for v in optimizer.variables if v.path.endswith("velocity")}
    matrices = {
        v.path.replace("/", "_")
        for v in model.trainable_variables
        if not any(f"{v.path.replace('/', '_')}_velocity" == name for name in slots)
    }
    projections = {f"attention_{name}_kernel" for name in ("query", "key", "value")}
    assert len(matrices) == 5 and projections < matrices
    assert {"attention_attention_output_kernel"} < matrices


@pytest.mark.parametrize("name", ["NovoGrad", "SOAP", "ScheduleFreeAdamW", "ScheduleFreeSGD"])
def test_a_weight_whose_first_gradient_comes_late(name):
    # With the first gradient in step 4, it moves on as if it had begun then, and is not lost.
    start, gradients = problem(8, shapes={"early/kernel": (3, 3), "late/kernel": (3, 3)})
    late = [[g, None] if step < 3 else [g, h] for step, (g, h) in enumerate(gradients)]
    optimizer = getattr(optimizers, name)(0.1)
    weights = make_weights(start)
    optimizer.build(weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = list(run(optimizer, weights, late))
    np.testing.assert_array_equal(path[2][1], start["late/kernel"])
    assert all(0 < np.abs(w[1] - start["late/kernel"]).max() < 2 for w in path[4:])
    if name.startswith("ScheduleFree"):
        optimizer.use_evaluation_weights()
        assert np.abs(oracles.read(weights)[1] - path[-1][1]).max() < 1


def test_schedule_free_leaves_weights_without_gradients_alone():
    weights = make_weights({"used": np.ones(3), "unused": np.ones(3)})
    optimizer = o.ScheduleFreeAdamW(0.1)
    optimizer.build(weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        list(run(optimizer, weights, [[np.ones(3), None]] * 3))
    optimizer.use_evaluation_weights()
    np.testing.assert_array_equal(weights[1].numpy(), np.ones(3))


def test_schedule_free_averages_evenly_over_many_steps():
    optimizer, one, t = o.ScheduleFreeSGD(), np.float32(1), np.float32(2**25)
    tensors = [keras.ops.convert_to_tensor(x) for x in (0.003 * one, one, t)]
    rate, first, late = tensors
    _, scalars = optimizer.prepare([], [], first, [], (0 * first,) * 3, rate)
    (share, _), _ = optimizer.prepare([], [], late, [], scalars, rate)
    np.testing.assert_allclose(t * float(keras.ops.convert_to_numpy(share)), 1, rtol=1e-6)


def test_schedule_free_keeps_to_half_precision_weights():
    # Steps too small for bfloat16 are lost on the weights, and must not add up beside them.
    start, gradients = valley(200)
    distances = []
    for dtype in ("float32", "bfloat16"):
        weights, optimizer = make_weights(start, dtype=dtype), o.ScheduleFreeSGD(1e-3)
        training = list(run(optimizer, weights, gradients))[-1]
        optimizer.use_evaluation_weights()
        pairs = zip(oracles.read(weights), training, strict=True)
        distances.append(max(np.abs(x - y).max() for x, y in pairs))
    assert 0.5 * distances[0] < distances[1] < 1.5 * distances[0] + 0.02


def test_schedule_free_refuses_constraints():
    weight = keras.Variable(np.ones(3, "float32"), name="weight")
    weight.constraint = keras.constraints.NonNeg()
    with pytest.raises(ValueError, match=r"cannot train weights with a constraint.*weight"):
        o.ScheduleFreeSGD(0.1).build([weight])


@pytest.mark.parametrize("name", ["Adan", "ADOPT", "AdaBelief", "LAMB", "Prodigy", "Yogi"])
def test_a_large_finite_gradient_leaves_weights_finite(name):
    # Its square is infinite in float32; the backends agree on what comes of it.
    (weight,) = make_weights({"dense/kernel": np.ones((2, 2))})
    optimizer = getattr(optimizers, name)(0.1)
    gradients = [np.full((2, 2), g, "float32") for g in (1.0, 1e20, 1.0, 1.0)]
    for step, (after,) in enumerate(run(optimizer, [weight], [[g] for g in gradients]), 1):
        assert np.isfinite(after).all(), f"step {step}"
