"""The one place that knows TensorFlow, JAX and torch apart.

Each module here offers the same functions:

- `dense(gradient)`: a gradient as a dense tensor, rows of repeated ids added up.
- `sum_over_replicas(gradients)`, `replica_count()`: the replicas of a `tf.distribute` strategy.
- `least_of_replicas(vector)`: for each entry of a short vector, its least value in any replica.
- `behind(value, *others)`: `value`, computed after `others`, tensors without NaN. XLA
  writes a variable in place only if it can tell that all who read the old value come before.
- `assign(variables, values)`: sets Keras variables, inside a strategy's replicas too.
- `keep(variables, masks)`: sets entries to 0 where a mask of booleans is false.
- `cond(predicate, effect, variables)`: runs `effect`, which assigns to `variables` and to no
  others, if `predicate` holds. When it does not hold, this costs next to nothing if the large
  variables that `effect` only reads are among `variables` too.
- `fused(function, *arguments)`: `function(*arguments)` compiled to few kernels where the step
  around it may not be; `arguments` are all the tensors it takes, nested or None, and it may read
  and assign variables.
- `read(variable)`: the value of a Keras variable as a plain tensor; on torch it is the memory
  itself, so read and compute everything before the first write.
- `known(variable)`: the stored value of a Keras variable as an array, in traced code too, or None
  where there is none to see: on JAX while a step of the model that holds it runs.
- `update_each(jobs, elementwise)`: `[function(*arguments) for function, arguments in jobs]` for
  pure functions, the fastest way there is. If `elementwise`, the arguments are those of an
  optimizer's `update`, and each entry of the results depends on the same entry of gradient,
  weight and slots alone.
- `per_sample_sum(function, measure, repeats, together, jit)`: a compiled function of
  `weights, rows, shares, *arguments` that returns, for each of `weights`, the sum over samples `i`
  and over `r` below `repeats` of `shares[i] * measure(gradient)`; the gradient is that of the
  scalar `function(weights, row, r, *arguments)`, where `row` is sample `i` of the arrays in `rows`
  as a batch of one. If `together`, all samples are differentiated at once, which takes memory
  for that many gradients, and may fail; else one after the other.
- `gradient_sums(inner, outer, measure, repeats, jit)`: a compiled function of
  `points, *arguments`. With `outputs, extras = inner(points, *arguments)`, it returns, for each of
  `points`, the sum over `r` below `repeats` of `measure(gradient)` of the scalar
  `outer(outputs, r, *arguments)`, and the extras; all three are lists of tensors.
- `nth_smallest(values, n)`: entry `n`, a scalar tensor, of the sorted values, none of them NaN.
- `random_state()`, `set_random_state(state)`: global random numbers of the framework that are
  neither Keras' nor NumPy's; torch's, which data loaders use on every backend, are not here.
- `shuffle_arrays(epoch_iterator, key)`: lets `fit` shuffle the arrays of a pass by the integer
  `key()`, where else nothing would determine their order.
- `seeded_normal(shape, seed, index, step)`: float32 standard normals, a pure function of its
  arguments.
- `compiled(function)`: a pure function at module level, compiled once for all who ask.
- `value_and_gradient(function, jit)`: a compiled function of the same arguments that returns the
  scalar `function(point, *arguments)` and its gradient by the tensor `point`.
- `hessian_product(function, jit)`: a compiled function of `point, vector, *arguments` that returns
  the Hessian of the scalar `function(point, *arguments)` by the tensor `point`, times `vector`.
- `value(function, jit)`: `function`, compiled, without anything kept for a gradient.
- `number(tensor)`: a scalar tensor as a Python number where steps run eagerly, else the tensor.
- `numbers(vector)`: its entries, each as `number` would return it, fetched together.
- `no_gradient()`: a context in which nothing is recorded for differentiation.
- `processes(model)`: the number of this process, from 0, among those that train `model` together,
  and how many these are.
- `gather(array, model)`: the flat int32 arrays of one length that all these processes give at the
  same time, stacked in their order.
- `train_step(model, ...)`: the training step of a `ModelWrapper`: that of Keras, but for the
  model's `split_batch`, `change_gradients` and `after_update`.
"""

from collections.abc import Callable
from typing import Any

import keras

match keras.backend.backend():
    case "tensorflow":
        from keras_optkit._backend import tensorflow as _framework
    case "jax":
        from keras_optkit._backend import jax as _framework
    case "torch":
        from keras_optkit._backend import torch as _framework
    case other:
        raise ImportError(
            f"keras_optkit runs on the Keras backends tensorflow, jax and torch, not on {other!r}. "
            'Set the environment variable KERAS_BACKEND, as in KERAS_BACKEND="jax", before the '
            "first import of keras."
        )

assign: Callable[..., Any] = _framework.assign
compiled: Callable[..., Any] = _framework.compiled
behind: Callable[..., Any] = _framework.behind
cond: Callable[..., Any] = _framework.cond
dense: Callable[..., Any] = _framework.dense
fused: Callable[..., Any] = _framework.fused
gather: Callable[..., Any] = _framework.gather
gradient_sums: Callable[..., Any] = _framework.gradient_sums
hessian_product: Callable[..., Any] = _framework.hessian_product
keep: Callable[..., Any] = _framework.keep
known: Callable[..., Any] = _framework.known
least_of_replicas: Callable[..., Any] = _framework.least_of_replicas
no_gradient: Callable[..., Any] = _framework.no_gradient
nth_smallest: Callable[..., Any] = _framework.nth_smallest
number: Callable[..., Any] = _framework.number
numbers: Callable[..., Any] = _framework.numbers
per_sample_sum: Callable[..., Any] = _framework.per_sample_sum
processes: Callable[..., Any] = _framework.processes
random_state: Callable[..., Any] = _framework.random_state
read: Callable[..., Any] = _framework.read
replica_count: Callable[..., Any] = _framework.replica_count
seeded_normal: Callable[..., Any] = _framework.seeded_normal
set_random_state: Callable[..., Any] = _framework.set_random_state
shuffle_arrays: Callable[..., Any] = _framework.shuffle_arrays
sum_over_replicas: Callable[..., Any] = _framework.sum_over_replicas
train_step: Callable[..., Any] = _framework.train_step
update_each: Callable[..., Any] = _framework.update_each
value: Callable[..., Any] = _framework.value
value_and_gradient: Callable[..., Any] = _framework.value_and_gradient
