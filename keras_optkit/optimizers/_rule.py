"""What an update rule is: pure functions of tensors, and what they keep."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

from keras import ops


class Rule:
    """The part of an optimizer that its paper is about; `Optimizer` runs it."""

    slots: ClassVar[tuple[str, ...]] = ()
    means: ClassVar[tuple[str, ...]] = ("momentum", "difference")  # slots that bear rounding,
    squares: ClassVar[tuple[str, ...]] = ("velocity",)  # and those of them that are never negative
    scalars: ClassVar[dict[str, float]] = {}  # state of the optimizer as a whole, and its start
    fixed: ClassVar[tuple[str, ...]] = ()  # settings that `Scheduled` must not change
    elementwise: ClassVar[bool] = False  # does each entry of a weight move by itself?
    cautious: bool  # an argument of `Optimizer`

    def direction(self, gradient, weight, step, slots) -> tuple[Any, tuple]:
        """Returns `direction, new_slots`; the weight moves by `-learning_rate * direction`.

        `slots` holds the kept tensors in the order of `self.slots`; all arguments are plain
        tensors, and `step` is a float32 scalar that starts at 1. A rule with `factors` or
        `scalars` gets what they share as further arguments.
        """
        raise NotImplementedError

    def factors(self, step) -> tuple:
        """Returns scalars that depend on the step alone: the first of `shared`."""
        return ()

    def update(self, gradient, weight, step, slots, learning_rate, weight_decay, *shared):
        """Returns `new_weight, new_slots`.

        Override it, in place of `direction`, if decay or the learning rate belong inside the
        rule. `learning_rate` is a scalar tensor; so is `weight_decay`, or None for no decay;
        `shared` is what `factors` and `prepare` have made.
        """
        rule: Callable[..., tuple[Any, tuple]] = self.direction
        direction, slots = rule(gradient, weight, step, slots, *shared)
        direction = self.careful(direction, gradient)
        if weight_decay is not None:
            direction = direction + weight_decay * weight
        return weight - learning_rate * direction, slots

    def careful(self, direction, gradient):
        """Returns `direction`, or with `cautious` its part that agrees with the gradient."""
        if not self.cautious:
            return direction
        agrees = ops.cast(direction * gradient > 0, gradient.dtype)
        return direction * agrees * (math.prod(gradient.shape) / (ops.sum(agrees) + 1))

    def runs_by_entry(self) -> bool:
        """Tells whether entries move by themselves; a subclass has to say so of its own rule."""
        for cls in type(self).__mro__:
            if "elementwise" in vars(cls):
                return cls.elementwise and not self.cautious
            if vars(cls).keys() & {"direction", "update", "rule_for"}:
                return False
        return False

    def prepare(self, gradients, weights, step, slots, scalars, learning_rate) -> tuple:
        """Returns `shared, new_scalars`: what takes all weights at once, before they move.

        Called if there are `scalars`. `gradients`, `weights` and `slots` are lists over the
        weights that move; `scalars` holds the kept numbers in the order of `self.scalars`;
        `shared` is a tuple of tensors that `update` gets.
        """
        raise NotImplementedError

    def rule_for(self, variable) -> Callable[..., tuple[Any, tuple]]:
        """Returns the function, like `update`, that moves `variable`; called in `build`."""
        return self.update

    def slot_shapes(self, variable) -> dict[str, Any]:
        """Returns the shapes of the slots that `variable` has; called in `build`."""
        return dict.fromkeys(self.slots, variable.shape)
