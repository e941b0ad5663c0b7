# SPDX-License-Identifier: Apache-2.0
"""The megaflow classifier: a hash decision forest in mapped arrays.

Flows of a bridge have no priorities, and ovs-vswitchd keeps them disjoint:
two of them differ in a bit that both masks hold.  So a tree whose nodes test
the bits that all masks below have in common tells them apart, whatever their
masks (core.classifier.tree).  A flow that cannot live in a tree, because it
overlaps with another one there or because making room would move too many,
goes into the next one; packets are looked up in a bridge's trees in order,
so that of two flows that overlap the one in the earlier tree is met.

What readers see is described in bpf/lib/abi.h, and read by bpf/lib/lookup.h.
Each change is published by one store.  That needs of the machine, and of the
interpreter, that

- what is assigned to an element of a memoryview of format "Q" is stored by
  one instruction, when aligned: CPython copies it by a memcpy of that size,
  which compilers and the C library make one move.  So all that programs may
  be reading is written, and nothing by struct.pack_into(), which clears all
  of the place before it fills it in;
- stores become visible in the order in which they are made, so that who
  finds an edge finds what it leads to: x86-64 orders them, and aarch64 does
  not; there a barrier would be needed before each store that publishes;
- a reader's load whose address comes of an earlier load is not made before
  that one: so it is on either.

dpif_bpf.core.machine refuses others.
"""

from __future__ import annotations

import contextlib
import errno
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeVarTuple

from dpif_bpf import abi
from dpif_bpf.core.classifier.edge_table import EdgeTable, TableFull
from dpif_bpf.core.classifier.flow_records import FlowRecords, NoRecord
from dpif_bpf.core.classifier.masks import Mask, MaskTable, NoDescriptor
from dpif_bpf.core.classifier.nodes import (
    Exists,
    Leaf,
    Node,
    NoNode,
    Store,
    fell,
    leaves,
)
from dpif_bpf.core.classifier.sizes import Sizes
from dpif_bpf.core.classifier.stats import ClassifierStats, measure
from dpif_bpf.core.classifier.tree import Tree
from dpif_bpf.core.quarantine import Quarantine
from dpif_bpf.core.slices import Sliced
from dpif_bpf.errors import BackendError, DpifError, RequestError

_ROOT_WORDS = abi.ROOT.size // 8
_CACHE_SHIFT = abi.ROOT["cache"].offset * 8
_DESC_SHIFT = abi.ROOT["desc"].offset * 8
_Args = TypeVarTuple("_Args")


@dataclass(frozen=True, slots=True)
class Buffers:
    """The mapped arrays (sizes.MAPPED), as bytes.

    Byte arrays of Sizes.bytes() will do.
    """

    buckets: memoryview
    descs: memoryview
    flows: memoryview
    values: memoryview
    roots: memoryview


class _Root:
    """The trees of one bridge."""

    __slots__ = ("pending", "trees", "union", "untidy")

    def __init__(self) -> None:
        self.union: Mask | None = None
        self.trees: list[Tree] = []
        self.untidy = False
        self.pending: Iterator[Leaf] | None = None


class Classifier:
    """Writer of the forest.

    :param buffers: zeroed
    :param sizes: what they have room for
    :param seed: of the hash's random words; None: from the system.  With a
        known one, senders can make packets that collide
    :param freed: called with a flow id before it is used again, after its
        grace period: where its statistics are cleared
    """

    def __init__(self, buffers: Buffers, sizes: Sizes,
                 seed: int | None = None,
                 freed: Callable[[int], None] | None = None) -> None:
        rng = random.SystemRandom() if seed is None else random.Random(seed)
        self._sizes = sizes
        self._quarantine = Quarantine()
        self._heads = buffers.roots.cast("Q")
        self._cache = sizes.cache
        self._table = EdgeTable(buffers.buckets, buffers.roots,
                                sizes.buckets, self._quarantine)
        self._masks = MaskTable(buffers.descs, rng)
        self._records = FlowRecords(buffers.flows, buffers.values,
                                    sizes.flows)
        self._store = Store(self._table, self._masks, sizes.nodes,
                            self._quarantine)
        self._freed = freed
        self._roots: dict[int, _Root] = {}
        self._leaves: dict[int, Leaf] = {}
        self._ghosts: dict[int, list[Leaf]] = {}

    def __len__(self) -> int:
        """Flows in it."""
        return len(self._leaves)

    def __contains__(self, flow_id: int) -> bool:
        return flow_id in self._leaves

    @property
    def masks(self) -> int:
        """Different masks that flows have."""
        return self._masks.flow_masks

    # Roots

    def add_root(self, root: int) -> None:
        """Begins an empty forest.

        :param root: bridge id, index of ovs_roots
        """
        if not 0 <= root < abi.OVS_MAX_BRIDGES or root in self._roots:
            raise BackendError(errno.EINVAL, f"no new bridge id: {root}")
        self._roots[root] = forest = _Root()
        self._write_root(root, forest)

    def _write_root(self, root: int, forest: _Root) -> None:
        """The first word of struct ovs_root: what there is of trees, cache
        and masks."""
        union = forest.union
        self._heads[root * _ROOT_WORDS] = (
            len(forest.trees) | self._cache << _CACHE_SHIFT
            | (union.id if union else 0) << _DESC_SHIFT)

    def remove_root(self, root: int) -> None:
        """Ends a forest.

        :raises BackendError: EBUSY while there are flows in it
        """
        trees = self._root(root).trees
        left = [leaf for tree in trees if tree.root is not None
                for leaf in leaves(tree.root)]
        if not all(leaf.ghost for leaf in left):
            raise BackendError(errno.EBUSY, f"bridge {root} has flows")
        for leaf in left:
            self._drop_ghost(leaf)
        del self._roots[root]

    @property
    def cache(self) -> int:
        """Lines of eight flows that each CPU's cache has; 0: no cache."""
        return self._cache

    @cache.setter
    def cache(self, lines: int) -> None:
        """Changes it, for the packets after this.

        :param lines: 0, or a power of two up to OVS_CACHE_LINES
        """
        self._cache = lines
        for root, forest in self._roots.items():
            self._write_root(root, forest)

    def _root(self, root: int) -> _Root:
        try:
            return self._roots[root]
        except KeyError:
            raise BackendError(errno.ENOENT,
                               f"no forest of bridge {root}") from None

    # Flows

    def insert(self, root: int, key: int, mask: int, acts: int) -> int:
        """Adds a flow.

        :param root: bridge id
        :param key: the key image as a little-endian number, without bits
            that are not in the mask
        :param mask: likewise
        :param acts: index of its first instruction in ovs_acts
        :returns: flow id: index in ovs_flows and ovs_flow_stats
        :raises RequestError: EEXIST a flow of this bridge has the same key
            and mask
        :raises BackendError: ENOSPC no room, or it overlaps with flows in
            every tree that there may be
        """
        forest = self._root(root)
        try:
            desc = self._masks.ref(mask)
        except NoDescriptor:
            raise BackendError(errno.ENOSPC,
                               "too many different masks") from None
        try:
            flow_id = self._records.write(desc, key, acts, root)
        except NoRecord:
            self._masks.unref(desc)
            raise BackendError(errno.ENOSPC, "too many flows") from None
        leaf = Leaf(key, desc, flow_id)
        try:
            self._place(root, forest, leaf)
        except BaseException:
            self._records.kill(flow_id)
            self._records.release(flow_id)
            self._masks.unref(desc)
            raise
        self._leaves[flow_id] = leaf
        self._masks.count_flow(desc, 1)
        self._widen(root, forest, mask)
        return flow_id

    def _widen(self, root: int, forest: _Root, mask: int) -> None:
        """Let the cache's hash be over a flow's bits, too.

        Without descriptors it stays: flows get in one another's way there.
        """
        union = forest.union
        if union is not None:
            mask |= union.bits
            if mask == union.bits:
                return
        with contextlib.suppress(NoDescriptor):
            self._set_union(root, forest, self._masks.ref(mask))

    def _set_union(self, root: int, forest: _Root,
                   union: Mask | None) -> None:
        old, forest.union = forest.union, union
        self._write_root(root, forest)
        if old is not None:
            self._quarantine.retire(self._masks.unref, old)

    def _place(self, root: int, forest: _Root, leaf: Leaf) -> None:
        """Put a leaf into the first tree that takes it."""
        trees = forest.trees
        for tree in trees[1:]:
            if tree.find(leaf.key, leaf.bits) is not None:
                raise RequestError(errno.EEXIST, "the flow exists")
        try:
            for tree in trees:
                if tree.insert(leaf):
                    return
            if len(trees) < abi.OVS_CLS_TREES:
                place = root * _ROOT_WORDS + 1 + len(trees)
                tree = Tree(self._store, root, ~place)
                tree.insert(leaf)
                trees.append(tree)
                self._write_root(root, forest)
                return
        except Exists:
            raise RequestError(errno.EEXIST, "the flow exists") from None
        except (TableFull, NoNode, NoDescriptor):
            raise BackendError(errno.ENOSPC,
                               "no room in the classifier") from None
        raise BackendError(errno.ENOSPC, "the flow overlaps with too many")

    def lookup(self, root: int, key: int) -> int | None:
        """The flow that a packet with this key image would meet."""
        for tree in self._root(root).trees:
            leaf = tree.lookup(key)
            if leaf is not None:
                return leaf.flow
        return None

    def acts(self, flow_id: int) -> int:
        """The instruction at which a flow's actions begin."""
        return self._records.acts(flow_id)

    def set_acts(self, flow_id: int, acts: int) -> None:
        """Gives a flow other actions, by one store.

        Programs may be at the old ones until a grace period has passed:
        retire() what frees them.
        """
        self._records.set_acts(flow_id, acts)

    def delete(self, flow_id: int) -> None:
        """Removes a flow; its id is used again after a grace period."""
        leaf = self._leaves.pop(flow_id)
        for ghost in self._ghosts.pop(flow_id, ()):
            self._remove(ghost)
            ghost.ghost = False
        self._remove(leaf)
        self._records.kill(flow_id)
        self._masks.count_flow(leaf.mask, -1)
        self._quarantine.retire(self._free_flow, flow_id, leaf)

    def _remove(self, leaf: Leaf) -> None:
        leaf.tree.remove(leaf)
        root = leaf.tree.bridge
        forest = self._roots[root]
        forest.untidy = True
        if leaf.tree.root is None and forest.trees[-1] is leaf.tree:
            while forest.trees and forest.trees[-1].root is None:
                forest.trees.pop()
            self._write_root(root, forest)
            if not forest.trees:
                self._set_union(root, forest, None)

    def _free_flow(self, flow_id: int, leaf: Leaf) -> None:
        if self._freed is not None:
            self._freed(flow_id)
        self._records.release(flow_id)
        self._masks.unref(leaf.mask)

    def flush(self) -> tuple[Iterator[None], Iterator[None]]:
        """Takes all flows out of all forests, which are empty now for who
        walks them; the caches still find flows.

        :returns: with each step the first makes a flow nobody's, and the
            second, which comes after it, frees a flow or a node
        """
        trees = [tree for forest in self._roots.values()
                 for tree in forest.trees]
        for root, forest in self._roots.items():
            forest.trees = []
            forest.pending = None
            forest.untidy = False
            self._set_union(root, forest, None)
        for tree in trees:
            if tree.root is not None:
                self._table.clear(tree.root.place)
        flows, self._leaves = self._leaves, {}
        for ghosts in self._ghosts.values():
            for leaf in ghosts:
                leaf.ghost = False
        self._ghosts = {}
        return self._kill(flows), self._free_trees(trees, flows)

    def _kill(self, flows: Mapping[int, Leaf]) -> Iterator[None]:
        for flow_id, leaf in flows.items():
            self._records.kill(flow_id)
            self._masks.count_flow(leaf.mask, -1)
            yield

    def _free_trees(self, trees: Iterable[Tree],
                    flows: dict[int, Leaf]) -> Iterator[None]:
        """Readers may be amid a tree: they find less of it."""
        for tree in trees:
            top, tree.root = tree.root, None
            for item in () if top is None else fell(top):
                if item.place >= 0:
                    self._table.clear(item.place)
                if isinstance(item, Node):
                    self._store.retire(item, [])
                elif flows.get(item.flow) is item:
                    del flows[item.flow]
                    self._quarantine.retire(self._free_flow, item.flow, item)
                yield

    def move(self, flow_id: int, root: int) -> None:
        """Moves a flow to another bridge: move_all() of one."""
        self.move_all((flow_id,), root)

    def move_all(self, flow_ids: Iterable[int], root: int) -> None:
        """Moves flows to another bridge: all of them, or none.

        Each can be found there before it cannot be found here any more.

        :raises RequestError, BackendError: as insert(); nothing has changed
        """
        forest = self._root(root)
        placed: list[tuple[Leaf, Leaf]] = []
        try:
            for flow_id in flow_ids:
                old = self._leaves[flow_id]
                if old.tree.bridge != root:
                    new = Leaf(old.key, old.mask, flow_id)
                    self._place(root, forest, new)
                    placed.append((old, new))
        except DpifError:
            for _, new in placed:
                self._remove(new)
            raise
        for old, new in placed:
            self._records.set_bridge(new.flow, root)
            self._widen(root, forest, old.bits)
            self._haunt(old, new)

    def _haunt(self, old: Leaf, new: Leaf) -> None:
        """Let `new` be the flow's leaf, and `old` go after a grace period.

        A reader that has passed the new place before the leaf was there
        still finds the old one.
        """
        self._leaves[old.flow] = new
        old.ghost = True
        self._ghosts.setdefault(old.flow, []).append(old)
        self._quarantine.retire(self._drop_ghost, old)

    def _drop_ghost(self, leaf: Leaf) -> None:
        if not leaf.ghost:
            return
        leaf.ghost = False
        ghosts = self._ghosts[leaf.flow]
        ghosts.remove(leaf)
        if not ghosts:
            del self._ghosts[leaf.flow]
        self._remove(leaf)

    def tidy(self, budget: int) -> int:
        """Moves flows into earlier trees where there is room by now.

        :param budget: flows to try at most
        :returns: how many were tried; 0 when there is nothing to do
        """
        tried = 0
        for forest in self._roots.values():
            if tried >= budget:
                break
            tried += self._tidy(forest, budget - tried)
        return tried

    def _tidy(self, forest: _Root, budget: int) -> int:
        if forest.pending is None:
            if not forest.untidy or len(forest.trees) < 2:
                return 0
            forest.untidy = False
            forest.pending = iter([
                leaf for tree in reversed(forest.trees[1:])
                if tree.root is not None for leaf in leaves(tree.root)])
        tried = 0
        for leaf in islice(forest.pending, budget):
            tried += 1
            if self._leaves.get(leaf.flow) is leaf:
                self._advance_leaf(forest, leaf)
        if tried < budget:
            forest.pending = None
        return tried

    def _advance_leaf(self, forest: _Root, old: Leaf) -> None:
        new = Leaf(old.key, old.mask, old.flow)
        try:
            for tree in forest.trees:
                if tree is old.tree:
                    return
                if tree.insert(new):
                    self._haunt(old, new)
                    return
        except (TableFull, NoNode, NoDescriptor):
            pass

    # Grace

    def retire(self, call: Callable[[*_Args], object],
               *args: *_Args) -> None:
        """Makes a call after a grace period, in order with the
        classifier's own."""
        self._quarantine.retire(call, *args)

    @property
    def quarantine_size(self) -> int:
        """Things that wait for a grace period."""
        return len(self._quarantine)

    def seal(self) -> int:
        """Closes the batch of what was retired: see Quarantine.seal()."""
        return self._quarantine.seal()

    def advance(self, epoch: int, most: int = sys.maxsize) -> int:
        """Frees what was retired up to `epoch`: see Quarantine.advance()."""
        return self._quarantine.advance(epoch, most)

    # Telling

    def survey(self) -> Sliced[ClassifierStats]:
        """Walks all trees."""
        store, table = self._store, self._table
        roots = {}
        for root, forest in list(self._roots.items()):
            roots[root] = yield from measure(
                [tree.root for tree in forest.trees])
        return ClassifierStats(
            len(self._leaves), self.masks, roots,
            table.edges, table.overflow, len(self._masks),
            store.splits, store.rebuilds, store.reseeds, store.lifts,
            table.collisions, len(self._quarantine), self._sizes.flows,
            self._sizes.bytes())
