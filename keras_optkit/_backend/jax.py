"""JAX: the step is a pure function, and Keras hands variables their values by a scope."""

import contextlib
import functools

import jax
import jax.core
import keras
import numpy as np
from keras import ops
from keras.src.backend.common.stateless_scope import get_stateless_scope

from keras_optkit._backend import _bisection


def dense(gradient):
    return ops.convert_to_tensor(gradient, sparse=False)


def read(variable):
    return variable.value


def known(variable):
    return None if variable._value is None else np.asarray(variable._value)


def sum_over_replicas(gradients):
    return gradients  # `jax.jit` sums over a sharded batch by itself


def least_of_replicas(vector):
    return vector


def replica_count():
    return 1


def processes(model):
    layouts = (getattr(v, "_layout", None) for v in model.variables)
    layout = next((found for found in layouts if found is not None), None)
    if layout is None:
        return 0, 1
    devices = getattr(layout, "backend_layout", layout).device_set
    numbers = sorted({device.process_index for device in devices})
    return numbers.index(jax.process_index()), len(numbers)


def gather(array, model):
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array)


def assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def keep(variables, masks):
    pairs = zip(variables, masks, strict=True)
    assign(variables, [ops.where(m, read(v), ops.zeros((), v.dtype)) for v, m in pairs])


def behind(value, *others):
    return value + 0 * sum(jax.numpy.clip(other, -LARGE, LARGE) for other in others)


LARGE = 1e30  # times 0 it is 0, which an infinity is not


def cond(predicate, effect, variables):
    if not isinstance(predicate, jax.core.Tracer):
        if predicate:
            effect()
        return
    outer = get_stateless_scope()

    def once(state):
        running, before = state
        with keras.StatelessScope() as scope:
            scope.state_mapping.update(outer.state_mapping)
            assign(variables, before)
            effect()
            after = [v.value for v in variables]
        # A select that XLA cannot see through, since it takes what stays the same out of the
        # loop, and copies it in every step to be written later.
        kept = [
            ops.where(running, a, ops.zeros_like(a)) if a is b else a
            for a, b in zip(after, before, strict=True)
        ]
        return False, kept

    # A loop of no or one pass: XLA updates the state of a loop in place, but copies what passes
    # through the branch of a `cond` that is not taken.
    start = predicate, [v.value for v in variables]
    assign(variables, jax.lax.while_loop(lambda state: state[0], once, start)[1])


def fused(function, *arguments):
    return function(*arguments)


def update_each(jobs, elementwise=False):
    return [function(*arguments) for function, arguments in jobs]


@jax.jit
def nth_smallest(values, n):
    return _bisection.nth_smallest(
        values, n, lambda bits: jax.lax.bitcast_convert_type(bits, "float32")
    )


def seeded_normal(shape, seed, index, step):
    key = jax.random.fold_in(jax.random.key(seed), index)
    key = jax.random.fold_in(key, ops.cast(step, "uint32"))
    return jax.random.normal(key, shape, "float32")


def number(tensor):
    return tensor


def numbers(vector):
    return [vector[i] for i in range(vector.shape[0])]


def no_gradient():
    return contextlib.nullcontext()


def train_step(model, state, data):
    trainable, non_trainable, optimizer, metrics = state
    batch, reference = model.split_batch(keras.utils.unpack_x_y_sample_weight(data))
    before = [
        *zip(model.non_trainable_variables, non_trainable, strict=True),
        *zip(model.optimizer.variables, optimizer, strict=True),
        *zip(model.metrics_variables, metrics, strict=True),
    ]

    def loss_at(weights, batch):
        return model.pure_loss(weights, batch, before)

    def gradients_at(weights, batch=batch):
        return jax.grad(loss_at, has_aux=True)(weights, batch)[0]

    (_, seen), gradients = jax.value_and_grad(loss_at, has_aux=True)(trainable, batch)
    loss, y_pred, _, non_trainable, metrics = seen  # Keras too drops weights assigned on JAX
    with keras.StatelessScope(before):
        gradients = model.change_gradients(gradients, trainable, gradients_at, reference)
    if model.follows_updates:
        trainable, non_trainable, optimizer = _followed(
            model, gradients, trainable, non_trainable, optimizer
        )
    else:
        trainable, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
    x, y, sample_weight = batch
    logs, metrics = model._update_metrics_variables(metrics, loss, x, y, y_pred, sample_weight)
    return logs, (trainable, non_trainable, optimizer, metrics)


def _followed(model, gradients, trainable, non_trainable, optimizer):
    """Does an update, then what the model does after it."""
    with keras.StatelessScope([*zip(model.optimizer.variables, optimizer, strict=True)]):
        pace = model.pace()
    moved, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
    after = [
        *zip(model.trainable_variables, moved, strict=True),
        *zip(model.non_trainable_variables, non_trainable, strict=True),
        *zip(model.optimizer.variables, optimizer, strict=True),
    ]
    with keras.StatelessScope(after) as scope:
        model.after_update(gradients, trainable, pace)
    new = [scope.get_current_value(v) for v, _ in after]
    first, second = len(moved), len(moved) + len(non_trainable)
    return new[:first], new[first:second], optimizer


def random_state():
    return {}


def set_random_state(state):
    pass


def shuffle_arrays(epoch_iterator, key):
    pass


@functools.cache
def compiled(function):
    return jax.jit(function)


def value_and_gradient(function, jit):
    compute = jax.value_and_grad(function)
    return jax.jit(compute) if jit else compute


def hessian_product(function, jit):
    def product(point, vector, *arguments):
        def gradient(point):
            return jax.grad(function)(point, *arguments)

        return jax.jvp(gradient, (point,), (vector,))[1]

    return jax.jit(product) if jit else product


def value(function, jit):
    return jax.jit(function) if jit else function


def gradient_sums(inner, outer, measure, repeats, jit):
    def compute(points, *arguments):
        outputs, pull, extras = jax.vjp(lambda p: inner(p, *arguments), points, has_aux=True)

        def add(totals, r):
            (gradients,) = pull(jax.grad(outer)(outputs, r, *arguments))
            return [t + measure(g) for t, g in zip(totals, gradients, strict=True)], None

        zeros = [jax.numpy.zeros_like(p) for p in points]
        return jax.lax.scan(add, zeros, jax.numpy.arange(repeats))[0], extras

    return jax.jit(compute) if jit else compute


def per_sample_sum(function, measure, repeats, together, jit):
    if together and jax.default_backend() == "cpu":
        raise NotImplementedError  # slower there, convolutions by far

    def contributions(weights, row, r, share, arguments):
        row = jax.tree.map(lambda leaf: leaf[None], row)
        gradients = jax.grad(function)(weights, row, r, *arguments)
        return [share * measure(g) for g in gradients]

    mapped = jax.vmap(contributions, (None, 0, None, 0, None))

    def compute(weights, rows, shares, *arguments):
        def add_one(totals, k):
            row = jax.tree.map(lambda leaf: leaf[k // repeats], rows)
            share = shares[k // repeats]
            parts = contributions(weights, row, k % repeats, share, arguments)
            return [t + p for t, p in zip(totals, parts, strict=True)], None

        def add_all(totals, r):
            parts = mapped(weights, rows, r, shares, arguments)
            return [t + jax.numpy.sum(p, 0) for t, p in zip(totals, parts, strict=True)], None

        zeros = [jax.numpy.zeros(w.shape, w.dtype) for w in weights]
        if together:
            return jax.lax.scan(add_all, zeros, jax.numpy.arange(repeats))[0]
        steps = jax.numpy.arange(shares.shape[0] * repeats)
        return jax.lax.scan(add_one, zeros, steps)[0]

    return jax.jit(compute) if jit else compute
