"""Whether more of a metric is better."""

from typing import Literal

from keras_optkit import _check

# fmt: off
LESS = {
    "crossentropy", "divergence", "error", "hinge", "logcosh", "loss", "mae", "mape", "mse",
    "msle", "perplexity", "poisson", "rmse",
}
MORE = {
    "acc", "accuracy", "auc", "correlation", "f1", "iou", "precision", "r2", "recall", "score",
    "similarity",
}
# fmt: on


def direction(monitor: str, mode: Literal["auto", "min", "max"]) -> Literal["min", "max"]:
    """Returns what to do with the metric called `monitor`; by its name if `mode` is `"auto"`.

    Raises:
        ValueError: If the name does not tell.
    """
    if mode != "auto":
        return mode
    words = set(monitor.lower().split("_"))
    if bool(words & LESS) == bool(words & MORE):
        raise ValueError(
            '`mode` must be "min" or "max" for a metric whose name does not tell whether less is '
            f"better. {_check.received('monitor', monitor)}"
        )
    return "min" if words & LESS else "max"
