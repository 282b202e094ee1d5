"""TensorFlow: graphs, and the replicas of `tf.distribute`."""

import contextlib
import math

import tensorflow as tf


def dense(gradient):
    return tf.convert_to_tensor(gradient)  # adds up the rows of an `IndexedSlices`


def read(variable):
    return tf.convert_to_tensor(variable.value)


def sum_over_replicas(gradients):
    context = _replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients) if context else gradients


def replica_count():
    return tf.distribute.get_strategy().num_replicas_in_sync if _replica_context() else 1


def assign(variables, values):
    context = _replica_context()
    if context is None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return

    def in_every_replica(strategy, *values):
        for variable, value in zip(variables, values, strict=True):
            update = strategy.extended.update
            update(variable.value, lambda v, x: v.assign(x), args=(value,), group=False)

    context.merge_call(
        in_every_replica,
        args=tuple(tf.cast(x, v.dtype) for x, v in zip(values, variables, strict=True)),
    )


def cond(predicate, effect, variables):
    if _replica_context():  # branches may not `merge_call`: do it, then take it back
        before = [read(v) for v in variables]
        effect()
        after = [tf.where(predicate, read(v), b) for v, b in zip(variables, before, strict=True)]
        assign(variables, after)
    elif tf.executing_eagerly():
        if predicate:
            effect()
    else:

        def run():
            effect()
            return tf.constant(True)

        tf.cond(predicate, run, lambda: tf.constant(False))


def update_each(jobs):
    if tf.executing_eagerly() or _replica_context():
        return [function(*arguments) for function, arguments in jobs]
    # In a graph each operation is a kernel of its own that reads and writes memory; XLA makes
    # one kernel of a rule. A `tf.function` compiles once per shape.
    compiled = {}
    results = []
    for function, arguments in jobs:
        if function not in compiled:
            compiled[function] = tf.function(function, jit_compile=True, autograph=False)
        results.append(compiled[function](*arguments))
    return results


def seeded_normal(shape, seed, index, step):
    seeds = tf.stack([tf.constant(seed * 1_000_003 + index, "int64"), tf.cast(step, "int64")])
    # XLA makes other floats than the kernels do, but of the same bits if both run Philox.
    every: dict = {"minval": None, "maxval": None, "dtype": "uint32"}
    bits = tf.random.stateless_uniform(shape, seeds, alg="philox", **every)
    centred = tf.cast(tf.bitwise.right_shift(bits, 9), "int32") - 2**22
    return math.sqrt(2) * tf.math.erfinv((tf.cast(centred, "float32") + 0.5) * 2.0**-22)


def no_gradient():
    return contextlib.nullcontext()


def _replica_context():
    """Returns the context of the replica being traced, or None outside a strategy."""
    return tf.distribute.get_replica_context() if tf.distribute.has_strategy() else None
