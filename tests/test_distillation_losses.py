"""Distillation losses against their papers in float64 NumPy."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.compression import (
    AttentionTransfer,
    DecoupledKD,
    FeatureKD,
    LogitsKD,
    RelationalKD,
)

JIT = keras.backend.backend() == "jax"
RNG = np.random.default_rng(0)
T_LOGITS, S_LOGITS = (3 * RNG.normal(size=(6, 5)).astype("float32") for _ in range(2))
T_MAPS = RNG.normal(size=(6, 4, 4, 3)).astype("float32")
S_MAPS = RNG.normal(size=(6, 4, 4, 3)).astype("float32")
LABELS = RNG.integers(0, 5, 6)
WEIGHT = RNG.uniform(0, 3, 6).astype("float32")
WEIGHT[2] = 0


def log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def kl(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def kd(t, s, temperature):
    t, s = np.float64(t) / temperature, np.float64(s) / temperature
    return temperature**2 * kl(log_softmax(t), log_softmax(s))


def dkd(t, s, labels, alpha, beta, temperature):
    results = []
    for t_i, s_i, c in zip(np.float64(t), np.float64(s), labels, strict=True):
        p, q = (np.exp(log_softmax(z / temperature)) for z in (t_i, s_i))
        two = [np.log([r[c], 1 - r[c]]) for r in (p, q)]
        others = [log_softmax(np.delete(z, c) / temperature) for z in (t_i, s_i)]
        results.append(temperature**2 * (alpha * kl(*two) + beta * kl(*others)))
    return np.array(results)


def features(t, s):
    each = (np.float64(t) - np.float64(s)) ** 2 / 2
    return each.mean(axis=tuple(range(1, each.ndim)))


def attention(t, s, power=2.0):
    t, s = ((np.abs(np.float64(a)) ** power).sum(axis=-1).reshape(len(a), -1) for a in (t, s))
    t, s = (q / np.linalg.norm(q, axis=1, keepdims=True) for q in (t, s))
    return np.linalg.norm(s - t, axis=1) / 2


def huber(d):
    return np.where(np.abs(d) <= 1, d**2 / 2, np.abs(d) - 0.5)


def relations(t, s, w, distance_weight, angle_weight):
    """Returns one number; `w` are weights of samples."""
    n, psi = len(t), []
    for x in (np.float64(t).reshape(n, -1), np.float64(s).reshape(n, -1)):
        pairs = list(itertools.permutations(range(n), 2))
        d = {(i, j): np.linalg.norm(x[i] - x[j]) for i, j in pairs}
        roots = np.array([np.sqrt(w[i] * w[j]) for i, j in pairs])
        mu = (roots * [d[p] for p in pairs]).sum() / roots.sum()
        triples = list(itertools.permutations(range(n), 3))
        cos = [(x[i] - x[j]) @ (x[k] - x[j]) / d[i, j] / d[k, j] for i, j, k in triples]
        psi.append((np.array([d[p] / mu for p in pairs]), np.array(cos)))
    cubes = np.array([np.cbrt(w[i] * w[j] * w[k]) for i, j, k in triples])
    distance = (roots * huber(psi[1][0] - psi[0][0])).mean()
    angle = (cubes * huber(psi[1][1] - psi[0][1])).mean()
    return distance_weight * distance + angle_weight * angle


def loss_of(loss, teacher, student, **kwargs):
    tensors = [ops.convert_to_tensor(a) for a in (teacher, student)]
    kwargs = {k: None if v is None else ops.convert_to_tensor(v) for k, v in kwargs.items()}
    return float(ops.convert_to_numpy(loss.compute_loss(*tensors, **kwargs)))


def check(loss, teacher, student, expected, weight, **kwargs):
    """Compares the weighted mean of what is expected for each sample."""
    weighted = expected if weight is None else expected * np.float64(weight)
    actual = loss_of(loss, teacher, student, sample_weight=weight, **kwargs)
    np.testing.assert_allclose(actual, weighted.mean(), rtol=1e-6)


WEIGHTS = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])


@WEIGHTS
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_logits(temperature, weight):
    expected = kd(T_LOGITS, S_LOGITS, temperature)
    check(LogitsKD(temperature), T_LOGITS, S_LOGITS, expected, weight)


@WEIGHTS
def test_logits_from_probabilities(weight):
    expected = kd(T_LOGITS, S_LOGITS, 3.0)
    t, s = (np.exp(log_softmax(np.float64(z))).astype("float32") for z in (T_LOGITS, S_LOGITS))
    check(LogitsKD(3.0, from_logits=False), t, s, expected, weight)
    check(LogitsKD(3.0, teacher_from_logits=False), t, S_LOGITS, expected, weight)


@WEIGHTS
def test_logits_of_one_unit(weight):
    t, s = T_LOGITS[:, :1], S_LOGITS[:, :1]
    p, q = (1 / (1 + np.exp(-np.float64(z[:, 0]) / 0.5)) for z in (t, s))
    expected = 0.25 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    check(LogitsKD(0.5), t, s, expected, weight)
    sigmoids = [(1 / (1 + np.exp(-np.float64(z)))).astype("float32") for z in (t, s)]
    # Of what they are after rounding.
    u, v = (np.log(np.concatenate([1 - np.float64(z), z], axis=1)) for z in sigmoids)
    check(LogitsKD(0.5, from_logits=False), *sigmoids, kd(u, v, 0.5), weight)


def test_logits_where_one_class_is_certain():
    t = np.array([[0.0, 200.0, -500.0]], "float32")
    np.testing.assert_allclose(loss_of(LogitsKD(1.0), t, -t), kd(t, -t, 1.0)[0], rtol=1e-6)
    assert loss_of(LogitsKD(1.0, from_logits=False), np.eye(3)[:1], np.eye(3)[:1]) == 0


def test_places_and_several_outputs_add_up():
    t, s = (RNG.normal(size=(3, 4, 5)).astype("float32") for _ in range(2))
    per_place = kd(t, s, 2.0)
    of_places = RNG.uniform(size=(3, 4)).astype("float32")
    for weight, spread in ((of_places, of_places), (WEIGHT[:3], WEIGHT[:3, None])):
        actual = loss_of(LogitsKD(2.0), t, s, sample_weight=weight)
        np.testing.assert_allclose(actual, (per_place * spread).mean(), rtol=1e-6)
    tensors = [[ops.convert_to_tensor(a) for a in pair] for pair in ((T_LOGITS, t), (S_LOGITS, s))]
    both = float(ops.convert_to_numpy(LogitsKD(2.0).compute_loss(*tensors)))
    expected = kd(T_LOGITS, S_LOGITS, 2.0).mean() + per_place.mean()
    np.testing.assert_allclose(both, expected, rtol=1e-6)


@WEIGHTS
@pytest.mark.parametrize("form", ["integers", "column", "one-hot"])
def test_decoupled(form, weight):
    y = {"integers": LABELS, "column": LABELS[:, None], "one-hot": np.eye(5)[LABELS]}[form]
    expected = dkd(T_LOGITS, S_LOGITS, LABELS, 0.7, 5.0, 4.0)
    check(DecoupledKD(0.7, 5.0), T_LOGITS, S_LOGITS, expected, weight, y=y)


def test_decoupled_is_logits_with_the_weight_that_those_imply():
    p = np.exp(log_softmax(np.float64(T_LOGITS[:1]) / 4.0))[0, LABELS[0]]
    loss = DecoupledKD(1.0, float(1 - p), 4.0)
    actual = loss_of(loss, T_LOGITS[:1], S_LOGITS[:1], y=LABELS[:1])
    np.testing.assert_allclose(actual, kd(T_LOGITS[:1], S_LOGITS[:1], 4.0)[0], rtol=2e-6)


def test_decoupled_without_labels():
    expected = dkd(T_LOGITS, S_LOGITS, T_LOGITS.argmax(axis=1), 1.0, 8.0, 4.0)
    check(DecoupledKD(), T_LOGITS, S_LOGITS, expected, None)


@WEIGHTS
def test_features(weight):
    pair = [("a", "b")]
    check(FeatureKD(pair), T_MAPS, S_MAPS, features(T_MAPS, S_MAPS), weight)
    check(FeatureKD(pair), T_LOGITS, S_LOGITS, features(T_LOGITS, S_LOGITS), weight)
    small = T_MAPS.reshape(6, 2, 2, 4, 1, 3).mean(axis=(2, 4))
    check(
        FeatureKD(pair),
        small,
        S_MAPS,
        features(small, S_MAPS.reshape(6, 2, 2, 4, 3).mean(2)),
        weight,
    )
    expected = features(small, S_MAPS.reshape(6, 2, 2, 4, 3).mean(2))
    first = FeatureKD(pair, data_format="channels_first")
    check(first, small.transpose(0, 3, 1, 2), S_MAPS.transpose(0, 3, 1, 2), expected, weight)


@WEIGHTS
@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention(power, weight):
    loss = AttentionTransfer([("a", "b")], power)
    check(loss, T_MAPS, S_MAPS[..., :2], attention(T_MAPS, S_MAPS[..., :2], power), weight)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (25.0, 50.0)])
@pytest.mark.parametrize("weight", [np.ones(6), WEIGHT], ids=["plain", "weighted"])
def test_relations(weights, weight):
    expected = relations(T_MAPS, S_LOGITS, weight, *weights)
    actual = loss_of(RelationalKD(*weights), T_MAPS, S_LOGITS, sample_weight=weight)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_relations_leave_out_samples_of_no_weight():
    kept = WEIGHT > 0
    n = len(kept)
    whole = loss_of(RelationalKD(1.0, 0.0), T_LOGITS, S_LOGITS, sample_weight=WEIGHT * 0 + kept)
    part = loss_of(RelationalKD(1.0, 0.0), T_LOGITS[kept], S_LOGITS[kept])
    np.testing.assert_allclose(whole * n * (n - 1), part * (n - 1) * (n - 2), rtol=1e-6)
    for rows in (1, 2):  # no pair, no triple
        assert loss_of(RelationalKD(0.0, 1.0), T_LOGITS[:rows], S_LOGITS[:rows]) == 0


def value_and_gradient(loss, teacher, student):
    from keras_optkit import _backend

    t = ops.convert_to_tensor(teacher)
    function = _backend.value_and_gradient(lambda s: loss.compute_loss(t, s), False)
    return [ops.convert_to_numpy(part) for part in function(ops.convert_to_tensor(student))]


@pytest.mark.parametrize(
    "loss",
    [
        AttentionTransfer([("a", "b")]),
        AttentionTransfer([("a", "b")], 1.0),
        RelationalKD(),
        FeatureKD([("a", "b")]),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_gradients_where_norms_are_zero(loss):
    zeros = np.zeros((3, 2, 2, 1), "float32")
    for teacher, student in ((T_MAPS[:3, :2, :2, :1], zeros), (zeros, zeros)):
        value, gradient = value_and_gradient(loss, teacher, student)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_gradients_where_the_student_tells_two_samples_not_apart():
    student = S_LOGITS.copy()
    student[1] = student[0]
    _, gradient = value_and_gradient(RelationalKD(0.0, 1.0), T_LOGITS, student)
    assert np.abs(gradient).max() < 1


def test_a_class_that_the_teacher_rules_out_adds_nothing():
    t = T_LOGITS.copy()
    t[:, 4] = -np.inf
    expected = kd(t[:, :4], S_LOGITS[:, :4], 2.0)  # if the student rules it out too
    for s in (np.where(np.isinf(t), t, S_LOGITS), np.where(np.isinf(t), -1e4, S_LOGITS)):
        value, gradient = value_and_gradient(LogitsKD(2.0), t, s.astype("float32"))
        np.testing.assert_allclose(value, expected.mean(), rtol=1e-6)
        assert np.isfinite(gradient).all()


def test_gradient_of_logits_keeps_its_size():
    for temperature in (1.0, 8.0):
        _, gradient = value_and_gradient(LogitsKD(temperature), T_LOGITS, S_LOGITS)
        t, s = (np.exp(log_softmax(np.float64(z) / temperature)) for z in (T_LOGITS, S_LOGITS))
        np.testing.assert_allclose(gradient, temperature * (s - t) / 6, rtol=1e-4, atol=1e-6)


def test_half_precision_is_computed_in_single():
    expected = kd(np.float16(T_LOGITS), np.float16(S_LOGITS), 3.0).mean()
    t, s = (ops.cast(a, "float16") for a in (T_LOGITS, S_LOGITS))
    loss = LogitsKD(3.0).compute_loss(t, s)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    np.testing.assert_allclose(float(ops.convert_to_numpy(loss)), expected, rtol=1e-6)


def test_masks_count_as_in_keras():
    t, s = (ops.convert_to_tensor(RNG.normal(size=(2, 3, 5)).astype("float32")) for _ in range(2))
    mask = np.array([[True, True, False], [True, False, False]])
    s._keras_mask = ops.convert_to_tensor(mask) if not JIT else None
    if JIT:
        from keras.src import backend

        backend.set_keras_mask(s, ops.convert_to_tensor(mask))
    expected = kd(ops.convert_to_numpy(t), ops.convert_to_numpy(s), 3.0)[mask].mean()
    actual = float(ops.convert_to_numpy(LogitsKD(3.0).compute_loss(t, s)))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def convolutional(filters, units, name):
    keras.utils.set_random_seed(ord(name[0]))
    return keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(filters, 3, name=f"{name}_conv"),
            layers.Flatten(),
            layers.Dense(units, name=f"{name}_head"),
        ],
        name=name,
    )


PAIR = [("student_conv", "teacher_conv")]
IN_KERAS = {
    "LogitsKD": (LogitsKD(2.0), lambda t, s, ft, fs: kd(t, s, 2.0).mean()),
    "DecoupledKD": (
        DecoupledKD(),
        lambda t, s, ft, fs: dkd(t, s, t.argmax(axis=1), 1.0, 8.0, 4.0).mean(),
    ),
    "FeatureKD": (FeatureKD(PAIR), lambda t, s, ft, fs: features(ft, fs).mean()),
    "AttentionTransfer": (AttentionTransfer(PAIR), lambda t, s, ft, fs: attention(ft, fs).mean()),
    "RelationalKD": (RelationalKD(), lambda t, s, ft, fs: relations(t, s, np.ones(6), 25.0, 50.0)),
}


@pytest.mark.parametrize("name", IN_KERAS)
def test_runs_in_the_distiller_of_keras(name):
    loss, expected = IN_KERAS[name]
    teacher, student = convolutional(3, 5, "teacher"), convolutional(3, 5, "student")
    x = RNG.normal(size=(6, 4, 4, 2)).astype("float32")
    outputs = [ops.convert_to_numpy(model(x)) for model in (teacher, student)]
    outputs += [ops.convert_to_numpy(m.layers[0](x)) for m in (teacher, student)]
    distiller = keras.distillation.Distiller(teacher, student, loss, student_loss_weight=0.0)
    distiller.compile("sgd", "mse", run_eagerly=True)
    logs = distiller.train_on_batch(x, np.eye(5)[LABELS], return_dict=True)
    np.testing.assert_allclose(logs["distillation_loss"], expected(*outputs), rtol=1e-5)


def test_keras_feature_distillation_is_twice_ours():
    ours = loss_of(FeatureKD([("a", "b")]), T_MAPS, S_MAPS)
    theirs = loss_of(keras.distillation.FeatureDistillation("mse"), T_MAPS, S_MAPS)
    np.testing.assert_allclose(2 * ours, theirs, rtol=1e-6)


def test_what_the_distiller_of_keras_cannot_do():
    teacher, student = convolutional(3, 5, "teacher"), convolutional(2, 5, "student")
    for pairs, message in ((PAIR, "trains no projector"), (PAIR * 2, "one pair of layers a loss")):
        with pytest.raises(ValueError, match=message):
            keras.distillation.Distiller(teacher, student, FeatureKD(pairs))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LogitsKD(0), ValueError, "`temperature` must be greater than 0. Received"),
        (lambda: LogitsKD(-1.0), ValueError, "`temperature` must be greater than 0"),
        (lambda: LogitsKD(1.0, "yes"), TypeError, "`from_logits` must be True or False"),
        (lambda: LogitsKD(1.0, True, 1), TypeError, "`teacher_from_logits` must be True or"),
        (lambda: DecoupledKD(-1.0), ValueError, "`alpha` must be at least 0"),
        (lambda: DecoupledKD(1.0, -1.0), ValueError, "`beta` must be at least 0"),
        (lambda: DecoupledKD(temperature=0.0), ValueError, "`temperature` must be greater"),
        (lambda: FeatureKD("conv"), TypeError, "`pairs` must be pairs of layer names"),
        (lambda: FeatureKD([]), TypeError, "`pairs` must be pairs of layer names"),
        (lambda: FeatureKD([("a", "b")], "dense"), ValueError, "`projector` must be one of"),
        (lambda: FeatureKD([("a", "b")], None, "last"), ValueError, "`data_format` must be"),
        (lambda: AttentionTransfer([("a", 1)]), TypeError, "`pairs` must be pairs of layer"),
        (lambda: AttentionTransfer([("a", "b")], 0.5), ValueError, "`power` must be at least 1"),
        (lambda: RelationalKD(-1.0), ValueError, "`distance_weight` must be at least 0"),
        (lambda: RelationalKD(0, 0), ValueError, "One of `distance_weight` and `angle_weight`"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("loss", "teacher", "student", "message"),
    [
        (LogitsKD(), (4, 5), (4, 6), r"LogitsKD compares .*\(4, 5\) of the teacher, \(4, 6\)"),
        (DecoupledKD(), (4, 2), (4, 2), "needs two or more of them. Use LogitsKD"),
        (FeatureKD([("a", "b")]), (4, 3, 3, 2), (4, 2, 2, 2), "pooling the larger by a whole"),
        (FeatureKD([("a", "b")]), (4, 3, 3, 2), (4, 18), "features of as many axes"),
        (FeatureKD([("a", "b")]), (4, 3), (4, 2), "needs a projector"),
    ],
)
def test_bad_shapes(loss, teacher, student, message):
    with pytest.raises(ValueError, match=message):
        loss_of(loss, np.zeros(teacher, "float32"), np.zeros(student, "float32"))


def test_weights_of_places_that_are_not_there():
    with pytest.raises(ValueError, match="one number for each sample here"):
        loss_of(LogitsKD(), T_LOGITS, S_LOGITS, sample_weight=np.ones((6, 6)))
