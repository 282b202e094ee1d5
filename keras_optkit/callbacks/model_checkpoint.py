"""Keep the best models of a training on disk."""

import math
import os
import warnings
from pathlib import Path
from typing import Any, Literal

from keras_optkit import _check, _processes
from keras_optkit._atomic import nowhere, replacing
from keras_optkit._registry import register
from keras_optkit.callbacks._metric import refuse
from keras_optkit.callbacks._monitored import Monitored

SUFFIXES = {"model": ".keras", "weights": ".weights.h5"}


@register
class ModelCheckpoint(Monitored):
    """Saves the model at the ends of its best epochs, and remembers them after a restart.

    Unlike Keras' callback of this name: a worse epoch after a restart does not overwrite the best
    file, since the best value is in `state`; a metric that is not finite is never the best; a
    file is written aside, brought to the disk, and renamed, so that a crash or a full disk leaves
    the one before it; and the best `keep` files are kept, of which worse ones are deleted.

    An epoch is among the best if fewer than `keep` are kept, or if it is better than the worst of
    these, by more than `min_delta`. What is saved is what the model holds when validation is
    over. With an averaging optimizer put `SwapAveragedWeights` first: then validation sees, and
    the file holds, the averages; without it, both have the training weights, and the averages
    are in the optimizer's state.

    Of several processes that train one model, the first writes the files.

    A `fit` from epoch 0 begins anew, and leaves earlier files alone unless the names are the
    same; one with an `initial_epoch`, or after `load_state`, goes on. If writing fails, a warning
    says so and training goes on; but an error of the first file is raised.

    Args:
        filepath: Path of the files, with fields for the epoch, from 1, and for metrics, such as
            `"best/{epoch:03d}-{val_loss:.3f}.keras"`. It ends with `.keras`, or with
            `.weights.h5` for weights alone. Missing directories are made.
        monitor: Name of the metric, as in the History.
        mode: `"min"` where less is better, `"max"` where more is; `"auto"` knows by the name.
        save: `"model"` saves the optimizer too, `"weights"` only weights.
        keep: Number of files to keep, at least 1; None keeps one of every epoch that has the
            metric, finite or not. More than 1 need a field in `filepath`.
        min_delta: What an improvement must exceed, at least 0, in units of the metric or, if
            `relative`, as a share of the value to beat.
        relative: Whether `min_delta` is a share.
        verbose: 1 to print a line for each file, 0 to be silent.

    Attributes:
        best: Best value of the metric so far, or None.
        best_epoch: Its epoch, from 0.
        best_path: Its file, or None.
        kept: The files that are kept, best first: value, epoch and path of each.

    Example:
        >>> checkpoint = keras_optkit.callbacks.ModelCheckpoint("best-{epoch}.keras", keep=3)
        >>> history = model.fit(x, y, validation_data=(x, y), callbacks=[checkpoint])
        >>> model = keras.saving.load_model(checkpoint.best_path)
    """

    def __init__(
        self,
        filepath: str | os.PathLike,
        monitor: str = "val_loss",
        *,
        mode: Literal["auto", "min", "max"] = "auto",
        save: Literal["model", "weights"] = "model",
        keep: int | None = 1,
        min_delta: float = 0.0,
        relative: bool = False,
        verbose: int = 0,
        **unknown: Any,
    ):
        refuse("ModelCheckpoint", unknown, PORTED)
        super().__init__()
        self._watch(monitor, mode, min_delta, relative, verbose)
        path = _check.instance("filepath", filepath, (str, os.PathLike), "a path")
        self.filepath = os.fspath(path)
        self.save = _check.one_of("save", save, tuple(SUFFIXES))
        self.keep = None if keep is None else _check.integer("keep", keep, low=1)
        if not self.filepath.endswith(SUFFIXES[self.save]):
            raise ValueError(
                f'`filepath` must end with "{SUFFIXES[self.save]}" for save="{self.save}". '
                f"{_check.received('filepath', self.filepath)}"
            )
        if self.keep != 1 and "{" not in self.filepath:
            raise ValueError(
                "`filepath` must hold a field, such as {epoch}, so that files have different "
                f"names; or write keep=1. {_check.received('filepath', self.filepath)}, keep={keep}"
            )
        self._restart()

    @property
    def best(self) -> float | None:
        return self._first()[0]

    @property
    def best_epoch(self) -> int | None:
        return self._first()[1]

    @property
    def best_path(self) -> str | None:
        return self._first()[2]

    def state(self) -> dict[str, Any]:
        return {"kept": [list(entry) for entry in self.kept]}

    def load_state(self, state: dict[str, Any]) -> None:
        self.kept: list[tuple[float, int, str]] = [tuple(entry) for entry in state["kept"]]
        self._of = None

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._wrote = False

    def on_epoch_end(self, epoch, logs=None):
        value = self._look(epoch, logs, self.monitor)
        if value is None:
            return
        path = self._path(epoch, logs)
        rivals = [entry for entry in self.kept if entry[2] == path]
        if not rivals and self.keep is not None and len(self.kept) >= self.keep:
            rivals = self.kept[-1:]
        if self.keep is None or self._improves(value, rivals[0][0] if rivals else None):
            self._keep(value, epoch, path)

    def _keep(self, value: float, epoch: int, path: str) -> None:
        leads, failure = _processes.leads(self._model), None
        try:
            with (replacing if leads else nowhere)(Path(path), SUFFIXES[self.save]) as aside:
                # All processes do, since reading some variables takes all of them.
                if self.save == "model":
                    self.model.save(aside)
                else:
                    self.model.save_weights(aside)
        except OSError as error:
            failure = error
        if not _processes.all_of(self._model, failure is None):
            failure = failure or OSError("Another process could not write.")
            if not self._wrote:
                raise failure
            warnings.warn(
                f"ModelCheckpoint could not write {path!r} after epoch {epoch + 1}; the files "
                f"before it are as they were. {failure}",
                stacklevel=2,
            )
            return
        self._wrote = True
        entries = [entry for entry in self.kept if entry[2] != path] + [(value, epoch, path)]
        entries.sort(key=lambda entry: self._rank(entry[0]))
        self.kept, dropped = entries[: self.keep], entries[self.keep :] if self.keep else []
        for _, _, old in dropped if leads else ():
            Path(old).unlink(missing_ok=True)
        if self.verbose:
            self.say(f"Epoch {epoch + 1}: {self.monitor} {value:.6g} saved to {path}")

    def _first(self) -> tuple[float, int, str] | tuple[None, None, None]:
        entry = next(iter(self.kept), None)
        return entry if entry and math.isfinite(entry[0]) else (None, None, None)

    def _rank(self, value: float) -> tuple[bool, float]:
        """Returns what to sort by, best first; what is not finite is last, as it came."""
        finite = math.isfinite(value)
        return (not finite, -self._sign * value if finite else 0.0)

    def _path(self, epoch: int, logs) -> str:
        fields = {name: value for name, value in logs.items() if name != "epoch"}
        try:
            return self.filepath.format(epoch=epoch + 1, **fields)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                "`filepath` must have fields for `epoch` and for metrics only, as in "
                '"{epoch:02d}-{val_loss:.3f}.keras". The metrics are '
                f"{', '.join(map(repr, fields))}. {_check.received('filepath', self.filepath)}"
            ) from error

    def _restart(self) -> None:
        self.load_state({"kept": []})
        self._wrote = False


PORTED = {
    "save_best_only": "Write keep=1 for True, keep=None for False.",
    "save_weights_only": 'Write save="weights" for True, save="model" for False.',
    "save_freq": "It saves at the ends of epochs, when the metric is known.",
    "initial_value_threshold": "Load the state of an earlier callback by `load_state`.",
}
