"""Getting an optimizer that measures into the compiled step, and out again."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_optkit.callbacks._measured import Measured
from keras_optkit.callbacks._place import Place


class Instrument:
    """Stands in for `model.train_function` during one `fit`, and runs a step that measures.

    Where that is faster, it runs the plain step whenever no reader expects a measurement. Nobody
    but the measuring step sees another optimizer in the model: it is put in while the step is
    traced (on torch, while it runs) and taken out again, whatever happens. On JAX the state of a
    step is passed as values, so those of the measuring optimizer are added on the way in and
    kept here on the way out.

    After an exception nobody takes the instrument away. So it measures only calls that a
    callback has announced; at any other it puts the plain function back and calls that.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.plain = model.train_function
        self.readers: list[Any] = []
        self.calls = 0
        self._armed = False
        self._history = getattr(model, "history", None)  # each `fit` makes one
        self._function: Callable[..., Any] | None = None
        self._values: list = []
        # XLA copies weights around a `cond` even if it does nothing, and torch runs plain Python.
        self._alternates = keras.backend.backend() != "tensorflow" or model.jit_compile
        self._place = Place(model)
        self._outermost = self._place.user

    @classmethod
    def on(cls, model: keras.Model) -> "Instrument":
        """Returns the instrument of the `fit` that is about to begin, installing one if needed."""
        found = model.train_function
        if isinstance(found, Instrument) and (found.calls or found._of_another_fit()):
            found.remove()
            found = model.train_function
        if not isinstance(found, Instrument):
            model.make_train_function()
            model.train_function = found = cls(model)
        return found

    def measure(self, every: int, **what) -> Measured:
        """Returns an optimizer, now part of the step, that measures every so many updates."""
        batches = self.model.steps_per_execution
        always = self._alternates and batches == 1
        with self._scope():
            measured = Measured(self._outermost, every, -(-batches // every), always, **what)
            if self._place.user.built:
                measured.build(list(self._place.user._trainable_variables))
        self._outermost, self._function = measured, None
        return measured

    def announce(self) -> None:
        """Says that the next call is one of the `fit` that is monitored."""
        if self.model.train_function is self.plain:  # after a `train_on_batch` by some callback
            self.model.train_function = self
        if self._function is None:  # not later: on JAX the variables have no values in a step
            self._function = self._make()
        self._armed = True

    def remove(self) -> None:
        """Puts the plain function back for good."""
        self._give_way()
        self._function, self._values, self.readers = None, [], []

    def numpy(self, variable) -> np.ndarray:
        """Returns the value of a measuring optimizer's variable, in memory of its own."""
        values = {id(v): x for v, x in zip(self._own(), self._values, strict=False)}
        value = keras.ops.convert_to_numpy(values.get(id(variable), variable))
        return np.array(value)  # a copy: JAX donates what it may be a view of

    def __call__(self, *arguments):
        if not self._armed or self._of_another_fit():
            self._give_way()
            return self.plain(*arguments)
        self._armed = False
        self.calls += 1
        measures = not self._alternates or any(reader.expects() for reader in self.readers)
        result = (self._function if measures and self._function else self.plain)(*arguments)
        for reader in self.readers:
            reader.after_call()
        return result

    def _give_way(self) -> None:
        if self.model.train_function is self:  # else somebody has replaced it
            self.model.train_function = self.plain

    def _of_another_fit(self) -> bool:
        return getattr(self.model, "history", None) is not self._history

    def _make(self) -> Callable[..., Any]:
        model, backend = self.model, keras.backend.backend()
        train_step = self._holding(model.train_step)
        before = {"train_step": vars(model)["train_step"]} if "train_step" in vars(model) else {}
        try:
            if backend != "torch":  # which would look for `train_step` only when it runs
                vars(model)["train_step"] = train_step  # past Keras' tracking
            with self._place.holding(self._outermost):  # for the shardings of `keras.distribution`
                model.make_train_function(force=True)
            made = model.train_function
        finally:
            model.train_function = self
            vars(model).pop("train_step", None)
            vars(model).update(before)
        return {"torch": self._holding, "jax": self._with_state}.get(backend, lambda f: f)(made)

    def _holding(self, function):
        def call(*arguments):
            with self._place.holding(self._outermost):
                return function(*arguments)

        return call

    def _with_state(self, function):
        own = self._own()
        with self._place.holding(self._outermost):
            start = [id(v) for v in self.model.optimizer.variables].index(id(own[0]))
        end = start + len(own)
        self._values = [v.value for v in own]

        def call(state, iterator):
            trainable, rest, optimizer, metrics = state
            optimizer = [*optimizer[:start], *self._values, *optimizer[start:]]
            logs, state = function((trainable, rest, optimizer, metrics), iterator)
            trainable, rest, optimizer, metrics = state
            self._values = list(optimizer[start:end])
            return logs, (trainable, rest, [*optimizer[:start], *optimizer[end:]], metrics)

        return call

    def _own(self) -> list:
        """Returns the variables that are not the user's."""
        variables = self._outermost.variables
        return variables[: len(variables) - len(self._place.user.variables)]

    def _scope(self):
        """Returns where to make variables; only TensorFlow has strategies."""
        strategy = getattr(self.model, "distribute_strategy", None)
        return contextlib.nullcontext() if strategy is None else strategy.scope()
