"""Which channels of a model can only be removed together."""

import keras

from keras_optkit.compression.channels._groups import Groups
from keras_optkit.compression.channels._subject import subject
from keras_optkit.compression.channels._trace import Trace
from keras_optkit.compression.channels.channel_group import ChannelGroup


def channel_groups(model: keras.Model) -> list[ChannelGroup]:
    """Lists the groups of channels of a model, and says why some must stay.

    To see before `prune_channels` what it can do. The outputs of two layers that are added up have
    their channels in common; so have a convolution, its BatchNormalization, activation, pooling
    and the depthwise convolution behind it. Layers that the walk along the graph does not know
    keep the channels that go in.

    Args:
        model: A built Functional or Sequential model; models nested in it are gone through too.

    Returns:
        The groups, in the order of the layers that make them.

    Raises:
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If it is not built, is a subclass with a `call` of its own, or has quantized or
            LoRA layers.

    Example:
        >>> for group in keras_optkit.compression.channel_groups(model):
        ...     print(group)
        head: 1 channel, kept: it is an output of the model
    """
    what = "channel_groups"
    return [group.public for group in Groups(Trace(subject(model, what), what)).all]
