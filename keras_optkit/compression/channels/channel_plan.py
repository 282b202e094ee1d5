"""What `prune_channels` has removed."""

import dataclasses

from keras_optkit.compression.channels.channel_group import ChannelGroup


@dataclasses.dataclass(frozen=True)
class ChannelPlan:
    """What `prune_channels` has removed; `str` makes a table of it.

    Args:
        groups: All groups of channels.
        kept: For each group by name, which of its channels stay, counted from 0.
        parameters: Number of weights before and after.
        flops: Floating-point operations for one sample before and after, as `target_flops` counts
            them; None if sizes of images are not fixed.
        latency: Milliseconds before and after if `target_latency` was given, else None.

    Example:
        >>> hidden = keras.layers.Dense(32, activation="relu", name="hidden")
        >>> model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(1)])
        >>> small, plan = keras_optkit.compression.prune_channels(model, 0.5, return_plan=True)
        >>> len(plan.kept["hidden"]), plan.parameters
        (16, (193, 97))
    """

    groups: tuple[ChannelGroup, ...]
    kept: dict[str, tuple[int, ...]]
    parameters: tuple[int, int]
    flops: tuple[int, int] | None
    latency: tuple[float, float] | None = None

    def __str__(self) -> str:
        cells = [("group", "channels", "kept", "why")]
        for group in self.groups:
            kept = len(self.kept[group.name])
            cells.append((group.name, str(group.channels), str(kept), group.frozen_reason or ""))
        a, b, c = (max(len(line[i]) for line in cells) for i in range(3))
        lines = [f"{w:<{a}}  {x:>{b}}  {y:>{c}}  {z}".rstrip() for w, x, y, z in cells]
        lines.append("parameters: {:,} -> {:,}".format(*self.parameters))
        if self.flops:
            lines.append("FLOPs: {:,} -> {:,}".format(*self.flops))
        if self.latency:
            lines.append("latency: {:.3g} ms -> {:.3g} ms".format(*self.latency))
        return "\n".join(lines)
