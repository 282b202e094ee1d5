"""Training over a range of learning rates, and everything as it was afterwards."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit.diagnostics._learning_rate_range import smooth
from keras_optkit.optimizers._inside import chain, leaves
from keras_optkit.optimizers._slots import read


class Sweep(keras.callbacks.Callback):
    """Lets `fit` run through the learning rates once, and keeps the loss of each update.

    The rate is a function of the optimizer's own count of updates, so it is part of the compiled
    step. Batches that make no update, since gradients accumulate or a loss scale skips them,
    share its place, and the loss there is their mean.

    Args:
        model: A built and compiled model, whose optimizer is built.
        rates: The learning rates, each a constant multiple of the one before.
        smoothing: Decay of the running mean of losses.
        diverge: How often the lowest running mean makes it too large.
        told: Called after each batch.
    """

    def __init__(
        self,
        model: keras.Model,
        rates: np.ndarray,
        smoothing: float,
        diverge: float,
        told: Callable[[], Any],
    ):
        super().__init__()
        self.rates, self.smoothing, self.diverge, self._told = rates, smoothing, diverge, told
        self._trained = model
        self._leaves = [leaf for leaf in leaves(model.optimizer) if leaf.built]
        self._first = self._leaves[0]
        self._start = [self._updates_of(leaf) for leaf in self._leaves]
        base = [float(ops.convert_to_numpy(read(leaf.learning_rate))) for leaf in self._leaves]
        if len(base) > 1 and not base[0] > 0:
            raise ValueError(
                "The learning rates of several optimizers keep their ratio to the first, which "
                f"must be greater than 0. Received: learning rates {base}"
            )
        self._ratios = [rate / base[0] for rate in base] if len(base) > 1 else [1.0]
        self.begin()

    @property
    def batches(self) -> int:
        """How many batches may be needed."""
        inside = [o.gradient_accumulation_steps or 1 for o in chain(self._trained.optimizer)]
        # A float16 loss scale begins at 2^15 or more, and halves with each batch it skips.
        return len(self.rates) * max(inside) + 100

    def begin(self) -> None:
        """Forgets the losses, to run through the rates once more."""
        self._losses: list[list[float]] = []
        self._done = 0

    @property
    def losses(self) -> list[float]:
        """The loss before each update."""
        return [float(np.mean(batch)) for batch in self._losses]

    @property
    def diverged(self) -> bool:
        """Whether the loss is not finite, or its running mean too large."""
        losses = self.losses
        if losses and not math.isfinite(losses[-1]):
            return True
        curve = smooth(np.array(losses), self.smoothing)
        if len(curve) < 2:
            return False
        best = curve[:-1].min()
        # For losses above 0 this is `diverge * best`, and below it still is above `best`.
        return bool(curve[-1] > best + (self.diverge - 1) * abs(best))

    @contextlib.contextmanager
    def followed(self) -> Iterator[None]:
        """Lets the optimizers take their learning rate from here."""
        before = [leaf._learning_rate for leaf in self._leaves]
        try:
            for leaf, start, ratio in zip(self._leaves, self._start, self._ratios, strict=True):
                # Past the setter, which would take the present variable out of the optimizer.
                vars(leaf)["_learning_rate"] = self._rate(leaf, start, ratio)
            yield
        finally:
            for leaf, rate in zip(self._leaves, before, strict=True):
                vars(leaf)["_learning_rate"] = rate

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss")
        if loss is None:
            raise ValueError(
                "find_learning_rate follows the `loss` that the training step reports, and there "
                f"is none. Return it from `train_step`. Received: logs with {list(logs or {})}"
            )
        if self._done == len(self._losses):
            self._losses.append([])
        self._losses[-1].append(float(loss))
        self._done = self._updates_done()
        self._told()
        # Not `self.model`, which on JAX would put all of the state back into the variables.
        self._trained.stop_training = self._done >= len(self.rates) or self.diverged

    def _rate(self, leaf, start: int, ratio: float):
        low, count = float(self.rates[0]), len(self.rates)
        log_step = math.log(self.rates[-1] / low) / (count - 1)
        period = leaf.gradient_accumulation_steps or 1

        def rate():
            step = ops.clip(read(leaf._iterations) // period - start, 0, count - 1)
            return ratio * low * ops.exp(log_step * ops.cast(step, "float32"))

        return rate

    def _updates_of(self, leaf) -> int:
        return self._count(leaf) // (leaf.gradient_accumulation_steps or 1)

    def _updates_done(self) -> int:
        return self._updates_of(self._first) - self._start[0]

    def _count(self, leaf) -> int:
        """Returns the optimizer's count of calls, without a look at all of the state on JAX."""
        model, value = self._trained, leaf._iterations
        if not getattr(model, "_jax_state_synced", True) and model._jax_state:
            pairs = zip(
                model.optimizer.variables, model._jax_state["optimizer_variables"], strict=True
            )
            value = next(array for variable, array in pairs if variable is leaf._iterations)
        return int(ops.convert_to_numpy(value))
