"""Groups of channels, out of what a trace has found."""

import dataclasses

import numpy as np

from keras_optkit.compression.channels._trace import Trace
from keras_optkit.compression.channels.channel_group import ChannelGroup


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """A group, with the channels' numbers.

    Args:
        public: What the user sees of it.
        roots: For each of its channels, the number that stands for all that go with it.
    """

    public: ChannelGroup
    roots: np.ndarray


class Groups:
    """All groups of a model that have a producer, in the order of these.

    Channels are of one group if layers make them at the same places: where a concatenation is
    added to the output of one layer, that layer makes channels of several groups.
    """

    def __init__(self, trace: Trace):
        self.roots = trace.channels.roots()
        signatures = trace.channels.signatures(self.roots)
        frozen: dict[int, str] = {}
        for ids, reason in trace.channels.frozen:
            for root in np.unique(self.roots[ids]).tolist():
                frozen.setdefault(root, reason)
        producers = [(p.path, set(self.roots[p.ids].tolist())) for p in trace.producers.values()]
        touched: dict[str, set[int]] = {}
        for found in trace.slices.values():
            roots = {r for ids in found.axes.values() for r in self.roots[ids].tolist()}
            touched.setdefault(found.layer, set()).update(roots)
        members: dict[tuple[int, ...], list[int]] = {}
        for _, roots in producers:
            for root in sorted(roots):
                if root not in (same := members.setdefault(signatures[root], [])):
                    same.append(root)
        self.all: list[Group] = []
        taken: dict[str, int] = {}
        for roots in members.values():
            whole = set(roots)
            paths = tuple(path for path, made in producers if made & whole)
            taken[paths[0]] = number = taken.get(paths[0], 0) + 1
            public = ChannelGroup(
                paths[0] if number == 1 else f"{paths[0]}#{number}",
                len(roots),
                paths,
                tuple(path for path, made in touched.items() if made & whole),
                next((frozen[root] for root in roots if root in frozen), None),
            )
            self.all.append(Group(public, np.array(sorted(roots))))

    def mask(self, kept: dict[str, np.ndarray]) -> np.ndarray:
        """Returns for each channel whether it stays, given those that stay by group."""
        stays = np.ones(len(self.roots), bool)
        for group in self.all:
            if group.public.name in kept:
                stays[group.roots] = False
                stays[group.roots[kept[group.public.name]]] = True
        return stays[self.roots]
