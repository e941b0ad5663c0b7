# SPDX-License-Identifier: Apache-2.0
"""What is measured of connection tracking: the segments and flows of bench
path's cases.

The flows are those of a security group, as ovs-vswitchd makes them of
``ct(table=1)`` and of a rule each for what is new and established.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from dpif_bpf.wire.checksum import checksum

SYN, ACK = 0x02, 0x10
SOURCE_NAT = 0x0A000009
"""10.0.0.9"""
TTL = 64
_TIMESTAMPS = struct.Struct("!BBBBII")
_SYN_OPTIONS = bytes((2, 4, 5, 0xB4, 4, 2))
_SCALE = bytes((1, 3, 3, 7))


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment without data, with the options that Linux puts there."""

    src: int
    dst: int
    sport: int
    dport: int
    flags: int
    seq: int
    ack: int
    window: int = 501

    def headers(self) -> bytes:
        """Those of IPv4 and TCP, with their checksums."""
        options = _TIMESTAMPS.pack(1, 1, 8, 10, 4000, 3000)
        if self.flags & SYN:
            options = _SYN_OPTIONS + options[2:] + _SCALE
        size = 20 + len(options)
        tcp = struct.pack("!HHIIBBHHH", self.sport, self.dport, self.seq,
                          self.ack, size << 2, self.flags, self.window, 0,
                          0) + options
        ends = self.src.to_bytes(4, "big") + self.dst.to_bytes(4, "big")
        tcp_sum = checksum(ends + struct.pack("!HH", 6, size) + tcp)
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + size, 0, 0x4000, TTL, 6,
                         0) + ends
        return (ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
                + tcp[:16] + struct.pack("!H", tcp_sum) + tcp[18:])


ESTABLISHED = Segment(0x0A000001, 0x0A000002, 4000, 80, ACK, 1001, 2001)
OPENING = replace(ESTABLISHED, flags=SYN, seq=1000, ack=0, window=64240)

NEW = replace(OPENING, sport=0, dport=0, seq=0)
"""For ports, and a sequence number that is their complement: its checksum is
right with all of them."""


def handshake(seen_as: int = ESTABLISHED.src) -> tuple[Segment, ...]:
    """What opens the connection of ESTABLISHED.

    :param seen_as: its client's address where it is answered
    """
    return (OPENING,
            Segment(ESTABLISHED.dst, seen_as, ESTABLISHED.dport,
                    ESTABLISHED.sport, SYN | ACK, 2000, 1001, 65160),
            ESTABLISHED)


def acknowledgements() -> tuple[Segment, ...]:
    """They differ, as they do unless they are sent again."""
    return tuple(replace(ESTABLISHED, window=window) for window in (501, 502))
