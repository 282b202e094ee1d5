"""Sharpness monitor."""

import math
import weakref
from typing import Any, Literal

import keras
import numpy as np

from keras_optkit import _check
from keras_optkit._drawing import axes_or_current
from keras_optkit._registry import register
from keras_optkit.callbacks._sharpness import Sharpness
from keras_optkit.callbacks._speaking import Speaking
from keras_optkit.callbacks._stability import stability_limit


@register
class SharpnessMonitor(Speaking):
    """Measures the largest eigenvalue of the Hessian while `fit` runs, against the step size.

    Gradient descent diverges where the loss curves too sharply for its learning rate. In
    practice it goes there and stays: sharpness rises until it hovers around the limit, the edge
    of stability, where the loss goes up and down and falls all the same. Well below the limit, a
    larger learning rate is to be had; well above, training is about to diverge, or batches are
    so small that noise decides. With Hessian `H` of the loss on `data`:

    ```text
    sharpness = max eigenvalue of H          limit = 2 / learning_rate
    with momentum beta, 2 (1 + beta) / learning_rate; nesterov: the same / (1 + 2 beta)
    ```

    The limit is known for `keras.optimizers.SGD`, as such or inside `Averaged`, `SkipNonFinite`
    and `LossScaleOptimizer`, without `weight_decay`, which lowers it by about as much. Adaptive
    optimizers go to the edge of `P^-1 H`, where `P` is their preconditioner; that is not
    measured, and there is no limit to compare with.

    A measurement takes a few Hessian-vector products, compiled once per `fit`, since it starts
    from the leading eigenvectors of the last one. Models under a mixed policy are computed in
    float32. Training is not changed. The History gets `sharpness`, the last of each epoch or
    NaN, and `sharpness_limit` where it is known. Another `fit` goes on where this one stops;
    another model begins anew.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, or a finite dataset of such batches,
            kept on the device during `fit`; some hundred samples of the training set will do.
            The config holds it only if it is arrays.
        every: Epochs or batches from one measurement to the next, 1 or more.
        unit: `"epoch"` to measure at the ends of epochs, `"batch"` before those batches of an
            epoch whose number, counted from 0, is a multiple of `every`.
        loss: A loss, its name, or a function of `y_true` and `y_pred`, in place of the compiled
            one; penalties of the model are added to it.
        batch_size: Samples to compute at a time, if all of them do not fit into memory.
        training: Run layers as in training, as `hessian_spectrum` does.
        max_iterations: Hessian-vector products at most for a measurement, 1 or more.
        tolerance: Residual at which the eigenvalue is found, as a share of it; greater than 0.
        seed: Seed of the first vector, 0 or more.
        verbose: 1 to print the verdict on each measurement, 0 to be silent.

    Attributes:
        steps: Updates done before each measurement.
        sharpness: What was measured; NaN where the loss or its derivatives were not finite.
        limits: The limit at that time, or None.

    Example:
        >>> monitor = keras_optkit.callbacks.SharpnessMonitor((x, y), every=1)
        >>> history = model.fit(x, y, epochs=2, callbacks=[monitor])
        >>> monitor.verdict
        'stable: ...'

    Reference:
        [Cohen et al., 2021](https://arxiv.org/abs/2103.00065), sections 2 and 3, and appendix B
        for momentum; [Cohen et al., 2022](https://arxiv.org/abs/2207.14484) for adaptive
        optimizers.
    """

    def __init__(
        self,
        data: Any,
        every: int = 1,
        unit: Literal["epoch", "batch"] = "epoch",
        loss: Any = None,
        batch_size: int | None = None,
        training: bool = False,
        max_iterations: int = 20,
        tolerance: float = 1e-2,
        seed: int = 0,
        verbose: int = 0,
    ):
        super().__init__()
        self.data = data
        self.every = _check.integer("every", every, low=1)
        self.unit = _check.one_of("unit", unit, ("epoch", "batch"))
        self.loss = loss
        self.batch_size = batch_size
        if batch_size is not None:
            _check.integer("batch_size", batch_size, low=1)
        self.training = _check.flag("training", training)
        self.max_iterations = _check.integer("max_iterations", max_iterations, low=1)
        self.tolerance = _check.in_range("tolerance", tolerance, low=0, closed="neither")
        self.seed = _check.integer("seed", seed, low=0)
        self.verbose = _check.one_of("verbose", verbose, (0, 1))
        self._meter: Sharpness | None = None
        self._restart()

    @property
    def verdict(self) -> str:
        """The last measurement in words, with advice."""
        if not self.steps:
            return "not measured yet"
        value, limit = self.sharpness[-1], self.limits[-1]
        found = f"sharpness {value:.3g} after {self.steps[-1]} updates"
        if not math.isfinite(value):
            return f"not finite: {found}; lower the learning rate, and look at the data"
        if limit is None:
            return f"no limit known for this optimizer: {found}"
        found += f" is {value / limit:.2g} of {limit:.3g}, the limit of this learning rate"
        if value > 1.2 * limit:
            return f"unstable: {found}; unless that falls, lower the learning rate"
        if value > 0.8 * limit:
            return (
                f"at the edge of stability: {found}; the loss goes up and down as it falls, and "
                "a lower learning rate calms it"
            )
        return f"stable: {found}; a larger learning rate may be faster"

    def state(self) -> dict[str, Any]:
        lists = {name: list(getattr(self, name)) for name in ("steps", "sharpness", "limits")}
        return lists | {"latest": self._latest}

    def load_state(self, state: dict[str, Any]) -> None:
        self.steps: list[int] = list(state["steps"])
        self.sharpness: list[float] = list(state["sharpness"])
        self.limits: list[float | None] = list(state["limits"])
        self._latest: float = state.get("latest", math.nan)  # of an epoch that is resumed
        self._of: weakref.ref | None = None

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if self._of is not None and self._of() is not self.model:
            self._restart()
        self._of, self._meter = weakref.ref(self.model), None

    def on_train_batch_begin(self, batch, logs=None):
        # Not at its end: a callback that looks there makes Keras wait for every batch.
        if self.unit == "batch" and self._is_due(batch, self.every):
            self._measure()

    def on_epoch_end(self, epoch, logs=None):
        if self.unit == "epoch" and (epoch + 1) % self.every == 0:
            self._measure()
        if logs is not None:  # the History, like later callbacks, gets to see it
            logs["sharpness"], self._latest = self._latest, math.nan
            limit = stability_limit(self.model)
            if limit is not None:
                logs["sharpness_limit"] = limit

    def on_train_end(self, logs=None):
        self._meter = None  # and with it the data on the device
        super().on_train_end(logs)

    def plot(self, axes: Any = None) -> Any:
        """Draws sharpness and limit over updates, and returns the matplotlib axes.

        Args:
            axes: Matplotlib axes to draw into; by default the current ones.
        """
        axes = axes_or_current(axes)
        axes.plot(self.steps, self.sharpness, marker=".", label="sharpness")
        limits = np.array(self.limits, dtype="float64")  # None is NaN
        if np.isfinite(limits).any():
            axes.plot(self.steps, limits, linestyle="--", label="limit")
        axes.set(xlabel="updates", ylabel="largest eigenvalue")
        axes.legend()
        return axes

    def _measure(self) -> None:
        model = self.model
        if self._meter is None:
            self._meter = Sharpness(self, model)
        self._latest = self._meter.measure()
        self.steps.append(int(keras.ops.convert_to_numpy(model.optimizer.iterations)))
        self.sharpness.append(self._latest)
        self.limits.append(stability_limit(model))
        if self.verbose:
            self.say(self.verdict)

    def _restart(self) -> None:
        self.load_state({"steps": [], "sharpness": [], "limits": []})
