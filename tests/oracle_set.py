# SPDX-License-Identifier: Apache-2.0
"""Fields of a packet that are written, and its checksums, in plain Python."""

from __future__ import annotations

from dataclasses import replace

from oracle_encap import KEY_MPLS, set_mpls
from oracle_events import Failure, Undefined
from oracle_key import ICMPV6, SCTP, TCP, UDP, Extract, be16
from oracle_nsh import KEY_NSH, NSH, nsh_mask, set_nsh
from oracle_sctp import set_ports
from oracle_state import State, attributes, u32

from dpif_bpf.abi import DropReason

KEY_PRIORITY, KEY_ETHERNET, KEY_IPV4, KEY_IPV6 = 2, 4, 7, 8
KEY_TCP, KEY_UDP, KEY_MARK, KEY_SCTP = 9, 10, 15, 17


def set_field(masked: bool, payload: bytes, state: State) -> None:
    meta, parsed = state.meta, state.parsed
    (kind, body), = attributes(payload)
    if masked:
        half = len(body) // 2
        value, mask = body[:half], body[half:2 * half]
    else:
        value, mask = body, b"\xff" * len(body)
    if kind == KEY_NSH:
        mask = nsh_mask(masked, body)
    if not any(mask):
        return  # the kernel still drops a packet without that header
    data = bytearray(state.packet)
    if kind == KEY_PRIORITY:
        state.meta = replace(meta, skb_priority=_mergeu32(
            meta.skb_priority, value, mask))
    elif kind == KEY_MARK:
        state.meta = replace(meta, skb_mark=_mergeu32(
            meta.skb_mark, value, mask))
    elif kind == KEY_ETHERNET:
        # struct ovs_key_ethernet: source, then destination
        _merge(data, 6, value[:6], mask[:6])
        _merge(data, 0, value[6:12], mask[6:12])
    elif kind == KEY_IPV4:
        _set_ipv4(data, parsed, value, mask)
    elif kind == KEY_IPV6:
        _set_ipv6(data, parsed, value, mask)
    elif kind == KEY_MPLS:
        if not set_mpls(data, parsed.l3, value, mask):
            raise Failure(DropReason.SET)
    elif kind == KEY_NSH:
        found = (be16(data, parsed.l3 - 2) if meta.protocol is None
                 else meta.protocol)
        if found != NSH or not set_nsh(masked, body, data, parsed.l3):
            raise Failure(DropReason.SET)
    elif kind == KEY_SCTP:
        _set_sctp(data, parsed, value, mask)
    elif kind in {KEY_TCP, KEY_UDP}:
        _set_ports(data, parsed, TCP if kind == KEY_TCP else UDP,
                   value, mask)
    else:
        raise AssertionError(f"unknown key {kind}")
    state.packet = bytes(data)


def _mergeu32(old: int, value: bytes, mask: bytes) -> int:
    return old & ~u32(mask) | u32(value)


def _merge(data: bytearray, at: int, value: bytes, mask: bytes) -> bool:
    """Write the bits under a mask; True: something changed."""
    old = bytes(data[at:at + len(value)])
    new = bytes(o & ~m & 0xff | v
                for o, v, m in zip(old, value, mask, strict=True))
    data[at:at + len(value)] = new
    return new != old


def update_checksum(check: int, old: bytes, new: bytes) -> int:
    """RFC 1624: the checksum of data of which `old` became `new`.

    The result is never 0xffff: the sum that is complemented is never zero.
    """
    total = ~check & 0xffff
    for i in range(0, len(old), 2):
        total += (~be16(old, i) & 0xffff) + be16(new, i)
    return -total % 0xffff


def patch(data: bytearray, at: int, old: bytes, new: bytes) -> None:
    check = update_checksum(be16(data, at), old, new)
    data[at:at + 2] = check.to_bytes(2, "big")


def _patch_l4(data: bytearray, l4: int, proto: int, old: bytes,
              new: bytes) -> None:
    """Carry a change of an address into the transport checksum."""
    room = len(data) - l4
    if proto == TCP and room >= 20:
        patch(data, l4 + 16, old, new)
    elif proto == ICMPV6 and room >= 8:
        patch(data, l4 + 2, old, new)
    elif proto == UDP and room >= 8 and any(data[l4 + 6:l4 + 8]):
        patch(data, l4 + 6, old, new)
        if not any(data[l4 + 6:l4 + 8]):
            data[l4 + 6:l4 + 8] = b"\xff\xff"


def _set_ipv4(data: bytearray, parsed: Extract, value: bytes,
              mask: bytes) -> None:
    """struct ovs_key_ipv4: src, dst, proto, tos, ttl, frag."""
    l3, l4 = parsed.l3, parsed.l4
    if len(data) < l3 + 20:
        raise Failure(DropReason.SET)
    if not l4:
        raise Undefined("IPv4 header that flow extract refuses")
    later = be16(data, l3 + 6) & 0x1fff
    for at, start in ((l3 + 12, 0), (l3 + 16, 4)):
        old = bytes(data[at:at + 4])
        if _merge(data, at, value[start:start + 4], mask[start:start + 4]):
            new = bytes(data[at:at + 4])
            if not later and data[l3 + 9] in {TCP, UDP}:
                _patch_l4(data, l4, data[l3 + 9], old, new)
            patch(data, l3 + 10, old, new)
    for at, start in ((l3 + 1, 9), (l3 + 8, 10)):
        if mask[start]:
            word = l3 + (at - l3 & ~1)
            old = bytes(data[word:word + 2])
            _merge(data, at, value[start:start + 1], mask[start:start + 1])
            patch(data, l3 + 10, old, bytes(data[word:word + 2]))


def _routing_ahead(data: bytearray, l3: int) -> bool:
    """A routing header with segments left: the destination is not final."""
    proto, at = data[l3 + 6], l3 + 40
    while proto in {0, 43, 44, 51, 60} and len(data) >= at + 4:
        if proto == 43 and data[at + 3]:
            return True
        if proto == 44:
            if be16(data, at + 2) & 0xfff8:
                return False
            size = 8
        elif proto == 51:
            size = (data[at + 1] + 2) * 4
        else:
            size = (data[at + 1] + 1) * 8
        proto, at = data[at], at + size
    return False


def _set_ipv6(data: bytearray, parsed: Extract, value: bytes,
              mask: bytes) -> None:
    """struct ovs_key_ipv6: src, dst, label, proto, tclass, hlimit, frag."""
    l3 = parsed.l3
    if len(data) < l3 + 40:
        raise Failure(DropReason.SET)
    proto = parsed.byte("ip_proto") if parsed.l4 else 0
    for at, start, final in ((l3 + 8, 0, True),
                             (l3 + 24, 16, not _routing_ahead(data, l3))):
        old = bytes(data[at:at + 16])
        if (_merge(data, at, value[start:start + 16],
                   mask[start:start + 16]) and final):
            _patch_l4(data, parsed.l4, proto, old, bytes(data[at:at + 16]))
    first = int.from_bytes(data[l3:l3 + 4], "big")
    label, label_mask = (int.from_bytes(part[32:36], "big") & 0xfffff
                         for part in (value, mask))
    first = first & ~(mask[37] << 20) | value[37] << 20
    first = first & ~label_mask | label
    data[l3:l3 + 4] = first.to_bytes(4, "big")
    _merge(data, l3 + 7, value[38:39], mask[38:39])


def _set_ports(data: bytearray, parsed: Extract, proto: int, value: bytes,
               mask: bytes) -> None:
    l4 = parsed.l4
    if not l4 or parsed.byte("ip_frag") == 2:
        raise Undefined("no transport header to write to")
    if len(data) < l4 + (20 if proto == TCP else 8):
        raise Failure(DropReason.SET)
    check = l4 + (16 if proto == TCP else 6)
    live = proto == TCP or any(data[check:check + 2])
    for at, start in ((l4, 0), (l4 + 2, 2)):
        old = bytes(data[at:at + 2])
        if (_merge(data, at, value[start:start + 2], mask[start:start + 2])
                and live):
            patch(data, check, old, bytes(data[at:at + 2]))
    if proto == UDP and live and not any(data[check:check + 2]):
        data[check:check + 2] = b"\xff\xff"


def _set_sctp(data: bytearray, parsed: Extract, value: bytes,
              mask: bytes) -> None:
    l4 = parsed.l4
    if (not l4 or parsed.byte("ip_frag") == 2
            or parsed.byte("ip_proto") != SCTP):
        raise Undefined("no SCTP header to write to")
    if len(data) < l4 + 12:
        raise Failure(DropReason.SET)
    ports = bytearray(data[l4:l4 + 4])
    _merge(ports, 0, value, mask)
    set_ports(data, parsed.l3, l4, bytes(ports))
