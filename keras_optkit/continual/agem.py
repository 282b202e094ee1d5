"""Averaged gradient episodic memory."""

import functools
from collections.abc import Sequence

import keras
from keras import ops, tree

from keras_optkit import _backend, _check
from keras_optkit._registry import register
from keras_optkit.continual._penalty import Penalty
from keras_optkit.continual.continual_model import ContinualModel
from keras_optkit.continual.replay_buffer import ReplayBuffer
from keras_optkit.continual.replay_dataset import ReplayDataset
from keras_optkit.optimizers._slots import read, working_dtype


@register
class AGEM(ContinualModel):
    """A `ContinualModel` that learns new samples only where old ones do not suffer.

    Samples from the buffer are not trained on, as replay does, but compared with. With `g` the
    gradient of a batch of new samples, and `r` that of samples drawn from the buffer for each step,

    ```text
    g = g - (g . r / r . r) r    if g . r < 0
    ```

    is what the optimizer gets: where a step along `g` would raise the loss of the old samples, the
    part that does so is taken out. The products are over all weights together. While the buffer is
    empty, as for the first task, `g` stays as it is.

    It is a model around yours and no penalty, since it says how the buffer is used. Batches
    have one shape, so nothing compiles anew between tasks; each step takes two forward and two
    backward passes. Loss, metrics and BatchNorm statistics are of the new samples only. Both
    gradients are of the whole loss, regularizers and penalties included.

    Several replicas share one projection, that of the whole batch, of which each gets the same
    share of both kinds. With gradient accumulation, the gradient of each batch is projected.
    In a stream (`add_while_training`) the first batch has but itself to compare with.

    Args:
        model: The `keras.Model` to train, built, and without a training step of its own.
        buffer: The `ReplayBuffer`; `consolidate` shows it the samples of a task.
        batch_size: Samples to draw from the buffer for each step, at least 1. A `ReplayDataset`
            given to `fit` has as many as its `replay_batch_size`.
        penalties: Those of `ContinualModel`, but for `DER` and `DERpp`.
        name: Name of the wrapper.

    Example:
        >>> buffer = keras_optkit.continual.ReplayBuffer(100)
        >>> learner = keras_optkit.continual.AGEM(model, buffer, batch_size=32)
        >>> learner.compile("sgd", "mse")
        >>> for task_x, task_y in [(x, y), (x, -y)]:
        ...     history = learner.fit(task_x, task_y)
        ...     learner.consolidate(task_x, task_y)
        >>> plain = learner.strip()

    Reference:
        [Chaudhry et al., 2019](https://arxiv.org/abs/1812.00420), equation 11. Their memory holds
        as many samples of each task, which `policy="class_balanced"` comes near; the outputs of
        other tasks are masked there, see `MaskedCrossentropy`.
    """

    def __init__(
        self,
        model: keras.Model,
        buffer: ReplayBuffer,
        batch_size: int = 64,
        penalties: Sequence[Penalty] | Penalty = (),
        name: str | None = None,
    ):
        _check.instance("buffer", buffer, ReplayBuffer, "a ReplayBuffer")
        super().__init__(model, penalties, buffer, name)
        if self._memory.makes_batches:
            raise ValueError(
                "AGEM does not train on what the buffer holds, and DER and DERpp do. Use a "
                f"ContinualModel with them. {_check.received('penalties', self.penalties)}"
            )
        self.batch_size = _check.integer("batch_size", batch_size, low=1)
        self._compares = self._adder("agem")(
            "compares", shape=(), dtype="float32", initializer="zeros"
        )

    def fit(self, x=None, y=None, batch_size=None, epochs=1, **kwargs):
        if isinstance(x, ReplayDataset):
            self._expect(x)
        return super().fit(x, y, batch_size, epochs, **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        if self._shares() > 1:
            raise ValueError(
                "Keras gives each replica the whole batch in `train_on_batch`, and AGEM needs a "
                f"share of it; call `fit` instead. Received: {self._shares()} replicas"
            )
        rows = len(tree.flatten(x)[0])
        data = self._mixed(x, y, rows, sample_weight=sample_weight, shuffle=False)
        batch = keras.utils.unpack_x_y_sample_weight(data[0])
        return super().train_on_batch(*batch, class_weight, return_dict)

    def split_batch(self, batch):
        rows = self.batch_size // _backend.replica_count()

        def part(which):
            return tree.map_structure(lambda leaf: None if leaf is None else leaf[which], batch)

        return part(slice(None, -rows)), part(slice(-rows, None))

    def change_gradients(self, gradients, weights, gradients_at, reference=None):
        others = gradients_at(weights, reference)
        compared = [
            i
            for i, variable in enumerate(self.trainable_variables)
            if gradients[i] is not None
            and others[i] is not None
            and not variable.overwrite_with_gradient  # whose "gradient" is a new value
        ]
        if not compared:
            return gradients
        here, there = (
            [
                ops.cast(_backend.dense(part[i]), working_dtype(self.trainable_variables[i]))
                for i in compared
            ]
            for part in (gradients, others)
        )
        whole = _backend.sum_over_replicas(here + there)
        g, r = whole[: len(here)], whole[len(here) :]
        share = ops.where(read(self._compares) > 0, _share(_dot(g, r), _dot(r, r)), 0.0)
        changed = list(gradients)
        for i, g, r in zip(compared, here, there, strict=True):
            changed[i] = ops.cast(g - ops.cast(share, r.dtype) * r, gradients[i].dtype)
        return changed

    def _mixed(self, x, y, batch_size, **settings):
        settings["replay_batch_size"] = self.batch_size
        data = super()._mixed(x, y, batch_size, **settings)
        self._expect(data)
        return data

    def _shares(self) -> int:
        strategy = getattr(self, "distribute_strategy", None)
        return 1 if strategy is None else strategy.num_replicas_in_sync

    def _expect(self, data: ReplayDataset) -> None:
        """Prepares batches to be split, and takes note of whether they hold old samples."""
        data.shares = self._shares()
        if data.replay_batch_size != self.batch_size:
            raise ValueError(
                f"AGEM compares with {self.batch_size} samples in each step, its `batch_size`, so "
                f"the ReplayDataset must have as many. "
                f"{_check.received('replay_batch_size', data.replay_batch_size)}"
            )
        for name, size in (("batch_size", data.batch_size), ("AGEM.batch_size", self.batch_size)):
            if size % data.shares:
                raise ValueError(
                    f"`{name}` must be a multiple of {data.shares}, the number of replicas, so "
                    f"that each gets the same share. {_check.received(name, size)}"
                )
        self._compares.assign(float(len(data.buffer) > 0 or data.add_while_training))


def _dot(first: list, second: list):
    """Returns the product over all weights together, in float32 at least."""
    parts = [ops.sum(a * b) for a, b in zip(first, second, strict=True)]
    return functools.reduce(ops.add, parts)


def _share(product, square):
    """Returns how many times `r` is to be taken off `g`."""
    # Not `product < 0`: what is not finite must show in the gradients, for loss scaling to skip.
    stays = ops.logical_and(ops.isfinite(square), product >= 0)
    stays = ops.logical_or(stays, square == 0)
    return ops.where(stays, 0.0, product / ops.where(square == 0, 1.0, square))
