# SPDX-License-Identifier: Apache-2.0
"""Fragments of IP packets, byte by byte: right ones, and such that are not."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, replace

from ctframes import ETH, Flow, addresses, checksum

PROTO = 253	# for experiments
V4 = Flow("10.1.0.1", "10.2.0.1")
V6 = Flow("fd01::1", "fd02::1")
PADS = bytes((PROTO, 0, 1, 4, 0, 0, 0, 0))
"""An extension header of IPv6, without its successor."""


_U16 = struct.Struct("!H")
_IPV4_HLEN, _IPV6_HLEN, _FRAG_HLEN = 20, 40, 8
_DF, _MF, _OFFSET = 0x4000, 0x2000, 0x1fff
_HOPOPTS, _ROUTING, _FRAGMENT, _AUTH, _DSTOPTS = 0, 43, 44, 51, 60


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a packet.

    :param name: what parts of one packet have in common
    :param data: behind its headers
    :param more: it is not the last part
    :param dont: it has IPv4's DF
    :param size: bytes from the IP header on
    :param head: the frame up to `data`, without IPv6's fragment header
    :param l3: offset of the IP header
    :param next_at: offset of what names the header behind `head`
    :param following: that header's protocol
    """

    name: tuple[bytes, ...]
    offset: int
    data: bytes
    more: bool
    dont: bool
    size: int
    head: bytes
    l3: int
    next_at: int
    following: int


def read_fragment(frame: bytes, l3: int) -> Fragment | None:
    """:returns: None for what is no fragment, or has no header of one; of
        IPv6 as well: one whose end no other part can follow, and one that
        ends beyond what a packet may have
    """
    if len(frame) < l3 + _IPV4_HLEN:
        return None
    if frame[l3] >> 4 == 4:
        return _read_ipv4(frame, l3)
    return _read_ipv6(frame, l3)


def _read_ipv4(frame: bytes, l3: int) -> Fragment | None:
    hlen = (frame[l3] & 15) * 4
    said: int = _U16.unpack_from(frame, l3 + 2)[0]
    field: int = _U16.unpack_from(frame, l3 + 6)[0]
    if (hlen < _IPV4_HLEN or said < hlen or l3 + said > len(frame)
            or not field & (_MF | _OFFSET)):
        return None
    data = frame[l3 + hlen:l3 + said]
    if field & _MF:
        data = data[:len(data) & ~7]
    return Fragment(
        (frame[l3 + 12:l3 + 20], frame[l3 + 4:l3 + 6],
                      frame[l3 + 9:l3 + 10]),
        (field & _OFFSET) * 8, data, bool(field & _MF), bool(field & _DF),
        hlen + len(data), frame[:l3 + hlen], l3, l3 + 9,
        frame[l3 + 9])


def _read_ipv6(frame: bytes, l3: int) -> Fragment | None:
    if len(frame) < l3 + _IPV6_HLEN:
        return None
    said: int = _U16.unpack_from(frame, l3 + 4)[0]
    stop = l3 + _IPV6_HLEN + said
    at, next_at = l3 + _IPV6_HLEN, l3 + 6
    if not said or stop > len(frame):
        return None
    while frame[next_at] != _FRAGMENT:
        if frame[next_at] not in (_HOPOPTS, _ROUTING, _AUTH, _DSTOPTS):
            return None
        if at + 2 > stop:
            return None
        size = ((frame[at + 1] + 2) * 4 if frame[next_at] == _AUTH
                else (frame[at + 1] + 1) * 8)
        next_at, at = at, at + size
        if at > stop:
            return None
    if at + _FRAG_HLEN > stop:
        return None
    field: int = _U16.unpack_from(frame, at + 2)[0]
    data = frame[at + _FRAG_HLEN:stop]
    offset = field & ~7
    if offset + len(data) > 0xffff:
        return None
    return Fragment(
        (frame[l3 + 8:l3 + 40], frame[at + 4:at + 8]), offset,
        data, bool(field & 1), False,
        _IPV6_HLEN + said,
        frame[:at], l3, next_at, frame[at])


@dataclass(frozen=True, slots=True)
class Part:
    """One fragment.

    :param options: of IPv4; of IPv6 types of extension headers of 8 bytes
    """

    flow: Flow
    ident: int
    offset: int
    data: bytes
    more: bool
    tos: int = 0
    dont: bool = False
    options: bytes = b""
    proto: int = PROTO

    def frame(self) -> bytes:
        """An Ethernet frame."""
        return (self._v6() if self.flow.v6 else self._v4())

    def _v4(self) -> bytes:
        size = 20 + len(self.options)
        head = struct.pack(
            ">BBHHHBBH", 0x40 | size // 4, self.tos, size + len(self.data),
            self.ident & 0xffff, self.dont << 14 | self.more << 13
            | self.offset // 8, 64, self.proto, 0)
        head += addresses(self.flow) + self.options
        return (ETH + b"\x08\0" + head[:10]
                + struct.pack(">H", checksum(head)) + head[12:] + self.data)

    def _v6(self) -> bytes:
        kinds = (*self.options, 44)
        chain = b"".join(bytes((after,)) + PADS[1:] for after in kinds[1:])
        chain += struct.pack(">BBHI", self.proto, 0,
                             self.offset | self.more, self.ident)
        return (ETH + b"\x86\xdd" + struct.pack(
            ">IHBB", 6 << 28 | self.tos << 20, len(chain) + len(self.data),
            kinds[0], 64) + addresses(self.flow) + chain + self.data)


def parts_of(rng: random.Random, flow: Flow, ident: int, data: bytes,
             most: int = 1400, **more: object) -> list[Part]:
    """A packet's fragments, in order, of lengths by chance."""
    found: list[Part] = []
    at = 0
    while at < len(data):
        size = rng.randrange(8, max(most, 16), 8)
        found.append(Part(flow, ident, at, data[at:at + size],
                          at + size < len(data)))
        at += size
    return [replace(part, **more) for part in found]  # type: ignore[arg-type]


def damage(rng: random.Random, parts: list[Part]) -> list[Part]:
    """One thing that is not as it should be."""
    at = rng.randrange(len(parts))
    part = parts[at]
    how = rng.randrange(9)
    if how == 0:
        return parts[:at] + parts[at + 1:]
    if how == 1:
        return [*parts, part]
    if how == 2:
        part = replace(part, data=part.data + rng.randbytes(8))
    elif how == 3:
        part = replace(part, offset=part.offset + 8)
    elif how == 4:
        part = replace(part, data=part.data[:-rng.choice((1, 4, 8))])
    elif how == 5:
        part = replace(part, more=not part.more)
    elif how == 6:
        part = replace(part, tos=rng.randrange(4))
    elif how == 7:
        inner = rng.randrange(0, len(part.data), 8)
        part = replace(part, offset=part.offset + inner, more=True,
                       data=part.data[inner:inner + 8])
        return [*parts, part]
    else:
        first = rng.randrange(len(parts))
        whole = b"".join(one.data for one in parts[first:first + 3])
        part = replace(parts[first], data=whole[:len(whole) & ~7],
                       more=True)
        return [*parts, part]
    return [*parts[:at], part, *parts[at + 1:]]


def sequence(rng: random.Random, flow: Flow, ident: int,
             size: int | None = None) -> list[Part]:
    """Fragments of a packet, and what became of them on their way."""
    data = rng.randbytes(size or rng.choice(
        (rng.randrange(9, 200), rng.randrange(200, 6000))))
    options = rng.choice((b"", b"", b"\1\1\1\1") if not flow.v6 else
                         (b"", b"", b"\x3c"))
    parts = parts_of(rng, flow, ident, data,
                     rng.choice((24, 200, 1400)), options=options,
                     tos=rng.choice((0, 1, 2, 3, 0xb8)),
                     dont=not flow.v6 and rng.random() < .3)
    if not flow.v6 and rng.random() < .2:
        parts = [replace(part, dont=rng.random() < .5) for part in parts]
    if rng.random() < .2:
        parts = [replace(part, tos=rng.choice((1, 2, 3))) for part in parts]
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        parts = damage(rng, parts)
        if not parts:
            break
    how = rng.random()
    if how < .4:
        rng.shuffle(parts)
    elif how < .5:
        parts.reverse()
    if rng.random() < .2:
        parts += rng.sample(parts, min(2, len(parts)))
    return parts
