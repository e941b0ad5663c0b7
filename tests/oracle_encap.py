# SPDX-License-Identifier: Apache-2.0
"""Headers that are pushed and popped, in plain Python.

A layer-3 packet is its bytes from the network header on and its Ethernet
type (``Meta.protocol``); a frame has the protocol None.
"""

from __future__ import annotations

import struct

PUSH_MPLS, POP_MPLS, PUSH_ETH, POP_ETH, ADD_MPLS = 9, 10, 14, 15, 22
KINDS = {PUSH_MPLS, POP_MPLS, PUSH_ETH, POP_ETH, ADD_MPLS}
KEY_MPLS = 21
TEB = 0x6558
_TAGS = {0x8100, 0x88A8}

Packet = tuple[bytes, int | None, int]
"""Bytes, protocol, offset of the network header."""


class Refused(Exception):
    """The packet is dropped: OVS_DROP_ENCAP."""


def encap(kind: int, payload: bytes, packet: bytes,
          protocol: int | None) -> Packet:
    """Does one of KINDS.

    :raises Refused: the packet has not the headers, or has tags or LLC
    """
    if kind == PUSH_MPLS:
        return _push_mpls(payload[:4], _be16(payload, 4), packet, protocol)
    if kind == ADD_MPLS:
        flags = struct.unpack_from("=H", payload, 6)[0]
        if flags & 1 or protocol is not None:
            return _push_mpls(payload[:4], _be16(payload, 4), packet,
                              protocol)
        if _be16(packet, 12) in _TAGS:
            raise Refused
        return payload[:4] + packet, _be16(payload, 4), 0
    if kind == POP_MPLS:
        return _pop_mpls(_be16(payload, 0), packet, protocol)
    if kind == PUSH_ETH:
        assert protocol is not None
        return (payload[6:12] + payload[:6] + protocol.to_bytes(2, "big")
                + packet, None, 14)
    assert kind == POP_ETH
    _plain(packet)
    return packet[14:], _be16(packet, 12), 0


def _be16(data: bytes, at: int) -> int:
    return int.from_bytes(data[at:at + 2], "big")


def _plain(packet: bytes) -> None:
    if _be16(packet, 12) < 0x600 or _be16(packet, 12) in _TAGS:
        raise Refused


def _push_mpls(lse: bytes, eth_type: int, packet: bytes,
               protocol: int | None) -> Packet:
    if protocol is not None:
        return lse + packet, eth_type, 0
    _plain(packet)
    return (packet[:12] + eth_type.to_bytes(2, "big") + lse + packet[14:],
            None, 14)


def _pop_mpls(below: int, packet: bytes, protocol: int | None) -> Packet:
    if protocol is None:
        _plain(packet)
        if len(packet) < 18:
            raise Refused
        return (packet[:12] + below.to_bytes(2, "big") + packet[18:], None,
                14)
    if len(packet) < 4:
        raise Refused
    if below != TEB:
        return packet[4:], below, 0
    if len(packet) < 18:
        raise Refused
    return packet[4:], None, 14


def set_mpls(data: bytearray, at: int, value: bytes, mask: bytes) -> bool:
    """Writes the outermost entry; False: the packet has none."""
    if len(data) < at + 4:
        return False
    for i in range(4):
        data[at + i] = data[at + i] & ~mask[i] & 0xff | value[i]
    return True
