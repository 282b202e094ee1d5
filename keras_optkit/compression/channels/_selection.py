"""Which groups of channels to prune."""

from collections.abc import Sequence

from keras_optkit import _match
from keras_optkit.compression.channels._groups import Group, Groups


def selected(
    groups: Groups, include: Sequence[str], exclude: Sequence[str], round_to: int
) -> list[Group]:
    """Returns the groups to prune, after all checks of the patterns.

    Raises:
        ValueError: If a pattern matches nothing, `include` asks for channels that must stay, or no
            group is left.
    """
    paths = sorted({path for group in groups.all for path in group.public.producers})
    for name, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(_match.matches([pattern], path) for path in paths):
                raise ValueError(
                    f"`{name}` must match layers that make channels, and {pattern!r} matches none. "
                    "It is a regular expression for whole segments of a layer's path. Received: "
                    f"{name}={tuple(patterns)}, and the layers are {', '.join(paths)}"
                )
    asked = [group for group in groups.all if include and _matched(group, include)]
    for group in asked:
        if group.public.frozen_reason:
            raise ValueError(
                f"`include` asks for channels that must stay. {group.public}. Received: "
                f"include={tuple(include)}"
            )
        if _matched(group, exclude):
            raise ValueError(
                f"`include` and `exclude` both match the channels of {group.public.name!r}, which "
                f"{', '.join(group.public.producers)} make together. Received: "
                f"include={tuple(include)}, exclude={tuple(exclude)}"
            )
    found = [
        group
        for group in (asked or groups.all)
        if not group.public.frozen_reason and not _matched(group, exclude)
    ]
    if not any(group.public.channels > round_to for group in found):
        reasons = "; ".join(
            str(group.public)
            + (", excluded" if _matched(group, exclude) else "")
            + (f", no more than round_to={round_to}" if group in found else "")
            for group in groups.all
        )
        raise ValueError(
            f"There are no channels to remove. The groups of channels are: {reasons or 'none'}"
        )
    return found


def _matched(group: Group, patterns: Sequence[str]) -> bool:
    return any(_match.matches(patterns, path) for path in group.public.producers)
