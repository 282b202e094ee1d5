"""The loss of a model on fixed data, as a function of one flat vector of its weights."""

import inspect
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_optkit import _backend, _check
from keras_optkit.optimizers._precision import full_precision
from keras_optkit.optimizers._problem import seeded_layers


class Objective:
    """Loss and gradient over all samples, at any vector, without a change to the model.

    The model runs in a `StatelessScope`, so what it assigns (moving statistics, seeds, metrics)
    is dropped, and every evaluation starts from the same state.
    """

    def __init__(self, model, x, y, sample_weight, loss, batch_size, training):
        self.model, self.loss, self.training = model, _as_loss(loss), training
        self.variables = list(model.trainable_variables)
        self.others = [v for v in model.variables if not any(v is t for t in self.variables)]
        self.random: list[str] = []  # layers that drew random numbers
        self._dtype = np.result_type(*(np.dtype(v.dtype) for v in self.variables)).name
        self._ends = np.cumsum([int(np.prod(v.shape)) for v in self.variables])
        self.refresh()
        self._numbers = _backend.compiled(_numbers)
        self._move = _backend.compiled(_moved)
        self._products = _backend.compiled(_products)
        jit = not model.run_eagerly and model.jit_compile
        self._compiled = _backend.value_and_gradient(self._value, jit)
        self._value_only = _backend.value(self._value, jit)
        self._hessian = _backend.hessian_product(self._value, jit)
        data = tree.map_structure(_array, (x, y, sample_weight))
        self._samples = samples = len(tree.flatten(data)[0])
        size = min(batch_size or samples, samples)
        self._chunks = [
            (min(size, samples - i) / samples, _take(data, slice(i, i + size)))
            for i in range(0, samples, size)
        ]
        # Not compiled: for errors that can be read, and for a compiled loss that builds itself.
        value = self._value(self.start(), self._state, self._chunks[0][1])
        if tuple(ops.shape(value)) != ():
            raise ValueError(
                "The loss must be one number; return its mean over samples from `compute_loss`. "
                f"Received: a loss of shape {tuple(ops.shape(value))}"
            )
        dtypes = keras.backend.standardize_dtype(value.dtype), self._dtype
        self.epsilon = max(float(np.finfo(dtype).eps) for dtype in dtypes)
        if len(self._chunks) > 1:
            self._check_mean(data, size)

    def __call__(self, x, direction):
        """Returns loss, gradient, slope along `direction`, and the gradient's largest component."""
        value, gradient = self._sum(x, self._chunks)
        numbers = ops.convert_to_numpy(self._numbers(value, gradient, direction))
        loss, slope, norm = numbers.tolist()
        return loss, gradient, slope, norm

    def value(self, x, state=None) -> float:
        """Returns the loss alone, with other values of `others` if `state` holds them."""
        state = self._state if state is None else state
        return float(sum(share * self._value_only(x, state, c) for share, c in self._chunks))

    def product(self, x, vector):
        """Returns the Hessian of the loss at `x`, times `vector`."""
        parts = [share * self._hessian(x, vector, self._state, c) for share, c in self._chunks]
        return sum(parts[1:], parts[0])

    def refresh(self) -> None:
        """Takes up the present values of what the loss reads beside trainable weights."""
        self._state = [ops.copy(ops.convert_to_tensor(v)) for v in self.others]

    def move(self, x, direction, step: float):
        """Returns `x + step * direction`."""
        return self._move(x, direction, ops.convert_to_tensor(step, dtype=self._dtype))

    def slope_and_length(self, gradient, direction) -> tuple[float, float]:
        """Returns the slope along `direction`, and the direction's length."""
        slope, length = ops.convert_to_numpy(self._products(gradient, direction)).tolist()
        return slope, length

    def start(self):
        """Returns the weights of the model as one vector on the device."""
        arrays = [ops.convert_to_numpy(v).ravel() for v in self.variables]
        return ops.convert_to_tensor(np.concatenate(arrays), dtype=self._dtype)

    def write(self, x) -> None:
        """Sets the weights of the model."""
        parts = np.split(ops.convert_to_numpy(x), self._ends[:-1])
        for variable, part in zip(self.variables, parts, strict=True):
            variable.assign(part.reshape(variable.shape))

    def _sum(self, x, chunks):
        loss: Any = None
        gradient: Any = None
        for share, chunk in chunks:
            value, part = self._compiled(x, self._state, chunk)
            if share != 1:
                value, part = share * value, share * part
            loss = value if loss is None else loss + value
            gradient = part if gradient is None else gradient + part
        return loss, gradient

    def _value(self, x_flat, state, data):
        x, y, sample_weight = data
        starts = [0, *self._ends[:-1]]  # not `ops.split`, which on torch cannot make one part
        parts = [x_flat[int(i) : int(j)] for i, j in zip(starts, self._ends, strict=True)]
        values = [ops.reshape(p, v.shape) for p, v in zip(parts, self.variables, strict=True)]
        mapping = [
            *zip(self.variables, values, strict=True),
            *zip(self.others, state, strict=True),
        ]
        scoped = keras.StatelessScope(mapping, collect_losses=True)
        with full_precision(self.model), scoped as scope:
            before = [scope.get_current_value(v) for v in self.others]
            training: dict[str, Any] = {"training": self.training}
            y_pred = self.model(x, **_known(self.model.call, training))
            if self.loss is None:
                given = x, y, y_pred, sample_weight
                loss = self.model.compute_loss(*given, **_known(self.model.compute_loss, training))
            else:
                losses = [self.loss(y, y_pred, sample_weight), *map(ops.sum, self.model.losses)]
                loss = sum(losses[1:], losses[0])
            moved = [
                v
                for v, b in zip(self.others, before, strict=True)
                if scope.get_current_value(v) is not b
            ]
        self.random = seeded_layers(self.model, moved)
        return loss

    def _check_mean(self, data, size):
        """Compares some samples at once with two halves of them."""
        half = max(size // 2, 1)
        rows = np.linspace(0, self._samples - 1, 2 * half).astype(int)
        chunks = [_take(data, r) for r in (rows, rows[:half], rows[half:])]
        whole = float(self._sum(self.start(), [(1, chunks[0])])[0])
        halves = float(self._sum(self.start(), [(0.5, c) for c in chunks[1:]])[0])
        if abs(whole - halves) > 1e4 * self.epsilon * (abs(whole) + abs(halves)):
            raise ValueError(
                "`batch_size` needs a loss that is a mean over samples; over a batch this one is "
                f"{whole:.6g}, and the mean over the two halves of that batch {halves:.6g}. Sums "
                '(`reduction="sum"`), masks, `reduction="mean_with_sample_weight"` and batch '
                "statistics are of that kind. Leave `batch_size` out, or change the loss. "
                f"{_check.received('batch_size', size)}"
            )


def _numbers(loss, gradient, direction):
    slope, norm = ops.sum(gradient * direction), ops.max(ops.abs(gradient))
    return ops.stack([ops.cast(loss, gradient.dtype), slope, norm])


def _moved(x, direction, step):
    return x + step * direction


def _products(gradient, direction):
    return ops.stack([ops.sum(gradient * direction), ops.sqrt(ops.sum(direction * direction))])


def _as_loss(loss):
    """Returns a Keras loss that takes a mean over samples and knows weights and masks."""
    if loss is None or isinstance(loss, keras.losses.Loss):
        return loss
    function = keras.losses.get(loss)
    if isinstance(function, keras.losses.Loss):
        return function

    class Mean(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return function(y_true, y_pred)

    return Mean(name=getattr(function, "__name__", None))


def _array(leaf):
    if leaf is None:
        return None
    array = np.asarray(ops.convert_to_numpy(leaf))
    return array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array


def _take(data, rows):
    def taken(array):
        return None if array is None else ops.convert_to_tensor(array[rows])

    return tree.map_structure(taken, data)


def _known(function, arguments):
    """Returns those `arguments` that `function` takes."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in parameters}
