# SPDX-License-Identifier: Apache-2.0
"""The cost of a two-port forward, beside a bare tc redirect."""

from __future__ import annotations

import os
import struct
from socket import IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, if_nametoindex

from bench.lab import lab, redirect_prog, run_ns
from bench.rows import Row
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import nla, nla_u32

_MAC_A, _MAC_B = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
_ALL = b"\xff"
OUTPUT = nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2)
ETH = _MAC_B + _MAC_A

ADDRESSES4 = bytes((10, 0, 0, 1, 10, 0, 0, 2))
ADDRESSES6 = bytes(15) + b"\1" + bytes(15) + b"\2"
UDP = struct.pack("!HHHH", 1000, 2000, 26, 0) + bytes(18)
TCP = struct.pack("!HHIIBBHHH", 1000, 2000, 0, 0, 0x50, 0x10, 0, 0,
                  0) + bytes(6)


def _ipv4(proto: int, payload: bytes) -> bytes:
    """A frame, in which the checksums play no part."""
    return (ETH + b"\x08\0" + struct.pack(
        "!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, proto, 0)
        + ADDRESSES4 + payload)


IPV4_UDP = _ipv4(IPPROTO_UDP, UDP)
IPV4_TCP = _ipv4(IPPROTO_TCP, TCP)
IPV4_SCTP = _ipv4(IPPROTO_SCTP, UDP + bytes(1400))
IPV6_TCP = (ETH + b"\x86\xdd" + struct.pack(
    "!IHBB", 6 << 28, len(TCP), IPPROTO_TCP, 64) + ADDRESSES6 + TCP)


def match(eth_type: bytes, more: bytes = b"",
          more_mask: bytes = b"") -> tuple[bytes, bytes]:
    """Key and mask as a learning switch's megaflow has them."""
    key = (nla_u32(u.OVS_KEY_ATTR_RECIRC_ID, 0)
           + nla_u32(u.OVS_KEY_ATTR_IN_PORT, 1)
           + nla(u.OVS_KEY_ATTR_ETHERNET, _MAC_A + _MAC_B)
           + nla(u.OVS_KEY_ATTR_ETHERTYPE, eth_type) + more)
    mask = (nla_u32(u.OVS_KEY_ATTR_RECIRC_ID, 0xFFFFFFFF)
            + nla_u32(u.OVS_KEY_ATTR_IN_PORT, 0xFFFFFFFF)
            + nla(u.OVS_KEY_ATTR_ETHERNET, _ALL * 12)
            + nla(u.OVS_KEY_ATTR_ETHERTYPE, _ALL * 2) + more_mask)
    return key, mask


def _transport(proto: int) -> bytes:
    """A key must have the header that its protocol says."""
    if proto == IPPROTO_TCP:
        return (nla(u.OVS_KEY_ATTR_TCP, bytes(4))
                + nla(u.OVS_KEY_ATTR_TCP_FLAGS, bytes(2)))
    if proto == IPPROTO_SCTP:
        return nla(u.OVS_KEY_ATTR_SCTP, bytes(4))
    return nla(u.OVS_KEY_ATTR_UDP, bytes(4))


def ipv4(proto: int) -> tuple[bytes, bytes]:
    """As above, for IPv4 without fragments."""
    return match(
        b"\x08\0",
        nla(u.OVS_KEY_ATTR_IPV4, bytes(8) + bytes((proto, 0, 0, 0)))
        + _transport(proto),
        nla(u.OVS_KEY_ATTR_IPV4, bytes(8) + b"\xff\0\0\xff"))


def ipv6(proto: int) -> tuple[bytes, bytes]:
    """As above, for IPv6 without fragments."""
    return match(
        b"\x86\xdd",
        nla(u.OVS_KEY_ATTR_IPV6, bytes(36) + bytes((proto, 0, 0, 0)))
        + _transport(proto),
        nla(u.OVS_KEY_ATTR_IPV6, bytes(36) + b"\xff\0\0\xff"))


def measure() -> list[Row]:
    """ns a packet, BPF_PROG_TEST_RUN; the ratio is to the bare redirect."""
    with lab() as made:
        bare_fd = redirect_prog(if_nametoindex("b2"))
        bare = run_ns(bare_fd, IPV4_UDP)
        rows = [Row("bare bpf_redirect", bare, "ns", 1.0)]
        for what, flow, packet in (
                ("forward UDP over IPv4", ipv4(IPPROTO_UDP), IPV4_UDP),
                ("forward TCP over IPv4", ipv4(IPPROTO_TCP), IPV4_TCP),
                ("forward TCP over IPv6", ipv6(IPPROTO_TCP), IPV6_TCP)):
            made.put(*flow, OUTPUT)
            cost = made.entry_ns(packet)
            rows.append(Row(what, cost, "ns", cost / bare))
        os.close(bare_fd)
    return rows
