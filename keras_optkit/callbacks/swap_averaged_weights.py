"""Evaluating at averaged weights."""

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.callbacks._base import Callback
from keras_optkit.optimizers._evaluated import Evaluated
from keras_optkit.optimizers._inside import chain


@register
class SwapAveragedWeights(Callback):
    """Evaluates, predicts and saves with averaged weights during `fit`, and trains with the rest.

    For the optimizers that keep two sets of weights, `Averaged`, `ScheduleFreeAdamW` and
    `ScheduleFreeSGD`. Without it they put the weights to evaluate into the model when `fit`
    ends, but validation inside `fit` sees those being trained. With it, the model holds the
    weights to evaluate from the end of an epoch's batches to the next epoch, so callbacks that
    save or compare weights see them too: put this one before them.

    Which set the model holds is known to the optimizer and saved with it. So whatever
    interrupts it, an exception in validation included, training finds its way back.

    Raises:
        ValueError: When training begins, if the optimizer does not average weights.

    Example:
        >>> model.compile(keras_optkit.optimizers.Averaged("adam"), loss="mse")
        >>> swap = keras_optkit.callbacks.SwapAveragedWeights()
        >>> history = model.fit(x, y, validation_data=(x, y), callbacks=[swap])
    """

    def __init__(self):
        super().__init__()
        self._swapped: list[Evaluated] = []
        self._fitting = False

    def set_params(self, params):  # by `fit`, and by `evaluate` and `predict` outside of it
        super().set_params(params)
        self._fitting = False

    def on_train_begin(self, logs=None):
        self._fitting = True
        self._use_training_weights()

    def on_epoch_begin(self, epoch, logs=None):
        self._use_training_weights()

    def on_epoch_end(self, epoch, logs=None):
        self._use_evaluation_weights()

    def on_train_end(self, logs=None):
        self._fitting = False
        self._use_evaluation_weights()

    def on_test_begin(self, logs=None):
        self._swapped = self._use_evaluation_weights()

    def on_test_end(self, logs=None):
        if not self._fitting:  # where the epoch ends, or the next one begins, with what it needs
            for optimizer in self._swapped:
                optimizer.use_training_weights()

    def on_predict_begin(self, logs=None):
        self.on_test_begin()

    def on_predict_end(self, logs=None):
        self.on_test_end()

    def _use_training_weights(self) -> None:
        for optimizer in self._optimizers():
            optimizer.use_training_weights()

    def _use_evaluation_weights(self) -> list[Evaluated]:
        """Returns the optimizers that have just put evaluation weights into the model."""
        return [o for o in self._optimizers() if o.use_evaluation_weights()]

    def _optimizers(self) -> list[Evaluated]:
        optimizer = getattr(self.model, "optimizer", None)
        found = [o for o in chain(optimizer) if isinstance(o, Evaluated)]
        if not found:
            raise ValueError(
                "SwapAveragedWeights needs an optimizer that keeps weights to evaluate beside "
                "those to train: wrap yours, as in "
                "keras_optkit.optimizers.Averaged(keras.optimizers.Adam()). "
                f"{_check.received('optimizer', optimizer)}"
            )
        return found
