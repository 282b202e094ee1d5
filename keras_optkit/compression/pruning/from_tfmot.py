"""Sparsity schedules of TF-MOT."""

from typing import Any

from keras_optkit import _check
from keras_optkit.compression.pruning._schedule import SparsitySchedule
from keras_optkit.compression.pruning.constant_sparsity import ConstantSparsity
from keras_optkit.compression.pruning.polynomial_sparsity import PolynomialSparsity

OURS = {"ConstantSparsity": ConstantSparsity, "PolynomialDecay": PolynomialSparsity}


def from_tfmot(schedule: Any) -> SparsitySchedule:
    """Returns the sparsity schedule of this package that equals one of TF-MOT.

    Args:
        schedule: A `tfmot.sparsity.keras.ConstantSparsity` or `PolynomialDecay`, or what its
            `get_config` returns.

    Raises:
        TypeError: If it is anything else.
    """
    config: Any = schedule
    if hasattr(schedule, "get_config") and not isinstance(schedule, type):
        config = schedule.get_config()
    cls = OURS.get(str(config.get("class_name"))) if isinstance(config, dict) else None
    if cls is None or "config" not in config:
        raise TypeError(
            "`schedule` must be a sparsity schedule of keras_optkit.compression, or one of TF-MOT: "
            f"{' or '.join(OURS)}. {_check.received('schedule', schedule)}"
        )
    return cls(**config["config"])
