"""What `DER` keeps of outputs, a row for each place in a buffer, and one more for none."""

import dataclasses
from typing import Any

import keras
from keras import ops, tree

from keras_optkit import _backend, _check
from keras_optkit.continual._logit_replay import LogitReplay
from keras_optkit.continual._penalty import State

MEANS = ("sum_over_batch_size", "mean")


@dataclasses.dataclass
class Experience(State):
    """What `DER` keeps: outputs by place in the buffer, and steps done."""

    buffer: Any = None
    compiled: Any = None  # the model with the loss
    data: LogitReplay | None = None  # while training
    begun: int = 0  # steps done before

    @property
    def steps(self) -> int:
        return int(ops.convert_to_numpy(self.slots["steps"][0]))


def written(table, places, values):
    """Returns `table` with `values` in their places, those for the last place left out."""
    values = ops.cast(values, table.dtype)
    ones = ops.cast(places < table.shape[0] - 1, table.dtype)[:, None]
    values = ops.where(ones > 0, values, ops.zeros_like(values))
    index = ops.expand_dims(places, -1)
    sums, counts = _backend.sum_over_replicas(
        [
            ops.scatter(index, values, tuple(table.shape)),
            ops.scatter(index, ones, (table.shape[0], 1)),
        ]
    )
    return ops.where(counts > 0, sums, table)


def check_mean(losses: Any) -> None:
    """Refuses losses whose parts cannot be weighed by weights of samples."""
    for loss in tree.flatten(losses):
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        if isinstance(loss, keras.losses.Loss) and reduction not in MEANS:
            raise ValueError(
                "DER weighs new and old samples in one batch, for which the loss must be a mean "
                'over the batch: reduction="sum_over_batch_size". '
                f"{_check.received('reduction', reduction)} of {loss.name!r}"
            )
