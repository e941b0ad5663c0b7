# SPDX-License-Identifier: Apache-2.0
"""A meter in plain Python: ovs_meter_execute() of Linux
net/openvswitch/meter.c, with its 32-bit integers."""

from __future__ import annotations

from dataclasses import dataclass, field

DROP = 1
_M32 = 0xffffffff


@dataclass(slots=True)
class Band:
    """One band; `bucket` has bits or thousandths of packets."""

    type: int
    rate: int
    burst: int
    bucket: int = 0
    packets: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Meter:
    """A meter.

    :param used: ms, of its making and then of the last packet
    """

    kbps: bool
    bands: list[Band]
    used: int
    packets: int = 0
    bytes: int = 0
    _max_delta: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        for band in self.bands:
            band.bucket = band.burst * 1000
            self._max_delta = max(self._max_delta,
                                  band.bucket // band.rate & _M32)

    def execute(self, now: int, length: int) -> bool:
        """Whether a packet that comes at `now` (ms) is dropped."""
        delta = min(now - self.used, self._max_delta)
        self.used = now
        self.packets += 1
        self.bytes += length
        cost = length * 8 if self.kbps else 1000
        exceeded: Band | None = None
        for band in self.bands:
            band.bucket = min(band.bucket + (delta * band.rate & _M32),
                              band.burst * 1000)
            if band.bucket >= cost:
                band.bucket -= cost
            elif exceeded is None or band.rate > exceeded.rate:
                exceeded = band
        if exceeded is None:
            return False
        exceeded.packets += 1
        exceeded.bytes += length
        return exceeded.type == DROP
