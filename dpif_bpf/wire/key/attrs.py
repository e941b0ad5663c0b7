# SPDX-License-Identifier: Apache-2.0
"""OVS_KEY_ATTR_*: sizes, and where each byte lies in a key image.

A key image is struct ovs_key of bpf/lib/abi.h.  Every attribute is moved into
it byte by byte without arithmetic: addresses, ports and types keep network
order, the rest is in host order on both sides (little-endian hosts).

Sizes: Linux net/openvswitch/flow_netlink.c (``ovs_key_lens``,
``ovs_tunnel_key_lens``, ``ovs_nsh_key_attr_lens``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dpif_bpf import abi
from dpif_bpf.wire import uapi
from dpif_bpf.wire.protocols import (
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_MPLS_MC,
    ETH_P_MPLS_UC,
    ETH_P_RARP,
)

SUPPORTED_KEYS = frozenset({
    uapi.OVS_KEY_ATTR_ENCAP, uapi.OVS_KEY_ATTR_PRIORITY,
    uapi.OVS_KEY_ATTR_IN_PORT, uapi.OVS_KEY_ATTR_ETHERNET,
    uapi.OVS_KEY_ATTR_VLAN, uapi.OVS_KEY_ATTR_ETHERTYPE,
    uapi.OVS_KEY_ATTR_IPV4, uapi.OVS_KEY_ATTR_IPV6, uapi.OVS_KEY_ATTR_TCP,
    uapi.OVS_KEY_ATTR_UDP, uapi.OVS_KEY_ATTR_SCTP, uapi.OVS_KEY_ATTR_ICMP,
    uapi.OVS_KEY_ATTR_ICMPV6, uapi.OVS_KEY_ATTR_ARP, uapi.OVS_KEY_ATTR_ND,
    uapi.OVS_KEY_ATTR_SKB_MARK, uapi.OVS_KEY_ATTR_TCP_FLAGS,
    uapi.OVS_KEY_ATTR_DP_HASH, uapi.OVS_KEY_ATTR_RECIRC_ID,
    uapi.OVS_KEY_ATTR_MPLS, uapi.OVS_KEY_ATTR_NSH, uapi.OVS_KEY_ATTR_TUNNEL,
    uapi.OVS_KEY_ATTR_CT_STATE, uapi.OVS_KEY_ATTR_CT_ZONE,
    uapi.OVS_KEY_ATTR_CT_MARK, uapi.OVS_KEY_ATTR_CT_LABELS,
    uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4,
    uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6,
})
"""What flows may match on and upcalls carry; all else is refused."""

MAX_VLANS = 2
"""VLAN tags that a flow may match on: 1 or 2."""

VARIABLE = -1
"""Size of nested attributes and arrays."""

VLAN_TYPES = frozenset({ETH_P_8021Q, ETH_P_8021AD})
ARP_TYPES = frozenset({ETH_P_ARP, ETH_P_RARP})
MPLS_TYPES = frozenset({ETH_P_MPLS_UC, ETH_P_MPLS_MC})
IP_TYPES = frozenset({ETH_P_IP, ETH_P_IPV6})
VLAN_CFI_MASK = 0x1000
MPLS_LABEL_DEPTH = 3
ND_TYPES = frozenset({135, 136})
"""ICMPv6 types with OVS_KEY_ATTR_ND: neighbour solicitation, advert."""

Move = tuple[int, int, int]
"""Offset in an attribute's payload, bytes, offset in the key image."""


@dataclass(frozen=True, slots=True)
class KeyAttr:
    """One OVS_KEY_ATTR_*, OVS_TUNNEL_KEY_ATTR_* or OVS_NSH_KEY_ATTR_*.

    :param size: of the payload, or VARIABLE
    :param moves: what of it goes into the image
    """

    size: int
    moves: tuple[Move, ...] = ()


def offset(field: str) -> int:
    """Offset of a field in the key image, in bytes."""
    return abi.KEY[field].offset


def bits(field: str) -> int:
    """All bits of a field in a key image."""
    place = abi.KEY[field]
    return ((1 << 8 * place.size) - 1) << 8 * place.offset


def be16_bits(field: str, value: int) -> int:
    """A 16-bit field of a key image that holds `value`."""
    raw = value.to_bytes(2, "big")
    return int.from_bytes(raw, "little") << 8 * offset(field)


def _moves(fields: str) -> Iterator[Move]:
    """Moves of fields that follow each other; ``.n`` skips n bytes."""
    src = 0
    for name in fields.split():
        if name.startswith("."):
            src += int(name[1:])
            continue
        place = abi.KEY[name]
        yield src, place.size, place.offset
        src += place.size


def _attr(size: int, fields: str) -> KeyAttr:
    return KeyAttr(size, tuple(_moves(fields)))


_PORTS = _attr(4, "tp_src tp_dst")
_ICMP = KeyAttr(2, ((0, 1, offset("tp_src") + 1),
                    (1, 1, offset("tp_dst") + 1)))

KEY_ATTRS = {
    uapi.OVS_KEY_ATTR_ENCAP: KeyAttr(VARIABLE),
    uapi.OVS_KEY_ATTR_PRIORITY: _attr(4, "skb_priority"),
    uapi.OVS_KEY_ATTR_IN_PORT: _attr(4, "in_port .2"),
    uapi.OVS_KEY_ATTR_ETHERNET: _attr(12, "eth_src eth_dst"),
    uapi.OVS_KEY_ATTR_VLAN: _attr(2, "vlan_tci"),
    uapi.OVS_KEY_ATTR_ETHERTYPE: _attr(2, "eth_type"),
    uapi.OVS_KEY_ATTR_IPV4: _attr(
        12, "ipv4_src ipv4_dst ip_proto ip_tos ip_ttl ip_frag"),
    uapi.OVS_KEY_ATTR_IPV6: _attr(
        40, "ipv6_src ipv6_dst ipv6_label ip_proto ip_tos ip_ttl ip_frag"),
    uapi.OVS_KEY_ATTR_TCP: _PORTS,
    uapi.OVS_KEY_ATTR_UDP: _PORTS,
    uapi.OVS_KEY_ATTR_SCTP: _PORTS,
    uapi.OVS_KEY_ATTR_ICMP: _ICMP,
    uapi.OVS_KEY_ATTR_ICMPV6: _ICMP,
    # The low byte of the opcode is the key's ip_proto.
    uapi.OVS_KEY_ATTR_ARP: _attr(
        24, "ipv4_src ipv4_dst .1 ip_proto arp_sha arp_tha"),
    uapi.OVS_KEY_ATTR_ND: _attr(28, "nd_target nd_sll nd_tll"),
    uapi.OVS_KEY_ATTR_SKB_MARK: _attr(4, "skb_mark"),
    uapi.OVS_KEY_ATTR_TUNNEL: KeyAttr(VARIABLE),
    uapi.OVS_KEY_ATTR_TCP_FLAGS: _attr(2, "tcp_flags"),
    uapi.OVS_KEY_ATTR_DP_HASH: _attr(4, "dp_hash"),
    uapi.OVS_KEY_ATTR_RECIRC_ID: _attr(4, "recirc_id"),
    uapi.OVS_KEY_ATTR_MPLS: KeyAttr(VARIABLE),
    # 32 bits, of which the low 8 are in use (OVS_CS_F_*).
    uapi.OVS_KEY_ATTR_CT_STATE: _attr(4, "ct_state"),
    uapi.OVS_KEY_ATTR_CT_ZONE: _attr(2, "ct_zone"),
    uapi.OVS_KEY_ATTR_CT_MARK: _attr(4, "ct_mark"),
    uapi.OVS_KEY_ATTR_CT_LABELS: _attr(16, "ct_labels"),
    uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4: _attr(
        16, "ct_orig_ipv4_src ct_orig_ipv4_dst ct_orig_tp_src ct_orig_tp_dst"
        " ct_orig_proto"),
    uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6: _attr(
        40, "ct_orig_ipv6_src ct_orig_ipv6_dst ct_orig_tp_src ct_orig_tp_dst"
        " ct_orig_proto"),
    uapi.OVS_KEY_ATTR_NSH: KeyAttr(VARIABLE),
    uapi.OVS_KEY_ATTR_IPV6_EXTHDRS: _attr(2, "ipv6_exthdrs"),
}
"""All attributes that the kernel accepts, in or out of SUPPORTED_KEYS."""

TUNNEL_ATTRS = {
    uapi.OVS_TUNNEL_KEY_ATTR_ID: _attr(8, "tun_id"),
    uapi.OVS_TUNNEL_KEY_ATTR_IPV4_SRC: _attr(4, "tun_ipv4_src"),
    uapi.OVS_TUNNEL_KEY_ATTR_IPV4_DST: _attr(4, "tun_ipv4_dst"),
    uapi.OVS_TUNNEL_KEY_ATTR_TOS: _attr(1, "tun_tos"),
    uapi.OVS_TUNNEL_KEY_ATTR_TTL: _attr(1, "tun_ttl"),
    uapi.OVS_TUNNEL_KEY_ATTR_DONT_FRAGMENT: KeyAttr(0),
    uapi.OVS_TUNNEL_KEY_ATTR_CSUM: KeyAttr(0),
    uapi.OVS_TUNNEL_KEY_ATTR_OAM: KeyAttr(0),
    uapi.OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS: KeyAttr(VARIABLE),
    uapi.OVS_TUNNEL_KEY_ATTR_TP_SRC: _attr(2, "tun_tp_src"),
    uapi.OVS_TUNNEL_KEY_ATTR_TP_DST: _attr(2, "tun_tp_dst"),
    uapi.OVS_TUNNEL_KEY_ATTR_VXLAN_OPTS: KeyAttr(VARIABLE),
    uapi.OVS_TUNNEL_KEY_ATTR_IPV6_SRC: _attr(16, "tun_ipv6_src"),
    uapi.OVS_TUNNEL_KEY_ATTR_IPV6_DST: _attr(16, "tun_ipv6_dst"),
    uapi.OVS_TUNNEL_KEY_ATTR_PAD: KeyAttr(VARIABLE),
    uapi.OVS_TUNNEL_KEY_ATTR_ERSPAN_OPTS: KeyAttr(VARIABLE),
}
"""Attributes in OVS_KEY_ATTR_TUNNEL.  IPV4_INFO_BRIDGE is not among them:
its number is OVS_TUNNEL_KEY_ATTR_GTPU_OPTS to OVS, which never sends it."""

# Flags of ovs_key.tun_flags, which is in network order.
TUNNEL_FLAGS = {
    uapi.OVS_TUNNEL_KEY_ATTR_ID: abi.OVS_TUNNEL_KEY,
    uapi.OVS_TUNNEL_KEY_ATTR_DONT_FRAGMENT: abi.OVS_TUNNEL_DONT_FRAGMENT,
    uapi.OVS_TUNNEL_KEY_ATTR_CSUM: abi.OVS_TUNNEL_CSUM,
    uapi.OVS_TUNNEL_KEY_ATTR_OAM: abi.OVS_TUNNEL_OAM,
    uapi.OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS: abi.OVS_TUNNEL_GENEVE_OPT,
    uapi.OVS_TUNNEL_KEY_ATTR_VXLAN_OPTS: abi.OVS_TUNNEL_VXLAN_OPT,
    uapi.OVS_TUNNEL_KEY_ATTR_ERSPAN_OPTS: abi.OVS_TUNNEL_ERSPAN_OPT,
}
TUN_OPTS_MAX = 255
"""Bytes of options, as ovs_key.tun_opts_len can hold them."""
ERSPAN_METADATA_SIZE = 12
"""sizeof(struct erspan_metadata), <linux/erspan.h>."""

NSH_ATTRS = {
    uapi.OVS_NSH_KEY_ATTR_BASE: _attr(
        8, "nsh_flags nsh_ttl nsh_mdtype nsh_np nsh_path_hdr"),
    uapi.OVS_NSH_KEY_ATTR_MD1: _attr(16, "nsh_context"),
}
"""Attributes in OVS_KEY_ATTR_NSH; metadata type 2 cannot be matched."""
NSH_M_TYPE1 = 1

IPV6_LABEL_MAX = (1 << 20) - 1

KEY_NAMES = uapi.names("OVS_KEY_ATTR_")
TUNNEL_NAMES = uapi.names("OVS_TUNNEL_KEY_ATTR_")
NSH_NAMES = uapi.names("OVS_NSH_KEY_ATTR_")


def metadata_attrs() -> frozenset[int]:
    """Attributes that an execute's packet cannot tell by itself."""
    return frozenset({
        uapi.OVS_KEY_ATTR_DP_HASH, uapi.OVS_KEY_ATTR_RECIRC_ID,
        uapi.OVS_KEY_ATTR_PRIORITY, uapi.OVS_KEY_ATTR_IN_PORT,
        uapi.OVS_KEY_ATTR_SKB_MARK, uapi.OVS_KEY_ATTR_TUNNEL,
        uapi.OVS_KEY_ATTR_CT_STATE, uapi.OVS_KEY_ATTR_CT_ZONE,
        uapi.OVS_KEY_ATTR_CT_MARK, uapi.OVS_KEY_ATTR_CT_LABELS,
        uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4,
        uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6,
    })
