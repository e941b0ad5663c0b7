# SPDX-License-Identifier: Apache-2.0
"""Statistics of flows, in the mapped stripes of ovs_flow_stats.

The programs count in the stripe of their CPU; the sums are made here, for
many flows at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpif_bpf import abi

Counts = NDArray[np.uint64]

_FIELDS = abi.FLOW_STATS.size // 8
_SPARSE = 16
_M64 = (1 << 64) - 1


class FlowCounts(NamedTuple):
    """Of one flow: packets, bytes, used (ns, CLOCK_MONOTONIC; 0: never) and
    the OR of the TCP flags."""

    packets: int
    bytes: int
    used: int
    tcp_flags: int


def total(rows: Iterable[tuple[int, int, int, int]]) -> FlowCounts:
    """What a flow has counted in several places: rows of FlowCounts."""
    packets = nbytes = used = tcp_flags = 0
    for row in rows:
        packets += row[0]
        nbytes += row[1]
        used = max(used, row[2])
        tcp_flags |= row[3]
    return FlowCounts(packets, nbytes, used, tcp_flags)


@dataclass(frozen=True, slots=True)
class FlowArrays:
    """The same of many flows: arrays of equal length."""

    packets: Counts
    bytes: Counts
    used: Counts
    tcp_flags: Counts


class FlowStats:
    """Reader of ovs_flow_stats.

    :param buffer: the mapped array, as bytes
    :param stripes: how many there are: those of the CPUs, and a last one
        that is the provider's
    :param flows: elements of one stripe
    """

    def __init__(self, buffer: memoryview, stripes: int, flows: int) -> None:
        count = stripes * flows * _FIELDS
        self._all = np.frombuffer(buffer, np.uint64, count).reshape(
            stripes, flows, _FIELDS)
        self._words = buffer.cast("Q")
        self._stripe = flows * _FIELDS

    def read(self, ids: Sequence[int] | NDArray[np.intp] | slice
             ) -> FlowArrays:
        """Sums for flow ids, in their order, or for a slice of them."""
        if isinstance(ids, slice):
            part = self._all[:, ids]
        else:
            which = np.asarray(ids, np.intp)
            if len(which) * _SPARSE > self._all.shape[1]:
                # Reading all of them is faster than picking.
                every = self.read(slice(0, int(which.max()) + 1))
                return FlowArrays(every.packets[which], every.bytes[which],
                                  every.used[which], every.tcp_flags[which])
            # Of [:, which] numpy makes an array in another order of memory.
            part = self._all.take(which, axis=1)
        return FlowArrays(part[:, :, 0].sum(axis=0, dtype=np.uint64),
                          part[:, :, 1].sum(axis=0, dtype=np.uint64),
                          part[:, :, 2].max(axis=0),
                          np.bitwise_or.reduce(part[:, :, 3], axis=0))

    def one(self, flow_id: int) -> FlowCounts:
        """Sums for one flow."""
        packets = octets = used = flags = 0
        for row in self._all[:, flow_id, :].tolist():
            packets += row[0]
            octets += row[1]
            used = max(used, row[2])
            flags |= row[3]
        return FlowCounts(packets & _M64, octets & _M64, used, flags)

    def clear(self, flow_id: int) -> None:
        """Zeroes the counters of an id that no program counts on."""
        used = self._all[:, flow_id, :].max(axis=1)
        for stripe in np.flatnonzero(used).tolist():
            self._store(stripe, flow_id, 0, (0, 0, 0, 0))

    def _store(self, stripe: int, flow_id: int, first: int,
               values: tuple[int, ...]) -> None:
        at = stripe * self._stripe + flow_id * _FIELDS + first
        for place, value in enumerate(values, at):
            self._words[place] = value

    def add(self, flow_id: int, counts: FlowCounts) -> None:
        """Adds what was counted elsewhere, though programs count on."""
        base = self._all[-1, flow_id]
        base[0] = (int(base[0]) + counts.packets) & _M64
        base[1] = (int(base[1]) + counts.bytes) & _M64
        base[2] = max(int(base[2]), counts.used)
        base[3] = int(base[3]) | counts.tcp_flags

    def preset(self, flow_id: int, counts: FlowCounts) -> None:
        """Sets the counters of a flow, though programs count on.

        The stripes of the CPUs stay theirs: what they hold is taken off in
        the provider's stripe, modulo 2**64.
        """
        now = self.one(flow_id)
        last = len(self._all) - 1
        packets, octets = self._all[last, flow_id, :2].tolist()
        for stripe in range(last):
            self._store(stripe, flow_id, 2, (0, 0))
        self._store(last, flow_id, 0, (
            packets + counts.packets - now.packets & _M64,
            octets + counts.bytes - now.bytes & _M64,
            counts.used, counts.tcp_flags))
