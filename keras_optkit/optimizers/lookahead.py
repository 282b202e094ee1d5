"""Lookahead."""

from typing import Literal, Unpack

import keras
from keras import ops

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.optimizers._evaluated import Evaluated
from keras_optkit.optimizers._inside import chain
from keras_optkit.optimizers._slots import add_slot, copy, read
from keras_optkit.optimizers._wrapper import Wrapper, WrapperKwargs


@register
class Lookahead(Wrapper):
    """Lets an optimizer run ahead, then goes part of the way: k steps forward, 1 step back.

    The averaging damps oscillation, so the inner optimizer bears a larger learning rate and
    the result depends less on it. With fast weights `w`, which the inner optimizer moves, slow
    weights `s`, and `t` counting updates from 0:

    ```text
    if t mod sync_period == 0:        s = w          (before the update)
    w = inner_optimizer(w, g)
    if (t + 1) mod sync_period == 0:  s = s + slow_step (w - s);  w = s
    ```

    Right after a synchronization the model holds the slow weights, which are the ones to
    evaluate; between two it holds the fast ones. Weights set by hand are kept: the slow ones
    are taken anew at the start of a cycle.

    Args:
        inner_optimizer: The optimizer that moves the fast weights, or its name.
        sync_period: Updates between synchronizations, `k` in the paper, 1 or more.
        slow_step: Share of the way that the slow weights go, `alpha` in the paper, in (0, 1].
        inner_momentum: What a synchronization does to the inner optimizer's momentum: `"keep"`
            it, `"reset"` it to 0, or `"pullback"`, interpolate it like the weights.
        **kwargs: Those of `Wrapper`.

    Raises:
        ValueError: If `inner_optimizer` prunes: slow weights would fill its zeros again.

    Example:
        >>> optimizer = keras_optkit.optimizers.Lookahead(keras.optimizers.AdamW(1e-3))
        >>> model.compile(optimizer=optimizer, loss="mse")

    Reference:
        [Zhang et al., 2019](https://arxiv.org/abs/1907.08610), algorithm 1; appendix D.2 for
        the momentum.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        sync_period: int = 6,
        slow_step: float = 0.5,
        inner_momentum: Literal["keep", "reset", "pullback"] = "keep",
        **kwargs: Unpack[WrapperKwargs],
    ):
        super().__init__(inner_optimizer, **kwargs)
        last = [o for o in chain(self.inner_optimizer) if getattr(o, "has_last_word", False)]
        if last:
            name = type(last[0]).__name__
            raise ValueError(
                f"Lookahead cannot go around {name}, since the slow weights would undo what {name} "
                f"makes of the fast ones. Wrap the other way round: {name}(Lookahead(...)). "
                f"{_check.received('inner_optimizer', self.inner_optimizer)}"
            )
        self.sync_period = _check.integer("sync_period", sync_period, low=1)
        self.slow_step = _check.in_range("slow_step", slow_step, 0, 1, closed="right")
        self.inner_momentum = _check.one_of(
            "inner_momentum", inner_momentum, ("keep", "reset", "pullback")
        )

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._slow = [add_slot(self, v, "slow") for v in self._fast()]

    def before(self, gradients, variables):
        for inside in chain(self.inner_optimizer):
            if isinstance(inside, Evaluated):
                inside.go_back()  # or slow weights would start at those to evaluate

        def start():
            _backend.assign(self._slow, [copy(fast) for fast in self._fast()])

        _backend.cond(self.updates % self.sync_period == 0, start, [*self._slow, *self._fast()])
        return gradients

    def after(self, variables):
        fast = self._fast()
        reset = self._momenta() if self.inner_momentum == "reset" else []

        def synchronize():
            new = [
                read(s) + self.slow_step * (read(f, s.dtype) - read(s))
                for s, f in zip(self._slow, fast, strict=True)
            ]
            new = [  # what lies between two weights of norm 1 is shorter
                value if f.constraint is None else f.constraint(value)
                for value, f in zip(new, fast, strict=True)
            ]
            _backend.assign(fast + reset, new + [ops.zeros_like(read(m)) for m in reset])

        due = (self.updates + 1) % self.sync_period == 0
        _backend.cond(due, synchronize, fast + reset + self._slow)

    def _fast(self):
        """Returns what is pulled back. Never an attribute: Keras would take weights for state."""
        weights = [v for v in self._trainable_variables if not v.overwrite_with_gradient]
        return weights + (self._momenta() if self.inner_momentum == "pullback" else [])

    def _momenta(self):
        found = [v for v in self.inner_optimizer.variables if v.name.endswith("momentum")]
        if not found:
            raise ValueError(
                '`inner_momentum` must be "keep" for an optimizer without momentum, or with one '
                "that `state_dtype` keeps in codes. Received: "
                f"inner_momentum={self.inner_momentum!r}, inner_optimizer={self.inner_optimizer}"
            )
        return found
