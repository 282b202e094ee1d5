"""TensorFlow: graphs, and the replicas of `tf.distribute`."""

import contextlib
import functools
import math

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import nn as keras_nn
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from tensorflow.python.eager import context
from tensorflow.python.ops import control_flow_util, stateful_random_ops

from keras_optkit._backend import _bisection


def dense(gradient):
    return tf.convert_to_tensor(gradient)  # adds up the rows of an `IndexedSlices`


def read(variable):
    return tf.convert_to_tensor(variable.value)


def known(variable):
    if variable._value is None:
        return None
    with tf.init_scope():
        return tf.convert_to_tensor(variable._value).numpy() if tf.executing_eagerly() else None


def sum_over_replicas(gradients):
    context = _replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients) if context else gradients


def least_of_replicas(vector):
    context = _replica_context()
    if context is None:
        return vector
    # A row for each replica, 0 but where it is its own: strategies can sum, and little else.
    rows = tf.range(context.num_replicas_in_sync) == context.replica_id_in_sync_group
    own = tf.where(rows[:, None], vector[None], tf.zeros_like(vector)[None])
    return tf.reduce_min(context.all_reduce(tf.distribute.ReduceOp.SUM, own), 0)


def replica_count():
    return tf.distribute.get_strategy().num_replicas_in_sync if _replica_context() else 1


def processes(model):
    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0, 1
    inside = strategy.extended
    return (
        (inside._id_in_cluster, inside._num_workers) if inside._in_multi_worker_mode() else (0, 1)
    )


def gather(array, model):
    rows = _gatherer(model.distribute_strategy)(tf.constant(array[None]))
    return rows.numpy()[:: model.distribute_strategy.num_replicas_in_sync // processes(model)[1]]


@functools.cache
def _gatherer(strategy):
    def in_replica(row):
        row = tf.identity(row)  # on a device of this replica
        return tf.distribute.get_replica_context().all_gather(row, axis=0)

    @tf.function(input_signature=[tf.TensorSpec([1, None], "int32")], autograph=False)
    def everywhere(row):
        return strategy.experimental_local_results(strategy.run(in_replica, args=(row,)))[0]

    return everywhere


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


def keep(variables, masks):
    pairs = zip(variables, masks, strict=True)
    assign(variables, [tf.where(m, read(v), tf.zeros((), v.dtype)) for v, m in pairs])


def behind(value, *others):
    return value + 0 * sum(tf.clip_by_value(other, -LARGE, LARGE) for other in others)


LARGE = 1e30  # times 0 it is 0, which an infinity is not


def cond(predicate, effect, variables):
    if _replica_context():  # branches may not `merge_call`: do it, then take it back
        before = [read(v) for v in variables]
        effect()
        after = [tf.where(predicate, read(v), b) for v, b in zip(variables, before, strict=True)]
        assign(variables, after)
    elif tf.executing_eagerly():
        if predicate:
            effect()
    elif _under_xla():
        _loop_once(predicate, effect, variables)
    else:

        def run():
            effect()
            return tf.constant(True)

        tf.cond(predicate, run, lambda: tf.constant(False))


def _loop_once(predicate, effect, variables):
    """A loop of no or one pass: XLA updates the state of a loop in place.

    It copies what passes through the branch of a `cond` that is not taken.
    """

    def once(running):
        effect()
        # A select that XLA cannot see through, since it takes what stays the same out of the
        # loop, and copies it in every step to be written later.
        kept = [tf.where(running, read(v), tf.zeros((), v.dtype)) for v in variables]
        assign(variables, kept)
        return (tf.zeros_like(running),)

    tf.while_loop(lambda running: running, once, [predicate])


def update_each(jobs, elementwise=False):
    return [function(*arguments) for function, arguments in jobs]


def fused(function, *arguments):
    if tf.executing_eagerly() or _replica_context():
        return function(*arguments)
    # In a graph each operation is a kernel of its own that reads and writes memory; XLA makes
    # few kernels of all, and writes variables in place.
    return tf.function(function, jit_compile=True, autograph=False)(*arguments)


def nth_smallest(values, n):
    return _bisection.nth_smallest(values, n, lambda bits: tf.bitcast(bits, tf.float32))


def seeded_normal(shape, seed, index, step):
    seeds = tf.stack([tf.constant(seed * 1_000_003 + index, "int64"), tf.cast(step, "int64")])
    # XLA makes other floats than the kernels do, but of the same bits if both run Philox.
    every: dict = {"minval": None, "maxval": None, "dtype": "uint32"}
    bits = tf.random.stateless_uniform(shape, seeds, alg="philox", **every)
    centred = tf.cast(tf.bitwise.right_shift(bits, 9), "int32") - 2**22
    return math.sqrt(2) * tf.math.erfinv((tf.cast(centred, "float32") + 0.5) * 2.0**-22)


def number(tensor):
    return tensor


def numbers(vector):
    return [vector[i] for i in range(vector.shape[0])]


def no_gradient():
    return contextlib.nullcontext()


def train_step(model, data):
    batch, reference = model.split_batch(keras.utils.unpack_x_y_sample_weight(data))

    def differentiate(weights, batch=batch):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            loss, seen = model.pure_loss(weights, batch)
        return tape.gradient(loss, weights), seen

    weights = [read(v) for v in model.trainable_variables]
    gradients, (loss, y_pred, *seen) = differentiate(weights)
    gradients = model.change_gradients(
        gradients, weights, lambda *at: differentiate(*at)[0], reference
    )
    kinds = (model.trainable_variables, model.non_trainable_variables, model.metrics_variables)
    for variables, values in zip(kinds, seen, strict=True):
        for variable, value in zip(variables, values, strict=True):
            if value is not None:
                variable.assign(value)
    pace = model.pace() if model.follows_updates else None
    model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    if pace is not None:
        model.after_update(gradients, weights, pace)
    x, y, sample_weight = batch
    rows = tf.shape(next(t for t in keras.tree.flatten(x) if t is not None))[0]
    whole = loss * tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, loss.dtype)
    model._loss_tracker.update_state(whole, sample_weight=rows)  # Keras divides by the replicas
    return model.compute_metrics(x, y, y_pred, sample_weight)


@functools.cache
def compiled(function):
    return tf.function(function, jit_compile=True, autograph=False)


def value_and_gradient(function, jit):
    @tf.function(jit_compile=jit, autograph=False)
    def compute(point, *arguments):
        with tf.GradientTape() as tape:
            tape.watch(point)
            value = function(point, *arguments)
        zero = tf.UnconnectedGradients.ZERO
        return value, tape.gradient(value, point, unconnected_gradients=zero)

    return compute


def hessian_product(function, jit):
    zero = tf.UnconnectedGradients.ZERO

    # Reverse over reverse: a `ForwardAccumulator` cannot pass the loops of recurrent layers.
    @tf.function(jit_compile=jit, autograph=False)
    def product(point, vector, *arguments):
        with tf.GradientTape() as outer:
            outer.watch(point)
            with tf.GradientTape() as inner:
                inner.watch(point)
                with _moments_to_differentiate_twice():
                    value = function(point, *arguments)
            gradient = inner.gradient(value, point, unconnected_gradients=zero)
            slope = tf.reduce_sum(gradient * vector)
        return outer.gradient(slope, point, unconnected_gradients=zero)

    return product


@contextlib.contextmanager
def _moments_to_differentiate_twice():
    """Lets `ops.moments`, and normalization with it, have the right second derivatives.

    `tf.nn.moments` stops the gradient of the mean inside of the variance: the first derivative by
    it is 0, but the second is not.
    """
    original = keras_nn.moments

    def moments(x, axes, keepdims=False, synchronized=False):
        mean = tf.reduce_mean(x, axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(x - mean), axes, keepdims=keepdims)
        return mean if keepdims else tf.squeeze(mean, axes), variance

    try:
        keras_nn.moments = moments
        yield
    finally:
        keras_nn.moments = original


def value(function, jit):
    return tf.function(function, jit_compile=jit, autograph=False)


def gradient_sums(inner, outer, measure, repeats, jit):
    @tf.function(jit_compile=jit, autograph=False)
    def compute(points, *arguments):
        zero = tf.UnconnectedGradients.ZERO
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(points)
            outputs, extras = inner(points, *arguments)

        def add(r, totals):
            with tf.GradientTape(watch_accessed_variables=False) as slope:
                slope.watch(outputs)
                value = outer(outputs, r, *arguments)
            down = slope.gradient(value, outputs, unconnected_gradients=zero)
            parts = tape.gradient(outputs, points, down, unconnected_gradients=zero)
            return r + 1, [t + measure(dense(g)) for t, g in zip(totals, parts, strict=True)]

        start = tf.constant(0), [tf.zeros_like(p) for p in points]
        return tf.while_loop(lambda r, totals: r < repeats, add, start)[1], extras

    return compute


def per_sample_sum(function, measure, repeats, together, jit):
    if together:  # `tf.vectorized_map` knows too few operations, and is slow to trace
        raise NotImplementedError

    @tf.function(jit_compile=jit, autograph=False)
    def compute(weights, rows, shares, *arguments):
        def add(k, totals):
            row = tf.nest.map_structure(lambda leaf: leaf[k // repeats][None], rows)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                value = function(weights, row, k % repeats, *arguments)
            zero = tf.UnconnectedGradients.ZERO
            gradients = tape.gradient(value, weights, unconnected_gradients=zero)
            parts = [shares[k // repeats] * measure(dense(g)) for g in gradients]
            return k + 1, [t + p for t, p in zip(totals, parts, strict=True)]

        count = shares.shape[0] * repeats
        start = tf.constant(0), [tf.zeros_like(w) for w in weights]
        return tf.while_loop(lambda k, totals: k < count, add, start)[1]

    return compute


def random_state():
    generator, rng = stateful_random_ops.global_generator, _operation_seeds()
    return {
        "generator": None if generator is None else generator.state.numpy(),
        "operation_seeds": None if rng is None else [rng.getstate()[0], *rng.getstate()[1:]],
    }


def set_random_state(state):
    if state["generator"] is not None:
        tf.random.get_global_generator().state.assign(state["generator"])
    rng = _operation_seeds()
    if rng is not None and state["operation_seeds"] is not None:
        version, words, gauss = state["operation_seeds"]
        rng.setstate((version, tuple(words), gauss))


def shuffle_arrays(epoch_iterator, key):
    adapter, strategy = epoch_iterator.data_adapter, epoch_iterator._distribute_strategy
    shuffles = isinstance(adapter, ArrayDataAdapter) and adapter._shuffle
    if not shuffles or context.global_seed() is not None or strategy.num_replicas_in_sync > 1:
        return
    with tf.device("CPU:0"):
        number = tf.Variable(tf.constant(0, "int64"), trainable=False)

    def shuffle(value, seed=None, name=None):
        # The smallest index tells batches apart, where only batches are shuffled.
        seed = tf.stack([tf.convert_to_tensor(number), tf.reduce_min(value)])
        return tf.random.experimental.stateless_shuffle(value, seed)  # pyright: ignore[reportAttributeAccessIssue]

    plain, tf.random.shuffle = tf.random.shuffle, shuffle
    try:
        dataset = strategy.experimental_distribute_dataset(adapter.get_tf_dataset())
    finally:
        tf.random.shuffle = plain

    def get_iterator():
        number.assign(key())
        return dataset

    epoch_iterator._distributed_dataset, epoch_iterator._get_iterator = dataset, get_iterator


def _under_xla():
    """Returns whether what is being traced will be one XLA computation."""
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def _operation_seeds():
    """Returns the generator of the seeds of eager operations, if there is a global seed."""
    return getattr(context.context(), "_rng", None)


def _replica_context():
    """Returns the context of the replica being traced, or None outside a strategy."""
    return tf.distribute.get_replica_context() if tf.distribute.has_strategy() else None
