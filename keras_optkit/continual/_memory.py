"""What the penalties of a `ContinualModel` do in a training step."""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from keras_optkit import _backend
from keras_optkit.continual import _quadratic
from keras_optkit.continual._penalty import Measure, Penalty, State, Step
from keras_optkit.continual.replay_dataset import ReplayDataset
from keras_optkit.optimizers._inside import chain
from keras_optkit.optimizers._slots import read, working_dtype


class Memory:
    """Penalties and their states, out of the sight of Keras' tracking.

    Args:
        penalties: The penalties.
        variables: The weights that they hold.
        adder: Given a prefix, returns a function that adds a variable to the wrapper.
        measure: What penalties measure with.
    """

    def __init__(
        self, penalties: Sequence[Penalty], variables: list, adder: Callable, measure: Measure
    ):
        self.measure, self._variables = measure, variables
        self.held: list[tuple[Penalty, State]] = []
        for i, penalty in enumerate(penalties):
            add = adder(f"{type(penalty).__name__.lower()}_{i}")
            self.held.append((penalty, penalty.build(measure, variables, add)))

    def replay(self, x: Any, y: Any, batch_size: int, **options: Any) -> ReplayDataset:
        """Returns the batches to train on, for samples as they are."""
        for penalty, state in self._replaying():
            return penalty.replay(state, x, y, batch_size, **options)
        return ReplayDataset(x, y, self.measure.buffer, batch_size, **options)

    def begin(self) -> None:
        """Says that training begins, on what `replay` returned."""
        for _, state in self._replaying():
            state.data.begin()

    def settle(self, training: bool = False) -> None:
        """Puts what is kept of samples into the buffer, while training or after it."""
        for penalty, state in self._replaying():
            penalty.settle(state, training)

    def extras(self, x: Any) -> dict[str, Any]:
        """Returns what the buffer is to keep with samples that it is shown at the end of a task."""
        extras = {}
        for penalty, state in self._replaying():
            extras |= penalty.extras(state, x)
        return extras

    @property
    def makes_batches(self) -> bool:
        """Whether a penalty makes the batches to train on."""
        return any(penalty.makes_batches for penalty, _ in self.held)

    @property
    def fills_buffer(self) -> bool:
        """Whether samples join the buffer while training."""
        return any(penalty.fills_buffer for penalty, _ in self.held)

    def losses(self, step: Step | None = None) -> list:
        """Returns the penalties that are part of the loss: on weights, or on outputs in a step."""
        counting = [pair for pair in self.held if pair[0].update == "loss"]
        return [p.loss(s, step) for p, s in counting if p.of_outputs == (step is not None)]

    def _replaying(self) -> list[tuple[Any, Any]]:
        return [pair for pair in self.held if pair[0].makes_batches]

    def pull(self, rate) -> None:
        """Does the proximal steps of all penalties at once, for a learning rate of `rate`."""
        proximal = [pair for pair in self.held if pair[0].update == "proximal"]
        if not proximal or not (which := proximal[0][1].kept()):
            return
        pairs: list[list] = [[] for _ in which]
        for penalty, state in proximal:
            scale = 2 * penalty.factor * rate * ops.convert_to_tensor(read(state.strength))
            weighing, anchors = penalty.weighing(state, which), state.read("anchor", which)
            for pair, f, a in zip(pairs, weighing, anchors, strict=True):
                pair.append((ops.cast(scale, f.dtype) * ops.maximum(f, 0), a))
        moved = [self._variables[i] for i in which]
        values = []
        for variable, pair in zip(moved, pairs, strict=True):
            value = _quadratic.pulled(_value(variable, read(variable)), pair)
            if variable.constraint is not None:
                value = variable.constraint(value)
            values.append(ops.cast(value, variable.dtype))
        _backend.assign(moved, values)

    def follow(self, optimizer, trained: list, gradients: list, before: list, scale) -> None:
        """Shows an update to the penalties that want to see each.

        Args:
            optimizer: What has moved the weights.
            trained: The weights it may move.
            gradients: Of this replica, times `scale`, or None.
            before: Values before the update.
            scale: Of the loss.
        """
        following = [pair for pair in self.held if pair[0].follows_updates]
        if not following:
            return
        _refuse_accumulation(optimizer)
        at = {id(v): (g, b) for v, g, b in zip(trained, gradients, before, strict=True)}
        seen = [(v, *at.get(id(v), (None, None))) for v in self._variables]
        scaled = [_value(v, _backend.dense(g)) / scale for v, g, _ in seen if g is not None]
        sums = iter(_backend.sum_over_replicas(scaled))
        whole = [None if g is None else next(sums) for _, g, _ in seen]
        old = [None if g is None else _value(v, b) for v, g, b in seen]
        new = [None if g is None else _value(v, read(v)) for v, g, _ in seen]
        pairs: list[tuple] = []
        for penalty, state in following:
            pairs += penalty.after_update(state, whole, old, new)
        _backend.assign(*map(list, zip(*pairs, strict=True)))


def _value(variable, value) -> Any:
    """Returns `value` in the precision to compute with."""
    return ops.cast(ops.convert_to_tensor(value), working_dtype(variable))


def _refuse_accumulation(optimizer) -> None:
    for part in chain(optimizer):
        if getattr(part, "gradient_accumulation_steps", None):
            raise ValueError(
                "SI needs the gradient of every update, and knows only that of each batch; use "
                "larger batches instead of accumulating gradients. Received: "
                f"gradient_accumulation_steps={part.gradient_accumulation_steps} in {part.name!r}"
            )
