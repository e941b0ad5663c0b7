# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a request: one or a few things of one that was right.

Lengths that lie, attributes that are cut, padded, repeated, of another type,
in one another or missing; wrong flags, commands, versions, families and
datapaths; messages that are cut, or longer than they say.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_ECHO,
    NLM_F_REQUEST,
    NLMSGHDR,
)
from tests.fuzz.requests import LARGEST, Attr, Maker, Request

HELLO = 0x0E
"""Type of the transport's control message: the server's to deal with."""

_FAMILIES = (u.OVS_DATAPATH_ID, u.OVS_VPORT_ID, u.OVS_FLOW_ID,
             u.OVS_PACKET_ID, u.OVS_METER_ID, u.OVS_CT_LIMIT_ID, 0x77, 1, 2,
             3, 0xffff)
_LENGTHS = (0, 1, 3, 4, 5, 7, 8, 20, 21, 0x7fff, 0xfffc, 0xffff)
LONGEST = 1 << 18
"""Bytes of a datagram that the server takes."""
DEEP = 3000
"""Levels of attributes in one another: more than calls can be nested."""


def attributes(attrs: list[Attr]) -> Iterator[tuple[list[Attr], int]]:
    """Every attribute, by its list and its place there."""
    for place, attr in enumerate(attrs):
        yield attrs, place
        if isinstance(attr.value, list):
            yield from attributes(attr.value)


class Damage:
    """Spoils requests.

    :param maker: of others, from which attributes are taken
    """

    def __init__(self, rng: random.Random, maker: Maker) -> None:
        self._rng = rng
        self._maker = maker

    def datagram(self, seq: int) -> bytes:
        """One or a few requests, of which most are spoilt somehow.

        :param seq: of the first
        """
        rng = self._rng
        count = rng.choice((1, 1, 1, 1, 1, 2, 3, 8))
        parts = []
        for number in range(count):
            message = self._message(seq + number)
            parts.append(message + bytes(-len(message) & 3))
        whole = b"".join(parts)
        if rng.random() < .02:
            whole = whole[:rng.randrange(1, len(whole))]
        if rng.random() < .02:
            whole += rng.randbytes(rng.randrange(1, 40))
        return whole[:LONGEST]

    def _message(self, seq: int) -> bytes:
        rng = self._rng
        request = self._maker.request()
        for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 1, 2, 4))):
            if request.attrs and rng.random() < .75:
                self._attribute(request)
            else:
                self._headers(request)
        message = request.encode(seq)
        if rng.random() < .03:
            message = self._bytes(message)
        return message

    def _bytes(self, message: bytes) -> bytes:
        """Bytes of the message itself; its length may lie afterwards."""
        rng = self._rng
        data = bytearray(message)
        for _ in range(rng.choice((1, 1, 4))):
            at = rng.choice((rng.randrange(8), rng.randrange(
                16, len(data))))  # but for what answers are known by
            data[at] = rng.choice((0, 0xff, data[at] ^ 1 << rng.randrange(8)))
        if rng.random() < .2:
            struct.pack_into("=I", data, 0, rng.choice(
                (0, 15, 16, 19, 20, 23, 24, len(data) - 1, len(data) + 1,
                 0xffffffff)))
        (kind,) = struct.unpack_from("=H", data, 4)
        if kind == HELLO:
            struct.pack_into("=H", data, 4, HELLO + 1)
        return bytes(data)

    def _headers(self, request: Request) -> None:
        rng = self._rng
        kind = rng.randrange(8)
        if kind == 0:
            request.family = rng.choice(_FAMILIES)
        elif kind == 1:
            request.cmd = rng.randrange(256)
        elif kind == 2:
            request.flags ^= rng.choice((NLM_F_REQUEST, NLM_F_ACK,
                                         NLM_F_ECHO, 0x100, 0x200, 0x400))
        elif kind == 3:
            request.flags |= NLM_F_DUMP
        elif kind == 4:
            request.dp = rng.choice((0, 1, -1, 0x7fffffff, -0x80000000))
        elif kind == 5:
            request.version = rng.randrange(256)
        elif kind == 6:
            request.reserved = rng.randrange(65536)
        else:
            request.tail = rng.randbytes(rng.randrange(12))

    def _attribute(self, request: Request) -> None:
        rng = self._rng
        attrs, place = rng.choice(list(attributes(request.attrs)))
        attr = attrs[place]
        kind = rng.randrange(11)
        if kind == 0:
            attr.size = rng.choice((*_LENGTHS, len(attr.encode()) + 4,
                                    len(attr.encode()) - 1))
        elif kind == 1:
            attr.kind = rng.choice((0, attr.kind + 1, attr.kind - 1,
                                    attr.kind ^ NLA_F_NESTED,
                                    attr.kind ^ 0x4000, rng.getrandbits(16)))
        elif kind == 2:
            self._payload(attr)
        elif kind == 3:
            attr.value = self._flat(attr)[:rng.randrange(
                len(self._flat(attr)) + 1)]
        elif kind == 4:
            attrs.insert(rng.randrange(len(attrs) + 1), attr)
        elif kind == 5:
            del attrs[place]
        elif kind == 6:
            other = self._maker.request().attrs
            if other:
                attrs.insert(place, rng.choice(other))
        elif kind == 7:
            rng.shuffle(attrs)
        elif kind == 8:
            self._nest(attr)
        elif kind == 9:
            attrs.insert(place, Attr(rng.randrange(40), rng.randbytes(
                rng.choice((0, 1, 2, 4, 8, 16, 40)))))
        else:
            attr.value = self._flat(attr) + bytes(rng.choice(
                (1, 2, 4, 300, LARGEST)))
            attr.value = attr.value[:LARGEST]

    def _payload(self, attr: Attr) -> None:
        rng = self._rng
        data = bytearray(self._flat(attr))
        if not data:
            return
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(len(data))] = rng.choice(
                (0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)))
        attr.value = bytes(data)

    def _nest(self, attr: Attr) -> None:
        """Puts an attribute into one of its own type, again and again."""
        rng = self._rng
        data = self._flat(attr)
        for _ in range(rng.choice((1, 1, 2, 15, 16, 17, DEEP))):
            if len(data) > LARGEST - 8:
                break
            data = Attr(attr.kind, data).encode()
        attr.value = data

    @staticmethod
    def _flat(attr: Attr) -> bytes:
        return attr.encode()[4:] if isinstance(attr.value, list) \
            else attr.value


def request_headers(datagram: bytes) -> Iterator[tuple[int, ...]]:
    """Headers of the messages that a kernel would find in a datagram."""
    pos = 0
    while len(datagram) - pos >= NLMSGHDR.size:
        header = NLMSGHDR.unpack_from(datagram, pos)
        if not NLMSGHDR.size <= header[0] <= len(datagram) - pos:
            return
        yield pos, *header
        pos += header[0] + 3 & ~3
