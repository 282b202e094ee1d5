"""Channels that can only be removed together."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channels of one or more layers that can only be removed together.

    Args:
        name: Path of the first layer that makes them; with `"#2"`, ... where that layer makes
            channels of several groups.
        channels: How many there are.
        producers: Paths of the layers that make them.
        layers: Paths of all layers that hold weights for them, producers included.
        frozen_reason: Why they must stay, or None if they can be removed.

    Example:
        >>> group = keras_optkit.compression.channel_groups(model)[0]
        >>> print(group)
        head: 1 channel, kept: it is an output of the model
    """

    name: str
    channels: int
    producers: tuple[str, ...]
    layers: tuple[str, ...]
    frozen_reason: str | None = None

    def __str__(self) -> str:
        text = f"{self.name}: {self.channels} channel{'s' * (self.channels != 1)}"
        others = len(self.producers) - 1
        if others > 0:
            text += f", made by {others} other layer{'s' * (others != 1)} too"
        return f"{text}, kept: {self.frozen_reason}" if self.frozen_reason else text
