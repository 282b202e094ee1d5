"""Averages of weights."""

from typing import Any, Literal, Unpack

import keras
from keras import ops

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.optimizers._evaluated import Evaluated
from keras_optkit.optimizers._slots import copy, read
from keras_optkit.optimizers._wrapper import Wrapper, WrapperKwargs


@register
class Averaged(Evaluated, Wrapper):
    """Averages the weights of any optimizer along its way, to evaluate and save the average.

    Training goes on as without it. The average lies where the steps have been scattering
    around, so it is often as good as a decayed learning rate would have made the weights. With
    weights `w` after update `t = 1, 2, ...`, taken into account from update `start` on, every
    `every` updates, and `n` counting those taken, from 1:

    ```text
    a = keep a + (1 - keep) w
    keep = min(decay, (1 + n) / (10 + n)) or decay         "ema", with debias or without; 0 at n = 1
    keep = (n - 1) / n                                     "swa" and "polyak": the mean of all
    ```

    During `fit` the model holds the training weights; when `fit` ends, the average. To have it
    in validation and checkpoints during `fit` too, and for later calls of `fit`, add
    `callbacks.SwapAveragedWeights()`, first in the list. Statistics of BatchNormalization are
    not averaged: `recalibrate_batchnorm` makes them anew. Nor does an average obey constraints of
    the weights; and one of bfloat16 weights is rounded to bfloat16 when it is in the model.

    Args:
        inner_optimizer: The optimizer that moves the weights, or its name.
        kind: `"ema"` forgets the past exponentially; `"swa"` (stochastic weight averaging) takes
            the mean of snapshots; `"polyak"` of all iterates. The latter two differ only in what
            `every` is usual: a whole epoch, and 1.
        decay: Share of the old average that `"ema"` keeps at each turn, in [0, 1).
        start: The update after which averaging begins, 0 or more; three quarters of the training
            is usual for `"swa"`. Until the first turn the model is evaluated as it is.
        every: Updates from one turn to the next, at least 1.
        debias: Whether the first turns of `"ema"` keep less, so that it forgets the start.
        **kwargs: Those of `Wrapper`.

    Example:
        >>> optimizer = keras_optkit.optimizers.Averaged(keras.optimizers.AdamW(1e-3))
        >>> model.compile(optimizer=optimizer, loss="mse")

    Reference:
        [Polyak and Juditsky, 1992](https://doi.org/10.1137/0330046);
        [Izmailov et al., 2018](https://arxiv.org/abs/1803.05407), algorithm 1, for `"swa"`. The
        debiasing is that of TensorFlow's `ExponentialMovingAverage(num_updates=n)`.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        kind: Literal["ema", "swa", "polyak"] = "ema",
        decay: float = 0.999,
        start: int = 0,
        every: int = 1,
        debias: bool = True,
        **kwargs: Unpack[WrapperKwargs],
    ):
        super().__init__(inner_optimizer, **kwargs)
        self.kind = _check.one_of("kind", kind, ("ema", "swa", "polyak"))
        self.decay = _check.in_range("decay", decay, 0, 1, closed="left")
        self.start = _check.integer("start", start, low=0)
        self.every = _check.integer("every", every, low=1)
        self.debias = _check.flag("debias", debias)
        inside: Any = self.inner_optimizer
        while isinstance(inside, Wrapper) and not isinstance(inside, Evaluated):
            inside = inside.inner_optimizer
        if isinstance(inside, Evaluated):
            raise ValueError(
                f"`inner_optimizer` must not average weights itself, as {type(inside).__name__} "
                f"does. Use it without Averaged. {_check.received('inner_optimizer', inside)}"
            )
        if getattr(inside, "use_ema", False):
            raise ValueError(
                "`use_ema` must be False for the optimizer inside Averaged, which would average "
                f"its weights twice. {_check.received('inner_optimizer', inside)}"
            )

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._averages = self._add_slots("average")

    def after(self, variables):
        done = self.updates + 1 - self.start
        pairs = self._pairs()
        averages = [average for _, average in pairs]

        def take_in():
            keep = self._keep(ops.cast(done // self.every, "float32"))
            _backend.assign(averages, [self._blend(keep, *pair) for pair in pairs])

        if self.every == 1 and self.start == 0:
            take_in()
            return
        due = ops.logical_and(done > 0, done % self.every == 0)
        _backend.cond(due, take_in, self._exchanged())

    def _keep(self, turn):
        """Returns how much of the average stays at this turn; at the first, nothing."""
        if self.kind != "ema":
            return (turn - 1) / turn
        keep = self.decay
        if self.debias:
            keep = ops.minimum(keep, (1 + turn) / (10 + turn))
        return ops.where(turn <= 1, 0.0, keep)

    def _blend(self, keep, weight, average):
        new = read(weight, average.dtype)
        return new + ops.cast(keep, average.dtype) * (read(average) - new)

    def _pairs(self) -> list[tuple]:
        return [
            (weight, average)
            for weight, average in zip(self._trainable_variables, self._averages, strict=True)
            if average is not None
        ]

    def _has_average(self):
        return int(ops.convert_to_numpy(self.updates)) >= self.start + self.every

    def _exchanged(self):
        return [v for pair in self._pairs() for v in pair]

    # The model holds the average, and the average's slot how far the weights are from it. So
    # weights put into the model by hand become the average, with the weights at that distance.
    def _to_evaluation(self):
        pairs = self._pairs()
        averages = [copy(a) for _, a in pairs]
        ways = [read(w, a.dtype) - average for (w, a), average in zip(pairs, averages, strict=True)]
        self._assign(pairs, averages, ways)

    def _to_training(self):
        pairs = self._pairs()
        averages = [copy(w) for w, _ in pairs]
        weights = [average + read(way) for average, (_, way) in zip(averages, pairs, strict=True)]
        self._assign(pairs, weights, averages)

    def _assign(self, pairs, weights, averages):
        _backend.assign([v for pair in zip(*pairs, strict=True) for v in pair], weights + averages)
