"""Dark experience replay with labels."""

from keras_optkit import _check
from keras_optkit._registry import register
from keras_optkit.continual.der import DER, Fill


@register
class DERpp(DER):
    """DER++: has the model get replayed samples right, beside answering as it did.

    As `DER`, with a third part in each batch, of samples `(x'', y'')` drawn from the buffer for
    themselves:

    ```text
    loss of DER  +  beta  mean of loss(y'', h(x''))
    ```

    Args:
        alpha: Factor of the squared distance, as in `DER`, 0 or more.
        beta: Factor of the loss of replayed samples, 0 or more; 0.5 or 1 in the paper.
        replay_batch_size: Replayed samples in each part of a batch, at least 1; None for as many
            as new ones.
        fill: When samples join the buffer, `"training"` or `"consolidate"`; as in `DER`.

    Example:
        >>> derpp = keras_optkit.continual.DERpp(alpha=0.1, beta=0.5)
        >>> buffer = keras_optkit.continual.ReplayBuffer(200)
        >>> classifier = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
        >>> learner = keras_optkit.continual.ContinualModel(classifier, derpp, buffer)

    Reference:
        [Buzzega et al., 2020](https://arxiv.org/abs/2004.07211), section 3 and algorithm 2.
    """

    def __init__(
        self,
        alpha: float,
        beta: float,
        replay_batch_size: int | None = None,
        fill: Fill = "training",
    ):
        super().__init__(alpha, replay_batch_size, fill)
        self.beta = _check.in_range("beta", beta, low=0)
