# SPDX-License-Identifier: Apache-2.0
"""What outlives the provider: its netlink requests, kept in ovs_nlmem.

The map begins with a directory of one word for each record: record 0 is the
datapath, 1 + port_no a port, ``FLOW_BASE`` + flow id a flow.  A word is
``offset << 32 | bytes``; 0 stands for none.  It is stored after the record's
bytes are, so that whoever maps a pinned ovs_nlmem sees whole records only.
A record is the attribute payload of the request that made the thing, to be
replayed through the same code by the next provider; before it are
``core.restore.DATAPATH_PREFIX`` or ``FLOW_PREFIX``, or nothing for a port.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from struct import Struct

from dpif_bpf import abi
from dpif_bpf.core.arena import Arena
from dpif_bpf.errors import BackendError

DATAPATH = 0
PORT_BASE = 1
FLOW_BASE = PORT_BASE + 65536
FLOW_PREFIX = Struct("=Q")
"""A flow's serial number: of two flows that match a packet, the one that was
there first is met, and so it has to be in the next provider's table."""
DIR_BASE = 3
"""Word 0 holds the layout's magic, word 1 the directory's length, word 2 the
OVS_ABI_VERSION of the maps beside this one."""
MAGIC = 0x4F56532D4E4C3032

FIRST_MAGIC = 0x4F56532D4E4C3031
"""Of the layout before: no word 2, no serial numbers, a shorter
DATAPATH_PREFIX; the ABI's version was 1."""


def memory_words(flow_ids: int) -> int:
    """Size of ovs_nlmem in words for so many flow ids.

    The directory, 64 words for each flow (the key, mask and actions of an
    IPv4 flow take about 300 bytes) and 64 Ki words for the rest.
    """
    return DIR_BASE + FLOW_BASE + 65 * flow_ids + 65536


class Records:
    """Writes records.

    :param words: ovs_nlmem, of memory_words(), as a memoryview of format 'Q'
    :param flow_ids: those of flows are below this
    """

    def __init__(self, words: memoryview, flow_ids: int) -> None:
        self._words = words
        self._flow_ids = flow_ids
        self._bytes = words.cast("B")
        start = DIR_BASE + FLOW_BASE + flow_ids
        self._arena = Arena(words, start=start, name="ovs_nlmem")
        words[1] = FLOW_BASE + flow_ids
        words[2] = abi.OVS_ABI_VERSION
        words[0] = MAGIC

    def put(self, index: int, data: bytes) -> None:
        """Keeps `data` as record `index`, in place of an earlier one."""
        old = self._words[DIR_BASE + index]
        n = (len(data) + 7) // 8
        offset = self._arena.alloc(n)
        self._bytes[offset * 8:offset * 8 + len(data)] = data
        self._words[DIR_BASE + index] = offset << 32 | len(data)
        self._free(old)

    def drop(self, index: int) -> None:
        """Forgets record `index`, if there is one."""
        old = self._words[DIR_BASE + index]
        self._words[DIR_BASE + index] = 0
        self._free(old)

    def take_flows(self) -> memoryview:
        """Forgets all flows at once: their entries by flow id, to be given
        to release() one by one."""
        start = DIR_BASE + FLOW_BASE
        flows = self._words[start:start + self._flow_ids]
        taken = memoryview(bytes(flows)).cast("Q")
        flows[:] = memoryview(bytes(len(taken) * 8)).cast("Q")
        return taken

    def release(self, entry: int) -> None:
        """Frees what an entry of take_flows() names."""
        self._free(entry)

    def _free(self, entry: int) -> None:
        if entry:
            self._arena.free_now(entry >> 32,
                                 ((entry & 0xffffffff) + 7) // 8)


def read(words: memoryview) -> Iterator[tuple[int, bytes]]:
    """The records (index, bytes) of an earlier provider's ovs_nlmem.

    :raises BackendError: EPROTO when the layout is another one
    """
    base = DIR_BASE if version(words) else DIR_BASE - 1
    if base + words[1] > len(words):
        raise BackendError(errno.EPROTO, "the pinned records are cut off")
    data = words.cast("B")
    for index, entry in enumerate(words[base:base + words[1]]):
        if entry:
            start, n = (entry >> 32) * 8, entry & 0xffffffff
            if start + n > len(data):
                raise BackendError(errno.EPROTO, "a record is out of bounds")
            yield index, bytes(data[start:start + n])


def flow_ids(words: memoryview) -> int:
    """Flow ids that there are beside an earlier provider's ovs_nlmem: those
    of a stripe of ovs_flow_stats."""
    return int(words[1]) - FLOW_BASE


def version(words: memoryview) -> int:
    """OVS_ABI_VERSION of the provider that wrote them; 0: FIRST_MAGIC.

    :raises BackendError: EPROTO when the layout is another one
    """
    if len(words) >= DIR_BASE and words[0] == MAGIC and words[2]:
        return int(words[2])
    if len(words) >= DIR_BASE and words[0] == FIRST_MAGIC:
        return 0
    raise BackendError(errno.EPROTO,
                       "the pinned records have another layout")
