# SPDX-License-Identifier: Apache-2.0
"""The classifier's table of edges, in ovs_buckets (bpf/lib/abi.h).

A place is where an edge is stored: the index of its word in ovs_buckets, or
``~index`` of a word of ovs_roots for the root of a tree.
"""

from __future__ import annotations

import struct

from dpif_bpf import abi
from dpif_bpf.core.quarantine import Quarantine

LEAF = 1 << abi.OVS_EDGE_LEAF_SHIFT
DESC_SHIFT = abi.OVS_EDGE_DESC_SHIFT
SEED_SHIFT = 63 - abi.OVS_EDGE_LEAF_SHIFT
M64 = (1 << 64) - 1

_TAG_SHIFT = abi.OVS_EDGE_TAG_SHIFT
_TAG = M64 >> _TAG_SHIFT << _TAG_SHIFT
_MULT = abi.OVS_HASH_MULT
_EDGES = abi.OVS_BUCKET_EDGES
_ROW = struct.Struct("8Q")

NO_PLACE = -(1 << 60)
"""What put() answers when an edge cannot be told from another one."""


def finish(h: int) -> int:
    """The last step of the hash, which is one to one."""
    h &= M64
    h ^= h >> 32
    h = h * _MULT & M64
    return h ^ h >> 32


class TableFull(Exception):
    """No overflow bucket is left."""


class EdgeTable:
    """Writer of ovs_buckets.

    :param buckets: the mapped array, as bytes
    :param roots: ovs_roots, as bytes
    :param main: buckets that a hash chooses from, a power of two; those
        after them are overflow
    """

    def __init__(self, buckets: memoryview, roots: memoryview, main: int,
                 quarantine: Quarantine) -> None:
        assert main & (main - 1) == 0 and main > 0
        self._raw = buckets
        self._words = buckets.cast("Q")
        self._roots = roots.cast("Q")
        self._mask = main - 1
        self._main = main
        self._main_words = main * 8
        total = len(self._words) // 8
        self._free = list(range(total - 1, main - 1, -1))
        self._home: dict[int, int] = {}
        self._used: dict[int, int] = {}
        self._retire = quarantine.retire
        self.edges = 0
        self.collisions = 0

    @property
    def overflow(self) -> int:
        """Overflow buckets in use."""
        return len(self._home)

    def put(self, h: int, ref: int) -> int:
        """Stores an edge.

        :param h: the finished hash that leads to it
        :param ref: the edge without its tag
        :returns: its place, or NO_PLACE when another edge has the same
            bucket and tag, or the chain is as long as a reader follows it
        :raises TableFull:
        """
        tag = h >> _TAG_SHIFT
        if not tag:
            self.collisions += 1
            return NO_PLACE
        base = (h & self._mask) << 3
        first = base + ((h >> 20 & 0xffff) * 7 >> 16)
        place = -1
        raw = self._raw
        for _ in range(abi.OVS_BUCKET_CHAIN):
            row = _ROW.unpack_from(raw, base << 3)
            if any(row):
                for word in row:	# the link's tag would be zero
                    if word >> _TAG_SHIFT == tag:
                        self.collisions += 1
                        return NO_PLACE
                if place < 0:
                    if not row[first - base]:
                        place = first
                    elif 0 in row[:7]:
                        place = base + row.index(0)
            elif place < 0:
                place = first
            if not row[7]:
                break
            base = first = row[7] << 3
        else:
            if place < 0:
                self.collisions += 1
                return NO_PLACE
        edge = tag << _TAG_SHIFT | ref
        if place < 0:
            place = self._extend(base >> 3, h & self._mask, edge)
        else:
            self._words[place] = edge
            if place >= self._main_words:
                self._used[place >> 3] += 1
        self.edges += 1
        return place

    def _extend(self, last: int, home: int, edge: int) -> int:
        """Append an overflow bucket with one edge to a chain."""
        if not self._free:
            raise TableFull
        bucket = self._free.pop()
        self._home[bucket] = home
        self._used[bucket] = 1
        self._words[bucket << 3] = edge
        self._words[(last << 3) + 7] = bucket
        return bucket << 3

    def swing(self, place: int, ref: int) -> None:
        """Makes the edge at `place` lead elsewhere, by one store."""
        if place >= 0:
            words = self._words
            words[place] = words[place] & _TAG | ref
        else:
            self._roots[~place] = ref

    def clear(self, place: int) -> None:
        """Removes an edge, by one store."""
        if place < 0:
            self._roots[~place] = 0
            return
        self._words[place] = 0
        self.edges -= 1
        if place >= self._main_words:
            bucket = place >> 3
            self._used[bucket] -= 1
            if not self._used[bucket]:
                self._unlink(bucket)

    def clear_all(self, places: list[int]) -> None:
        """Removes edges that no reader can come to."""
        for place in places:
            self.clear(place)

    def _unlink(self, bucket: int) -> None:
        """Take an empty overflow bucket out of its chain.

        Readers that are in it still find the rest of the chain.
        """
        words = self._words
        at = (self._home.pop(bucket) << 3) + 7
        while words[at] != bucket:
            at = (words[at] << 3) + 7
        words[at] = words[(bucket << 3) + 7]
        del self._used[bucket]
        self._retire(self._release, bucket)

    def _release(self, bucket: int) -> None:
        self._words[(bucket << 3) + 7] = 0
        self._free.append(bucket)
