# SPDX-License-Identifier: Apache-2.0
"""NAT as a test sees it: what a rule lets become of a connection, and packets
in which some ends have become others.

A packet is rewritten without regard to connections, so that it takes the place
of what a peer would have sent: addresses and ports, in an ICMP error those of
the packet inside, too, and the checksums by as much as they change.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from ctframes import (
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    checksum,
)
from oracle_sctp import crc32c

L3 = 14
PORTS = frozenset((TCP, UDP, UDPLITE, SCTP))
_SUM_AT = {TCP: 16, UDP: 6, UDPLITE: 6, ICMP: 2, ICMPV6: 2}
_ID_TYPES = {ICMP: frozenset((8, 0, 13, 14, 15, 16, 17, 18)),
             ICMPV6: frozenset((128, 129))}
_ERRORS = {ICMP: frozenset((3, 4, 5, 11, 12)), ICMPV6: frozenset(range(128))}
_EXTENSIONS = frozenset((0, 43, 44, 60))

End = tuple[bytes, int]
"""Address, and port or identifier; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Target:
    """What one end becomes.

    :param ports: none: as they are, if nobody has them
    :param how: "random", "fully-random", "persistent"
    """

    low: str
    high: str = ""
    ports: tuple[int, int] | None = None
    how: str = ""

    @property
    def last(self) -> str:
        return self.high or self.low

    @property
    def v6(self) -> bool:
        return ":" in self.low

    def has(self, addr: bytes) -> bool:
        return (ipaddress.ip_address(self.low)
                <= ipaddress.ip_address(addr)
                <= ipaddress.ip_address(self.last))

    def nft(self) -> str:
        """As nft(8) has it."""
        addr = [f"[{one}]" if self.v6 and self.ports else one
                for one in (self.low, self.high) if one]
        ports = ":{}-{}".format(*self.ports) if self.ports else ""
        return (("ip6" if self.v6 else "ip") + " to " + "-".join(addr)
                + ports + " " + self.how)


@dataclass(frozen=True, slots=True)
class Rule:
    """What connections to an address become."""

    name: str
    dst: str
    snat: Target | None = None
    dnat: Target | None = None

    @property
    def v6(self) -> bool:
        return ":" in self.dst

    def nft(self, what: str) -> list[str]:
        """The rules of chain "snat" or "dnat"."""
        target = self.snat if what == "snat" else self.dnat
        if target is None:
            return []
        family = "ip6" if self.v6 else "ip"
        line = (f'iifname "ka" {family} daddr' if what == "dnat" else
                f'oifname "kb" ct original {family} daddr')
        line += f" {self.dst} "
        if target.ports:	# nft wants to know which protocols have any
            line += ("meta l4proto { tcp, udp, udplite, sctp, gre, icmp,"
                     " ipv6-icmp, 253 } ")
        return [f"{line}{what} {target.nft()}"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a packet's parts are.

    :param l4: 0: they are not all there, or it is a later fragment
    """

    v6: bool
    proto: int
    l4: int


def place(data: bytes | bytearray, l3: int) -> Place | None:
    """The packet at l3; None when its header is cut short."""
    if l3 >= len(data):
        return None
    if data[l3] >> 4 == 4:
        if l3 + 20 > len(data):
            return None
        return Place(False, data[l3 + 9], l3 + (data[l3] & 15) * 4)
    if l3 + 40 > len(data):
        return None
    proto, at = data[l3 + 6], l3 + 40
    while proto in _EXTENSIONS and at + 8 <= len(data):
        proto, at = data[at], at + (8 if proto == 44 else
                                    8 * (data[at + 1] + 1))
    return Place(True, proto, at)


def is_error(data: bytes | bytearray) -> bool:
    """Whether a frame has an ICMP error."""
    where = place(data, L3)
    assert where is not None
    return (where.proto in _ERRORS
            and data[where.l4] in _ERRORS[where.proto])


def ends(data: bytes | bytearray, l3: int = L3) -> tuple[End, End]:
    """Source and destination."""
    where = place(data, l3)
    assert where is not None
    size, at = (16, l3 + 8) if where.v6 else (4, l3 + 12)
    ports = 0, 0
    if where.l4 + 4 <= len(data) and where.proto in PORTS:
        ports = struct.unpack_from(">HH", data, where.l4)
    elif (where.l4 + 8 <= len(data) and where.proto in _ID_TYPES
          and data[where.l4] in _ID_TYPES[where.proto]):
        ports = struct.unpack_from(">H", data, where.l4 + 4) * 2
    return ((bytes(data[at:at + size]), ports[0]),
            (bytes(data[at + size:at + 2 * size]), ports[1]))


def changed_sum(was: int, before: bytes, after: bytes) -> int:
    """A checksum over bytes that have changed: RFC 1624."""
    total = (~was & 0xffff) + checksum(before) + (~checksum(after) & 0xffff)
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def _put_ends(data: bytearray, l3: int, where: Place,
              new: tuple[End, End]) -> tuple[bytes, bytes]:
    """Writes both ends; what a checksum covers, before and after."""
    size, at = (16, l3 + 8) if where.v6 else (4, l3 + 12)
    before = bytes(data[at:at + 2 * size])
    after = new[0][0] + new[1][0]
    data[at:at + 2 * size] = after
    if not where.v6:
        was = int.from_bytes(data[l3 + 10:l3 + 12], "big")
        data[l3 + 10:l3 + 12] = changed_sum(was, before, after).to_bytes(
            2, "big")
    if where.proto == ICMP:
        before = after = b""
    l4 = where.l4
    if l4 + 4 <= len(data) and where.proto in PORTS:
        before += data[l4:l4 + 4]
        data[l4:l4 + 4] = struct.pack(">HH", new[0][1], new[1][1])
        after += data[l4:l4 + 4]
    elif (l4 + 8 <= len(data) and where.proto in _ID_TYPES
          and data[l4] in _ID_TYPES[where.proto]):
        before += data[l4 + 4:l4 + 6]
        data[l4 + 4:l4 + 6] = struct.pack(">H", new[0][1])
        after += data[l4 + 4:l4 + 6]
    return before, after


def _put_sum(data: bytearray, where: Place, before: bytes,
             after: bytes) -> None:
    """Its checksum, as far as it is there."""
    if where.proto == SCTP:
        sum_sctp(data, where.l4)
    at = where.l4 + _SUM_AT.get(where.proto, len(data))
    if at + 2 > len(data) or before == after:
        return
    was = int.from_bytes(data[at:at + 2], "big")
    if not was and where.proto == UDP:
        return
    now = changed_sum(was, before, after)
    if not now and where.proto in {UDP, UDPLITE}:
        now = 0xffff
    data[at:at + 2] = now.to_bytes(2, "big")


def sum_sctp(data: bytearray, l4: int) -> None:
    """An SCTP packet's checksum."""
    if l4 + 12 <= len(data):
        data[l4 + 8:l4 + 12] = bytes(4)
        data[l4 + 8:l4 + 12] = crc32c(bytes(data[l4:]))


def rewritten(frame: bytes, new: Mapping[End, End]) -> bytes:
    """A frame in which ends have become others; what is there of an end in
    an ICMP error outside is its address."""
    known = {end: value for end, value in new.items() if end != value}
    if not known:
        return frame
    data = bytearray(frame)
    outer = place(data, L3)
    assert outer is not None
    inner, l3 = None, outer.l4 + 8
    error = is_error(frame)
    if error:
        inner = place(data, l3)
    body = bytes(data[outer.l4:])
    if inner is not None:
        src, dst = ends(data, l3)
        if inner.proto in PORTS | _ID_TYPES.keys() and (
                inner.l4 + (4 if inner.proto in PORTS else 8) > len(data)):
            inner_new = src, dst	# nobody can tell whose it is
        else:
            inner_new = known.get(src, src), known.get(dst, dst)
        before, after = _put_ends(data, l3, inner, inner_new)
        _put_sum(data, inner, before, after)
    src, dst = ends(data)
    if error:
        addr = {end[0]: value[0] for end, value in known.items()}
        both = ((addr.get(src[0], src[0]), 0), (addr.get(dst[0], dst[0]), 0))
    else:
        both = known.get(src, src), known.get(dst, dst)
    before, after = _put_ends(data, L3, outer, both)
    if error:
        before += body[4:]
        after += data[outer.l4 + 4:]
    _put_sum(data, outer, before, after)
    return bytes(data)


def with_ttl(frame: bytes, like: bytes) -> bytes:
    """A frame that a router has passed on, as if it had not counted it."""
    data = bytearray(frame)
    if data[L3] >> 4 == 6:
        data[L3 + 7] = like[L3 + 7]
    else:
        data[L3 + 8] = like[L3 + 8]
        data[L3 + 10:L3 + 12] = bytes(2)
        data[L3 + 10:L3 + 12] = checksum(bytes(
            data[L3:L3 + (data[L3] & 15) * 4])).to_bytes(2, "big")
    return bytes(data)


def without_inner_crc(frame: bytes) -> bytes:
    """An ICMP error without the checksum of an SCTP packet in it, and its own
    one, which covers that."""
    outer = place(frame, L3)
    if outer is None or not is_error(frame):
        return frame
    inner = place(frame, outer.l4 + 8)
    if inner is None or inner.proto != SCTP or inner.l4 + 12 > len(frame):
        return frame
    data = bytearray(frame)
    data[inner.l4 + 8:inner.l4 + 12] = bytes(4)
    data[outer.l4 + 2:outer.l4 + 4] = bytes(2)
    return bytes(data)


def address(text: str) -> bytes:
    return socket.inet_pton(
        socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def fits(rule: Rule, proto: int, before: tuple[End, End],
         after: tuple[End, End]) -> str:
    """What is wrong with what a rule has made of a packet's ends; empty: it
    is as the rule says."""
    if rule.dnat is None:
        if after[1][0] != before[1][0]:
            return "a destination that nobody asked for"
    elif not rule.dnat.has(after[1][0]):
        return "a destination that is out of range"
    if rule.snat is None:
        if after[0][0] != before[0][0]:
            return "a source that nobody asked for"
    elif not rule.snat.has(after[0][0]):
        return "a source that is out of range"
    if proto in _ID_TYPES:
        if not before[0][1]:	# it has none that is translated
            return ""
        allowed = [target.ports for target in (rule.snat, rule.dnat)
                   if target is not None and target.ports]
        if allowed and not any(low <= after[0][1] <= high
                               for low, high in allowed[:1]):
            return "an identifier that is out of range"
        return ""
    if proto not in PORTS:
        return ""
    if rule.dnat is not None and rule.dnat.ports:
        if not rule.dnat.ports[0] <= after[1][1] <= rule.dnat.ports[1]:
            return "a destination port that is out of range"
    elif after[1][1] != before[1][1]:
        return "a destination port that nobody asked for"
    if rule.snat is not None and rule.snat.ports:
        if not rule.snat.ports[0] <= after[0][1] <= rule.snat.ports[1]:
            return "a source port that is out of range"
        return ""
    port, was = after[0][1], before[0][1]
    low, high = ((1, 511) if was < 512 else (600, 1023) if was < 1024
                 else (1024, 65535))
    if port != was and not low <= port <= high:
        return "a source port of another class"
    return ""
