"""Learning without forgetting."""

from collections.abc import Iterable
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.continual._labels import labels_of
from keras_optkit.continual._outputs import (
    as_logits,
    check_logits,
    count_classes,
    infer,
    weighted_mean,
)
from keras_optkit.continual._penalty import Penalty, State
from keras_optkit.continual.masked_logits import lowest


@register
class LwF(Penalty):
    """Has the model answer for old classes as it did before this task, on the inputs of this task.

    Needs no old data. For `ContinualModel`, which at the end of each task keeps a copy of the
    weights, and runs the model with them too on each batch, in inference mode and without
    gradients: one more forward pass in each step. With outputs `s` of the model, `t` of the model
    as it was, and a temperature `T`,

    ```text
    loss + strength  sum over heads of  mean over x of  -sum over c of q_c log p_c
    p = softmax(s / T)    q = softmax(t / T)    over the classes c of the head that were seen before
    ```

    Where all classes compete there is one head. For task-incremental learning, give `groups`, as
    for `MaskedCrossentropy`. `p` and `q` of probabilities follow from their logarithms, which are
    logits but for a constant. Weights of samples count; replayed samples count like new ones.

    Whether the old outputs mean anything on new inputs decides how well it works. It is for
    task-incremental learning; alone it does not solve class-incremental learning, as nothing
    balances the old classes against the new.

    Args:
        strength: Factor of the distillation loss, 0 or more; 1 in the paper.
        temperature: `T`, above 0; above 1 the small probabilities count for more.
        groups: The classes of each task, such as `[task.classes for task in tasks]`, if each has
            a head of its own; None for one head of all classes.
        classes: `"seen"` for those in the targets given to `consolidate`, or `"all"`, which needs
            no targets.
        from_logits: Whether the model puts out logits, or probabilities.

    Raises:
        ValueError: By the `ContinualModel`, if the outputs are not one for each class, or the last
            activation tells that `from_logits` is wrong; by its `consolidate`, if `y` is missing.

    Example:
        >>> lwf = keras_optkit.continual.LwF(1.0, temperature=2.0)
        >>> classifier = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
        >>> learner = keras_optkit.continual.ContinualModel(classifier, [lwf])

    Reference:
        [Li & Hoiem, 2016](https://arxiv.org/abs/1606.09282), equations 2 to 4. The paper trains the
        new head alone at first, which this leaves to you. As there, no factor `T^2` makes up for
        the temperature; where a library has it, as Hinton et al. do, its weight times `T^2` is
        `strength`. Avalanche minimizes the same, up to a constant: its `alpha` is `strength`. So
        does [van de Ven's code](https://github.com/GMvandeVen/continual-learning) with several
        heads; with one, it weighs by the number of tasks before if all have the same classes, and
        else lets new classes compete in `p`.
    """

    slots = ("old", "seen", "active")
    needs_data = False
    of_outputs = True

    def __init__(
        self,
        strength: float = 1.0,
        temperature: float = 2.0,
        groups: Iterable[Iterable[int]] | None = None,
        classes: Literal["seen", "all"] = "seen",
        from_logits: bool = True,
    ):
        super().__init__(strength)
        self.temperature = _check.in_range("temperature", temperature, low=0, closed="neither")
        self.groups: list[list[int]] | None = None
        if groups is not None:
            self.groups = [[_check.integer("groups", c, low=0) for c in group] for group in groups]
            if not self.groups or not all(self.groups):
                raise ValueError(
                    "`groups` must hold the classes of one task at least, and none without. "
                    f"{_check.received('groups', self.groups)}"
                )
        self.classes = _check.one_of("classes", classes, ("seen", "all"))
        self.from_logits = _check.flag("from_logits", from_logits)

    def build(self, measure, variables, add_weight):
        model = measure.model
        count = count_classes("LwF", model)
        check_logits("LwF", model, self.from_logits, "Pass from_logits=False, or better l")
        if any(label >= count for group in self.groups or () for label in group):
            raise ValueError(
                f"`groups` must hold numbers of outputs, of which the model has {count}. "
                f"{_check.received('groups', self.groups)}"
            )
        kept = list(model.weights)
        old = [
            add_weight(shape=v.shape, dtype=v.dtype, initializer="zeros", name=f"old_{i}")
            for i, v in enumerate(kept)
        ]
        strength, active, seen = (
            add_weight(shape=shape, dtype="float32", initializer="zeros", name=name)
            for name, shape in (("strength", ()), ("active", ()), ("seen", (count,)))
        )
        strength.assign(self.strength)
        slots = {"old": old, "seen": [seen], "active": [active]}
        state = State(kept, strength, None, slots, model)
        for variable, value in _copies(state):
            variable.assign(value)  # the first task, too, has outputs to add 0 times
        return state

    def loss(self, state, step):
        strength, active = (
            ops.convert_to_tensor(v) for v in (state.strength, state.slots["active"][0])
        )
        now = as_logits(step.outputs, self.from_logits) / self.temperature
        old = as_logits(self._old(state, step.x), self.from_logits) / self.temperature
        seen = ops.convert_to_tensor(state.slots["seen"][0]) > 0
        heads = [np.arange(seen.shape[0])] if self.groups is None else self.groups
        # A class without a rival has a probability of 1, whatever its output.
        parts = [self._distillation(now, old, seen, head) for head in heads if len(head) > 1]
        total = sum(parts, ops.zeros_like(now[:, 0]))
        mean = weighted_mean(total, step.sample_weight)
        return ops.cast(strength * active, mean.dtype) * mean

    def consolidate(self, state, measure, x, y):
        (seen,) = state.arrays("seen")
        if self.classes == "all":
            seen[:] = 1
        else:
            seen[_seen(y, len(seen))] = 1
        active = state.slots["active"][0]
        return [*_copies(state), (state.slots["seen"][0], seen), (active, np.float32(1))]

    def _old(self, state, x):
        """Returns the outputs of the model with the weights of the last `consolidate`."""
        mapping = [
            (v, ops.convert_to_tensor(old))
            for v, old in zip(state.variables, state.slots["old"], strict=True)
        ]
        # What layers assign in here is dropped, and so are the losses that they add.
        with _backend.no_gradient(), keras.StatelessScope(mapping):
            return ops.stop_gradient(infer(state.model, x))

    def _distillation(self, now, old, seen, head):
        """Returns the cross-entropy for each sample, 0 if no class of the head was seen."""
        head = ops.convert_to_tensor(np.asarray(head, "int32"))
        seen = ops.take(seen, head)
        low = ops.cast(lowest(now), now.dtype)
        now, old = (ops.where(seen, ops.take(part, head, axis=-1), low) for part in (now, old))
        entropy = -ops.sum(ops.softmax(old) * ops.log_softmax(now), axis=-1)
        return entropy * ops.cast(ops.any(seen), entropy.dtype)


def _copies(state: State) -> list[tuple]:
    """Returns pairs of the copies and what to assign: the weights as they are."""
    return [
        (old, np.array(ops.convert_to_numpy(v)))
        for old, v in zip(state.slots["old"], state.variables, strict=True)
    ]


def _seen(y: Any, count: int) -> np.ndarray:
    """Returns the labels in `y`, as numbers of outputs."""
    if y is None:
        raise ValueError(
            "LwF distils over the classes that were seen, and reads them off the targets: call "
            '`learner.consolidate(x, y)`, or use LwF(classes="all"). Received: y=None'
        )
    labels = np.unique(labels_of(y, "LwF"))
    whole = labels.astype("int64")
    if not np.array_equal(labels, whole) or not ((labels >= 0) & (labels < count)).all():
        raise ValueError(
            f"LwF needs labels that are numbers of outputs, from 0 to {count - 1}, or one-hot "
            f'rows; LwF(classes="all") needs none. Received: y with {labels[:8]}'
        )
    return whole
