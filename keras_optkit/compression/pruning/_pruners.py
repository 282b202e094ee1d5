"""The optimizers in a model that prune, and whether training is long enough for them."""

import math
import warnings
from typing import Any

import keras
from keras import ops

from keras_optkit.compression.pruning.pruned import Pruned
from keras_optkit.optimizers._inside import chain


def pruners(model: keras.Model) -> list[Pruned]:
    """Returns each `Pruned` in a model's optimizer."""
    optimizer = getattr(model, "optimizer", None)
    return [o for o in chain(optimizer) if isinstance(o, Pruned)]


def warn_of_late_end(model: keras.Model, params: dict[str, Any] | None, epoch: int) -> None:
    """Warns if a `fit` ends before the sparsity of a model's schedule is reached.

    Args:
        model: The model that is trained.
        params: Those of a callback; where Keras does not know the number of batches, no warning.
        epoch: The epoch that is about to begin, from 0.
    """
    batches, epochs = (params or {}).get("steps"), (params or {}).get("epochs")
    if not batches or not epochs:
        return
    for optimizer in pruners(model):
        message = _late_end(optimizer, batches, epochs - epoch)
        if message:
            warnings.warn(message, stacklevel=2)


def _late_end(optimizer: Pruned, batches: int, epochs: int) -> str | None:
    schedule, period = optimizer.sparsity, optimizer.gradient_accumulation_steps or 1
    done = int(ops.convert_to_numpy(optimizer._iterations))
    updates = (done + batches * epochs) // period
    # What a turn makes of the weights before gradient s, it makes after update s - 1.
    reached = schedule.last_turn(updates + 1)
    if reached is None and optimizer.method.has_start:
        reached = 1
    goal = schedule.last_turn() or schedule.first_turn
    there = 0.0 if reached is None else float(schedule(reached))
    wanted = float(schedule(goal))
    if there >= wanted:
        return None
    missing = math.ceil((goal - 1 - updates) * period / batches)
    counted = f"{epochs} epochs of {batches} batches"
    counted += f", {period} batches an update" if period > 1 else ""
    counted += f", after {done // period} updates before" if done // period else ""
    return (
        f"This fit ends after {updates} updates ({counted}), "
        + ("before anything is pruned" if reached is None else f"at a sparsity of {there:.3g}")
        + f": the schedule reaches {wanted:.3g} at step {goal}. Train {missing} epochs more, in "
        "this fit or a later one, or let the schedule end sooner, and leave some updates after it "
        f"to recover. Received: begin_step={schedule.begin_step}, end_step={schedule.end_step}, "
        f"frequency={schedule.frequency}"
    )
