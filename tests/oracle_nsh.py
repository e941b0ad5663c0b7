# SPDX-License-Identifier: Apache-2.0
"""Network service headers (RFC 8300), in plain Python."""

from __future__ import annotations

from oracle_encap import Packet, Refused
from oracle_state import attributes

PUSH_NSH, POP_NSH = 17, 18
KINDS = {PUSH_NSH, POP_NSH}
KEY_NSH = 28
BASE, MD1, MD2 = 1, 2, 3
ETHERNET, NSH = 3, 0x894f
TYPES = {1: 0x0800, 2: 0x86dd, ETHERNET: 0x6558, 4: NSH, 5: 0x8847}
"""Ethernet types of next protocols."""


def fields(flags: int, ttl: int) -> int:
    """Where they are in the first 16 bits."""
    return flags % 4 * 0x1000 + ttl % 64 * 0x40


def header(key: bytes, below: int) -> bytes:
    """The header that OVS_KEY_ATTR_NSH describes."""
    found = dict(attributes(key))
    flags, ttl, mdtype = found[BASE][:3]
    whole = found[BASE] + found[MD1 if mdtype == 1 else MD2]
    whole = whole[:len(whole) // 4 * 4]
    first = fields(flags, ttl) + len(whole) // 4
    return first.to_bytes(2, "big") + bytes((mdtype, below)) + whole[4:]


def encap(kind: int, payload: bytes, packet: bytes,
          protocol: int | None) -> Packet:
    """Does one of KINDS.

    :raises Refused: there is no such header, or no next protocol for what
        is below it
    """
    if kind == PUSH_NSH:
        (_, key), = attributes(payload)
        below = [np for np, known in TYPES.items()
                 if known == (0x6558 if protocol is None else protocol)]
        if not below:
            raise Refused
        return header(key, below[0]) + packet, NSH, 0
    assert kind == POP_NSH
    if protocol != NSH or len(packet) < 8:
        raise Refused
    length = packet[1] % 64 * 4
    inner = TYPES.get(packet[3])
    if length < 8 or length > len(packet) or inner is None:
        raise Refused
    rest = packet[length:]
    if packet[3] != ETHERNET:
        return rest, inner, 0
    if len(rest) < 14:
        raise Refused
    return rest, None, 14


def nsh_mask(masked: bool, key: bytes) -> bytes:
    """What a set of OVS_KEY_ATTR_NSH may write."""
    mask = b""
    for kind, data in attributes(key):
        bits = _halves(data, masked)[1]
        if kind == BASE:
            bits = fields(*bits[:2]).to_bytes(2, "big") + bits[4:]
        mask += bits
    return mask


def set_nsh(masked: bool, key: bytes, data: bytearray, at: int) -> bool:
    """Writes to the header at `at`; False: it is not whole."""
    found = dict(attributes(key))
    if len(data) < at + 8:
        return False
    if BASE in found:
        value, mask = _halves(found[BASE], masked)
        write = (fields(*value[:2]).to_bytes(2, "big") + bytes(2)
                 + value[4:])
        under = fields(*mask[:2]).to_bytes(2, "big") + bytes(2) + mask[4:]
        _merge(data, at, write, under)
    if data[at + 2] == 1 and len(data) < at + 24:
        return False
    if MD1 in found and data[at + 2] == 1:
        _merge(data, at + 8, *_halves(found[MD1], masked))
    return True


def _halves(data: bytes, masked: bool) -> tuple[bytes, bytes]:
    if not masked:
        return data, b"\xff" * len(data)
    return data[:len(data) // 2], data[len(data) // 2:]


def _merge(data: bytearray, at: int, value: bytes, mask: bytes) -> None:
    for i, (bits, under) in enumerate(zip(value, mask, strict=True), at):
        data[i] = data[i] & ~under & 0xff | bits & under
