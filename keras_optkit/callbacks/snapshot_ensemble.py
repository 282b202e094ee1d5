"""Several models of one training."""

import os
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_optkit import _check, _processes
from keras_optkit._registry import register
from keras_optkit.callbacks import _members
from keras_optkit.callbacks._base import Callback
from keras_optkit.schedules import CosineRestarts


@register
class SnapshotEnsemble(Callback):
    """Keeps the weights at the end of each cycle of the learning rate, and averages what they say.

    A restart of the learning rate drives the model out of one minimum and into another, so the
    ends of cycles are members of an ensemble for the price of one training. With `M` members of
    `T` epochs each, a learning rate that ends each cycle near 0, and the outputs `f`:

    ```text
    member i = weights after epoch i T,  i = 1, 2, ...         output = mean_i activation(f_i(x))
    ```

    The learning rate belongs to the optimizer, in the compiled step: take that of the paper from
    `schedule`, or any other that restarts every `epochs_per_cycle`. Cycles end by the number of
    the epoch, so give a resumed `fit` its `initial_epoch`. A member is `model.get_weights()`,
    statistics of BatchNormalization included, in memory as NumPy arrays; behind a
    `SwapAveragedWeights`, it holds averaged weights. The model itself ends with its last weights.
    Another `fit` adds members; another model begins anew.

    Args:
        epochs_per_cycle: Epochs of each cycle, at least 1.
        keep: How many of the last members to keep, at least 1; None for all. The paper finds
            that early members may do harm.
        activation: What to apply to outputs before they are averaged: a function or its Keras
            name, such as `"softmax"` for a model that returns logits; None for nothing.
        directory: Where to write members as `member-EPOCH.npz`, each at once or not at all; None
            for nowhere. Members let go of are left there.

    Attributes:
        members: Weights of each member, lists of arrays for `model.set_weights`.
        epochs: How many epochs each member had trained.

    Example:
        >>> snapshots = keras_optkit.callbacks.SnapshotEnsemble(epochs_per_cycle=2)
        >>> rate = snapshots.schedule(0.1, steps_per_epoch=4)
        >>> model.compile(keras.optimizers.SGD(rate), loss="mse")
        >>> history = model.fit(x, y, epochs=6, callbacks=[snapshots])
        >>> mean = snapshots.predict(x, verbose=0)
        >>> ensemble = snapshots.ensemble()  # one model, to save and export

    Reference:
        [Huang et al., 2017](https://arxiv.org/abs/1704.00109), section 3 and equation 2.
    """

    def __init__(
        self,
        epochs_per_cycle: int,
        keep: int | None = None,
        activation: str | Callable[[Any], Any] | None = None,
        directory: str | os.PathLike | None = None,
    ):
        super().__init__()
        self.epochs_per_cycle = _check.integer("epochs_per_cycle", epochs_per_cycle, low=1)
        self.keep = None if keep is None else _check.integer("keep", keep, low=1)
        self.activation = activation
        self._activation = keras.activations.get(activation)
        if directory is not None:
            _check.instance("directory", directory, (str, os.PathLike), "a path")
            directory = os.fspath(directory)
        self.directory = directory
        self.members: list[list[np.ndarray]] = []
        self.epochs: list[int] = []
        self._of: weakref.ref | None = None

    def schedule(self, peak: float, steps_per_epoch: int, minimum: float = 0.0) -> CosineRestarts:
        """Returns the learning rate of the paper, to compile the model with.

        Args:
            peak: Where each cycle begins, at least 0; the paper takes 0.1 or 0.2, for SGD.
            steps_per_epoch: Updates in an epoch, at least 1.
            minimum: Where each cycle ends, at least 0.
        """
        steps = _check.integer("steps_per_epoch", steps_per_epoch, low=1)
        return CosineRestarts(peak, self.epochs_per_cycle * steps, minimum=minimum)

    def state(self) -> dict[str, Any]:
        """Returns the members as arrays, or, with a `directory`, where they are, for JSON."""
        if self.directory is not None:
            return {"epochs": list(self.epochs)}
        return {"epochs": list(self.epochs), "members": [list(m) for m in self.members]}

    def load_state(self, state: dict[str, Any]) -> None:
        self.epochs = list(state["epochs"])
        if "members" in state:
            self.members = [[np.asarray(w) for w in member] for member in state["members"]]
        else:
            directory = self.directory or "."
            self.members = [_members.read(directory, epoch) for epoch in self.epochs]
        self._of = None

    def on_train_begin(self, logs=None):
        if self._of is not None and self._of() is not self.model:
            self.members, self.epochs = [], []
        self._of, self._seen = weakref.ref(self.model), 0

    def on_epoch_end(self, epoch, logs=None):
        self._seen += 1
        if (epoch + 1) % self.epochs_per_cycle:
            return
        member = [np.array(weight) for weight in self.model.get_weights()]
        if not all(np.isfinite(w).all() for w in member if w.dtype.kind == "f"):
            warnings.warn(
                f"SnapshotEnsemble takes no member after epoch {epoch + 1}, where the weights are "
                "not finite.",
                stacklevel=2,
            )
            return
        if self.directory is not None and _processes.leads(self._model):
            _members.write(self.directory, epoch + 1, member)
        self.members = [*self.members, member][-(self.keep or 0) :]
        self.epochs = [*self.epochs, epoch + 1][-(self.keep or 0) :]

    def on_train_end(self, logs=None):
        if not self.members:
            warnings.warn(
                f"SnapshotEnsemble has no member, since no cycle of {self.epochs_per_cycle} "
                f"epochs has ended in {self._seen}. Give `fit` more epochs, or shorten the cycle.",
                stacklevel=2,
            )

    def predict(self, x, **kwargs) -> Any:
        """Returns the mean prediction of the members; arguments are those of `model.predict`."""
        model, outputs = self._model_with_members(), []
        with _members.restored(model):
            for member in self.members:
                model.set_weights(member)
                predicted = model.predict(x, **kwargs)
                outputs.append(keras.tree.map_structure(self._activated, predicted))
        return keras.tree.map_structure(lambda *tensors: np.mean(tensors, axis=0), *outputs)

    def evaluate(self, x=None, y=None, **kwargs) -> Any:
        """Returns loss and metrics of the ensemble; arguments are those of `model.evaluate`.

        By the loss and the metrics that the model is compiled with.

        Raises:
            ValueError: With an `activation`, after which they may not fit the outputs.
        """
        if self.activation is not None:
            raise ValueError(
                "`evaluate` uses the model's loss and metrics, which are for outputs without "
                "`activation`. Compile `ensemble()` with those for outputs with it, and evaluate "
                f"that. {_check.received('activation', self.activation)}"
            )
        ensemble = self.ensemble()
        config = keras.saving.deserialize_keras_object(self.model.get_compile_config())
        ensemble.compile(**config | {"optimizer": "sgd"})
        return ensemble.evaluate(x, y, **kwargs)

    def ensemble(self) -> keras.Model:
        """Returns a model of all members, whose outputs are their means: to save and export.

        Raises:
            ValueError: If the model is neither functional nor sequential; `predict` takes all.
        """
        return _members.ensemble(self._model_with_members(), self.members, self.activation)

    def _activated(self, output):
        output = np.asarray(output, "float32")
        return keras.ops.convert_to_numpy(self._activation(keras.ops.convert_to_tensor(output)))

    def _model_with_members(self) -> keras.Model:
        if self._model is None or not self.members:
            raise ValueError(
                "SnapshotEnsemble has no members yet, or no model to put them into. Train with it, "
                "or after `load_state` call `set_model(model)`. "
                f"Received: {len(self.members)} members, model={self._model}"
            )
        return self.model
