"""A model that may be trained for a while, and is given back as it was."""

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import ops

_MISSING = object()


@contextlib.contextmanager
def borrowed(model: keras.Model) -> Iterator[Callable[[], None]]:
    """Lets `fit` run on `model` one batch at a time, reporting the loss of each batch.

    Yields a function that sets weights, seeds, metrics and the state of the optimizer back to
    what they were; it is called in the end too. The steps compiled so far are kept as well.

    Args:
        model: A built and compiled model.
    """
    optimizer = model.optimizer
    if not optimizer.built:
        with _scope(model), keras.name_scope(optimizer.name, caller=optimizer):  # as it does itself
            optimizer.build(model.trainable_variables)
    variables = {
        id(v): v for v in (*model.variables, *model.metrics_variables, *optimizer.variables)
    }.values()
    # In host memory: JAX donates buffers, and a device may hold no second copy.
    values = [np.array(ops.convert_to_numpy(v)) for v in variables]
    names = ("train_function", "steps_per_execution", "stop_training", "history")
    before = {name: getattr(model, name, _MISSING) for name in names}

    def put_back() -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    model.train_function, model.steps_per_execution, model.history = None, 1, None
    try:
        with _unbuilt(model), _loss_of_each_batch(model):
            yield put_back
    finally:
        put_back()
        for name, value in before.items():
            if value is not _MISSING:
                setattr(model, name, value)
            elif hasattr(model, name):
                delattr(model, name)


@contextlib.contextmanager
def _unbuilt(model: keras.Model) -> Iterator[None]:
    """Does without metrics, and keeps a loss that has not been used yet from being built.

    `fit` looks at a batch to build them, and on JAX and torch this draws the order of arrays once
    more; so the first `fit` afterwards must find them as they were.
    """
    loss, metrics = model._compile_loss, model._compile_metrics
    try:
        vars(model)["_compile_metrics"] = None  # past Keras' tracking, here and below
        if loss is not None and not loss.built:
            again = type(loss)(
                loss._user_loss, loss._user_loss_weights, output_names=loss.output_names
            )
            vars(model)["_compile_loss"] = again
        yield
    finally:
        vars(model).update(_compile_loss=loss, _compile_metrics=metrics)


@contextlib.contextmanager
def _loss_of_each_batch(model: keras.Model) -> Iterator[None]:
    """Lets the model's metric of the loss forget all batches but the last."""
    means = [m for m in model.metrics if isinstance(m, keras.metrics.Mean) and m.name == "loss"]
    try:
        for mean in means:
            # An attribute past Keras' tracking, in front of the method.
            vars(mean)["update_state"] = _of_the_last(mean)
        yield
    finally:
        for mean in means:
            vars(mean).pop("update_state", None)


def _of_the_last(mean: keras.metrics.Mean):
    plain = mean.update_state

    def update_state(values, sample_weight=None):
        mean.reset_state()
        return plain(values, sample_weight=sample_weight)

    return update_state


def _scope(model: keras.Model):
    """Returns where to make variables; only TensorFlow has strategies."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()
