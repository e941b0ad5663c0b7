# SPDX-License-Identifier: Apache-2.0
"""Connections that are expected: ovs_ct_expect of bpf/lib/abi_ct.h.

The provider fills in, programs take (bpf/lib/ct_expect.h).  What is ready has
an incarnation, which each use of an element raises: a program that read an
earlier one does not get this one.

As net/netfilter/nf_conntrack_expect.c of the kernel, whose helpers of FTP and
TFTP allow each control connection one expectation at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dpif_bpf import abi_ct
from dpif_bpf.core.conntrack.hashing import Hash
from dpif_bpf.core.conntrack.helpers.model import (
    TIMEOUT,
    Expectation,
    Expected,
    Master,
)
from dpif_bpf.core.conntrack.tuples import pack_tuple
from dpif_bpf.wire.ct_tuple import CtTuple

_WORDS = abi_ct.EXPECT.size // 8
_GEN_ONE = 1 << abi_ct.OVS_CT_GEN_SHIFT
_LOW = _GEN_ONE - 1
_WAYS = abi_ct.OVS_CT_EXPECT_WAYS
_COUNT = abi_ct.USE["expects"].offset // 8

Name = tuple[int, int]
"""Of a master: id and incarnation."""


@dataclass(frozen=True, slots=True)
class _Element:
    """What is in an element that is ready."""

    master: Name
    tuple: bytes
    end: int


class ExpectTable:
    """What is expected of all control connections.

    :param memory: ovs_ct_expect, as 64-bit words
    :param use: ovs_ct_use, likewise
    :param hash_: of the table of connections
    :param lives: whether a record's incarnation still is a connection
    :param clock: s, CLOCK_MONOTONIC_COARSE
    :ivar full: expectations for which there was no room
    """

    def __init__(self, memory: memoryview, use: memoryview, hash_: Hash,
                 lives: Callable[[int, int], bool],
                 clock: Callable[[], int]) -> None:
        self._memory, self._use, self._hash = memory, use, hash_
        self._lives, self._clock = lives, clock
        self._buckets = len(memory) // _WORDS // _WAYS
        self._of: dict[Name, int] = {}
        """Element of each master."""
        self.full = 0
        for index in range(self._buckets * _WAYS):
            if self._state(index) == abi_ct.OVS_CT_EXPECT_READY:
                self._of[self._read(index).master] = index
        self._publish()

    def use(self, memory: memoryview, use: memoryview) -> None:
        """The same maps, as another datapath has them."""
        self._memory, self._use = memory, use

    def __len__(self) -> int:
        """How many there may be: some were taken, or have ended."""
        return len(self._of)

    # core.conntrack.helpers.model.Expects

    def expect(self, master: Master, wish: Expectation) -> Expected:
        now = self._clock()
        name = master.id, master.gen
        wanted = pack_tuple(wish.tuple, master.zone)
        free = None
        for index in self._bucket(wanted):
            element = self._ready(index, now)
            if element is None:
                free = index
            elif element.master == name:
                if element.tuple == wanted:
                    self._end(index)
                    free = index
            elif element.tuple == wanted:
                return Expected.BUSY
        if name in self._of:
            index = self._of[name]
            self._end(index)
            if free is None and index in self._bucket(wanted):
                free = index
        if free is None:
            self.full += 1
            self._publish()
            return Expected.FULL
        self._of[name] = free
        self._publish()
        self._fill(free, name, wanted, master, wish, now + TIMEOUT)
        return Expected.DONE

    def unexpect(self, master: Master) -> None:
        index = self._of.get((master.id, master.gen))
        if index is not None:
            self._end(index)
            self._publish()

    def upkeep(self) -> None:
        """Gives back what was taken, has expired, or has lost its master."""
        now = self._clock()
        for index in list(self._of.values()):
            self._ready(index, now)
        self._publish()

    def _bucket(self, wanted: bytes) -> range:
        """Where a tuple may be; its source port is 0."""
        first = self._hash.one(wanted) % self._buckets * _WAYS
        return range(first, first + _WAYS)

    def _state(self, index: int) -> int:
        word: int = self._memory[index * _WORDS]
        return word & _LOW

    def _read(self, index: int) -> _Element:
        data = self._memory[index * _WORDS:(index + 1) * _WORDS].tobytes()
        values = dict(zip(abi_ct.EXPECT.fields,
                          abi_ct.EXPECT.struct.unpack(data), strict=True))
        return _Element((values["master"], values["master_gen"]),
                        values["tuple"], values["end"])

    def _ready(self, index: int, now: int) -> _Element | None:
        """What an element still expects; others are given back."""
        state = self._state(index)
        if state == abi_ct.OVS_CT_EXPECT_FREE:
            return None
        element = self._read(index)
        if (state == abi_ct.OVS_CT_EXPECT_READY and element.end > now
                and self._lives(*element.master)):
            return element
        self._end(index)
        return None

    def _end(self, index: int) -> None:
        """Whoever takes it at this moment has it, as in the kernel."""
        name = self._read(index).master
        if self._of.get(name) == index:
            del self._of[name]
        self._memory[index * _WORDS] &= ~_LOW

    def _fill(self, index: int, name: Name, wanted: bytes, master: Master,
              wish: Expectation, end: int) -> None:
        first, follow = wish.tuple, wish.follow
        reply, flags = first.reversed(), 0
        if follow is not None:
            reply = CtTuple(first.family, first.proto, follow.dst,
                            follow.src, follow.dport, 0)
            flags = abi_ct.OVS_CT_EXPECT_F_NAT
        at = index * _WORDS
        word = (self._memory[at] + _GEN_ONE) & ~_LOW & (1 << 64) - 1
        words = memoryview(abi_ct.EXPECT.struct.pack(
            0, wanted, pack_tuple(reply, master.zone), *name, end, flags,
            bytes(abi_ct.EXPECT["pad"].size))).cast("Q")
        for offset in range(1, _WORDS):
            self._memory[at + offset] = words[offset]
        # The last store: from here on a program may take it.
        self._memory[at] = word | abi_ct.OVS_CT_EXPECT_READY

    def _publish(self) -> None:
        """Programs look here only when there is something to find."""
        self._use[_COUNT] = len(self._of)
