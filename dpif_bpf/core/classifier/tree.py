# SPDX-License-Identifier: Apache-2.0
"""One tree of the classifier's forest, and the changes that readers bear.

Flows of one tree are pairwise disjoint and can be told apart by bits that
all flows of a subtree match:

- A node tests ``bits``, which the masks of all flows below it contain, and
  has one child for each value of them.  Nodes but the root have at least
  two children.
- ``same`` are bits that all those masks contain, too, and in which all the
  flows agree (with ``value``), but which no node above or below tests.  They
  appear when a node loses all children but one and that child takes its
  place; a flow that differs in them gets a node above.
- A leaf is a flow.  A reader compares it under its whole mask, so that bits
  that were not tested on the way do no harm.

Every change makes what is new aside, publishes it by one store into the edge
that leads there, and retires what that store unlinked.
"""

from __future__ import annotations

from dpif_bpf import abi
from dpif_bpf.core.classifier.edge_table import NO_PLACE, finish
from dpif_bpf.core.classifier.nodes import (
    Draft,
    Exists,
    Leaf,
    Node,
    Plan,
    Store,
    few_leaves,
    inner,
    make_plan,
)

ROOT_BITS = ((1 << 64) - 1) | 0xffff << 64
"""in_port, recirc_id and eth_type, which a new tree's root tests."""

MAX_SPLIT = 1024
"""Children that a split or a new seed moves at most."""

MAX_REBUILD = 64
"""Flows that are arranged anew at most."""


class Tree:
    """A tree and the edge that is its root.

    :param bridge: whose tree it is
    :param place: of that edge
    """

    def __init__(self, store: Store, bridge: int, place: int) -> None:
        self.bridge = bridge
        self.root: Leaf | Node | None = None
        self.flows = 0
        self._store = store
        self._place = place

    # Looking

    def find(self, key: int, bits: int) -> Leaf | None:
        """The leaf with exactly this key and mask, ghosts not counted."""
        at = self.root
        while isinstance(at, Node):
            if at.bits & bits != at.bits:
                return None
            at = at.children.get(key & at.bits)
        if at is None or at.key != key or at.bits != bits or at.ghost:
            return None
        return at

    def lookup(self, key: int) -> Leaf | None:
        """The leaf that matches a packet's key."""
        at = self.root
        while isinstance(at, Node):
            at = at.children.get(key & at.bits)
        if at is None or key & at.bits != at.key:
            return None
        return at

    # Inserting

    def insert(self, leaf: Leaf) -> bool:
        """Adds a flow.

        :returns: False when it cannot be told apart from the others here,
            or not without moving too many of them
        :raises Exists: a flow with the same key and mask is here
        :raises TableFull, NoDescriptor, NoNode: the tree holds what it held
        """
        if self._insert(leaf):
            leaf.tree = self
            self.flows += 1
            return True
        return False

    def _insert(self, leaf: Leaf) -> bool:
        """insert(), but for the books.

        On the way down, `left` are the mask's bits that no node has tested
        and in which not all flows agree.
        """
        at = self.root
        if at is None:
            self._plant(leaf)
            return True
        key = leaf.key
        left = leaf.bits
        depth = 0
        while True:
            if isinstance(at, Leaf):
                return self._fork(at, leaf, left, depth)
            same = at.same
            if same:
                if same & left & (key ^ at.value):
                    return self._above(at, leaf, depth)
                at.same = same = same & left
                left ^= same
            tested = at.bits
            if tested & left != tested:
                narrowed = self._narrow(at, leaf, left | same, depth)
                if narrowed is None:
                    return False
                if leaf.parent is not None:
                    return True
                at = narrowed
                tested = at.bits
            left ^= tested
            depth += 1
            value = key & tested
            child = at.children.get(value)
            if child is None:
                return self._attach(at, value, leaf, depth)
            at = child

    def _plant(self, leaf: Leaf) -> None:
        bits = leaf.bits & ROOT_BITS
        root: Leaf | Node = leaf
        if bits:
            draft = Draft(self._store)
            root = draft.node(bits, [(leaf.key & bits, leaf)])
            draft.adopt()
        root.place = self._place
        self.root = root
        self._store.table.swing(self._place, root.ref)

    def _replace(self, old: Leaf | Node, parent: Node | None, place: int,
                 value_of: int, new: Leaf | Node) -> None:
        """Publish `new` where `old` was.

        :param parent, place: old's, from before the draft was adopted
        :param value_of: the key of any flow below
        """
        new.parent = parent
        new.place = place
        if parent is None:
            self.root = new
        else:
            parent.children[value_of & parent.bits] = new
            height = new.height
            while parent is not None and parent.height <= height:
                height += 1
                parent.height = height
                parent = parent.parent
        self._store.table.swing(place, new.ref)

    def _attach(self, node: Node, value: int, leaf: Leaf,
                depth: int) -> bool:
        """Make `leaf` a new child."""
        place = self._store.table.put(
            finish(node.mask.hash(value, node.start)), leaf.ref)
        if place == NO_PLACE:
            return self._reseed(node, value, leaf)
        leaf.parent = node
        leaf.place = place
        node.children[value] = leaf
        return True

    def _reseed(self, node: Node, value: int, leaf: Leaf) -> bool:
        """Make `leaf` a child of a copy of `node` that hashes otherwise."""
        if len(node.children) > MAX_SPLIT:
            return False
        draft = Draft(self._store)
        new = draft.node(node.bits, [*node.children.items(), (value, leaf)])
        new.same, new.value = node.same, node.value
        old = [child.place for child in node.children.values()]
        draft.adopt()
        self._replace(node, node.parent, node.place, leaf.key, new)
        self._store.retire(node, old)
        self._store.reseeds += 1
        return True

    def _fork(self, other: Leaf, leaf: Leaf, left: int, depth: int) -> bool:
        """Put a node where one flow was, for two."""
        common = other.bits & left
        if not (other.key ^ leaf.key) & common:
            if (other.key == leaf.key and other.bits == leaf.bits
                    and not other.ghost):
                raise Exists
            return False
        if depth == abi.OVS_CLS_DEPTH:
            return False
        draft = Draft(self._store)
        new = draft.node(common, [(other.key & common, other),
                                  (leaf.key & common, leaf)])
        parent, place = other.parent, other.place
        draft.adopt()
        self._replace(other, parent, place, leaf.key, new)
        return True

    def _above(self, node: Node, leaf: Leaf, depth: int) -> bool:
        """Put a node above one, for a flow that differs from all below."""
        if depth + 1 + node.height > abi.OVS_CLS_DEPTH:
            return False
        bits = node.same & leaf.bits
        draft = Draft(self._store)
        new = draft.node(bits, [(node.value & bits, node),
                                (leaf.key & bits, leaf)])
        parent, place = node.parent, node.place
        draft.adopt()
        node.same &= ~bits
        self._replace(node, parent, place, leaf.key, new)
        return True

    def _narrow(self, node: Node, leaf: Leaf, left: int,
                depth: int) -> Node | None:
        """Make room for a flow whose mask lacks bits that `node` tests.

        The node is split in two levels: the upper one tests what the new
        flow's mask holds, too (``bits``), the lower ones the ``rest``.  Say
        that N tests the fields a and b, and that the flow F matches only
        a=1 of them::

            N tests a, b                   N' tests a
            +-- 1,1  P                     +-- 1  P, Q and F, arranged anew
            +-- 1,2  Q         becomes     +-- 2  R
            +-- 2,1  R

        - R is alone with its a: it becomes a child of N' as it is.  When R
          is a node, all below it agree in b without anybody's testing it,
          which R remembers in ``same``.
        - Children that share an a which is not F's keep a node below N'
          that tests ``rest``, as N did.
        - P, Q and F share their a.  Their flows are arranged anew by bits
          that all of them hold (make_plan), as F has no b to be told by.
        - Had no child a=1, F itself would be the child of N' there.

        Readers walk N until the one store that puts N' in its place.

        :param left: bits of the flow that nodes above do not test, and in
            which not all flows there agree
        :returns: the node to go on from; `leaf` may be in the tree already.
            None when that cannot be
        """
        bits = node.bits & leaf.bits
        if not bits or len(node.children) > MAX_SPLIT:
            return self._rebuild(node, leaf, left, depth)
        rest = node.bits & ~bits
        groups: dict[int, list[tuple[int, Leaf | Node]]] = {}
        for value, child in node.children.items():
            groups.setdefault(value & bits, []).append((value, child))
        mine = leaf.key & bits
        same = node.same & leaf.bits
        if len(groups) == 1 and mine in groups and len(node.children) > 1:
            return self._rebuild(node, leaf, left, depth)
        plan: Plan | None = None
        gone: list[tuple[Node, list[int]]] = []
        if mine in groups:
            group = [child for _, child in groups[mine]]
            if len(group) > 1:
                flows = few_leaves(group, MAX_REBUILD - 1)
                if flows is not None:
                    plan = make_plan([*flows, leaf],
                                     leaf.bits ^ left | bits | same)
                if plan is None:
                    return None
                gone = inner(group)
            elif isinstance(group[0], Leaf) and not (
                    (group[0].key ^ leaf.key) & group[0].bits & leaf.bits):
                return None	# the two overlap
        draft = Draft(self._store)
        entries: list[tuple[int, Leaf | Node]] = []
        lifted: list[tuple[int, Node]] = []
        for value, children in groups.items():
            if value == mine and plan is not None:
                entries.append((value, draft.arrange(plan)))
            elif len(children) > 1:
                entries.append((value, draft.node(
                    rest, [(v & rest, child) for v, child in children])))
            else:
                v, child = children[0]
                entries.append((value, child))
                if isinstance(child, Node):
                    lifted.append((v & rest, child))
        if mine not in groups:
            entries.append((mine, leaf))
        new = draft.node(bits, entries)
        if depth + new.height > abi.OVS_CLS_DEPTH:
            draft.drop()
            return None
        new.same = same
        new.value = node.value
        gone.append((node, [c.place for c in node.children.values()]))
        draft.adopt()
        for value, child in lifted:
            child.value = child.value & child.same | value
            child.same |= rest
        self._replace(node, node.parent, node.place, leaf.key, new)
        for old, places in gone:
            self._store.retire(old, places)
        self._store.splits += 1
        return new

    def _rebuild(self, node: Node, leaf: Leaf, left: int,
                 depth: int) -> Node | None:
        """Arrange all flows below `node` anew, with one more."""
        flows = few_leaves([node], MAX_REBUILD - 1)
        if flows is None:
            return None
        plan = make_plan([*flows, leaf], leaf.bits ^ left)
        if plan is None:
            return None
        draft = Draft(self._store)
        new = draft.arrange(plan)
        assert isinstance(new, Node)
        if depth + new.height > abi.OVS_CLS_DEPTH:
            draft.drop()
            return None
        gone = inner([node])
        draft.adopt()
        self._replace(node, node.parent, node.place, leaf.key, new)
        for old, places in gone:
            self._store.retire(old, places)
        self._store.rebuilds += 1
        return new

    # Removing

    def remove(self, leaf: Leaf) -> None:
        """Takes a flow out."""
        store = self._store
        parent = leaf.parent
        self.flows -= 1
        store.table.clear(leaf.place)
        leaf.parent = None
        if parent is None:
            self.root = None
            return
        children = parent.children
        del children[leaf.key & parent.bits]
        if len(children) > 1:
            return
        if parent.parent is not None:
            self._lift(parent, leaf.key)
        elif not children:
            self.root = None
            store.table.clear(parent.place)
            store.retire(parent, [])

    def _lift(self, node: Node, key: int) -> None:
        """Put a node's only child in the node's place.

        :param key: of a flow that was below the node
        """
        (value, child), = node.children.items()
        old = child.place
        self._replace(node, node.parent, node.place, key, child)
        if isinstance(child, Node):
            child.value = (child.value & child.same | node.value & node.same
                           | value)
            child.same |= node.same | node.bits
        self._store.retire(node, [old])
        self._store.lifts += 1
