"""Synaptic intelligence."""

import numpy as np
from keras import ops

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.continual._penalty import Penalty, Update
from keras_optkit.optimizers._slots import read


@register
class SI(Penalty):
    """Holds each weight as firmly as its changes have lowered the loss while a task was learned.

    The importances come from training itself, in every step, so that `consolidate` needs no data.
    For `ContinualModel`, with gradients `g` of the loss and steps `d` of the weights,

    ```text
    W = W - g d                                      in each step
    O = O + W / ((w - w*)^2 + epsilon);  W = 0       at the end of a task; w* at its start
    loss + strength  sum O (w - w*)^2
    ```

    SI alone does not solve class-incremental learning; see `EWC`.

    Args:
        strength: Factor of the penalty, `c` in the paper, 0 or more.
        epsilon: Damping where a weight has hardly moved, in units of its square, `xi` in the
            paper; greater than 0.
        update: `"loss"`, or `"proximal"`, which is stable at any strength; see `EWC`. An
            importance may be slightly negative, and counts as 0 there.

    Example:
        >>> learner = keras_optkit.continual.ContinualModel(
        ...     model, [keras_optkit.continual.SI(1.0)]
        ... )

    Reference:
        [Zenke et al., 2017](https://arxiv.org/abs/1703.04200), equations 3 to 5. As in
        [van de Ven's code](https://github.com/GMvandeVen/continual-learning), `g` is the gradient
        of the whole loss, penalties included, and importances may be negative.
    """

    factor = 1.0
    slots = ("importance", "anchor", "path")
    needs_data = False
    follows_updates = True

    def __init__(self, strength: float, epsilon: float = 0.1, update: Update = "loss"):
        super().__init__(strength, update)
        self.epsilon = _check.in_range("epsilon", epsilon, low=0, closed="neither")

    def build(self, measure, variables, add_weight):
        state = super().build(measure, variables, add_weight)
        state.slots["steps"] = [  # of this task, and whether it is not the first
            add_weight(shape=(), dtype="int32", initializer="zeros", name=name)
            for name in ("steps", "later")
        ]
        return state

    def after_update(self, state, gradients, before, after):
        steps, later = state.read("steps", [0, 1])
        # The weights may have been set since the model was wrapped.
        first = ops.logical_and(steps == 0, later == 0)
        pairs = [(state.slots["steps"][0], steps + 1)]
        for i, (g, old, new) in enumerate(zip(gradients, before, after, strict=True)):
            if g is None:
                continue
            path, anchor = (read(state.slots[slot][i]) for slot in ("path", "anchor"))
            step = new - old
            # A skipped update has a gradient that is not finite.
            part = ops.where(step == 0, ops.zeros_like(step), g * step)
            pairs.append((state.slots["path"][i], path - part))
            pairs.append((state.slots["anchor"][i], ops.where(first, old, anchor)))
        return pairs

    def consolidate(self, state, measure, x, y):
        steps, later = state.slots["steps"]
        if not int(ops.convert_to_numpy(steps)):
            raise ValueError(
                "SI measures importances while a model is trained, and there was no step since "
                "the last `consolidate`: call `fit` of the ContinualModel first. For a model that "
                "is trained already, use EWC or MAS."
            )
        weights, old = state.arrays(), state.arrays("importance")
        new = [
            o + p / ((w - a) ** 2 + self.epsilon)
            for o, p, w, a in zip(
                old, state.arrays("path"), weights, state.arrays("anchor"), strict=True
            )
        ]
        return [
            *state.new("importance", new),
            *state.new("anchor", weights),
            *state.new("path", [np.zeros_like(w) for w in weights]),
            (steps, 0),
            (later, 1),
        ]
