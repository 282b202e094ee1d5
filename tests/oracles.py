"""The papers in float64 NumPy: the judges of the optimizers, and a way to step what they judge.

Each class holds the state of one weight; `step(w, g, learning_rate)` returns the new weight.
"""

import contextlib

import keras
import numpy as np
from keras import ops


class RAdam:
    """Liu et al., 2020, algorithm 2, rectifying at `rho >= 5` as its authors' code does."""

    def __init__(self, beta_1=0.9, beta_2=0.999, epsilon=1e-7, threshold=5.0, weight_decay=0.0):
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.threshold, self.weight_decay = threshold, weight_decay
        self.t, self.m, self.v = 0, 0.0, 0.0

    def step(self, w, g, learning_rate):
        self.t += 1
        self.v = self.beta_2 * self.v + (1 - self.beta_2) * g**2
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * g
        m_hat = self.m / (1 - self.beta_1**self.t)
        rho = self.rho(self.t)
        if rho >= self.threshold:
            rho_inf = 2 / (1 - self.beta_2) - 1
            v_hat = np.sqrt(self.v / (1 - self.beta_2**self.t))
            r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            direction = r * m_hat / (v_hat + self.epsilon)
        else:
            direction = m_hat
        return w - learning_rate * (direction + self.weight_decay * w)

    def rho(self, t):
        rho_inf = 2 / (1 - self.beta_2) - 1
        return rho_inf - 2 * t * self.beta_2**t / (1 - self.beta_2**t)


class LARS:
    """You et al., 2017, algorithm 1; `excluded` from the trust ratio and from decay."""

    def __init__(
        self,
        momentum=0.9,
        trust_coefficient=0.001,
        weight_decay=0.0,
        epsilon=0.0,
        nesterov=False,
        excluded=False,
    ):
        self.momentum, self.trust_coefficient = momentum, trust_coefficient
        self.weight_decay, self.epsilon = weight_decay, epsilon
        self.nesterov, self.excluded = nesterov, excluded
        self.m = 0.0

    def step(self, w, g, learning_rate):
        if self.excluded:
            rate, update = learning_rate, g
        else:
            rate = learning_rate * self.trust(w, g)
            update = g + self.weight_decay * w
        self.m = self.momentum * self.m + rate * update
        return w - (self.momentum * self.m + rate * update if self.nesterov else self.m)

    def trust(self, w, g):
        w_norm, g_norm = np.sqrt(np.sum(w**2)), np.sqrt(np.sum(g**2))
        if w_norm == 0 or g_norm == 0:
            return 1.0
        denominator = g_norm + self.weight_decay * w_norm + self.epsilon
        return self.trust_coefficient * w_norm / denominator


class SGD:
    """Momentum SGD as Keras has it: the learning rate is inside the momentum."""

    def __init__(self, momentum=0.0, nesterov=False):
        self.momentum, self.nesterov = momentum, nesterov
        self.m = 0.0

    def step(self, w, g, learning_rate):
        self.m = self.momentum * self.m - learning_rate * g
        return w + (self.momentum * self.m - learning_rate * g if self.nesterov else self.m)


class AdamW:
    """Loshchilov and Hutter, 2019, algorithm 2, as Keras has it: epsilon beside `sqrt(v)`.

    Kingma and Ba, 2015, section 2, give this order of the bias correction.
    """

    def __init__(self, beta_1=0.9, beta_2=0.999, epsilon=1e-7, weight_decay=0.0):
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        self.weight_decay = weight_decay
        self.t, self.m, self.v = 0, 0.0, 0.0

    def step(self, w, g, learning_rate):
        self.t += 1
        w = w - learning_rate * self.weight_decay * w
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * g
        self.v = self.beta_2 * self.v + (1 - self.beta_2) * g**2
        alpha = learning_rate * np.sqrt(1 - self.beta_2**self.t) / (1 - self.beta_1**self.t)
        return w - alpha * self.m / (np.sqrt(self.v) + self.epsilon)


class Lookahead:
    """Zhang et al., 2019, algorithm 1, around an oracle; `momentum` as in its appendix D.2."""

    def __init__(self, inner, sync_period=6, slow_step=0.5, momentum="keep"):
        self.inner, self.sync_period, self.slow_step = inner, sync_period, slow_step
        self.momentum = momentum
        self.t = 0

    def step(self, w, g, learning_rate):
        if self.t % self.sync_period == 0:
            self.slow, self.slow_m = w, self.inner.m
        w = self.inner.step(w, g, learning_rate)
        self.t += 1
        if self.t % self.sync_period == 0:
            w = self.slow + self.slow_step * (w - self.slow)
            if self.momentum == "reset":
                self.inner.m = 0.0 * self.inner.m
            if self.momentum == "pullback":
                self.inner.m = self.slow_m + self.slow_step * (self.inner.m - self.slow_m)
        return w


def follow(judges, start, gradients, rates):
    """Yields what the judges, one for each weight, make of the start weights in each step."""
    weights = [np.float64(w) for w in start]
    for step, rate in zip(gradients, rates, strict=False):
        weights = [
            judge.step(w, np.float64(g), np.float64(np.float32(rate)))
            for judge, w, g in zip(judges, weights, step, strict=True)
        ]
        yield weights


def assert_steps(actual, expected, tolerance=1e-6):
    """Compares the weights of each step; `tolerance` is relative to the largest of them."""
    for step, (ours, theirs) in enumerate(zip(actual, expected, strict=True), 1):
        scale = max(np.abs(w).max() for w in theirs)
        for number, (a, e) in enumerate(zip(ours, theirs, strict=True)):
            message = f"step {step}, weight {number}"
            np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * scale, err_msg=message)


def optax_steps(transformation, start, gradients):
    """Yields the weights after each step of optax; in float64 within `jax.enable_x64(True)`."""
    import jax
    import optax

    weights = {path: np.float64(w) for path, w in start.items()}
    state = transformation.init(weights)
    update = jax.jit(transformation.update)
    for step in gradients:
        named = {path: np.float64(g) for path, g in zip(start, step, strict=True)}
        moves, state = update(named, state, weights)
        weights = optax.apply_updates(weights, moves)
        yield [np.asarray(weights[path]) for path in start]  # JAX has sorted the paths


def problem(shapes, steps, seed=0, scaled=False):
    """Returns start weights by path and gradients for each step, all exactly float32.

    With `scaled`, each step's gradients have a size of their own.
    """
    rng = np.random.default_rng(seed)
    start = {path: np.float32(rng.normal(size=shape)) for path, shape in shapes.items()}
    sizes = np.exp(rng.normal(size=steps)) if scaled else np.ones(steps)
    gradients = [
        [np.float32(rng.normal(size=shape) * size) for shape in shapes.values()] for size in sizes
    ]
    return start, gradients


def make_weights(values, dtype="float32", **kwargs):
    """Returns Keras variables at paths, made from `{"dense/kernel": value, ...}`."""
    weights = []
    for path, value in values.items():
        *scopes, name = path.split("/")
        with contextlib.ExitStack() as stack:
            for scope in scopes:
                stack.enter_context(keras.name_scope(scope))
            weights.append(keras.Variable(np.asarray(value), dtype=dtype, name=name, **kwargs))
    return weights


def read(variables):
    """Returns the values of variables as float64 arrays."""
    return [ops.convert_to_numpy(ops.cast(v, "float32")).astype("float64") for v in variables]


def run(optimizer, weights, gradients, jit=False):
    """Yields the weights, in float64, after each step.

    `gradients` holds, for each step, a list of arrays, or None. With `jit=True` steps run as
    they do in `fit`: compiled on TensorFlow and JAX.
    """
    apply = compiled(optimizer, weights) if jit else optimizer.apply
    for step in gradients:
        tensors = [
            None if g is None else ops.convert_to_tensor(g, dtype=v.dtype)
            for g, v in zip(step, weights, strict=True)
        ]
        apply(tensors, weights)
        yield read(weights)


def compiled(optimizer, weights):
    """Returns a function like `optimizer.apply` that moves `weights` in a compiled step."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda gradients, variables: optimizer.apply(gradients, weights))
    if keras.backend.backend() == "torch":
        return optimizer.apply
    import jax

    optimizer.build(weights)
    stateless = jax.jit(optimizer.stateless_apply, donate_argnums=(0, 2))

    def apply(gradients, variables):
        new_weights, new_state = stateless(
            [v.value for v in optimizer.variables], gradients, [v.value for v in weights]
        )
        old, new = [*weights, *optimizer.variables], [*new_weights, *new_state]
        for variable, value in zip(old, new, strict=True):
            variable.assign(value)

    return apply
