"""Base of the callbacks."""

from typing import Any

import keras

from keras_optkit._config import Configurable


class Callback(keras.callbacks.Callback, Configurable):
    """A Keras callback with a config, and with state that can outlive the process.

    Keras saves neither with a model. A subclass stores its constructor's arguments under their
    own names, which gives it `get_config` and `from_config`, and keeps in `state` what it must
    know to go on after a restart.
    """

    def _is_due(self, batch: int, every: int) -> bool:
        """Returns whether batch 0, `every`, ... comes in the compiled step that begins at `batch`.

        With `steps_per_execution`, one that came within the last step counts for this one.
        """
        return batch % every < self._model.steps_per_execution

    def state(self) -> dict[str, Any]:
        """Returns what this callback has learned so far, as plain data: JSON can hold it."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up where the callback that returned `state` stopped; call it before `fit`."""
