"""Means over samples of a measure of each one's gradient."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_optkit import _backend, _processes
from keras_optkit.continual._closed_form import ClosedForm, find
from keras_optkit.optimizers._precision import HALF, full_precision

ROOM = 2**25  # entries of gradients held at once, where samples are differentiated together
TOGETHER = True  # whether to try
CLOSED_FORM = True  # whether to try


class PerSample:
    """Runs a model on one sample at a time, compiled, and leaves it as it is.

    Layers run in inference mode: BatchNormalization with its moving statistics, no dropout.

    Args:
        model: A built model with weights to train.
        scalar: What to differentiate: a function of the outputs for a batch of one, of that row
            of the other arrays as a dict, and of a number below `repeats`.
        measure: Of each gradient, such as its square; that of a product is the product of both.
        repeats: How often each sample counts, with a sum over the results.
    """

    def __init__(self, model: keras.Model, scalar: Callable, measure: Callable, repeats: int = 1):
        self.model, self.scalar, self.measure, self.repeats = model, scalar, measure, repeats
        self._jit = not model.run_eagerly and model.jit_compile
        self._compiled: Any = None
        self._trained: list[int] = []
        self._ways: list[Callable] = [functools.partial(self._looped, False)]
        if TOGETHER:
            self._ways.insert(0, functools.partial(self._looped, True))
        if CLOSED_FORM:
            self._ways.insert(0, self._closed_form)
        low = [v.path for v in model.trainable_variables if v.dtype in HALF]
        if low:
            raise ValueError(
                "`model` must keep its weights in float32, since squares of gradients in half "
                "precision vanish. A mixed policy, such as "
                '`keras.config.set_dtype_policy("mixed_bfloat16")`, keeps them so. Received: half '
                f"precision in {', '.join(low[:8])}"
            )

    def mean(
        self, x: Any, arrays: dict, batch_size: int, told: Callable[[int], None]
    ) -> list[np.ndarray]:
        """Returns the mean of the measure for each trainable variable, in float64.

        Processes that train the model together each give samples, and get the mean over all.

        Args:
            x: Inputs, as an array or a list or dict of arrays.
            arrays: More arrays of the same number of rows.
            batch_size: Samples to take at a time.
            told: Called with the number of samples that are done.
        """
        variables = self.model.trainable_variables
        others = self._others()
        trained = [id(v) for v in variables]
        if trained != self._trained:  # others of the same shapes would not be traced anew
            self._trained, self._compiled = trained, None
        state = [_copy(v) for v in others]
        weights = [_copy(v) for v in variables]
        rows = {"x": x, **arrays}
        count = len(tree.flatten(x)[0])
        largest = max(1, ROOM // sum(int(np.prod(v.shape)) for v in variables))
        size = min(batch_size, count, largest)
        totals = [np.zeros(v.shape) for v in variables]
        for start in range(0, count, size):
            # Always of one size, as another would compile all again: what is too much counts 0.
            which = np.arange(start, start + size)
            shares = ops.convert_to_tensor((which < count).astype("float32"))
            part = _take(rows, np.minimum(which, count - 1))
            sums = self._run(weights, part, shares, state)
            for total, one in zip(totals, sums, strict=True):
                total += ops.convert_to_numpy(one)
            told(min(start + size, count))
        everyone = _processes.total(self.model, np.array(float(count)))
        return [_processes.total(self.model, total) / everyone for total in totals]

    def outputs(self, x: Any):
        """Returns the outputs for the first sample."""
        others, variables = self._others(), self.model.trainable_variables
        state, weights = ([ops.convert_to_tensor(v) for v in vs] for vs in (others, variables))
        return self._outputs(self.model, weights, _take(x, np.arange(1)), state)

    def _run(self, weights, rows, shares, state):
        """Returns the sums for a batch, by the first of the ways left that works.

        Not all that can be differentiated can be mapped over samples, and each framework says so in
        its own ways. What is wrong with the model itself comes up again in the last way.
        """
        while True:
            try:
                self._compiled = self._compiled or self._ways[0](len(shares))
                return self._compiled(weights, rows, shares, state)
            except Exception:
                if len(self._ways) == 1:
                    raise
                self._compiled = None
                del self._ways[0]

    def _closed_form(self, size: int) -> Callable:
        found = find(self.model)
        if found is None or size < 2:
            raise NotImplementedError
        wide, places = found
        forward = functools.partial(self._outputs, wide)
        options = self.measure, self.repeats, self._jit
        return ClosedForm(forward, places, self._value, *options)

    def _looped(self, together: bool, size: int) -> Callable:
        options = self.measure, self.repeats, together, self._jit
        return _backend.per_sample_sum(self._scalar, *options)

    def _scalar(self, weights, row, r, state):
        return self._value(self._outputs(self.model, weights, row["x"], state), row, r)

    def _value(self, outputs, row, r):
        """Returns what to differentiate, for a batch of one."""
        arrays = {name: array for name, array in row.items() if name != "x"}
        return ops.cast(self.scalar(outputs, arrays, r), "float32")

    def _outputs(self, model, weights, x, state):
        """Returns what `model`, or another of the same weights, makes of `x`."""
        mapping = [
            *zip(self.model.trainable_variables, weights, strict=True),
            *zip(self._others(), state, strict=True),
        ]
        with full_precision(model), keras.StatelessScope(mapping, collect_losses=True):
            return model(x, training=False) if model._call_has_training_arg else model(x)

    def _others(self) -> list:
        trainable = {id(v) for v in self.model.trainable_variables}
        return [v for v in self.model.variables if id(v) not in trainable]


def _copy(variable):
    return ops.copy(ops.convert_to_tensor(variable))


def _take(arrays, rows):
    return tree.map_structure(lambda array: ops.convert_to_tensor(array[rows]), arrays)
