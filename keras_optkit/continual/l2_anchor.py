"""Weights held near those of the last task, all alike."""

import numpy as np
from keras import ops

from keras_optkit._registry import register
from keras_optkit.continual._penalty import Penalty, Update


@register
class L2Anchor(Penalty):
    """Holds all weights near those at the last `consolidate`, each as firmly as the other.

    For fine-tuning a pretrained model (L2-SP), where plain weight decay would pull towards 0 what
    took long to learn: call `learner.consolidate(pretrained=True)` before `fit`. Between tasks it
    is the simplest of all penalties, to compare others with.

    ```text
    loss + strength / 2  sum (w - w*)^2
    ```

    Args:
        strength: Factor of the penalty, 0 or more.
        update: `"loss"`, or `"proximal"`, which is stable at any strength; see `EWC`.

    Example:
        >>> learner = keras_optkit.continual.ContinualModel(
        ...     model, [keras_optkit.continual.L2Anchor(0.1)]
        ... )
        >>> learner.compile("sgd", "mse")
        >>> learner.consolidate(pretrained=True)  # the weights it has now
        >>> history = learner.fit(x, y)

    Reference:
        [Li et al., 2018](https://arxiv.org/abs/1802.01483), equation 3, where the output layer is
        new and has a plain penalty of its own.
    """

    slots = ("anchor",)
    needs_data = False

    def __init__(self, strength: float, update: Update = "loss"):
        super().__init__(strength, update)

    def build(self, measure, variables, add_weight):
        state = super().build(measure, variables, add_weight)
        state.slots["active"] = [
            add_weight(shape=(), dtype="float32", initializer="zeros", name="active")
        ]
        return state

    def weighing(self, state, which):
        (active,) = state.read("active", [0])
        return [ops.cast(active, state.slots["anchor"][i].dtype) for i in which]

    def consolidate(self, state, measure, x, y):
        active = state.slots["active"]
        return [*state.new("anchor", state.arrays()), (active[0], np.float32(1))]
