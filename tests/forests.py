# SPDX-License-Identifier: Apache-2.0
"""Classifiers over byte arrays, and what must always hold of them."""

from __future__ import annotations

import random
from dataclasses import replace

from mapped import mapped

from dpif_bpf import abi
from dpif_bpf.core.classifier.forest import Buffers, Classifier
from dpif_bpf.core.classifier.nodes import Leaf, Node, leaves
from dpif_bpf.core.classifier.read import Reader
from dpif_bpf.core.classifier.sizes import MAPPED, Sizes
from dpif_bpf.core.slices import whole

KEY_BITS = abi.OVS_KEY_USED * 64


def arrays(sizes: Sizes) -> Buffers:
    """Zeroed memory for a classifier."""
    size = sizes.bytes()
    return Buffers(*(mapped(size[name]) for name in MAPPED))


class Forest:
    """A classifier with a reader of its arrays, and a plain list of flows.

    :ivar flows: root → flow id → (key, mask)
    """

    def __init__(self, sizes: Sizes, seed: int = 1) -> None:
        sizes = replace(sizes, cache=0)
        self.buffers = arrays(sizes)
        self.freed: list[int] = []
        self.cls = Classifier(self.buffers, sizes, seed, self.freed.append)
        self.reader = Reader(self.buffers, sizes.buckets)
        self.flows: dict[int, dict[int, tuple[int, int]]] = {}

    def add_root(self, root: int) -> None:
        self.cls.add_root(root)
        self.flows[root] = {}

    def insert(self, root: int, key: int, mask: int, acts: int = 0) -> int:
        number = self.cls.insert(root, key, mask, acts)
        for flows in self.flows.values():
            assert number not in flows
        self.flows[root][number] = (key, mask)
        return number

    def delete(self, root: int, number: int) -> None:
        self.cls.delete(number)
        del self.flows[root][number]

    def settle(self) -> None:
        """Ends all grace periods."""
        while epoch := self.cls.seal():
            self.cls.advance(epoch)

    def matching(self, root: int, key: int) -> list[int]:
        """What the plain list answers."""
        return [number for number, (value, mask) in self.flows[root].items()
                if key & mask == value]

    def check_key(self, root: int, key: int) -> None:
        """Readers of the arrays and of the objects find a flow that matches,
        and the same one, or none when there is none."""
        expected = self.matching(root, key)
        found = self.reader.find(root, key)
        assert found in expected if expected else found is None
        assert self.reader.bound == 0
        assert self.cls.lookup(root, key) == found

    def check_flows(self, rng: random.Random) -> None:
        """Each flow is met by packets of its own."""
        for root, flows in self.flows.items():
            for key, mask in flows.values():
                self.check_key(root, key | rng.getrandbits(KEY_BITS) & ~mask)

    def check_shape(self) -> None:
        """The rules of core.classifier.tree."""
        for forest in self.cls._roots.values():
            for tree in forest.trees:
                if tree.root is not None:
                    assert tree.root.parent is None
                    _check_below(tree.root)

    def check_empty(self) -> None:
        """After all flows went and all grace periods ended, nothing is
        left."""
        told = whole(self.cls.survey())
        assert (told.flows, told.masks, told.edges, told.descriptors,
                told.overflow_buckets, told.quarantine) == (0,) * 6
        assert all(root.trees == () for root in told.roots.values())
        assert not any(self.buffers.buckets)
        assert not any(self.buffers.roots)


def _check_below(top: Leaf | Node) -> None:
    todo: list[tuple[Leaf | Node, int, int]] = [(top, 0, 0)]
    while todo:
        node, path, depth = todo.pop()
        assert depth <= abi.OVS_CLS_DEPTH
        if isinstance(node, Leaf):
            continue
        assert node.bits and not node.bits & path
        assert not node.same & (path | node.bits)
        assert len(node.children) > 1 or node.parent is None
        for value, child in node.children.items():
            assert child.parent is node
            assert node.height > child.height
            for leaf in leaves(child):
                assert leaf.bits & node.bits == node.bits
                assert leaf.key & node.bits == value
                assert leaf.bits & node.same == node.same
                assert not (leaf.key ^ node.value) & node.same
            todo.append((child, path | node.bits | node.same, depth + 1))
