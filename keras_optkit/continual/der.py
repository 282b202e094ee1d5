"""Dark experience replay."""

from typing import Any, Literal

import numpy as np
from keras import ops, tree

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.continual._logit_replay import LogitReplay
from keras_optkit.continual._logit_table import Experience, check_mean, written
from keras_optkit.continual._outputs import as_logits, check_logits, count_classes, infer
from keras_optkit.continual._penalty import Penalty

Fill = Literal["training", "consolidate"]
ROWS = 1024  # samples to run the model on at a time


@register
class DER(Penalty):
    """Has the model answer for replayed samples as it did when it was trained on them.

    For a `ContinualModel` with a buffer, which keeps with each sample the logits `z` that the
    model had for it. With new samples `(x, y)`, and samples `x', z'` drawn from the buffer,

    ```text
    mean of loss(y, h(x))  +  alpha  mean of sum over classes of (z' - h(x'))^2
    ```

    A batch holds the new samples, then as many from the buffer, and goes through the model at
    once, so they share the statistics of BatchNormalization. Weights of samples count in both
    parts. The loss must be a mean over the batch, as those of Keras are by default.

    The buffer is filled in one of two ways:

    ```text
    training     each sample that is trained on joins, in every epoch, with the logits of that
                 step. `consolidate` is only for other penalties, and streams need no tasks.
    consolidate  at the end of a task its samples join, with the logits that the model then has for
                 them in inference mode. Samples of the task at hand are not replayed, those of
                 the buffer take turns, and have no weights.
    ```

    The second replays the answers of trained models only, which is better where all tasks have the
    same classes, and worse where classes are new.

    Args:
        alpha: Factor of the squared distance, 0 or more. Where a library has the mean over the
            classes, as `mse_loss` in Mammoth, divide its `alpha` by their number.
        replay_batch_size: Replayed samples in a batch, at least 1; None for as many as new ones.
        fill: When samples join the buffer: `"training"`, as in the paper, or `"consolidate"`.

    Raises:
        ValueError: By the `ContinualModel`, if there is no buffer, or the outputs are not logits,
            one for each class; by its `fit`, if the buffer holds samples without logits.

    Example:
        >>> import numpy as np
        >>> classifier = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
        >>> der = keras_optkit.continual.DER(alpha=0.1)
        >>> buffer = keras_optkit.continual.ReplayBuffer(5)
        >>> learner = keras_optkit.continual.ContinualModel(classifier, der, buffer)
        >>> learner.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> history = learner.fit(x, np.arange(8) % 3)
        >>> old_x, old_y, extras = buffer.sample(2)
        >>> extras["logits"].shape
        (2, 3)

    Reference:
        [Buzzega et al., 2020](https://arxiv.org/abs/2004.07211), section 3 and algorithm 1.
        Avalanche's `DER` fills its buffer at the ends of tasks, as `fill="consolidate"` does.
    """

    slots = ("logits", "steps")
    needs_data = False
    of_outputs = True
    makes_batches = True

    def __init__(self, alpha: float, replay_batch_size: int | None = None, fill: Fill = "training"):
        self.alpha = _check.in_range("alpha", alpha, low=0)
        super().__init__(self.alpha)
        if replay_batch_size is not None:
            _check.integer("replay_batch_size", replay_batch_size, low=1)
        self.replay_batch_size = replay_batch_size
        self.fill = _check.one_of("fill", fill, ("training", "consolidate"))
        self.fills_buffer = fill == "training"
        self.beta: float | None = None

    @property
    def strength(self) -> float:
        """`alpha`, by the name that all penalties know."""
        return self.alpha

    @strength.setter
    def strength(self, value: float) -> None:
        self.alpha = value

    def build(self, measure, variables, add_weight):
        name, buffer = type(self).__name__, measure.buffer
        if buffer is None:
            raise ValueError(
                f"{name} replays samples from a buffer, so give one: "
                f"`ContinualModel(model, {name}(...), ReplayBuffer(200))`. Received: buffer=None"
            )
        count = count_classes(name, measure.model)
        check_logits(name, measure.model, True, "L")
        strength, logits, steps = (
            # All replicas come to the same values.
            add_weight(
                shape=shape,
                dtype=dtype,
                initializer="zeros",
                name=slot,
                aggregation="only_first_replica",
            )
            for slot, shape, dtype in (
                ("strength", (), "float32"),
                ("logits", (buffer.capacity + 1, count), "float32"),  # the last, for no place
                ("steps", (), "int32"),
            )
        )
        strength.assign(self.alpha)
        slots = {"logits": [logits], "steps": [steps]}
        return Experience([], strength, None, slots, measure.model, buffer, measure.compiled)

    def replay(self, state: Experience, x, y, batch_size: int, **options) -> LogitReplay:
        """Returns the batches to train on."""
        check_mean(getattr(state.compiled, "loss", None))
        logits = state.slots["logits"][0]
        data = LogitReplay(
            x,
            y,
            state.buffer,
            batch_size,
            self.replay_batch_size,
            logits.shape[1],
            self.beta,
            self.fills_buffer,
            **options,
        )
        held = np.zeros(logits.shape, "float32")
        if len(state.buffer):
            held[:-1] = state.buffer.extras["logits"]
        logits.assign(held)
        state.data, state.begun = data, state.steps
        return data

    def settle(self, state: Experience, training: bool) -> None:
        """Puts the outputs into the buffer, where they belong between steps."""
        data = state.data
        if data is None:
            return
        state.data = data if training else None
        if not self.fills_buffer or not len(state.buffer):
            return
        held = state.buffer.extras["logits"]
        held[...] = ops.convert_to_numpy(state.slots["logits"][0])[:-1]
        # Batches are fetched ahead. If training ends before them, it is as if they came now.
        late = data.untrained(state.steps - state.begun)
        if len(late):
            x, *_ = state.buffer._pair(late)
            held[late] = _logits(state, x)

    def extras(self, state: Experience, x: Any) -> dict[str, np.ndarray]:
        """Returns the logits for samples that join the buffer at the end of a task."""
        return {} if self.fills_buffer else {"logits": _logits(state, x)}

    def loss(self, state, step):
        kept = step.remembered
        if kept is None:  # as in `evaluate`
            return ops.zeros((), "float32")
        now = as_logits(step.outputs)
        logits, steps = state.slots["logits"][0], state.slots["steps"][0]
        before = ops.convert_to_tensor(logits)
        # Where Keras only looks at dtypes, under a strategy, places come as floats.
        read, write = (ops.cast(places, "int32") for places in (kept.read, kept.write))
        old = ops.cast(ops.take(before, read, axis=0), now.dtype)
        distance = ops.sum(ops.square(now - old), axis=-1)
        if step.training and self.fills_buffer:
            logits.assign(written(before, write, ops.stop_gradient(now)))
            steps.assign(ops.convert_to_tensor(steps) + 1)
        mean = ops.mean(distance * ops.cast(kept.share, distance.dtype))
        return ops.cast(ops.convert_to_tensor(state.strength), mean.dtype) * mean

    def consolidate(self, state, measure, x, y):
        return []


def _logits(state: Experience, x: Any) -> np.ndarray:
    """Returns what the model makes of samples, as in inference."""
    count = len(tree.flatten(x)[0])
    parts = [
        infer(state.model, tree.map_structure(lambda leaf, i=i: leaf[i : i + ROWS], x))
        for i in range(0, count, ROWS)
    ]
    return np.concatenate([ops.convert_to_numpy(as_logits(part)) for part in parts])
