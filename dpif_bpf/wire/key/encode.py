# SPDX-License-Identifier: Apache-2.0
"""Key images to netlink flow keys, for upcalls.

Attributes, their order and when they are present: ``__ovs_nla_put_key`` and
``__ip_tun_to_nlattr`` of Linux net/openvswitch/flow_netlink.c, as far as they
are in SUPPORTED_KEYS.

Which attributes a key has depends on a few of its fields, its *shape*.  For
each shape it is known from where every byte of the netlink attributes comes:
from the image or from the headers' constants.  bytes.translate() fetches them,
with the image and the constants as its table.
"""

from __future__ import annotations

import socket

from dpif_bpf import abi
from dpif_bpf.wire import uapi
from dpif_bpf.wire.key.attrs import (
    ARP_TYPES,
    IP_TYPES,
    KEY_ATTRS,
    MAX_VLANS,
    MPLS_TYPES,
    ND_TYPES,
    NSH_ATTRS,
    NSH_M_TYPE1,
    SUPPORTED_KEYS,
    VLAN_CFI_MASK,
    VLAN_TYPES,
    KeyAttr,
    be16_bits,
    bits,
    offset,
)
from dpif_bpf.wire.netlink import (
    NLATTR,
    PADDING,
    nla,
    nla_flag,
    nla_u8,
    nla_u32,
)
from dpif_bpf.wire.protocols import (
    ETH_P_802_2,
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_NSH,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
)

SPAN = offset("tun_id")
"""Bytes of an image that are in the table: all but the tunnel key."""
SHAPES = 1024
"""Shapes that are kept; then the collection starts anew."""

_NO_PORT = uapi.DP_MAX_PORTS
_IN_PORT = bits("in_port")
_PORT_SLICE = abi.KEY["in_port"].slice
_SHAPE = (bits("eth_type") | bits("mac_proto") | bits("ip_frag")
          | bits("ip_proto") | be16_bits("vlan_tci", VLAN_CFI_MASK)
          | be16_bits("cvlan_tci", VLAN_CFI_MASK))
_MORE = ((uapi.OVS_KEY_ATTR_TUNNEL, "tun_proto"),
         (uapi.OVS_KEY_ATTR_NSH, "nsh_mdtype"),
         (uapi.OVS_KEY_ATTR_MPLS, "mpls_labels"),
         (uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4, "ct_orig_proto"),
         (uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6, "ct_orig_proto"))
for _type, _field in _MORE:
    if _type in SUPPORTED_KEYS:
        _SHAPE |= bits(_field)

_SHAPE_BYTES = (_SHAPE.bit_length() + 7) // 8
_ND_TYPE = offset("tp_src") + 1
_PORTS_BY_PROTO = {IPPROTO_TCP: uapi.OVS_KEY_ATTR_TCP,
                   IPPROTO_UDP: uapi.OVS_KEY_ATTR_UDP,
                   IPPROTO_SCTP: uapi.OVS_KEY_ATTR_SCTP}

_Range = tuple[int, int]


class _Writer:
    """Collects a netlink key: constant bytes and ranges of the image."""

    def __init__(self) -> None:
        self.parts: list[bytes | _Range] = []
        self.size = 0

    def const(self, data: bytes) -> None:
        self.parts.append(data)
        self.size += len(data)

    def image(self, start: int, size: int) -> None:
        self.parts.append((start, size))
        self.size += size

    def nest(self, type_: int, inner: _Writer) -> None:
        self.const(NLATTR.pack(4 + inner.size, type_))
        self.parts += inner.parts
        self.size += inner.size

    def attr(self, type_: int, attr: KeyAttr) -> None:
        """An attribute whose bytes are all in the image or zero."""
        self.const(NLATTR.pack(4 + attr.size, type_))
        at = 0
        for src, size, dst in sorted(attr.moves):
            self.const(bytes(src - at))
            self.image(dst, size)
            at = src + size
        self.const(bytes(attr.size - at) + PADDING[attr.size & 3])

    def key(self, *types: int) -> None:
        """Key attributes, where they are supported."""
        for type_ in types:
            if type_ in SUPPORTED_KEYS:
                self.attr(type_, KEY_ATTRS[type_])


class _Shape:
    """How images of one shape become netlink attributes.

    :ivar places: for each byte its place in the table
    :ivar consts: what the table has after the first SPAN bytes of the image
    :ivar nd: what to use for neighbour discovery
    :ivar tunnel: where OVS_KEY_ATTR_TUNNEL belongs in the result; None
    """

    __slots__ = ("consts", "nd", "places", "tunnel")

    def __init__(self, writer: _Writer) -> None:
        values = sorted({value for part in writer.parts
                         if isinstance(part, bytes) for value in part})
        places = bytearray()
        for part in writer.parts:
            if isinstance(part, bytes):
                places += bytes(SPAN + values.index(value) for value in part)
            else:
                places += bytes(range(part[0], part[0] + part[1]))
        self.places = bytes(places)
        self.consts = bytes(values).ljust(256 - SPAN, b"\0")
        self.nd: _Shape | None = None
        self.tunnel: int | None = None


_shapes: dict[int, _Shape] = {}


def encode_key(image: bytes) -> bytes:
    """The key of an upcall: payload of OVS_PACKET_ATTR_KEY.

    :param image: struct ovs_key, at least OVS_KEY_BASE words
    """
    number = int.from_bytes(image[:_SHAPE_BYTES], "little")
    shape = number & _SHAPE
    if number & _IN_PORT == _NO_PORT:
        shape |= _NO_PORT
    found = _shapes.get(shape)
    if found is None:
        found = _make(image, shape)
    if found.nd is not None and image[_ND_TYPE] in ND_TYPES:
        found = found.nd
    key = found.places.translate(image[:SPAN] + found.consts)
    if found.tunnel is not None:
        key = (key[:found.tunnel]
               + nla(uapi.OVS_KEY_ATTR_TUNNEL, encode_tunnel(image))
               + key[found.tunnel:])
    return key


def _make(image: bytes, shape: int) -> _Shape:
    result = _Shape(_write(image, False))
    if (_u16(image, "eth_type") == ETH_P_IPV6
            and _u8(image, "ip_proto") == IPPROTO_ICMPV6
            and _u8(image, "ip_frag") != uapi.OVS_FRAG_TYPE_LATER):
        result.nd = _Shape(_write(image, True))
    if (uapi.OVS_KEY_ATTR_TUNNEL in SUPPORTED_KEYS
            and _u8(image, "tun_proto")):
        # After OVS_KEY_ATTR_RECIRC_ID, _DP_HASH and _PRIORITY.
        result.tunnel = 24
        if result.nd is not None:
            result.nd.tunnel = 24
    if len(_shapes) >= SHAPES:
        _shapes.clear()
    _shapes[shape] = result
    return result


def _write(image: bytes, nd: bool) -> _Writer:
    out = _Writer()
    out.key(uapi.OVS_KEY_ATTR_RECIRC_ID, uapi.OVS_KEY_ATTR_DP_HASH,
            uapi.OVS_KEY_ATTR_PRIORITY)
    if int.from_bytes(image[_PORT_SLICE], "little") != _NO_PORT:
        out.key(uapi.OVS_KEY_ATTR_IN_PORT)
    out.key(uapi.OVS_KEY_ATTR_SKB_MARK)
    eth_type = _u16(image, "eth_type")
    _write_ct(out, image, eth_type)
    inner = _Writer()
    if eth_type != ETH_P_802_2 or _u8(image, "mac_proto"):
        inner.key(uapi.OVS_KEY_ATTR_ETHERTYPE)
        if eth_type not in VLAN_TYPES:
            _write_l3(inner, image, eth_type, nd)
    if not _u8(image, "mac_proto"):
        out.key(uapi.OVS_KEY_ATTR_ETHERNET)
        tags = [field for field in ("vlan", "cvlan")
                if _u16(image, f"{field}_tci") & VLAN_CFI_MASK]
        if eth_type in VLAN_TYPES and len(tags) < MAX_VLANS:
            # The frame ends where the tag should be.
            inner = _tag("eth_type", None, _Writer())
        for field in reversed(tags):
            inner = _tag(f"{field}_tpid", f"{field}_tci", inner)
    out.parts += inner.parts
    out.size += inner.size
    return out


def _tag(tpid: str, tci: str | None, encap: _Writer) -> _Writer:
    out = _Writer()
    out.const(NLATTR.pack(6, uapi.OVS_KEY_ATTR_ETHERTYPE))
    out.image(offset(tpid), 2)
    out.const(b"\0\0" + NLATTR.pack(6, uapi.OVS_KEY_ATTR_VLAN))
    if tci is None:
        out.const(b"\0\0")
    else:
        out.image(offset(tci), 2)
    out.const(b"\0\0")
    out.nest(uapi.OVS_KEY_ATTR_ENCAP, encap)
    return out


def _write_ct(out: _Writer, image: bytes, eth_type: int) -> None:
    """ovs_ct_put_key() of Linux net/openvswitch/conntrack.c."""
    if uapi.OVS_KEY_ATTR_CT_STATE in SUPPORTED_KEYS:
        out.const(NLATTR.pack(8, uapi.OVS_KEY_ATTR_CT_STATE))
        out.image(offset("ct_state"), 1)
        out.const(b"\0\0\0")
    out.key(uapi.OVS_KEY_ATTR_CT_ZONE, uapi.OVS_KEY_ATTR_CT_MARK,
            uapi.OVS_KEY_ATTR_CT_LABELS)
    if _u8(image, "ct_orig_proto"):
        if eth_type == ETH_P_IP:
            out.key(uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4)
        elif eth_type == ETH_P_IPV6:
            out.key(uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6)


def _write_l3(out: _Writer, image: bytes, eth_type: int, nd: bool) -> None:
    if eth_type == ETH_P_IP:
        out.key(uapi.OVS_KEY_ATTR_IPV4)
    elif eth_type == ETH_P_IPV6:
        out.key(uapi.OVS_KEY_ATTR_IPV6, uapi.OVS_KEY_ATTR_IPV6_EXTHDRS)
    elif eth_type in ARP_TYPES:
        out.key(uapi.OVS_KEY_ATTR_ARP)
    elif eth_type == ETH_P_NSH and uapi.OVS_KEY_ATTR_NSH in SUPPORTED_KEYS:
        nsh = _Writer()
        nsh.attr(uapi.OVS_NSH_KEY_ATTR_BASE,
                 NSH_ATTRS[uapi.OVS_NSH_KEY_ATTR_BASE])
        if _u8(image, "nsh_mdtype") == NSH_M_TYPE1:
            nsh.attr(uapi.OVS_NSH_KEY_ATTR_MD1,
                     NSH_ATTRS[uapi.OVS_NSH_KEY_ATTR_MD1])
        out.nest(uapi.OVS_KEY_ATTR_NSH, nsh)
    elif eth_type in MPLS_TYPES and uapi.OVS_KEY_ATTR_MPLS in SUPPORTED_KEYS:
        labels = image[abi.KEY["mpls_labels"].slice]
        size = 4 * int.from_bytes(labels, "little").bit_count()
        out.const(NLATTR.pack(4 + size, uapi.OVS_KEY_ATTR_MPLS))
        out.image(offset("mpls_lse"), size)
    if (eth_type in IP_TYPES
            and _u8(image, "ip_frag") != uapi.OVS_FRAG_TYPE_LATER):
        _write_l4(out, eth_type, _u8(image, "ip_proto"), nd)


def _write_l4(out: _Writer, eth_type: int, proto: int, nd: bool) -> None:
    if proto in _PORTS_BY_PROTO:
        out.key(_PORTS_BY_PROTO[proto])
        if proto == IPPROTO_TCP:
            out.key(uapi.OVS_KEY_ATTR_TCP_FLAGS)
    elif eth_type == ETH_P_IP and proto == IPPROTO_ICMP:
        out.key(uapi.OVS_KEY_ATTR_ICMP)
    elif eth_type == ETH_P_IPV6 and proto == IPPROTO_ICMPV6:
        out.key(uapi.OVS_KEY_ATTR_ICMPV6)
        if nd:
            out.key(uapi.OVS_KEY_ATTR_ND)


def encode_tunnel(image: bytes) -> bytes:
    """Payload of OVS_KEY_ATTR_TUNNEL.

    :param image: struct ovs_key, with tun_opts where there are any
    """
    def raw(field: str) -> bytes:
        return image[abi.KEY[field].slice]

    flags = _u16(image, "tun_flags")
    out = []
    if flags & abi.OVS_TUNNEL_KEY:
        out.append(nla(uapi.OVS_TUNNEL_KEY_ATTR_ID, raw("tun_id")))
    ipv6 = _u8(image, "tun_proto") == socket.AF_INET6
    for field, v4, v6 in (
            ("src", uapi.OVS_TUNNEL_KEY_ATTR_IPV4_SRC,
             uapi.OVS_TUNNEL_KEY_ATTR_IPV6_SRC),
            ("dst", uapi.OVS_TUNNEL_KEY_ATTR_IPV4_DST,
             uapi.OVS_TUNNEL_KEY_ATTR_IPV6_DST)):
        address = raw(f"tun_ipv6_{field}" if ipv6 else f"tun_ipv4_{field}")
        if any(address):
            out.append(nla(v6 if ipv6 else v4, address))
    if _u8(image, "tun_tos"):
        out.append(nla_u8(uapi.OVS_TUNNEL_KEY_ATTR_TOS,
                          _u8(image, "tun_tos")))
    out.append(nla_u8(uapi.OVS_TUNNEL_KEY_ATTR_TTL, _u8(image, "tun_ttl")))
    if flags & abi.OVS_TUNNEL_DONT_FRAGMENT:
        out.append(nla_flag(uapi.OVS_TUNNEL_KEY_ATTR_DONT_FRAGMENT))
    if flags & abi.OVS_TUNNEL_CSUM:
        out.append(nla_flag(uapi.OVS_TUNNEL_KEY_ATTR_CSUM))
    for field, type_ in (("tun_tp_src", uapi.OVS_TUNNEL_KEY_ATTR_TP_SRC),
                         ("tun_tp_dst", uapi.OVS_TUNNEL_KEY_ATTR_TP_DST)):
        if any(raw(field)):
            out.append(nla(type_, raw(field)))
    if flags & abi.OVS_TUNNEL_OAM:
        out.append(nla_flag(uapi.OVS_TUNNEL_KEY_ATTR_OAM))
    size = _u8(image, "tun_opts_len")
    options = raw("tun_opts")[:size]
    if size and flags & abi.OVS_TUNNEL_GENEVE_OPT:
        out.append(nla(uapi.OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS, options))
    elif size and flags & abi.OVS_TUNNEL_VXLAN_OPT:
        gbp = int.from_bytes(options[:4], "little")
        out.append(nla(uapi.OVS_TUNNEL_KEY_ATTR_VXLAN_OPTS,
                       nla_u32(uapi.OVS_VXLAN_EXT_GBP, gbp)))
    elif size and flags & abi.OVS_TUNNEL_ERSPAN_OPT:
        out.append(nla(uapi.OVS_TUNNEL_KEY_ATTR_ERSPAN_OPTS, options))
    return b"".join(out)


def encode_egress(tunnel: bytes) -> bytes:
    """Payload of OVS_PACKET_ATTR_EGRESS_TUN_KEY.

    :param tunnel: struct ovs_tunnel
    """
    image = bytearray(offset("tun_id")) + tunnel
    image[offset("tun_proto")] = tunnel[abi.TUNNEL["proto"].offset]
    return encode_tunnel(bytes(image))


def _u8(image: bytes, field: str) -> int:
    return image[offset(field)]


def _u16(image: bytes, field: str) -> int:
    return int.from_bytes(image[abi.KEY[field].slice], "big")
