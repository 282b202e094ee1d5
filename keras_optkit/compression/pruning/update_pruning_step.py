"""TF-MOT's callback."""

from keras_optkit._registry import register
from keras_optkit.callbacks._base import Callback
from keras_optkit.compression.pruning._pruners import pruners, warn_of_late_end


@register
class UpdatePruningStep(Callback):
    """Checks that a model prunes, and for long enough: TF-MOT needs such a callback, we do not.

    Warns if `fit` ends before the schedule has reached its sparsity, where Keras knows the number
    of batches.

    Raises:
        ValueError: When training begins, if the model's optimizer does not prune: `compile` after
            `prune_low_magnitude` has replaced it.

    Example:
        >>> step = keras_optkit.compression.UpdatePruningStep()
    """

    def on_train_begin(self, logs=None):
        self._begun = False
        if not pruners(self.model):
            optimizer = getattr(self.model, "optimizer", None)
            raise ValueError(
                "The model's optimizer does not prune. Call `prune_low_magnitude` after "
                "`model.compile`, which sets the optimizer, or compile with Pruned. "
                f"Received: optimizer={optimizer}"
            )

    # Not when training begins, since only here the first epoch is known.
    def on_epoch_begin(self, epoch, logs=None):
        if not self._begun:
            self._begun = True
            warn_of_late_end(self.model, self.params, epoch)
