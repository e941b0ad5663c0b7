# SPDX-License-Identifier: Apache-2.0
"""TCP packets that are larger than what a device sends, in plain Python.

As tcp_gso_segment() of Linux net/ipv4/tcp_offload.c cuts them.
"""

from __future__ import annotations

import struct

from oracle_key import extract

FIN_PSH, CWR = 0x09, 0x80


def _sum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def headers(packet: bytes) -> tuple[int, int, int]:
    """Where the network header, TCP and its payload are, behind any number
    of tags."""
    tags = 0
    while packet[12 + tags:14 + tags] in {b"\x81\0", b"\x88\xa8"}:
        tags += 4
    parsed = extract(packet[:12] + packet[12 + tags:])
    assert parsed is not None and parsed.l4
    l4 = parsed.l4 + tags
    return parsed.l3 + tags, l4, l4 + (packet[l4 + 12] >> 4) * 4


def segments(packet: bytes, size: int) -> list[bytes]:
    """What the packet is on the wire, `size` bytes of payload at a time."""
    l3, l4, payload = headers(packet)
    cuts = range(payload, len(packet), size)
    found = []
    for number, at in enumerate(cuts):
        data = bytearray(packet[:payload] + packet[at:at + size])
        seq, = struct.unpack_from("!I", data, l4 + 4)
        struct.pack_into("!I", data, l4 + 4,
                         seq + at - payload & 0xffffffff)
        if number < len(cuts) - 1:
            data[l4 + 13] &= ~FIN_PSH & 0xff
        if number:
            data[l4 + 13] &= ~CWR & 0xff
        data[l4 + 16:l4 + 18] = bytes(2)
        covered = len(data) - l4
        if data[l3] >> 4 == 4:
            ident, = struct.unpack_from("!H", data, l3 + 4)
            struct.pack_into("!HH", data, l3 + 2, len(data) - l3,
                             ident + number & 0xffff)
            data[l3 + 10:l3 + 12] = bytes(2)
            struct.pack_into("!H", data, l3 + 10, _sum(bytes(data[l3:l4])))
            pseudo = data[l3 + 12:l3 + 20] + struct.pack("!HH", 6, covered)
        else:
            struct.pack_into("!H", data, l3 + 4, len(data) - l3 - 40)
            pseudo = data[l3 + 8:l3 + 40] + struct.pack("!II", covered, 6)
        struct.pack_into("!H", data, l4 + 16, _sum(
            bytes(pseudo) + bytes(data[l4:])))
        found.append(bytes(data))
    return found
