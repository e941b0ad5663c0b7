# SPDX-License-Identifier: Apache-2.0
"""The meters of a datapath, in ovs_meters (bpf/lib/abi_meter.h).

The rules are those of Linux net/openvswitch/meter.c.  A meter has the place
that its id has modulo OVS_METERS, where another one is in its way as in the
kernel, whose tables are never larger; bands after the first are in places of
their own.  All that is known of a meter is in the map, which outlives the
provider: the next one looks at what is there (:meth:`Meters.adopt`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from struct import Struct

import numpy as np

from dpif_bpf import abi
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.meter_messages import Band, MeterRequest
from dpif_bpf.wire.replies import MeterStats

MAX_METERS = 200000
"""DP_METER_NUM_MAX of the kernel's net/openvswitch/meter.h."""
MAX_BANDS = abi.OVS_METER_BANDS

_SIZE = abi.METER.size // 8
_M64 = (1 << 64) - 1
_HEAD = Struct("=IHH")
_PAIR = Struct("=II")
_WORD = Struct("=Q")

# Words of struct ovs_meter.
_FLAGS, _RATE, _SPENT, _USED, _PACKETS, _BYTES, _OVER, _OVER_BYTES = range(8)


class Meters:
    """All meters.

    :param words: ovs_meters as 64-bit words
    :param clock: ms, CLOCK_MONOTONIC
    """

    def __init__(self, words: memoryview, clock: Callable[[], int]) -> None:
        self._words = words
        self._clock = clock
        self._count = 0
        self._free: list[int] = []
        """Places of further bands that were given back."""
        self._next = 1
        """The first place that was never taken."""

    def __len__(self) -> int:
        return self._count

    def adopt(self) -> int:
        """Finds the meters that are there.

        :returns: how many were none that this version makes, and are gone
        """
        table = np.frombuffer(self._words, np.uint64).reshape(-1, _SIZE)
        heads = np.flatnonzero(table[:abi.OVS_METERS, _FLAGS]).tolist()
        extra: set[int] = set()
        for head in heads:
            more = self._chain(head)
            if more is None or not extra.isdisjoint(more):
                self._words[head * _SIZE] = 0
                continue
            extra |= more
            self._count += 1
        self._next = max(extra, default=0) + 1
        self._free = [n for n in range(1, self._next) if n not in extra]
        return len(heads) - self._count

    def _chain(self, head: int) -> set[int] | None:
        """Where a meter's further bands are; None when it is no meter."""
        meter_id, following, flags = self._head(head)
        if (meter_id % abi.OVS_METERS != head
                or not flags & abi.OVS_METER_F_USED):
            return None
        more: set[int] = set()
        while following:
            if (following in more or following >= abi.OVS_METER_EXTRA
                    or len(more) == MAX_BANDS - 1):
                return None
            more.add(following)
            found, following, flags = self._head(abi.OVS_METERS + following)
            if found != meter_id or not flags & abi.OVS_METER_F_BAND:
                return None
        return more

    def set(self, request: MeterRequest) -> MeterStats | None:
        """OVS_METER_CMD_SET.

        :returns: what is to be told of the meter that there was
        :raises RequestError: EINVAL for too many bands, EBUSY when another
            meter is in the way, EFBIG when there are too many, ENOMEM when
            there is no room for the bands
        """
        bands = request.bands
        if len(bands) > MAX_BANDS:
            raise RequestError(errno.EINVAL, f"{len(bands)} bands are more"
                               f" than {MAX_BANDS}")
        head = request.id % abi.OVS_METERS
        old = self._find(request.id)
        told = old and not self._head(head)[2] & abi.OVS_METER_F_CLEAR
        if not old and self._words[head * _SIZE]:
            raise RequestError(errno.EBUSY, f"meter {self._head(head)[0]} is"
                               f" in the way of meter {request.id}")
        if not old and self._count >= MAX_METERS:
            raise RequestError(errno.EFBIG, f"there are {MAX_METERS} meters")
        spare = len(self._free) + abi.OVS_METER_EXTRA - self._next
        if old:
            spare += len(self._places(head)) - 1
        if len(bands) - 1 > spare:
            raise RequestError(errno.ENOMEM, "no room for more bands")
        stats = self.delete(request.id)
        self._write(head, request)
        self._count += 1
        return stats if told else None

    def get(self, meter_id: int) -> MeterStats:
        """OVS_METER_CMD_GET.

        :raises RequestError: ENOENT
        """
        if not self._find(meter_id):
            raise RequestError(errno.ENOENT, f"there is no meter {meter_id}")
        return self._stats(meter_id % abi.OVS_METERS)

    def delete(self, meter_id: int) -> MeterStats | None:
        """OVS_METER_CMD_DEL; packets of flows that name it pass.

        :returns: None when there was none
        """
        if not self._find(meter_id):
            return None
        head = meter_id % abi.OVS_METERS
        stats = self._stats(head)
        places = self._places(head)
        self._words[head * _SIZE] = 0
        self._free += [place - abi.OVS_METERS for place in places[1:]]
        self._count -= 1
        return stats

    def _find(self, meter_id: int) -> bool:
        """Whether there is such a meter."""
        found, _, flags = self._head(meter_id % abi.OVS_METERS)
        return flags != 0 and found == meter_id

    def _head(self, place: int) -> tuple[int, int, int]:
        """Id, next and flags of what is in a place."""
        meter_id, following, flags = _HEAD.unpack(
            _WORD.pack(self._words[place * _SIZE]))
        return meter_id, following, flags

    def _places(self, head: int) -> list[int]:
        """Where a meter and its further bands are."""
        places = [head]
        while following := self._head(places[-1])[1]:
            places.append(abi.OVS_METERS + following)
        return places

    def _stats(self, head: int) -> MeterStats:
        words = self._words

        def pair(place: int, first: int) -> tuple[int, int]:
            at = place * _SIZE + first
            return words[at], words[at + 1]

        return MeterStats(
            pair(head, _PACKETS), words[head * _SIZE + _USED],
            tuple(pair(place, _OVER) for place in self._places(head)
                  if self._head(place)[2] & abi.OVS_METER_F_BAND))

    def _write(self, head: int, request: MeterRequest) -> None:
        """Sets a meter up where there is none."""
        now = self._clock()
        words, base = self._words, head * _SIZE
        words[base + _USED] = now
        words[base + _PACKETS], words[base + _BYTES] = request.stats
        common = abi.OVS_METER_F_BAND
        if request.kbps:
            common |= abi.OVS_METER_F_KBPS
        following = 0
        for band in reversed(request.bands[1:]):
            place = self._free.pop() if self._free else self._fresh()
            at = abi.OVS_METERS + place
            words[at * _SIZE] = _head_word(request.id, following,
                                           common | _flags(band))
            self._put(at, band, now)
            following = place
        flags = abi.OVS_METER_F_USED
        if request.clear:
            flags |= abi.OVS_METER_F_CLEAR
        if request.bands:
            flags |= common | _flags(request.bands[0])
            self._put(head, request.bands[0], now)
        words[base] = _head_word(request.id, following, flags)

    def _fresh(self) -> int:
        self._next += 1
        return self._next - 1

    def _put(self, place: int, band: Band, now: int) -> None:
        """Fills a bucket; see struct ovs_meter for the order."""
        words, at = self._words, place * _SIZE
        words[at + _RATE] = _word(_PAIR.pack(band.rate, band.burst))
        words[at + _OVER] = words[at + _OVER_BYTES] = 0
        words[at + _SPENT] = now * band.rate - band.burst * 1000 & _M64


def _flags(band: Band) -> int:
    drops = band.type == uapi.OVS_METER_BAND_TYPE_DROP
    return abi.OVS_METER_F_DROP if drops else 0


def _head_word(meter_id: int, following: int, flags: int) -> int:
    return _word(_HEAD.pack(meter_id, following, flags))


def _word(data: bytes) -> int:
    value: int = _WORD.unpack(data)[0]
    return value
