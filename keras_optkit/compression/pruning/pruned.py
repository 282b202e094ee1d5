"""Sparsity as part of an optimizer."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras
from keras import ops

from keras_optkit import _backend, _check, _match
from keras_optkit._registry import register
from keras_optkit.compression.pruning._method import Candidates, Method
from keras_optkit.compression.pruning._methods import as_method
from keras_optkit.compression.pruning._schedule import SparsitySchedule, share
from keras_optkit.compression.pruning._selection import prunable, refuse_adapters
from keras_optkit.compression.pruning.constant_sparsity import ConstantSparsity
from keras_optkit.optimizers._evaluated import Evaluated
from keras_optkit.optimizers._slots import add_slot, layout_of, read, working_dtype
from keras_optkit.optimizers._wrapper import Wrapper, WrapperKwargs


@register
class Pruned(Wrapper):
    """Prunes weights while any optimizer trains them: sets more and more of them to 0 for good.

    Masks are part of the optimizer's state, chosen anew on a schedule and applied after every
    update, all inside the compiled step. So any model can be pruned as it is, nothing has to be
    stripped from it, and saving and resuming keep the masks. With `s = updates + 2` for the
    gradient that comes next, and a mask `m` of each weight `w`:

    ```text
    w = inner_optimizer(w, g)
    m = method(w, sparsity(s))    if the schedule has a turn at s
    w = m w
    ```

    At a turn, what the last update has made of pruned weights counts too, so a weight may come
    back. A turn at step 1 looks at the weights before the first update, and acts after it.

    Put it around other wrappers, which would move zeros afterwards; `Lookahead` refuses to be put
    around it. `SparsityLogger` shows what it does, and warns of a training too short for the
    schedule. Unstructured zeros make a compressed file smaller, not the model faster.

    Args:
        inner_optimizer: The optimizer that moves the weights, or its name.
        sparsity: A schedule from this package, or the share of zeros, in [0, 1), to have from the
            first step on, chosen anew every 100 steps.
        method: How weights are chosen: a `Method`, or the name of one without arguments, such as
            `"magnitude"`.
        include: Patterns for whole segments of the paths of weights to prune. By default kernels
            and embeddings: weights of two axes or more by those names, but no depthwise kernels,
            where the path tells.
        exclude: Patterns for weights to leave alone.
        **kwargs: Those of `Wrapper`.

    Raises:
        ValueError: If there is nothing to prune, a layer has LoRA, or the method cannot prune a
            weight, when the optimizer meets the weights.

    Example:
        >>> schedule = keras_optkit.compression.PolynomialSparsity(0.0, 0.8, 200, 1000)
        >>> optimizer = keras_optkit.compression.Pruned(keras.optimizers.Adam(1e-3), schedule)
        >>> model.compile(optimizer=optimizer, loss="mse")

    Reference:
        [Lee et al., 2023](https://arxiv.org/abs/2304.14082), for sparsity in the optimizer; the
        steps are those of TF-MOT's `prune_low_magnitude`, which acts at step 1 on the first
        gradient too.
    """

    has_last_word = True

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer | str,
        sparsity: SparsitySchedule | float = 0.5,
        method: Method | str = "magnitude",
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        **kwargs: Unpack[WrapperKwargs],
    ):
        super().__init__(inner_optimizer, **kwargs)
        if not isinstance(sparsity, SparsitySchedule):
            sparsity = ConstantSparsity(share("sparsity", sparsity), begin_step=1)
        self.sparsity = sparsity
        self.method = as_method(method)
        self.include = _check.patterns("include", include)
        self.exclude = _check.patterns("exclude", exclude)
        inside: Any = self.inner_optimizer
        while isinstance(inside, Wrapper):
            if isinstance(inside, (Pruned, Evaluated)):
                break
            inside = inside.inner_optimizer
        if isinstance(inside, Pruned):
            raise ValueError(
                "`inner_optimizer` must not prune itself, since two sets of masks would undo each "
                f"other. Use one Pruned. {_check.received('inner_optimizer', inside)}"
            )
        if isinstance(inside, Evaluated):
            raise ValueError(
                "`inner_optimizer` must not average weights, since the average would not be "
                f"pruned. {_check.received('inner_optimizer', inside)}"
            )

    def build(self, variables):
        if self.built:
            return
        variables = list(variables)
        if not self.include:
            refuse_adapters(variables, self.exclude)
        found = prunable(variables, self.include, self.exclude)
        members = [variables[i] for i in found]
        shapes = [tuple(v.shape) for v in members]
        self.method.check([_match.path(v) for v in members], shapes)
        super().build(variables)  # the inner optimizer too, which what is refused leaves alone
        self._members = found
        self._masks = [
            self.add_variable(
                shape=v.shape,
                initializer="ones",
                dtype="bool",
                layout=layout_of(v),
                name=f"{_match.path(v).replace('/', '_').replace(':', '_')}_mask",
            )
            for v in members
        ]
        scored = members if self.method.has_scores else []
        self._scores = [add_slot(self, v, "score") for v in scored]

    def _update(self, gradients, variables):
        known = {self._get_variable_index(v): g for v, g in zip(variables, gradients, strict=True)}
        seen = [
            known[i] if i in known else ops.zeros(v.shape, working_dtype(v))
            for i, v in zip(self._members, self._weights(), strict=True)
        ]
        if self._scores:
            scores = [
                self.method.score(read(w, s.dtype), _finite(g), read(s))
                for w, g, s in zip(self._weights(), seen, self._scores, strict=True)
            ]
            _backend.assign(self._scores, scores)
        if self.method.has_start or self.sparsity.due(1):
            begins = read(self._iterations) == (self.gradient_accumulation_steps or 1) - 1
            state = [*self._weights(), *self._masks, *self._scores]
            _backend.cond(begins, lambda: self._start(seen), state)
        if self.method.trains_sparse:
            for i, mask in zip(self._members, self._masks, strict=True):
                if i in known:
                    known[i] = ops.where(read(mask), known[i], ops.zeros_like(known[i]))
            gradients = [known[self._get_variable_index(v)] for v in variables]
        super()._update(gradients, variables)
        self._prune(seen)

    def _finalize(self, var_list):
        super()._finalize(var_list)
        if self.use_ema:  # `fit` ends with the inner optimizer's averages, of unmasked weights
            _backend.keep(self._weights(), [read(m) for m in self._masks])

    def _start(self, gradients):
        """Makes the masks before the first update."""
        if self.method.has_start:
            weights = [read(w, working_dtype(w)) for w in self._weights()]
            _backend.assign(self._masks, self.method.start(weights, self.sparsity(1)))
        else:
            _backend.assign(self._masks, self._choose(gradients, ops.convert_to_tensor(1)))

    def _prune(self, gradients):
        """Applies the masks, or new ones where they are due."""
        step = self.updates + 2
        due = _backend.number(ops.convert_to_tensor(self.sparsity.due(step)))

        def keep(due):
            masks = [read(m) for m in self._masks]
            if not self.method.trains_sparse and due is not False:
                masks = [ops.logical_or(m, due) for m in masks]  # what is pruned may come back
            _backend.keep(self._weights(), masks)

        def choose():
            masks = self._choose(gradients, step)
            _backend.assign(self._masks, masks)
            _backend.keep(self._weights(), masks)

        _backend.fused(keep, due)
        _backend.cond(due, choose, [*self._weights(), *self._masks, *self._scores])

    def _choose(self, gradients, step) -> list:
        return self.method.select(
            Candidates(
                weights=[read(w, working_dtype(w)) for w in self._weights()],
                gradients=[_finite(g) for g in gradients],
                scores=[read(s) for s in self._scores],
                masks=[read(m) for m in self._masks],
                sparsity=self.sparsity(step),
                progress=self.sparsity.progress(step),
                step=step,
            )
        )

    def _weights(self) -> list:
        """Returns what is pruned. Never an attribute: Keras would take weights for state."""
        return [self._trainable_variables[i] for i in self._members]


def _finite(gradient):
    """Returns a gradient without what an inner optimizer may skip, and no score recovers from."""
    return ops.where(ops.isfinite(gradient), gradient, ops.zeros_like(gradient))
