"""The learning rates of a model's optimizers, update by update."""

from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from keras_optkit.optimizers._inside import leaves


class Rates:
    """Reads rates between two steps, and fetches only the scalars they depend on.

    Args:
        model: A compiled model.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.optimizers = leaves(model.optimizer)
        # The one, of the optimizers around a rule and the rule itself, that accumulates.
        self._counter = next(
            (o for o in _around(model.optimizer) if o.gradient_accumulation_steps),
            self.optimizers[0],
        )
        self._period = self._counter.gradient_accumulation_steps or 1

    def position(self) -> tuple[int, int]:
        """Returns the number of updates so far, and how many batches went into the next one."""
        leaf = self.optimizers[0]
        own = leaf.gradient_accumulation_steps or 1
        updates = int(self._current(leaf._iterations)) // own
        return updates, int(self._current(self._counter._iterations)) % self._period

    def batches_until(self, update: int, position: tuple[int, int]) -> int:
        """Returns how many batches from `position` on `update` takes to be done."""
        updates, taken = position
        return (update - updates + 1) * self._period - taken

    def at(self, update: int) -> dict[str, float]:
        """Returns the rates of an update, the first of which is 0, by the names of a History."""
        rates = {}
        for optimizer in self.optimizers:
            single = len(self.optimizers) == 1
            name = "learning_rate" if single else f"learning_rate_{optimizer.name}"
            rates[name] = rate = self._rate(optimizer, update)
            for group in getattr(optimizer, "groups", ()):
                key = _unused(f"{name}/{_title(group)}", rates)
                rates[key] = 0.0 if group.frozen else rate * group.lr_multiplier
        return rates

    def _rate(self, optimizer: keras.optimizers.Optimizer, update: int) -> float:
        # Keras asks its schedules at the last of the batches that make an update.
        period = optimizer.gradient_accumulation_steps or 1
        iterations = optimizer._iterations
        count = ops.cast(update * period + period - 1, iterations.dtype)
        known = [(iterations, count)]
        if isinstance(optimizer._learning_rate, keras.Variable):
            value = self._current(optimizer._learning_rate)
            known.append((optimizer._learning_rate, ops.convert_to_tensor(value)))
        with keras.StatelessScope(state_mapping=known):
            rate = optimizer.learning_rate
            return float(ops.convert_to_numpy(ops.convert_to_tensor(rate)))

    def _current(self, variable) -> np.ndarray:
        """Returns the value of an optimizer's variable.

        On JAX the state of the last step is at hand as arrays; asking the model for it would put
        all of them back into the variables.
        """
        model = self.model
        value = variable
        if not getattr(model, "_jax_state_synced", True) and model._jax_state:
            arrays = model._jax_state["optimizer_variables"]
            pairs = zip(model.optimizer.variables, arrays, strict=True)
            value = next(array for v, array in pairs if v is variable)
        return np.array(ops.convert_to_numpy(value))  # a copy: JAX donates what it is a view of


def _around(optimizer) -> Iterator:
    """Yields the optimizers on the way to the first rule."""
    yield optimizer
    inner = getattr(optimizer, "inner_optimizer", None) or next(
        iter(getattr(optimizer, "optimizers", ())), None
    )
    if inner is not None:
        yield from _around(inner)


def _title(group) -> str:
    """Returns a name for a group of weights."""
    if callable(group.pattern):
        return getattr(group.pattern, "__name__", "group")
    first, *rest = group.pattern
    return f"{first}+{len(rest)}" if rest else first


def _unused(name: str, used) -> str:
    count, free = 1, name
    while free in used:
        count += 1
        free = f"{name}#{count}"
    return free
