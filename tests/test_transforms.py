"""Gradient transforms against float64 NumPy, optax, and what must always hold."""

import contextlib
import functools
import inspect
import json
import warnings

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from keras import ops

import keras_optkit
from keras_optkit.transforms import (
    AdaptiveClip,
    Centralize,
    GlobalNormClip,
    GradientNoise,
    NormClip,
    Transform,
    ValueClip,
    ZeroNonFinite,
)

BACKEND = keras.backend.backend()
INSTANCES = [
    AdaptiveClip(0.02, epsilon=1e-2, exclude=["head", "dense.*/bias"]),
    Centralize(exclude="head"),
    GlobalNormClip(1.5),
    GradientNoise(0.3, gamma=0.6, seed=7),
    NormClip(0.5),
    ValueClip(0.1),
    ZeroNonFinite("weight"),
]
CLIPS = [AdaptiveClip(), GlobalNormClip(1.0), NormClip(1.0), ValueClip(1.0)]
SHAPES = [(), (3, 4), (0, 4), (2, 2, 3, 4)]

# Path, shape, and the axes that a unit runs over.
UNITS = [
    ("scale", (), ()),
    ("norm/gamma", (5,), (0,)),
    ("dense/kernel", (3, 4), (0,)),
    ("dense/kernel", (4, 1), (0,)),
    ("dense/kernel", (1, 4), (0, 1)),  # one axis longer than 1: one unit
    ("gru/bias", (2, 6), (0, 1)),
    ("embedding/embeddings", (6, 3), (1,)),
    ("position_embedding/position_embeddings", (6, 3), (1,)),
    ("conv1d/kernel", (3, 2, 4), (0, 1)),
    ("attention/query/kernel", (4, 2, 3), (0,)),
    ("attention/attention_output/kernel", (2, 3, 4), (0, 1)),
    ("conv2d/kernel", (3, 2, 2, 4), (0, 1, 2)),
    ("conv3d/kernel", (2, 2, 2, 2, 3), (0, 1, 2, 3)),
    ("depthwise_conv2d/kernel", (3, 3, 2, 2), (0, 1)),
    ("separable_conv2d/depthwise_kernel", (3, 3, 2, 2), (0, 1)),
    ("separable_conv2d/pointwise_kernel", (1, 1, 4, 3), (0, 1, 2)),
    ("depthwise_block/conv/kernel", (3, 3, 2, 2), (0, 1, 2)),
    ("conv_dw_1/kernel", (3, 2, 2), (0,)),
]


def variable(value, path="kernel"):
    *scopes, name = path.split("/")
    with contextlib.ExitStack() as stack:
        for scope in scopes:
            stack.enter_context(keras.name_scope(scope))
        return keras.Variable(np.asarray(value, "float32"), name=name)


def apply(transform, gradients, variables, step=1):
    gradients = [ops.convert_to_tensor(np.asarray(g, "float32")) for g in gradients]
    step = ops.convert_to_tensor(step, dtype="float32")
    return [ops.convert_to_numpy(g) for g in transform(gradients, variables, step)]


def random(shape, scale=1.0, seed=0):
    x = np.asarray(np.random.default_rng(seed).standard_normal(shape) * scale)
    return x.astype("float32")


def norm(x):
    return np.linalg.norm(np.asarray(x, "float64"))


def judged_clip(gradient, weight, axes, clipping=0.01, epsilon=1e-3):
    gradient, weight = np.float64(gradient), np.float64(weight)
    length = np.sqrt(np.sum(gradient**2, axis=axes, keepdims=True))
    limit = clipping * np.maximum(np.sqrt(np.sum(weight**2, axis=axes, keepdims=True)), epsilon)
    return np.where(length > limit, gradient * limit / np.maximum(length, 1e-300), gradient)


def compiled(transform, gradients, variables, step=1, xla=False):
    """Does as `apply`, inside the compiler of the backend if it has one."""
    gradients = [ops.convert_to_tensor(np.asarray(g, "float32")) for g in gradients]
    step = ops.convert_to_tensor(step, dtype="float32")

    def function(gradients, step):
        return transform(gradients, variables, step)

    if BACKEND == "jax":
        import jax

        function = jax.jit(function)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        function = tf.function(function, jit_compile=xla)
    return [ops.convert_to_numpy(g) for g in function(gradients, step)]


@pytest.fixture(params=["eager", "compiled", "xla"])
def run(request):
    """Each way that the backend has to apply a transform."""
    if request.param == "eager":
        return apply
    if BACKEND == "torch" or (BACKEND, request.param) == ("jax", "xla"):
        pytest.skip("the backend has no such mode")
    return functools.partial(compiled, xla=request.param == "xla")


def test_every_transform_has_an_instance():
    classes = {c for _, c in inspect.getmembers(keras_optkit.transforms, inspect.isclass)}
    assert {type(t) for t in INSTANCES} == classes - {Transform}


@pytest.mark.parametrize("transform", INSTANCES, ids=repr)
def test_config_round_trip(transform):
    config = keras.saving.serialize_keras_object(transform)
    assert config["registered_name"] == f"keras_optkit>{type(transform).__name__}"
    loaded = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert type(loaded) is type(transform)
    assert loaded.get_config() == transform.get_config()
    defaults = inspect.signature(type(transform)).parameters.values()
    assert any(loaded.get_config()[p.name] != p.default for p in defaults)


@pytest.mark.parametrize("transform", INSTANCES, ids=repr)
def test_shapes_and_zero_gradients(transform, run):
    variables = [variable(random(shape), "dense/kernel") for shape in SHAPES]
    result = run(transform, [np.zeros(shape) for shape in SHAPES], variables)
    for gradient, shape in zip(result, SHAPES, strict=True):
        assert gradient.shape == shape
        assert gradient.dtype == np.float32
        if not isinstance(transform, GradientNoise):
            np.testing.assert_array_equal(gradient, 0)
        else:
            assert np.all(np.isfinite(gradient))


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs eagerly only")
@pytest.mark.parametrize("transform", INSTANCES, ids=repr)
@pytest.mark.parametrize("xla", [False, True] if BACKEND == "tensorflow" else [True])
def test_compiled_as_eager(transform, xla):
    variables = [variable(random(shape), "dense/kernel") for shape in SHAPES]
    gradients = [random(shape, scale=3, seed=i) for i, shape in enumerate(SHAPES)]
    eager = apply(transform, gradients, variables, step=5)
    traced = compiled(transform, gradients, variables, step=5, xla=xla)
    for g, expected in zip(traced, eager, strict=True):
        np.testing.assert_allclose(g, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transform", INSTANCES, ids=repr)
def test_no_weights(transform):
    assert apply(transform, [], []) == []
    empty = variable(np.zeros((0, 3)))
    assert apply(transform, [np.zeros((0, 3))], [empty])[0].shape == (0, 3)


@pytest.mark.parametrize("transform", CLIPS, ids=repr)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_clips_leave_gradients_without_a_norm(transform, bad, run):
    gradient = 5 * np.ones((3, 2), "float32")
    gradient[1, 0] = bad
    (result,) = run(transform, [gradient], [variable(np.ones((3, 2)), "dense/kernel")])
    if isinstance(transform, ValueClip):  # needs no norm
        np.testing.assert_array_equal(result, np.where(np.isfinite(gradient), 1.0, gradient))
    elif isinstance(transform, AdaptiveClip):  # the other unit has one
        np.testing.assert_array_equal(result[:, 0], gradient[:, 0])
        np.testing.assert_allclose(norm(result[:, 1]), 0.01 * np.sqrt(3), rtol=1e-6)
    else:
        np.testing.assert_array_equal(result, gradient)


def test_norms_do_not_overflow_or_underflow(run):
    variables = [variable(np.ones((2, 3))), variable(np.ones(4))]
    for scale in (3e38, 1e25, 1e-25):
        gradients = [np.full((2, 3), scale), np.full(4, -scale)]
        limit = scale / 10 if scale < 1 else 2.0
        result = run(GlobalNormClip(limit), gradients, variables)
        np.testing.assert_allclose(result[0], limit / np.sqrt(10), rtol=1e-6)
        np.testing.assert_allclose(result[1], -limit / np.sqrt(10), rtol=1e-6)
        result = run(NormClip(limit), gradients, variables)
        np.testing.assert_allclose(result[0], limit / np.sqrt(6), rtol=1e-6)
        np.testing.assert_allclose(result[1], -limit / np.sqrt(4), rtol=1e-6)


def test_float64_beside_float32():
    if BACKEND == "jax":
        pytest.skip("JAX has no float64 unless asked for")
    variables = [
        keras.Variable(np.ones(2), dtype=dtype, name="kernel") for dtype in ("float32", "float64")
    ]
    gradients = [ops.full((2,), 3.0, dtype=v.dtype) for v in variables]
    result = GlobalNormClip(1.0)(gradients, variables, ops.ones(()))
    for gradient, v in zip(result, variables, strict=True):
        assert keras.backend.standardize_dtype(gradient.dtype) == v.dtype
        np.testing.assert_allclose(ops.convert_to_numpy(gradient), 0.5, rtol=1e-6)


# AdaptiveClip


@pytest.mark.parametrize("scale", [1e-4, 3e-2, 10])  # not clipped, in between, clipped
def test_adaptive_clip_judge(scale):
    weights = [random(shape, seed=i) for i, (_, shape, _) in enumerate(UNITS)]
    gradients = [random(shape, scale, seed=50 + i) for i, (_, shape, _) in enumerate(UNITS)]
    variables = [variable(w, path) for w, (path, _, _) in zip(weights, UNITS, strict=True)]
    result = compiled(AdaptiveClip(), gradients, variables)
    clipped = 0
    for r, g, w, (path, shape, axes) in zip(result, gradients, weights, UNITS, strict=True):
        expected = judged_clip(g, w, axes)
        np.testing.assert_allclose(r, expected, rtol=1e-6, err_msg=f"{path} {shape}")
        clipped += norm(r) < 0.999 * norm(g)
    assert clipped == 0 if scale < 1e-3 else clipped > len(UNITS) // 2


def test_adaptive_clip_as_optax():
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    weights = [random(shape, seed=i) for i, (_, shape, _) in enumerate(UNITS)]
    gradients = [random(shape, 3e-2, seed=50 + i) for i, (_, shape, _) in enumerate(UNITS)]

    @jax.jit
    def theirs(gradients):
        by_rank = [(), (0,), (0,), (0,), (0, 1, 2), (0, 1, 2, 3)]  # where optax needs no help
        clipped = []
        for g, w, (_, shape, axes) in zip(gradients, weights, UNITS, strict=True):
            helped = axes != by_rank[len(shape)] and shape != (1, 4)
            clip = optax.adaptive_grad_clip(0.01, axis=axes if helped else None)
            clipped.append(clip.update(g, clip.init(w), w)[0])
        return clipped

    variables = [variable(w, path) for w, (path, _, _) in zip(weights, UNITS, strict=True)]
    ours = compiled(AdaptiveClip(), gradients, variables)
    for r, expected, (path, shape, _) in zip(ours, theirs(gradients), UNITS, strict=True):
        message = f"{path} {shape}"
        np.testing.assert_allclose(r, expected, rtol=1e-6, atol=1e-9, err_msg=message)


def test_adaptive_clip_of_a_zero_weight_uses_epsilon():
    clip = AdaptiveClip(0.5, epsilon=0.1)
    (result,) = apply(clip, [np.ones((4, 2))], [variable(np.zeros((4, 2)), "dense/kernel")])
    np.testing.assert_allclose(result, 0.05 / 2, rtol=1e-6)


def test_adaptive_clip_reads_half_precision_weights():
    weight = keras.Variable(np.ones((4, 2)), dtype="bfloat16", name="kernel")
    (result,) = apply(AdaptiveClip(0.01), [np.ones((4, 2))], [weight])
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, 0.01, rtol=1e-6)


def test_layouts_are_those_of_keras():
    ones = {"depthwise_initializer": "ones", "pointwise_initializer": "ones"}
    attention = keras.layers.MultiHeadAttention(2, 3, kernel_initializer="ones")
    attention.build((None, 5, 4), (None, 5, 4))
    layers = {  # the axes of a unit of each weight, by shape
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2, depthwise_initializer="ones"): {
            (3, 3, 3, 2): (0, 1),
            (6,): (0,),
        },
        keras.layers.SeparableConv2D(4, 3, **ones): {
            (3, 3, 3, 1): (0, 1),
            (1, 1, 3, 4): (0, 1, 2),
            (4,): (0,),
        },
        keras.layers.Embedding(5, 2, embeddings_initializer="ones"): {(5, 2): (1,)},
        attention: {(4, 2, 3): (0,), (2, 3, 4): (0, 1), (2, 3): (0, 1), (4,): (0,)},
    }
    for layer, axes in layers.items():
        if not layer.built:
            layer.build((None, 8, 8, 3))
        shapes = {tuple(v.shape) for v in layer.trainable_variables}
        assert shapes == axes.keys()
        gradients = [random(v.shape, 10, seed=i) for i, v in enumerate(layer.trainable_variables)]
        result = compiled(AdaptiveClip(), gradients, layer.trainable_variables)
        for v, g, r in zip(layer.trainable_variables, gradients, result, strict=True):
            expected = judged_clip(g, ops.convert_to_numpy(v), axes[tuple(v.shape)])
            np.testing.assert_allclose(r, expected, rtol=1e-6, err_msg=v.path)


@pytest.mark.parametrize("transform", [AdaptiveClip(exclude="head"), Centralize(exclude="head")])
def test_exclude(transform):
    body, head = (variable(np.ones((3, 2)), f"{name}/kernel") for name in ("body", "head"))
    forehead = variable(np.ones((3, 2)), "forehead/kernel")
    gradient = 9 + random((3, 2))
    result = apply(transform, [gradient] * 3, [body, head, forehead])
    np.testing.assert_array_equal(result[1], gradient)
    assert norm(result[0]) < norm(gradient) / 2
    np.testing.assert_array_equal(result[2], result[0])


def test_patterns_that_match_nothing():
    variables = [variable(np.ones((3, 2)), "head/kernel")]
    with pytest.warns(UserWarning, match=r"AdaptiveClip: the pattern 'tail' matches none"):
        AdaptiveClip(exclude=["head", "tail"]).build(variables)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for transform in [AdaptiveClip(exclude="head"), *CLIPS]:
            transform.build(variables)


# Properties of the clips

cases = st.tuples(
    st.sampled_from([(), (3, 4), (2, 2, 3, 4)]),
    st.integers(-20, 37),
    st.floats(2**-10, 2**10, width=32),
    st.integers(0, 1000),
)


@hypothesis.settings(deadline=None, max_examples=25, derandomize=True)
@hypothesis.given(cases)
def test_norm_clips_bound_keep_direction_and_are_idempotent(case):
    shape, exponent, limit, seed = case
    gradients = [random(shape, seed=seed), random((3,), seed=seed + 1)]
    gradients = [np.float32(g / np.max(np.abs(g)) * 10.0**exponent) for g in gradients]
    variables = [variable(np.ones(g.shape)) for g in gradients]
    for transform in (GlobalNormClip(limit), NormClip(limit)):
        clipped = apply(transform, gradients, variables)
        flat = [
            np.concatenate([np.ravel(np.float64(g)) for g in gs]) for gs in (gradients, clipped)
        ]
        pairs = (
            [flat]
            if isinstance(transform, GlobalNormClip)
            else [*zip(gradients, clipped, strict=True)]
        )
        for before, after in pairs:
            before, after = np.float64(before), np.float64(after)
            assert norm(after) <= limit * (1 + 1e-6)
            np.testing.assert_allclose(
                after, before * min(1, limit / norm(before)), rtol=2e-6, atol=1e-37
            )
        for again, once in zip(apply(transform, clipped, variables), clipped, strict=True):
            np.testing.assert_allclose(again, once, rtol=1e-6)


@hypothesis.settings(deadline=None, max_examples=25, derandomize=True)
@hypothesis.given(cases)
def test_adaptive_clip_bounds_and_is_idempotent(case):
    shape, exponent, clipping, seed = case
    weight, gradient = random(shape, seed=seed), random(shape, 10.0**exponent, seed=seed + 1)
    transform, weights = AdaptiveClip(clipping), [variable(weight, "layer/kernel")]
    (once,) = apply(transform, [gradient], weights)
    axes = tuple(range(max(1, len(shape) - 1)))[: len(shape)]
    length, bound = (
        np.sqrt(np.sum(np.float64(x) ** 2, axis=axes, keepdims=True)) for x in (once, weight)
    )
    assert np.all(length <= clipping * np.maximum(bound, 1e-3) * (1 + 1e-6))
    np.testing.assert_allclose(
        once, judged_clip(gradient, weight, axes, clipping), rtol=2e-6, atol=1e-37
    )
    np.testing.assert_allclose(apply(transform, [once], weights)[0], once, rtol=1e-6)


@hypothesis.settings(deadline=None, max_examples=25, derandomize=True)
@hypothesis.given(cases)
def test_value_clip(case):
    shape, exponent, limit, seed = case
    gradient = random(shape, 10.0**exponent, seed=seed)
    (result,) = apply(ValueClip(limit), [gradient], [variable(np.ones(shape))])
    np.testing.assert_array_equal(result, np.clip(gradient, -np.float32(limit), np.float32(limit)))


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_global_norm_clip_as_optax(max_norm):
    optax = pytest.importorskip("optax")
    gradients = [random((3, 4), seed=1), random((5,), seed=2)]
    clip = optax.clip_by_global_norm(max_norm)
    expected, _ = clip.update(gradients, clip.init(gradients))
    result = apply(GlobalNormClip(max_norm), gradients, [variable(g) for g in gradients])
    for r, e in zip(result, expected, strict=True):
        np.testing.assert_allclose(r, e, rtol=1e-6)


# Centralize


def test_centralize_judge():
    gradients = [2 + random(shape, seed=i) for i, (_, shape, _) in enumerate(UNITS)]
    variables = [variable(np.ones(shape), path) for path, shape, _ in UNITS]
    result = compiled(Centralize(), gradients, variables)
    for r, g, (path, shape, axes) in zip(result, gradients, UNITS, strict=True):
        message = f"{path} {shape}"
        if len(shape) < 2 or shape == (1, 4) or "bias" in path or "embeddings" in path:
            np.testing.assert_array_equal(r, g, err_msg=message)
        else:
            expected = np.float64(g) - np.mean(np.float64(g), axis=axes, keepdims=True)
            np.testing.assert_allclose(r, expected, atol=1e-6, err_msg=message)
            assert np.max(np.abs(np.mean(r, axis=axes))) < 1e-6, message


def test_centralize_as_optax_on_transposed_kernels():
    optax = pytest.importorskip("optax")
    gradient = 2 + random((3, 3, 2, 4))
    expected, _ = optax.centralize().update(np.moveaxis(gradient, -1, 0), optax.EmptyState())
    (result,) = apply(Centralize(), [gradient], [variable(gradient, "conv2d/kernel")])
    np.testing.assert_allclose(result, np.moveaxis(np.asarray(expected), 0, -1), atol=1e-6)


def test_centralize_leaves_units_without_a_mean():
    gradient = np.array([[1, 1, 1], [3, np.nan, np.inf]], "float32")
    (result,) = apply(Centralize(), [gradient], [variable(np.ones((2, 3)), "dense/kernel")])
    np.testing.assert_array_equal(result, [[-1, 1, 1], [1, np.nan, np.inf]])


# ZeroNonFinite


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("entry", [[1, 0, 0, 0], [5, 6], 7.0]),
        ("weight", [[0, 0, 0, 0], [5, 6], 7.0]),
        ("all", [[0, 0, 0, 0], [0, 0], 0.0]),
    ],
)
def test_zero_non_finite(scope, expected, run):
    gradients = [[1, np.nan, np.inf, -np.inf], [5, 6], 7.0]
    variables = [variable(np.ones(np.shape(g))) for g in gradients]
    for result, e in zip(run(ZeroNonFinite(scope), gradients, variables), expected, strict=True):
        np.testing.assert_array_equal(result, np.float32(e))


@pytest.mark.parametrize("scope", ["entry", "weight", "all"])
def test_zero_non_finite_leaves_finite_gradients(scope):
    gradients = [random((3, 4)), np.float32(3e38), np.zeros((0, 2), "float32")]
    variables = [variable(np.ones(np.shape(g))) for g in gradients]
    for result, g in zip(apply(ZeroNonFinite(scope), gradients, variables), gradients, strict=True):
        np.testing.assert_array_equal(result, g)


# GradientNoise


def noise(transform, step=1, count=1, shape=(200, 200)):
    variables = [variable(np.ones(shape)) for _ in range(count)]
    return apply(transform, [np.zeros(shape)] * count, variables, step)


@pytest.mark.parametrize("step", [1, 2, 100, 10_000])
def test_gradient_noise_has_the_variance_of_the_paper(step):
    drawn = np.float64(noise(GradientNoise(0.3, gamma=0.55), step)[0])
    t = step - 1
    variance = 0.3 / (1 + t) ** 0.55
    n = drawn.size  # so four standard errors:
    assert abs(drawn.mean()) < 4 * np.sqrt(variance / n)
    assert abs(drawn.var() / variance - 1) < 4 * np.sqrt(2 / n)
    assert 0.02 < np.mean(np.abs(drawn) > 2 * np.sqrt(variance)) < 0.07  # 0.0455 if normal


def test_gradient_noise_is_a_function_of_seed_weight_and_step():
    first, second = noise(GradientNoise(0.1, gamma=0, seed=3), step=5, count=2)
    again, _ = noise(GradientNoise(0.1, gamma=0, seed=3), step=5, count=2)
    np.testing.assert_array_equal(first, again)
    (other_step,) = noise(GradientNoise(0.1, gamma=0, seed=3), step=6)
    (other_seed,) = noise(GradientNoise(0.1, gamma=0, seed=4), step=5)
    for other in (second, other_step, other_seed):
        assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.025  # 5 standard errors


def test_gradient_noise_is_added():
    gradient = random((3, 4))
    (drawn,) = noise(GradientNoise(0.1), shape=(3, 4))
    (result,) = apply(GradientNoise(0.1), [gradient], [variable(gradient)])
    np.testing.assert_allclose(result, gradient + drawn, rtol=1e-6)
    (result,) = apply(GradientNoise(0.0), [gradient], [variable(gradient)])
    np.testing.assert_array_equal(result, gradient)


# Arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: AdaptiveClip(0),
            r"`clipping` must be in|`clipping` must be greater than 0.*clipping=0",
        ),
        (lambda: AdaptiveClip(epsilon=-1.0), r"`epsilon` must be greater than 0\. .*epsilon=-1\.0"),
        (lambda: AdaptiveClip(exclude="("), r"`exclude` must hold valid regular .*exclude='\('"),
        (lambda: Centralize(exclude=""), r"`exclude` must be a regular expression.*exclude=''"),
        (lambda: GlobalNormClip(0.0), r"`max_norm` must be greater than 0\. .*max_norm=0\.0"),
        (lambda: GlobalNormClip(float("nan")), r"`max_norm` must be greater than 0\. .*=nan"),
        (lambda: NormClip("1"), r"`max_norm` must be a number\. .*max_norm='1'"),
        (lambda: ValueClip(-1), r"`limit` must be greater than 0\. .*limit=-1"),
        (
            lambda: ZeroNonFinite("rows"),
            r"`scope` must be one of 'entry', 'weight', 'all'\. .*rows",
        ),
        (lambda: GradientNoise(-0.1), r"`eta` must be at least 0\. .*eta=-0\.1"),
        (lambda: GradientNoise(gamma=-1), r"`gamma` must be at least 0\. .*gamma=-1"),
        (lambda: GradientNoise(seed=1.5), r"`seed` must be an integer\. .*seed=1\.5"),
        (lambda: GradientNoise(seed=-1), r"`seed` must be an integer of at least 0\. .*seed=-1"),
        (lambda: GradientNoise(seed=2**31), r"`seed` must be .*seed=2147483648"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_transform_without_call():
    with pytest.raises(NotImplementedError, match=r"Transform must define `__call__"):
        Transform()([], [], 1)
