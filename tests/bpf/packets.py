# SPDX-License-Identifier: Apache-2.0
"""Random packets of every kind that flow extract knows, whole and broken."""

from __future__ import annotations

import random
import struct

from oracle_key import extract

from dpif_bpf.abi import OVS_KEY_BASE

_EXTENSIONS = (0, 43, 44, 51, 60)


def _bytes(rng: random.Random, count: int) -> bytes:
    return rng.randbytes(count)


def _mac(rng: random.Random) -> bytes:
    return bytes((rng.choice((0, 2, 0x33)), *_bytes(rng, 5)))


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def transport(rng: random.Random, proto: int, pseudo: bytes = b"",
              payload: bytes | None = None) -> bytes:
    """A header of `proto` and a payload, with its checksum.

    :param pseudo: addresses of the pseudo header; none: no checksum
    """
    if payload is None:
        payload = _bytes(rng, rng.choice((0, 1, 7, 18, 60, 300)))
    ports = _bytes(rng, 4)
    if proto == 6:
        options = _bytes(rng, rng.choice((0, 0, 4, 12, 40)))
        head = struct.pack("!4sIIBBHHH", ports, 1, 2,
                           (5 + len(options) // 4 << 4) | rng.getrandbits(4),
                           rng.getrandbits(8), 512, 0, 0) + options
        at = 16
    elif proto == 17:
        head = struct.pack("!4sHH", ports, 8 + len(payload), 0)
        at = 6
    elif proto == 58:
        return _icmp6(rng, pseudo)
    elif proto == 132:
        return ports + _bytes(rng, 8) + payload
    elif proto == 1:
        return _bytes(rng, 8) + payload
    else:
        return payload
    if proto == 17 and rng.random() < .2:
        return head + payload
    return _sum(head + payload, at, proto, pseudo)


def _sum(data: bytes, at: int, proto: int, pseudo: bytes) -> bytes:
    if not pseudo:
        return data
    if _is_v6(pseudo):
        cover = pseudo + struct.pack("!II", len(data), proto)
    else:
        cover = pseudo + struct.pack("!HH", proto, len(data))
    check = checksum(cover + data) or (0xffff if proto == 17 else 0)
    return data[:at] + check.to_bytes(2, "big") + data[at + 2:]


def _is_v6(pseudo: bytes) -> bool:
    """Whether a pseudo header's addresses are of IPv6."""
    return len(pseudo) == 32


def _icmp6(rng: random.Random, pseudo: bytes) -> bytes:
    kind = rng.choice((1, 128, 129, 135, 136, 135, 136))
    code = 0 if rng.random() < .9 else 1
    data = bytes((kind, code, 0, 0)) + _bytes(rng, 4)
    if kind in {135, 136}:
        data += _bytes(rng, 16)
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            length = rng.choice((1, 1, 1, 1, 2, 0))
            data += bytes((rng.choice((1, 2, 3)), length))
            data += _bytes(rng, 6 + 8 * max(0, length - 1))
    else:
        data += _bytes(rng, rng.choice((0, 20)))
    return _sum(data, 2, 58, pseudo)


def ipv4(rng: random.Random, proto: int | None = None) -> bytes:
    """An IPv4 packet, perhaps with options or a fragment."""
    if proto is None:
        proto = rng.choice((6, 6, 17, 17, 1, 132, 2, 47))
    addresses = _bytes(rng, 8)
    frag = rng.choice((0, 0, 0, 0x4000, 0x2000, 0x2010, 0x00b9))
    payload = transport(rng, proto, addresses)
    options = _bytes(rng, rng.choice((0, 0, 0, 4, 40)))
    hlen = 20 + len(options)
    head = struct.pack("!BBHHHBBH8s", 0x40 | hlen // 4, rng.getrandbits(8),
                       hlen + len(payload), rng.getrandbits(16), frag,
                       rng.getrandbits(8), proto, 0, addresses) + options
    check = checksum(head)
    return head[:10] + check.to_bytes(2, "big") + head[12:] + payload


def _extension(rng: random.Random, kind: int, following: int) -> bytes:
    if kind == 44:
        offset = rng.choice((0, 0, 1, 0, 0x88))
        return struct.pack("!BBHI", following, 0, offset, 7)
    units = rng.choice((0, 0, 1, 2))
    size = (units + 2) * 4 if kind == 51 else (units + 1) * 8
    body = _bytes(rng, size - 4)
    if kind == 43:
        return bytes((following, units, 0, rng.choice((0, 1)))) + body
    return bytes((following, units)) + _bytes(rng, 2) + body


def ipv6(rng: random.Random, proto: int | None = None) -> bytes:
    """An IPv6 packet, perhaps with extension headers."""
    if proto is None:
        proto = rng.choice((6, 6, 17, 17, 58, 58, 58, 132, 59, 50))
    addresses = _bytes(rng, 32)
    kinds = [rng.choice(_EXTENSIONS)
             for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3, 5)))]
    payload = transport(rng, proto, addresses)
    following = proto
    for kind in reversed(kinds):
        payload = _extension(rng, kind, following) + payload
        following = kind
    return struct.pack("!IHBB32s", 0x60000000 | rng.getrandbits(28),
                       len(payload), following, rng.getrandbits(8),
                       addresses) + payload


def arp(rng: random.Random) -> bytes:
    """ARP or RARP; sometimes not of Ethernet and IPv4."""
    head = rng.choice((b"\0\1\x08\0\6\4", b"\0\1\x08\0\6\4",
                       b"\0\6\x08\0\6\4", b"\0\1\x86\xdd\6\4"))
    return (head + rng.choice((1, 2, 255, 256)).to_bytes(2, "big")
            + _bytes(rng, 20 + rng.choice((0, 18))))


def mpls(rng: random.Random) -> bytes:
    """A stack of labels, sometimes without a bottom."""
    depth = rng.choice((1, 2, 3, 4, 6))
    lses = b"".join(
        (rng.getrandbits(32) & ~0x100 | (0x100 if i == depth - 1 else 0)
         ).to_bytes(4, "big") for i in range(depth))
    if rng.random() < .2:
        return (rng.getrandbits(32) & ~0x100).to_bytes(4, "big") * depth
    return lses + _bytes(rng, rng.choice((0, 20)))


def nsh(rng: random.Random) -> bytes:
    """A service header with metadata of type 1, or 2 of any length."""
    mdtype = rng.choice((1, 2))
    size = 24 if mdtype == 1 else 8 + 4 * rng.choice((0, 1, 5, 55))
    word = rng.getrandbits(14) & ~0x3f | size // 4
    below = rng.choice((1, 2, 3, 3, 4, 5, rng.getrandbits(8)))
    inner = {1: ipv4, 2: ipv6, 3: packet, 4: nsh, 5: mpls}.get(below)
    return (struct.pack("!HBB", word, mdtype, below)
            + _bytes(rng, size - 4)
            + (inner(rng) if inner and rng.random() < .9
               else _bytes(rng, rng.choice((0, 30)))))


def packet(rng: random.Random, tags: bool = True) -> bytes:
    """An Ethernet frame."""
    kinds = ((0x0800, ipv4), (0x86dd, ipv6), (0x0806, arp), (0x8035, arp),
             (0x8847, mpls), (0x8848, mpls), (0x894f, nsh))
    kind, make = rng.choices(kinds, (30, 30, 6, 2, 4, 2, 4))[0]
    body = make(rng)
    if rng.random() < .05:
        kind = rng.choice((0x88cc, 0x9000, 0x894e))
    frame = kind.to_bytes(2, "big") + body
    if rng.random() < .08:
        frame = _snap(rng, frame)
    if tags:
        for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 2, 3))):
            frame = (rng.choice((b"\x81\0", b"\x81\0", b"\x88\xa8"))
                     + _bytes(rng, 2) + frame)
    return _mac(rng) + _mac(rng) + frame


def _snap(rng: random.Random, frame: bytes) -> bytes:
    head = rng.choice((b"\xaa\xaa\3\0\0\0", b"\xaa\xaa\0\0\0\0",
                       b"\xaa\xaa\3\0\0\1", b"\x42\x42\3\0\0\0"))
    if rng.random() < .2:
        frame = b"\x05\xff" + frame[2:]
    return (len(frame) + 6).to_bytes(2, "big") + head + frame


def broken(rng: random.Random, frame: bytes) -> bytes:
    """Perhaps cuts a frame short or flips bytes of its headers."""
    draw = rng.random()
    if draw < .25:
        return frame[:rng.randrange(14, max(15, min(len(frame), 110)))]
    if draw < .4:
        data = bytearray(frame)
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(12, min(len(data), 90))] = rng.getrandbits(8)
        return bytes(data)
    return frame


def unfinished(frame: bytes) -> tuple[bytes, tuple[int, int]]:
    """A packet with the sum of its pseudo header alone in the checksum.

    :returns: the bytes, and where checksumming starts and the field is
    """
    data = bytearray(frame)
    parsed = extract(frame)
    assert parsed is not None
    l3, l4, proto = parsed.l3, parsed.l4, parsed.byte("ip_proto")
    size = len(data) - l4
    if parsed.eth_type == 0x0800:
        pseudo = data[l3 + 12:l3 + 20] + struct.pack("!HH", proto, size)
    else:
        pseudo = data[l3 + 8:l3 + 40] + struct.pack("!II", size, proto)
    offset = 16 if proto == 6 else 6
    data[l4 + offset:l4 + offset + 2] = (
        ~checksum(bytes(pseudo)) & 0xffff).to_bytes(2, "big")
    return bytes(data), (l4, offset)


def finished(data: bytes, csum: tuple[int, int]) -> bytes:
    """What the device makes of it; 0 is as good as 0xffff but for UDP."""
    start, offset = csum
    check = checksum(data[start:])
    if not check and offset == 6:
        check = 0xffff
    at = start + offset
    return data[:at] + check.to_bytes(2, "big") + data[at + 2:]


def difference(found: list[int], wanted: list[int]) -> str:
    """The words of a key that differ, for an assertion's text."""
    assert len(found) == len(wanted) == OVS_KEY_BASE
    return ", ".join(f"w{i}: {a:#018x} instead of {b:#018x}"
                     for i, (a, b) in enumerate(
                         zip(found, wanted, strict=True)) if a != b)
