# SPDX-License-Identifier: Apache-2.0
"""Nodes and leaves of the classifier's trees, and drafts of new nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from dpif_bpf.core.classifier.edge_table import (
    DESC_SHIFT,
    LEAF,
    NO_PLACE,
    SEED_SHIFT,
    EdgeTable,
    TableFull,
    finish,
)
from dpif_bpf.core.classifier.masks import Mask, MaskTable, NoDescriptor
from dpif_bpf.core.quarantine import Quarantine

_ATTEMPTS = 4


class Holder(Protocol):
    """The tree that a leaf is in, as the leaf knows it."""

    bridge: int
    root: Leaf | Node | None

    def find(self, key: int, bits: int) -> Leaf | None:
        """The leaf with exactly this key and mask, ghosts not counted."""

    def remove(self, leaf: Leaf) -> None:
        """Takes a flow out."""


class Leaf:
    """A flow in a tree."""

    __slots__ = ("bits", "flow", "ghost", "key", "mask", "parent", "place",
                 "ref", "tree")
    height = 0

    def __init__(self, key: int, mask: Mask, flow: int) -> None:
        self.key = key
        self.bits = mask.bits
        self.mask = mask
        self.flow = flow
        self.ref = LEAF | mask.id << DESC_SHIFT | flow
        self.ghost = False
        self.parent: Node | None = None
        self.place = 0
        self.tree: Holder


class Node:
    """An inner node; see the module's text."""

    __slots__ = ("bits", "children", "height", "id", "mask", "parent",
                 "place", "ref", "same", "start", "value")

    def __init__(self, mask: Mask, number: int) -> None:
        self.bits = mask.bits
        self.mask = mask
        self.id = number
        self.ref = mask.id << DESC_SHIFT | number
        self.start = self.ref << SEED_SHIFT
        self.children: dict[int, Leaf | Node] = {}
        self.height = 1
        self.same = 0
        self.value = 0
        self.parent: Node | None = None
        self.place = 0


class Exists(Exception):
    """There is a flow with this key and mask."""


class NoNode(Exception):
    """Every node number is in use."""


Plan = Leaf | tuple[int, list[tuple[int, "Plan"]]]
"""How to arrange flows: a leaf, or bits to test and what is below."""


class Store:
    """What the trees of a classifier have in common."""

    def __init__(self, table: EdgeTable, masks: MaskTable, nodes: int,
                 quarantine: Quarantine) -> None:
        self.table = table
        self.masks = masks
        self.quarantine = quarantine
        self.numbers = list(range(nodes - 1, -1, -1))
        self.splits = 0
        self.rebuilds = 0
        self.reseeds = 0
        self.lifts = 0

    def free(self, node: Node, places: list[int]) -> None:
        """Frees a node that no reader can come to."""
        self.table.clear_all(places)
        self.masks.unref(node.mask)
        self.numbers.append(node.id)

    def retire(self, node: Node, places: list[int]) -> None:
        """Frees a node that was unlinked, after a grace period."""
        self.quarantine.retire(self.free, node, places)


class Draft:
    """New nodes that are not published yet."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: list[tuple[Node, list[tuple[int, Leaf | Node]],
                               list[int]]] = []

    def node(self, bits: int,
             entries: list[tuple[int, Leaf | Node]]) -> Node:
        """Makes a node with these children, which stay where they are.

        :raises TableFull, NoDescriptor, NoNode: after drop()
        """
        store = self._store
        if not store.numbers:
            self.drop()
            raise NoNode
        try:
            mask = store.masks.ref(bits)
        except NoDescriptor:
            self.drop()
            raise
        put = store.table.put
        for attempt in range(_ATTEMPTS):
            node = Node(mask, store.numbers.pop())
            places: list[int] = []
            try:
                for value, child in entries:
                    place = put(finish(mask.hash(value, node.start)),
                                child.ref)
                    if place == NO_PLACE:
                        break
                    places.append(place)
                else:
                    self._made.append((node, entries, places))
                    node.height = 1 + max(c.height for _, c in entries)
                    return node
            except TableFull:
                attempt = _ATTEMPTS
            store.table.clear_all(places)
            # The number that met a collision is tried last.
            store.numbers.insert(0, node.id)
            if attempt >= _ATTEMPTS:
                break
        store.masks.unref(mask)
        self.drop()
        raise TableFull

    def arrange(self, plan: Plan) -> Leaf | Node:
        """Makes the nodes of a plan."""
        if isinstance(plan, Leaf):
            return plan
        bits, below = plan
        return self.node(bits, [(value, self.arrange(sub))
                                for value, sub in below])

    def drop(self) -> None:
        """Frees what was made."""
        for node, _, places in self._made:
            self._store.free(node, places)
        self._made.clear()

    def adopt(self) -> None:
        """Gives the new nodes their children."""
        for node, entries, places in self._made:
            node.children = dict(entries)
            for (_, child), place in zip(entries, places, strict=True):
                child.parent = node
                child.place = place


def fell(top: Leaf | Node) -> Iterator[Leaf | Node]:
    """Takes a tree apart: its flows, and its nodes when nothing is below
    them any more.  No step takes longer than another."""
    todo: list[Node] = []
    at: Leaf | Node = top
    while True:
        while isinstance(at, Node):
            todo.append(at)
            if not at.children:
                break
            _, at = at.children.popitem()
        else:
            at.parent = None
            yield at
        while todo and not todo[-1].children:
            node = todo.pop()
            node.parent = None
            yield node
        if not todo:
            return
        _, at = todo[-1].children.popitem()


def leaves(node: Leaf | Node) -> Iterator[Leaf]:
    """Every flow below."""
    todo = [node]
    while todo:
        item = todo.pop()
        if isinstance(item, Leaf):
            yield item
        else:
            todo.extend(item.children.values())


def few_leaves(nodes: Iterable[Leaf | Node], limit: int) -> list[Leaf] | None:
    """Every flow below, or None when there are more than `limit`."""
    found: list[Leaf] = []
    for node in nodes:
        for leaf in leaves(node):
            if len(found) == limit:
                return None
            found.append(leaf)
    return found


def inner(nodes: Iterable[Leaf | Node]) -> list[tuple[Node, list[int]]]:
    """Every node at and below, with the places of its children."""
    found: list[tuple[Node, list[int]]] = []
    todo = list(nodes)
    while todo:
        item = todo.pop()
        if isinstance(item, Node):
            found.append((item, [c.place for c in item.children.values()]))
            todo.extend(item.children.values())
    return found


def make_plan(flows: list[Leaf], path: int) -> Plan | None:
    """Arranges flows that agree in the bits `path`.

    Each node tests all other bits that the flows below it have in common.

    :returns: None when they cannot be told apart in one tree
    """
    if len(flows) == 1:
        return flows[0]
    bits = ~path
    for leaf in flows:
        bits &= leaf.bits
    groups: dict[int, list[Leaf]] = {}
    for leaf in flows:
        groups.setdefault(leaf.key & bits, []).append(leaf)
    if len(groups) == 1:
        return None
    below: list[tuple[int, Plan]] = []
    for value, group in groups.items():
        plan = make_plan(group, path | bits)
        if plan is None:
            return None
        below.append((value, plan))
    return bits, below
