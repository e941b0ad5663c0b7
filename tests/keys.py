# SPDX-License-Identifier: Apache-2.0
"""Netlink flow keys and masks for tests, attribute by attribute."""

from __future__ import annotations

import contextlib
import importlib
import struct
from collections.abc import Iterator

from dpif_bpf.wire import uapi
from dpif_bpf.wire.key import attrs as key_attrs
from dpif_bpf.wire.key import decode as key
from dpif_bpf.wire.key import encode as key_encode
from dpif_bpf.wire.key import match as key_match
from dpif_bpf.wire.key import vlan as key_vlan
from dpif_bpf.wire.key import walk as key_walk
from dpif_bpf.wire.netlink import nla, nla_u16, nla_u32

SRC, DST = b"\x50\x54\0\0\0\x01", b"\x50\x54\0\0\0\x02"
IP1, IP2 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
IP6_1, IP6_2 = b"\xfd" + bytes(14) + b"\x01", b"\xfd" + bytes(14) + b"\x02"


def be16(type_: int, value: int) -> bytes:
    return nla(type_, value.to_bytes(2, "big"))


def in_port(port: int = 1) -> bytes:
    return nla_u32(uapi.OVS_KEY_ATTR_IN_PORT, port)


def recirc_id(value: int = 0) -> bytes:
    return nla_u32(uapi.OVS_KEY_ATTR_RECIRC_ID, value)


def eth(src: bytes = SRC, dst: bytes = DST) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_ETHERNET, src + dst)


def eth_type(value: int = 0x0800) -> bytes:
    return be16(uapi.OVS_KEY_ATTR_ETHERTYPE, value)


def vlan(tci: int = 0x1000 | 10) -> bytes:
    return be16(uapi.OVS_KEY_ATTR_VLAN, tci)


def encap(*attrs: bytes) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_ENCAP, b"".join(attrs))


def ipv4(proto: int = 17, tos: int = 0, ttl: int = 64, frag: int = 0,
         src: bytes = IP1, dst: bytes = IP2) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_IPV4,
               src + dst + bytes([proto, tos, ttl, frag]))


def ipv6(proto: int = 17, tclass: int = 0, hlimit: int = 64, frag: int = 0,
         label: int = 0, src: bytes = IP6_1, dst: bytes = IP6_2) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_IPV6, src + dst + label.to_bytes(4, "big")
               + bytes([proto, tclass, hlimit, frag]))


def tcp(src: int = 1000, dst: int = 80) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_TCP, struct.pack("!HH", src, dst))


def udp(src: int = 1000, dst: int = 53) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_UDP, struct.pack("!HH", src, dst))


def sctp(src: int = 1000, dst: int = 53) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_SCTP, struct.pack("!HH", src, dst))


def tcp_flags(value: int = 0x12) -> bytes:
    return be16(uapi.OVS_KEY_ATTR_TCP_FLAGS, value)


def icmp(type_: int = 8, code: int = 0) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_ICMP, bytes([type_, code]))


def icmpv6(type_: int = 128, code: int = 0) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_ICMPV6, bytes([type_, code]))


def nd(target: bytes = IP6_2, sll: bytes = SRC, tll: bytes = bytes(6)
       ) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_ND, target + sll + tll)


def arp(op: int = 1, sip: bytes = IP1, tip: bytes = IP2, sha: bytes = SRC,
        tha: bytes = bytes(6)) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_ARP,
               sip + tip + op.to_bytes(2, "big") + sha + tha + b"\0\0")


def mpls(*labels: int) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_MPLS,
               b"".join(lse.to_bytes(4, "big") for lse in labels))


def nsh(mdtype: int = 1, *more: bytes) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_NSH, nla(
        uapi.OVS_NSH_KEY_ATTR_BASE,
        bytes([0, 63, mdtype, 1, 0, 0, 1, 255])) + b"".join(more))


def tunnel(*attrs: bytes) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_TUNNEL, b"".join(attrs))


def join(*attrs: bytes) -> bytes:
    return b"".join(attrs)


def ct(state: int = 0x21, zone: int = 5, mark: int = 6,
       labels: bytes = bytes(range(16))) -> bytes:
    return join(nla_u32(uapi.OVS_KEY_ATTR_CT_STATE, state),
                nla_u16(uapi.OVS_KEY_ATTR_CT_ZONE, zone),
                nla_u32(uapi.OVS_KEY_ATTR_CT_MARK, mark),
                nla(uapi.OVS_KEY_ATTR_CT_LABELS, labels))


NO_CT = ct(0, 0, 0, bytes(16))
_CT_ENDS = b"\0\x50\0\x51\x06\0\0\0"


def ct_tuple(ends: bytes = _CT_ENDS) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4, IP1 + IP2 + ends)


def ct_tuple6(ends: bytes = _CT_ENDS) -> bytes:
    return nla(uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6, IP6_1 + IP6_2 + ends)


META = join(recirc_id(), in_port())
FRAME = join(META, eth())

# One valid key of each kind.
KEYS = {
    "802.2": FRAME,
    "other type": join(FRAME, eth_type(0x88cc)),
    "no port": join(eth(), eth_type(0x88cc)),
    "metadata": join(
        nla_u32(uapi.OVS_KEY_ATTR_PRIORITY, 5),
        nla_u32(uapi.OVS_KEY_ATTR_SKB_MARK, 6),
        nla_u32(uapi.OVS_KEY_ATTR_DP_HASH, 7), recirc_id(8), in_port(65534),
        eth()),
    "tracked": join(META, ct(), eth(), eth_type(), ipv4(17), udp()),
    "tracked, tuple": join(META, ct(), ct_tuple(), eth(), eth_type(),
                           ipv4(17), udp()),
    "tracked, tuple 6": join(META, ct(), ct_tuple6(), eth(),
                             eth_type(0x86dd), ipv6(17), udp()),
    "tracked, other type": join(META, ct(), eth(), eth_type(0x88cc)),
    "arp": join(FRAME, eth_type(0x0806), arp()),
    "rarp": join(FRAME, eth_type(0x8035), arp(op=3)),
    "tcp": join(FRAME, eth_type(), ipv4(6), tcp(), tcp_flags()),
    "udp": join(FRAME, eth_type(), ipv4(17), udp()),
    "sctp": join(FRAME, eth_type(), ipv4(132), sctp()),
    "icmp": join(FRAME, eth_type(), ipv4(1), icmp()),
    "igmp": join(FRAME, eth_type(), ipv4(2)),
    "first fragment": join(FRAME, eth_type(), ipv4(17, frag=1), udp()),
    "later fragment": join(FRAME, eth_type(), ipv4(6, frag=2)),
    "tcp6": join(FRAME, eth_type(0x86dd), ipv6(6, label=0xfffff), tcp(),
                 tcp_flags()),
    "udp6": join(FRAME, eth_type(0x86dd), ipv6(17), udp()),
    "sctp6": join(FRAME, eth_type(0x86dd), ipv6(132), sctp()),
    "icmpv6": join(FRAME, eth_type(0x86dd), ipv6(58), icmpv6()),
    "nd": join(FRAME, eth_type(0x86dd), ipv6(58), icmpv6(135), nd()),
    "later fragment 6": join(FRAME, eth_type(0x86dd), ipv6(44, frag=2)),
    "vlan": join(FRAME, eth_type(0x8100), vlan(),
                 encap(eth_type(), ipv4(17), udp())),
    "vlan 802.1ad": join(FRAME, eth_type(0x88a8), vlan(0xffff),
                         encap(eth_type(0x0806), arp())),
    "vlan 802.2": join(FRAME, eth_type(0x8100), vlan(), encap()),
    "vlan truncated": join(FRAME, eth_type(0x8100), vlan(0), encap()),
    "layer 3": join(META, eth_type(), ipv4(1), icmp()),
}


def ones(attrs: bytes) -> bytes:
    """A mask with all bits of a key's attributes set."""
    out = b""
    pos = 0
    while pos < len(attrs):
        size, type_ = struct.unpack_from("=HH", attrs, pos)
        payload = attrs[pos + 4:pos + size]
        if type_ in {uapi.OVS_KEY_ATTR_ENCAP, uapi.OVS_KEY_ATTR_TUNNEL,
                     uapi.OVS_KEY_ATTR_NSH}:
            payload = ones(payload)
        else:
            payload = b"\xff" * len(payload)
        if type_ == uapi.OVS_KEY_ATTR_CT_STATE:
            payload = b"\xff\0\0\0"  # as nlattr_set() of the kernel
        out += nla(type_, payload)
        pos += size + 3 & ~3
    return out


def _reload() -> None:
    for module in (key_walk, key_vlan, key_match, key_encode, key):
        importlib.reload(module)


@contextlib.contextmanager
def all_keys() -> Iterator[None]:
    """Within it wire.key supports all attributes and two VLAN tags."""
    supported, vlans = key_attrs.SUPPORTED_KEYS, key_attrs.MAX_VLANS
    key_attrs.SUPPORTED_KEYS = frozenset(key_attrs.KEY_ATTRS)
    key_attrs.MAX_VLANS = 2
    _reload()
    try:
        yield
    finally:
        key_attrs.SUPPORTED_KEYS, key_attrs.MAX_VLANS = supported, vlans
        _reload()
