# SPDX-License-Identifier: Apache-2.0
"""Which keys and masks make a valid match.

The rules are those of Linux net/openvswitch/flow_netlink.c:
``ovs_nla_get_match``, ``parse_vlan_from_nlattrs``, ``ovs_key_from_nlattrs``
and ``match_validate``.  Differences that a peer can see:

- a frame that ends where a VLAN tag should be: see ``wire.key.vlan``;
- a TCI mask of zero matches any tag (the kernel takes the key's TCI for it);
- of ERSPAN options, sizes other than struct erspan_metadata's are refused;
- keys with attributes of several protocols at once, which no packet has, may
  be refused by one and not by the other.

A flow without an inner VLAN tag matches packets without one only, as in the
kernel; where the outer tag's absence says so, the mask does not repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass

from dpif_bpf.wire import uapi
from dpif_bpf.wire.key.attrs import (
    ARP_TYPES,
    IP_TYPES,
    IPV6_LABEL_MAX,
    MAX_VLANS,
    MPLS_TYPES,
    ND_TYPES,
    SUPPORTED_KEYS,
    VLAN_TYPES,
    be16_bits,
    bits,
    metadata_attrs,
    offset,
)
from dpif_bpf.wire.key.vlan import key_vlans, mask_vlans
from dpif_bpf.wire.key.walk import Layout, invalid, name
from dpif_bpf.wire.netlink import NLA_HDRLEN
from dpif_bpf.wire.protocols import (
    ETH_P_802_2,
    ETH_P_802_3_MIN,
    ETH_P_IP,
    ETH_P_NSH,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
)

NO_PORT = uapi.DP_MAX_PORTS
"""in_port of a key that names no port."""

_L2_ATTRS = (uapi.OVS_KEY_ATTR_ETHERNET, uapi.OVS_KEY_ATTR_ETHERTYPE)
# In the order of ovs_key_from_nlattrs(): of two that are stored in the same
# place, which only a strange key has, the later one is kept.
_L3_ATTRS = (
    uapi.OVS_KEY_ATTR_IPV4, uapi.OVS_KEY_ATTR_IPV6,
    uapi.OVS_KEY_ATTR_IPV6_EXTHDRS, uapi.OVS_KEY_ATTR_ARP,
    uapi.OVS_KEY_ATTR_NSH, uapi.OVS_KEY_ATTR_MPLS)
_L4_ATTRS = (
    uapi.OVS_KEY_ATTR_TCP, uapi.OVS_KEY_ATTR_TCP_FLAGS,
    uapi.OVS_KEY_ATTR_UDP, uapi.OVS_KEY_ATTR_SCTP, uapi.OVS_KEY_ATTR_ICMP,
    uapi.OVS_KEY_ATTR_ICMPV6, uapi.OVS_KEY_ATTR_ND)
_METADATA_ATTRS = tuple(sorted(metadata_attrs()))
_CT_TUPLES = (uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4,
              uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6)

_ETH, _PROTO, _ND, _NEVER = "eth", "proto", "nd", "never"
_GATED = frozenset({*_L3_ATTRS, *_L4_ATTRS, *_CT_TUPLES}
                   - {uapi.OVS_KEY_ATTR_IPV6_EXTHDRS})
_ALWAYS = frozenset({uapi.OVS_KEY_ATTR_TUNNEL, uapi.OVS_KEY_ATTR_IN_PORT,
                     uapi.OVS_KEY_ATTR_ETHERTYPE})
_L4_BY_PROTO = {
    IPPROTO_TCP: (uapi.OVS_KEY_ATTR_TCP, uapi.OVS_KEY_ATTR_TCP_FLAGS),
    IPPROTO_UDP: (uapi.OVS_KEY_ATTR_UDP,),
    IPPROTO_SCTP: (uapi.OVS_KEY_ATTR_SCTP,),
}


@dataclass(frozen=True, slots=True)
class KeyShape:
    """A valid key and what it allows its masks.

    :param layout: where its bytes go
    :param gates: attribute -> on what its mask depends: "", "eth", "proto"
        or "nd"; an attribute that is not here must have a mask of zero
    :param tags: number of VLAN tags
    :param bare: whether OVS_KEY_ATTR_ENCAP is empty: a mask of its kind
        does not count as one
    """

    layout: Layout
    gates: dict[int, str]
    tags: int
    bare: bool


@dataclass(frozen=True, slots=True)
class MaskShape:
    """A valid mask of a KeyShape, but for what its bits say.

    :param layout: where its bytes go
    :param exact: bits of the image that have to be set: types of tags
    :param tags: all bits and the CFI bit of each matched tag's TCI
    :param gated: condition -> payloads that may be nonzero under it
    """

    layout: Layout
    exact: int
    tags: tuple[tuple[int, int], ...]
    gated: dict[str, list[tuple[int, int]]]


def key_shape(key: bytes, base: int) -> KeyShape:
    """Check a key.

    :param base: offset of `key` in the message, for errors
    :raises RequestError: EINVAL
    """
    layout = Layout(key, base)
    layout.walk(0, len(key))
    tags, truncated, bare = key_vlans(layout)
    _metadata(layout)
    found = layout.found
    ethernet = uapi.OVS_KEY_ATTR_ETHERNET in found
    if not ethernet:
        layout.const |= 1 << 8 * offset("mac_proto")
    if uapi.OVS_KEY_ATTR_ETHERTYPE in found:
        eth_type = _eth_type(layout)
    elif ethernet:
        eth_type = ETH_P_802_2
        layout.const |= be16_bits("eth_type", eth_type)
    else:
        raise invalid("neither OVS_KEY_ATTR_ETHERNET nor"
                      " OVS_KEY_ATTR_ETHERTYPE is given")
    if ethernet:
        layout.move(uapi.OVS_KEY_ATTR_ETHERNET)
    for type_ in (uapi.OVS_KEY_ATTR_VLAN, uapi.OVS_KEY_ATTR_ENCAP):
        if type_ in found:
            raise layout.error(
                f"{name(type_)} where none is expected"
                + f": no more than {MAX_VLANS} VLAN tags" * bool(tags),
                found[type_][0] - NLA_HDRLEN)
    proto, frag = _l3_l4(layout)
    gates = _gates(layout, eth_type, proto, frag)
    if truncated:
        gates[uapi.OVS_KEY_ATTR_VLAN] = ""
    return KeyShape(layout, gates, tags, bare)


def metadata_layout(key: bytes, base: int) -> Layout:
    """Check the key of an execute, of which only metadata count.

    :raises RequestError: EINVAL
    """
    layout = Layout(key, base)
    layout.walk(0, len(key))
    _metadata(layout)
    if (uapi.OVS_KEY_ATTR_ETHERNET not in layout.found
            and uapi.OVS_KEY_ATTR_ETHERTYPE in layout.found):
        layout.const |= 1 << 8 * offset("mac_proto")
        if _eth_type(layout) in VLAN_TYPES:
            raise layout.error(
                "a VLAN tag without OVS_KEY_ATTR_ETHERNET",
                layout.found[uapi.OVS_KEY_ATTR_ETHERTYPE][0] - NLA_HDRLEN)
    return layout


def _metadata(layout: Layout) -> None:
    """metadata_from_nlattrs() of a key."""
    found = layout.found
    for type_ in _METADATA_ATTRS:
        if type_ in found:
            layout.move(type_)
    where = found.get(uapi.OVS_KEY_ATTR_IN_PORT)
    if where is None:
        layout.const |= NO_PORT << 8 * offset("in_port")
    else:
        port = layout.u32(where[0])
        if port >= uapi.DP_MAX_PORTS:
            raise layout.error(
                f"OVS_KEY_ATTR_IN_PORT {port} is not below"
                f" {uapi.DP_MAX_PORTS}", where[0] - NLA_HDRLEN)
        layout.fix(where[0] + 2, 2)
        layout.not_ones = (where[0], where[0] + 2)
    where = found.get(uapi.OVS_KEY_ATTR_CT_STATE)
    if where is not None:
        if layout.u32(where[0]) > 0xff:
            raise layout.error("OVS_KEY_ATTR_CT_STATE has unknown bits",
                               where[0] - NLA_HDRLEN)
        layout.fix(where[0] + 1, 3)


def _eth_type(layout: Layout) -> int:
    pos = layout.found[uapi.OVS_KEY_ATTR_ETHERTYPE][0]
    eth_type = layout.be16(pos)
    if eth_type < ETH_P_802_3_MIN:
        raise layout.error(
            f"OVS_KEY_ATTR_ETHERTYPE {eth_type:#06x} is less than"
            f" {ETH_P_802_3_MIN:#06x}", pos - NLA_HDRLEN)
    layout.fix(pos, 2)
    layout.move(uapi.OVS_KEY_ATTR_ETHERTYPE)
    return eth_type


def _l3_l4(layout: Layout) -> tuple[int, int]:
    """Move what is above Ethernet; IP protocol and fragment type."""
    found = layout.found
    proto = frag = 0
    for type_ in (*_L3_ATTRS, *_L4_ATTRS):
        if type_ in found:
            layout.move(type_)
    for type_, pos in ((uapi.OVS_KEY_ATTR_IPV4, 8),
                       (uapi.OVS_KEY_ATTR_IPV6, 36)):
        if type_ not in found:
            continue
        start = found[type_][0]
        proto, frag = layout.buf[start + pos], layout.buf[start + pos + 3]
        layout.fix(start + pos, 1)
        layout.fix(start + pos + 3, 1)
        if frag > uapi.OVS_FRAG_TYPE_MAX:
            raise layout.error(f"{name(type_)} has fragment type {frag}",
                               start - NLA_HDRLEN)
    if uapi.OVS_KEY_ATTR_IPV6 in found:
        start = found[uapi.OVS_KEY_ATTR_IPV6][0]
        label = int.from_bytes(layout.buf[start + 32:start + 36], "big")
        if label > IPV6_LABEL_MAX:
            raise layout.error(f"flow label {label:#x} of OVS_KEY_ATTR_IPV6"
                               " has more than 20 bits", start - NLA_HDRLEN)
        layout.fix(start + 32, 1)
        layout.fix(start + 33, 1, 0xf0)
    if uapi.OVS_KEY_ATTR_ARP in found:
        start = found[uapi.OVS_KEY_ATTR_ARP][0]
        if layout.buf[start + 8]:
            raise layout.error("opcode of OVS_KEY_ATTR_ARP has more than 8"
                               " bits", start - NLA_HDRLEN)
        layout.fix(start + 8, 1)
    return proto, frag


def _gates(layout: Layout, eth_type: int, proto: int,
           frag: int) -> dict[int, str]:
    """match_validate(): what has to be there, and what masks may have."""
    gates = {type_: "" for type_ in layout.found if type_ not in _GATED}
    gates.update(dict.fromkeys(_ALWAYS, ""))
    expected: dict[int, str] = {}
    if eth_type in ARP_TYPES:
        expected[uapi.OVS_KEY_ATTR_ARP] = _ETH
    elif eth_type in MPLS_TYPES:
        expected[uapi.OVS_KEY_ATTR_MPLS] = _ETH
    elif eth_type == ETH_P_NSH:
        expected[uapi.OVS_KEY_ATTR_NSH] = _ETH
    elif eth_type in IP_TYPES:
        ipv4 = eth_type == ETH_P_IP
        expected[uapi.OVS_KEY_ATTR_IPV4 if ipv4
                 else uapi.OVS_KEY_ATTR_IPV6] = _ETH
        gates[_CT_TUPLES[0] if ipv4 else _CT_TUPLES[1]] = _ETH
        if frag != uapi.OVS_FRAG_TYPE_LATER:
            expected |= _l4_gates(layout, ipv4, proto)
    for type_ in expected:
        if type_ not in layout.found and type_ in SUPPORTED_KEYS:
            raise invalid(f"{name(type_)} is missing")
    gates |= expected
    if uapi.OVS_KEY_ATTR_ND in expected:
        del gates[uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6]
    return {type_: gate for type_, gate in gates.items()
            if type_ in SUPPORTED_KEYS or type_ in _ALWAYS}


def _l4_gates(layout: Layout, ipv4: bool, proto: int) -> dict[int, str]:
    expected = dict.fromkeys(_L4_BY_PROTO.get(proto, ()), _PROTO)
    if ipv4 and proto == IPPROTO_ICMP:
        expected[uapi.OVS_KEY_ATTR_ICMP] = _PROTO
    if not ipv4 and proto == IPPROTO_ICMPV6:
        expected[uapi.OVS_KEY_ATTR_ICMPV6] = _PROTO
        where = layout.found.get(uapi.OVS_KEY_ATTR_ICMPV6)
        if where is not None:
            layout.fix(where[0], 1)
            if layout.buf[where[0]] in ND_TYPES:
                expected[uapi.OVS_KEY_ATTR_ND] = _ND
    return expected


def mask_shape(key: KeyShape, mask: bytes, base: int) -> MaskShape:
    """Check a mask against the shape of its key.

    :param base: offset of `mask` in the message, for errors
    :raises RequestError: EINVAL
    """
    layout = Layout(mask, base, mask=True)
    layout.walk(0, len(mask))
    exact, tags = mask_vlans(layout, key.tags)
    found = layout.found
    gated: dict[str, list[tuple[int, int]]] = {
        _ETH: [], _PROTO: [], _ND: [], _NEVER: []}
    for type_ in (*_METADATA_ATTRS, *_L2_ATTRS, *_L3_ATTRS, *_L4_ATTRS,
                  uapi.OVS_KEY_ATTR_VLAN):
        where = found.get(type_)
        if where is None:
            continue
        gate = key.gates.get(type_, _NEVER)
        if gate:
            gated[gate].append(where)
        if gate != _NEVER:
            layout.move(type_)
    where = found.get(uapi.OVS_KEY_ATTR_CT_STATE)
    if where is not None:
        gated[_NEVER].append((where[0] + 1, where[1]))
    if layout.geneve_len and layout.geneve_len != key.layout.geneve_len:
        raise layout.error(
            f"{layout.geneve_len} bytes of Geneve options, the key has"
            f" {key.layout.geneve_len}",
            found[uapi.OVS_KEY_ATTR_TUNNEL][0] - NLA_HDRLEN)
    layout.const |= bits("mac_proto")
    return MaskShape(layout, exact, tags, gated)
