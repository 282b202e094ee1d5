"""Sparsity as data."""

from typing import Any, Literal

import keras
from keras import ops

from keras_optkit import _check, _match
from keras_optkit._registry import register
from keras_optkit.callbacks._base import Callback
from keras_optkit.compression.pruning._pruners import pruners, warn_of_late_end
from keras_optkit.compression.pruning._selection import prunable
from keras_optkit.optimizers._slots import read


@register
class SparsityLogger(Callback):
    """Puts the share of zeros into the History, and warns if `fit` is too short to prune.

    Each epoch has the share of zeros at its end in all that is pruned as `sparsity`, and that of
    single layers or weights after a slash: `sparsity/encoder/dense`, without the model's name.
    Counted are the weights themselves: those a `Pruned` prunes, or in a model without one those
    it would prune by default, to see whether zeros survive. They are counted on the device, at
    the ends of epochs only; the steps go on as without it.

    The warning says that training ends before the schedule has reached its sparsity; it needs to
    know the number of batches, as Keras mostly does.

    Args:
        per: `"layer"` or `"weight"` for a number of each, `"model"` for the one of all.

    Example:
        >>> logger = keras_optkit.compression.SparsityLogger()
        >>> history = model.fit(x, y, callbacks=[logger])
        >>> history.history["sparsity"], history.history["sparsity/head"]
        ([0.0], [0.0])
    """

    def __init__(self, per: Literal["layer", "weight", "model"] = "layer"):
        super().__init__()
        self.per = _check.one_of("per", per, ("layer", "weight", "model"))
        self._begun = False

    def on_train_begin(self, logs=None):
        self._begun = False

    # Not when training begins, since only here the first epoch is known.
    def on_epoch_begin(self, epoch, logs=None):
        if not self._begun:
            self._begun = True
            warn_of_late_end(self.model, self.params, epoch)
            if self.model.built:
                _watched(self.model)  # which fails now rather than after an epoch

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs.update(self._measure())

    def _measure(self) -> dict[str, float]:
        weights = _watched(self.model)
        counts = ops.stack([ops.sum(ops.cast(read(w) == 0, "int32")) for w in weights])
        totals: dict[str, Any] = {}
        for weight, zeros in zip(weights, ops.convert_to_numpy(counts).tolist(), strict=True):
            path = _match.path(weight).removeprefix(f"{self.model.name}/")
            name = path if self.per == "weight" else path.rpartition("/")[0] or path
            names = ["sparsity"] if self.per == "model" else ["sparsity", f"sparsity/{name}"]
            for key in names:
                before, size = totals.get(key, (0, 0))
                totals[key] = before + zeros, size + int(ops.size(weight))
        return {key: zeros / size for key, (zeros, size) in totals.items()}


def _watched(model: keras.Model) -> list[keras.Variable]:
    """Returns what is pruned, or could be."""
    found = [w for optimizer in pruners(model) if optimizer.built for w in optimizer._weights()]
    if found:
        return found
    variables = list(model.trainable_variables)
    return [variables[i] for i in prunable(variables, (), ())]
