# SPDX-License-Identifier: Apache-2.0
"""A reader of the classifier's arrays: bpf/lib/lookup.h in Python.

It knows the arrays alone and nothing of the writer's objects, so that tests
can hold one against the other.
"""

from __future__ import annotations

import struct

from dpif_bpf import abi
from dpif_bpf.core.classifier.forest import Buffers

_M32 = (1 << 32) - 1
_M64 = (1 << 64) - 1
_WORDS = abi.OVS_CLS_WORDS
_LEAF = 1 << abi.OVS_EDGE_LEAF_SHIFT
_ID = (1 << abi.OVS_EDGE_ID_BITS) - 1
_DESC = abi.OVS_DESCS - 1


def finish(h: int) -> int:
    """The end of ovs_cls_hash()."""
    h &= _M64
    h ^= h >> 32
    h = h * abi.OVS_HASH_MULT & _M64
    return h ^ h >> 32


class Reader:
    """Looks keys up.

    :param main: buckets that a hash chooses from
    :ivar probes: of the last lookup
    :ivar bound: walks that were deeper than a reader goes
    """

    def __init__(self, buffers: Buffers, main: int) -> None:
        self._buckets = buffers.buckets
        self._descs = buffers.descs
        self._flows = buffers.flows
        self._values = buffers.values
        self._roots = buffers.roots
        self._mask = main - 1
        self.probes = 0
        self.bound = 0

    def _words(self, key: tuple[int, ...],
               desc: int) -> list[tuple[int, int, int]]:
        """Masked key word and random words of each entry of a mask, and of
        those that the hash takes for zero."""
        found: list[tuple[int, int, int]] = []
        record = 0
        first = abi.DESC["mask"].offset
        while desc:
            at = desc * abi.DESC.size
            n, index, following = struct.unpack_from(
                f"=B{_WORDS}sH", self._descs, at)
            masks = struct.unpack_from(f"={_WORDS}Q", self._descs, at + first)
            random = struct.unpack_from(f"={2 * _WORDS}I", self._descs,
                                        record * abi.DESC.size + first)
            read = _WORDS if record or n > 6 else 6 if n > 3 else 3
            found += [(key[index[j]] & masks[j], random[2 * j],
                       random[2 * j + 1]) for j in range(read)]
            desc = following
            record += 1
        return found

    def _probe(self, h: int) -> int:
        bucket = h & self._mask
        tag = h >> abi.OVS_EDGE_TAG_SHIFT
        for _ in range(abi.OVS_BUCKET_CHAIN):
            row = struct.unpack_from("=8Q", self._buckets,
                                     bucket * abi.BUCKET.size)
            found = [edge for edge in row[:7]
                     if edge >> abi.OVS_EDGE_TAG_SHIFT == tag]
            if found and tag:
                assert len(found) == 1
                edge: int = found[0]
                return edge
            bucket = row[7]
            if not bucket:
                break
        return 0

    def _same(self, key: tuple[int, ...], edge: int) -> bool:
        desc = edge >> abi.OVS_EDGE_DESC_SHIFT & _DESC
        words = [word for word, _, _ in self._words(key, desc)]
        record = edge & _ID
        values: list[int] = []
        first = abi.OVS_CLS_FIRST
        if struct.unpack_from("=H", self._flows,
                              record * abi.FLOW.size)[0] != desc:
            return False
        while len(values) < len(words):
            head = abi.FLOW.struct.unpack_from(self._flows,
                                               record * abi.FLOW.size)
            values += struct.unpack(f"={first}Q", head[5])
            values += struct.unpack_from(f"={_WORDS - first}Q", self._values,
                                         record * abi.VALUES.size)
            record = head[4]
        return values[:len(words)] == words

    def find(self, root: int, key: int) -> int | None:
        """The id of the flow that a packet with this key matches.

        :param root: bridge id
        :param key: key image as a little-endian number
        """
        words = struct.unpack(f"<{abi.OVS_KEY_WORDS}Q",
                              key.to_bytes(abi.KEY.size, "little"))
        ntrees, _cache, _desc, *trees = struct.unpack_from(
            f"=HHI{abi.OVS_CLS_TREES}Q", self._roots, root * abi.ROOT.size)
        self.probes = 0
        for edge in trees[:ntrees]:
            if edge:
                found = self._walk(words, edge)
                if found is not None:
                    return found
        return None

    def _walk(self, key: tuple[int, ...], edge: int) -> int | None:
        for _ in range(abi.OVS_CLS_DEPTH + 1):
            if edge & _LEAF:
                return edge & _ID if self._same(key, edge) else None
            h = edge << 63 - abi.OVS_EDGE_LEAF_SHIFT & _M64
            desc = edge >> abi.OVS_EDGE_DESC_SHIFT & _DESC
            for word, low, high in self._words(key, desc):
                h += ((word & _M32) + low) * ((word >> 32) + high)
            self.probes += 1
            edge = self._probe(finish(h))
            if not edge:
                return None
        self.bound += 1
        return None
