# SPDX-License-Identifier: Apache-2.0
"""Mask descriptors of the classifier, in ovs_descs (bpf/lib/abi.h)."""

from __future__ import annotations

import random
import struct
from operator import add, mul

from dpif_bpf import abi

WORDS = abi.OVS_CLS_WORDS
_RECORD = struct.Struct(f"=B{WORDS}sH{WORDS}Q8x")
_SIZE = abi.DESC.size // 8


def summed(words: int) -> int:
    """Terms of the hash of so many words: the tiers of ovs_cls_hash()."""
    for tier in (3, 6):
        if words <= tier:
            return tier
    return -(-words // WORDS) * WORDS


class Mask:
    """The bits that a node tests or a flow matches.

    :ivar bits: as a number: the key image read little-endian
    :ivar id: of its first record in ovs_descs, never 0
    :ivar refs: nodes and flow records that name it
    :ivar flows: flows among them that have not been deleted
    :ivar index: the words of the key in which there are bits
    """

    __slots__ = ("_halves", "_random", "_rest", "_size", "_values", "bits",
                 "flows", "id", "index", "more", "refs")

    def __init__(self, bits: int, random_words: tuple[int, ...]) -> None:
        self.bits = bits
        self.refs = 0
        self.flows = 0
        self.id = 0
        self.more: tuple[int, ...] = ()
        size = (bits.bit_length() + 63) // 64
        words = struct.unpack(f"<{size}Q", bits.to_bytes(size * 8, "little"))
        self.index = tuple(i for i, word in enumerate(words) if word)
        self._size = size * 8
        one = "".join("Q" if word else "8x" for word in words)
        self._values = struct.Struct("<" + one)
        self._halves = struct.Struct("<" + one.replace("Q", "II"))
        self._random = random_words[:2 * len(self.index)]
        # What the reader adds for the words that the mask does not have.
        unused = random_words[2 * len(self.index):2 * summed(len(self.index))]
        self._rest = sum(map(mul, unused[::2], unused[1::2]))

    def values(self, key: int) -> tuple[int, ...]:
        """The words of a masked key that the mask has bits in."""
        return self._values.unpack(key.to_bytes(self._size, "little"))

    def hash(self, value: int, start: int) -> int:
        """Sum of the NH terms of a masked key, and `start`, unfinished.

        :param value: key & bits
        """
        pairs = map(add, self._halves.unpack(
            value.to_bytes(self._size, "little")), self._random)
        total: int = sum(map(mul, pairs, pairs), start + self._rest)
        return total


class NoDescriptor(Exception):
    """Every descriptor is in use."""


class MaskTable:
    """Writer of ovs_descs.

    A mask without references stays until its records are needed.  A
    reference is dropped after the grace period of what held it, so that
    readers hold no such mask.

    :param descs: the mapped array, as bytes
    :param rng: for the hash's random words, which packets' senders must
        not know
    """

    def __init__(self, descs: memoryview, rng: random.Random) -> None:
        self._random = tuple(
            rng.getrandbits(32)
            for _ in range(2 * WORDS * abi.OVS_CLS_RECORDS))
        self._words = descs.cast("Q")
        for i in range(abi.OVS_CLS_RECORDS):
            self._store(i * _SIZE + abi.DESC["mask"].offset // 8, struct.pack(
                f"={2 * WORDS}I",
                *self._random[2 * WORDS * i:2 * WORDS * (i + 1)]))
        self._free = list(range(len(descs) // abi.DESC.size - 1,
                                abi.OVS_CLS_RECORDS - 1, -1))
        self._masks: dict[int, Mask] = {}
        self._idle: dict[int, Mask] = {}
        self.flow_masks = 0

    def __len__(self) -> int:
        """Masks in use, those of nodes and of flows."""
        return len(self._masks) - len(self._idle)

    @property
    def free(self) -> int:
        """Descriptor records that are not in use."""
        return len(self._free) + sum(1 + len(mask.more)
                                     for mask in self._idle.values())

    def ref(self, bits: int) -> Mask:
        """The mask with these bits, with one reference more.

        :raises NoDescriptor:
        """
        mask = self._masks.get(bits)
        if mask is None:
            mask = Mask(bits, self._random)
            self._allocate(mask)
            self._write(mask)
            self._masks[bits] = mask
        elif not mask.refs:
            del self._idle[bits]
        mask.refs += 1
        return mask

    def unref(self, mask: Mask) -> None:
        """Drops a reference, after the grace period of what held it."""
        mask.refs -= 1
        if not mask.refs:
            self._idle[mask.bits] = mask

    def count_flow(self, mask: Mask, change: int) -> None:
        """Keeps count of the masks that flows have."""
        before = mask.flows
        mask.flows = before + change
        self.flow_masks += bool(mask.flows) - bool(before)

    def _allocate(self, mask: Mask) -> None:
        need = max(1, -(-len(mask.index) // WORDS))
        while len(self._free) < need:
            if not self._idle:
                raise NoDescriptor
            bits = next(iter(self._idle))
            old = self._idle.pop(bits)
            del self._masks[bits]
            self._free.extend((old.id, *old.more))
        mask.id = self._free.pop()
        mask.more = tuple(self._free.pop() for _ in range(need - 1))

    def _write(self, mask: Mask) -> None:
        ids = (mask.id, *mask.more, 0)
        for i, at in enumerate(ids[:-1]):
            index = mask.index[i * WORDS:(i + 1) * WORDS]
            words = [mask.bits >> 64 * word & (1 << 64) - 1 for word in index]
            words += [0] * (WORDS - len(words))
            self._store(at * _SIZE, _RECORD.pack(
                len(index), bytes(index), ids[i + 1], *words))

    def _store(self, at: int, data: bytes) -> None:
        for number, word in enumerate(memoryview(data).cast("Q"), at):
            self._words[number] = word
