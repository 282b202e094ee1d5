"""Callbacks that print."""

from keras_optkit import _processes
from keras_optkit.callbacks._base import Callback


class Speaking(Callback):
    """Prints whole lines, each once, above or below the progress bar of `fit`.

    At the end of an epoch the cursor stands behind the bar, which Keras is about to draw anew. A
    line waits until that is done: for the next epoch, or for the end of the training.
    """

    _lines: tuple[str, ...] = ()

    def say(self, line: str) -> None:
        """Prints `line`, now or as soon as it has a line of its own."""
        self._lines = (*self._lines, line)
        if not (self.params or {}).get("verbose"):
            self._print()

    def on_train_begin(self, logs=None):
        self._lines = ()  # of a training that an exception ended

    def on_epoch_begin(self, epoch, logs=None):
        self._print()

    def on_train_end(self, logs=None):
        self._print()

    def _print(self) -> None:
        lines, self._lines = self._lines, ()
        for line in lines:
            if _processes.leads(self._model):
                print(line, flush=True)
