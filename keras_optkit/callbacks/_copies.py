"""Copies of a model in training, on the device."""

import math

import keras
from keras import ops

from keras_optkit import _backend
from keras_optkit.optimizers._slots import read


def state_of(model: keras.Model) -> list[keras.Variable]:
    """Returns the weights of a model and the state of its optimizer.

    Seeds of random numbers are left out: dropout that comes back with the same numbers for other
    batches would be of no use.
    """
    found = [*model.weights, *model.optimizer.variables]
    return list({id(v): v for v in found}.values())


def loss_of(model: keras.Model) -> float:
    """Returns the mean loss of the epoch so far; 0 before its first batch."""
    losses = [m.result() for m in model.metrics if m.name == "loss"]
    return sum(float(ops.convert_to_numpy(loss)) for loss in losses)


def not_finite(model: keras.Model) -> list[str]:
    """Returns what is not finite, of `"loss"` and `"weights"`."""
    finite = _backend.compiled(_all_finite)([read(v) for v in state_of(model)])
    bad = {
        "loss": not math.isfinite(loss_of(model)),
        "weights": not bool(ops.convert_to_numpy(finite)),
    }
    return [name for name, is_bad in bad.items() if is_bad]


class Copy:
    """A copy of weights, optimizer state and metrics.

    Args:
        model: A model that is built and compiled, between two steps.
        epoch: The epoch that its metrics are of.
        loss: The mean loss so far; infinite if nothing is known yet.
    """

    def __init__(self, model: keras.Model, epoch: int, loss: float):
        self.epoch, self.loss = epoch, loss
        self._state = _copied(state_of(model))
        self._metrics = _copied(model.metrics_variables)

    def restore(self, model: keras.Model, epoch: int) -> None:
        """Puts the copy into the model."""
        _assign(self._state)
        self.restore_metrics(model, epoch)

    def restore_metrics(self, model: keras.Model, epoch: int) -> None:
        """Puts the metrics of the copy back, or, if they are of another epoch, begins anew."""
        model.reset_metrics()
        if epoch == self.epoch:
            _assign(self._metrics)


class Copies:
    """Up to two good copies: the newest, and the one before.

    The latter stays if the loss has more than doubled since its lowest: the weights may be finite
    still, and of no use.
    """

    def __init__(self):
        self._held: list[Copy] = []
        self._lowest = math.inf

    @property
    def taken(self) -> bool:
        """Whether there is a copy."""
        return bool(self._held)

    @property
    def newest(self) -> Copy:
        """The newest copy."""
        return self._held[-1]

    def add(self, model: keras.Model, epoch: int, loss: float) -> None:
        """Takes a copy, and lets another one go."""
        if len(self._held) == 2:  # first, for never to hold three
            older, newest = self._held
            limit = self._lowest + abs(self._lowest)
            self._held = [newest if newest.loss <= limit else older]
        self._held.append(Copy(model, epoch, loss))
        self._lowest = min(self._lowest, loss)

    def drop_newest(self) -> None:
        """Lets the newest copy go, unless it is the only one."""
        del self._held[1:]


def _copied(variables) -> list[tuple]:
    return [(v, ops.copy(read(v))) for v in variables]  # copies: JAX donates what a model holds


def _assign(pairs: list[tuple]) -> None:
    for variable, value in pairs:
        variable.assign(ops.copy(value))


def _all_finite(tensors):
    kinds = [keras.backend.standardize_dtype(t.dtype) for t in tensors]
    floats = [t for t, kind in zip(tensors, kinds, strict=True) if "float" in kind]
    return ops.all(ops.stack([ops.all(ops.isfinite(t)) for t in floats]))
