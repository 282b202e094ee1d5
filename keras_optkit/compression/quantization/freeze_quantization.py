"""Rest for the last epochs of quantization-aware training."""

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.callbacks._base import Callback
from keras_optkit.compression.quantization._parts import layers_inside, quantizers
from keras_optkit.compression.quantization.quantized_batch_norm import QuantizedBatchNorm


@register
class FreezeQuantization(Callback):
    """Freezes ranges and statistics in the last epochs of quantization-aware training.

    Then the weights settle into the very network that will be exported: ranges stop following
    the batches, and BatchNormalization uses its moving statistics. Both are told by state of the
    layers at the start of an epoch, so nothing is compiled anew and a saved model stays frozen.

    ```text
    epoch < observer_epoch:      ranges follow the batches
    epoch < batchnorm_epoch:     BatchNormalization uses the batch, and learns its statistics
    ```

    It goes by the number of the epoch, so give a resumed `fit` its `initial_epoch`.

    Args:
        observer_epoch: Epoch, counted from 0, from which ranges rest; None for never.
        batchnorm_epoch: Epoch, counted from 0, from which BatchNormalization rests; None for
            never.

    Example:
        >>> quantized = keras_optkit.compression.quantize_model(model)
        >>> quantized.compile("sgd", "mse")
        >>> freeze = keras_optkit.compression.FreezeQuantization(observer_epoch=2)
        >>> history = quantized.fit(x, y, epochs=3, callbacks=[freeze])

    Reference:
        [Krishnamoorthi, 2018](https://arxiv.org/abs/1806.08342), section 3.2.1; PyTorch's
        `disable_observer` and `freeze_bn_stats`.
    """

    def __init__(self, observer_epoch: int | None = 1, batchnorm_epoch: int | None = None):
        super().__init__()
        self.observer_epoch = _epoch("observer_epoch", observer_epoch)
        self.batchnorm_epoch = _epoch("batchnorm_epoch", batchnorm_epoch)

    def on_train_begin(self, logs=None):
        if not quantizers(self.model):
            raise ValueError(
                "FreezeQuantization has nothing to freeze, since the model is not quantized. "
                f"Make one with quantize_model. {_check.received('model', self.model.name)}"
            )

    def on_epoch_begin(self, epoch, logs=None):
        rests = self.observer_epoch is not None and epoch >= self.observer_epoch
        for layer in quantizers(self.model):
            layer.observing.assign(not rests)
        rests = self.batchnorm_epoch is not None and epoch >= self.batchnorm_epoch
        for layer in layers_inside(self.model, QuantizedBatchNorm):
            layer.frozen.assign(rests)


def _epoch(name: str, value: int | None) -> int | None:
    return None if value is None else _check.integer(name, value, low=0)
