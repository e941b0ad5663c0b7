# SPDX-License-Identifier: Apache-2.0
"""What the classifier tells about itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dpif_bpf.core.classifier.nodes import Leaf, Node
from dpif_bpf.core.slices import LATER, Sliced

SLICE = 4096
"""Flows and nodes that are looked at in one go: about 1 us each."""


@dataclass(frozen=True, slots=True)
class RootStats:
    """The forest of one bridge.

    :param trees: flows in each of its trees
    :param depth: probes to flows: number of flows by number of probes that
        find them, those of earlier trees not counted
    :param nodes: inner nodes
    """

    trees: tuple[int, ...]
    depth: dict[int, int]
    nodes: int


@dataclass(frozen=True, slots=True)
class ClassifierStats:
    """The whole classifier.

    :param flows: flows in it
    :param masks: different masks that they have
    :param roots: by bridge
    :param edges: edges in the table, quarantined ones included
    :param overflow_buckets: in use
    :param descriptors: masks of flows and nodes
    :param splits, rebuilds, reseeds, lifts: changes of shape so far
    :param collisions: edges that could not be told apart and went elsewhere
    :param quarantine: things that wait for a grace period
    :param room: flows that there is room for
    :param map_bytes: memory of each map
    """

    flows: int
    masks: int
    roots: dict[int, RootStats]
    edges: int
    overflow_buckets: int
    descriptors: int
    splits: int
    rebuilds: int
    reseeds: int
    lifts: int
    collisions: int
    quarantine: int
    room: int
    map_bytes: dict[str, int] = field(default_factory=dict)


def measure(roots: Iterable[Leaf | Node | None]) -> Sliced[RootStats]:
    """Walks the trees of one bridge, which may change meanwhile."""
    trees: list[int] = []
    depth: dict[int, int] = {}
    nodes = 0
    for root in roots:
        flows = 0
        todo = [] if root is None else [(root, 0)]
        while todo:
            item, probes = todo.pop()
            if isinstance(item, Leaf):
                flows += 1
                depth[probes] = depth.get(probes, 0) + 1
            else:
                nodes += 1
                todo.extend((c, probes + 1) for c in item.children.values())
            if (flows + nodes) % SLICE == 0:
                yield LATER
        trees.append(flows)
    return RootStats(tuple(trees), dict(sorted(depth.items())), nodes)
