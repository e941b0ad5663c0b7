# SPDX-License-Identifier: Apache-2.0
"""The flow key of a packet, in plain Python.

What the kernel datapath's key_extract() makes of a packet, written down
as ``struct ovs_key`` of bpf/lib/abi.h.  Slow and simple on purpose: the BPF
programs are tested against it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dpif_bpf.abi import KEY, OVS_MAC_PROTO_ETHERNET, OVS_MAC_PROTO_NONE

ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_RARP = 0x8035
ETH_P_8021Q = 0x8100
ETH_P_IPV6 = 0x86DD
ETH_P_MPLS_UC = 0x8847
ETH_P_MPLS_MC = 0x8848
ETH_P_8021AD = 0x88A8
ETH_P_NSH = 0x894F
ETH_P_802_2 = 0x0004

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
HOPOPTS, ROUTING, FRAGMENT, ESP, AH, NONE, DSTOPTS = 0, 43, 44, 50, 51, 59, 60

FRAG_NONE, FRAG_FIRST, FRAG_LATER = 0, 1, 2
CFI = 0x1000


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known of a packet beside its bytes.

    :param protocol: Ethernet type of a layer-3 packet, whose bytes begin
        with the layer-3 header; None: the bytes begin with Ethernet
    :param ufo: the packet is SKB_GSO_UDP: it will leave as fragments
    :param gso: payload of the TCP segments that it will leave as; 0: it
        leaves whole
    """

    in_port: int = 0
    recirc_id: int = 0
    skb_priority: int = 0
    skb_mark: int = 0
    dp_hash: int = 0
    protocol: int | None = None
    ufo: bool = False
    gso: int = 0


@dataclass(frozen=True, slots=True)
class Extract:
    """A parsed packet.

    :param key: struct ovs_key
    :param eth_type: Ethernet type, host order
    :param l3: offset of the network header in the packet with all its tags
    :param l4: offset of the transport header, 0: none was found
    """

    key: bytes
    eth_type: int
    l3: int
    l4: int

    def field(self, name: str) -> bytes:
        """The bytes of a member of struct ovs_key."""
        return self.key[KEY[name].slice]

    def byte(self, name: str) -> int:
        """A member that is one byte."""
        return self.key[KEY[name].offset]


class _Key:
    def __init__(self) -> None:
        self.image = bytearray(KEY.size)

    def put(self, name: str, value: bytes | int) -> None:
        place = KEY[name]
        if isinstance(value, int):
            value = struct.pack({1: "=B", 2: "=H", 4: "=I"}[place.size],
                                value)
        assert len(value) == place.size, name
        self.image[place.slice] = value

    def zero(self, *names: str) -> None:
        for name in names:
            self.put(name, bytes(KEY[name].size))

    def put_be16(self, name: str, value: int) -> None:
        self.put(name, struct.pack("!H", value))

    def clear_ip(self) -> None:
        self.zero("ip_proto", "ip_tos", "ip_ttl", "ip_frag")


def be16(data: bytes | bytearray, offset: int) -> int:
    """The big-endian 16-bit number at an offset."""
    return int.from_bytes(data[offset:offset + 2], "big")


def extract(packet: bytes, meta: Meta | None = None) -> Extract | None:
    """Parse a packet; None: the datapath drops it as malformed."""
    meta = meta or Meta()
    key = _Key()
    key.put("in_port", meta.in_port)
    key.put("recirc_id", meta.recirc_id)
    key.put("skb_priority", meta.skb_priority)
    key.put("skb_mark", meta.skb_mark)
    key.put("dp_hash", meta.dp_hash)
    if meta.protocol is None:
        if len(packet) < 14:
            return None
        key.put("mac_proto", OVS_MAC_PROTO_ETHERNET)
        key.put("eth_dst", packet[:6])
        key.put("eth_src", packet[6:12])
        end = _vlans(packet, key)
        eth_type, l3 = _ethertype(packet, end)
    else:
        if meta.protocol in {ETH_P_8021Q, ETH_P_8021AD}:
            return None
        key.put("mac_proto", OVS_MAC_PROTO_NONE)
        eth_type, l3 = meta.protocol, 0
    key.put_be16("eth_type", eth_type)
    parse = {ETH_P_IP: _ipv4, ETH_P_IPV6: _ipv6, ETH_P_ARP: _arp,
             ETH_P_RARP: _arp, ETH_P_MPLS_UC: _mpls, ETH_P_MPLS_MC: _mpls,
             ETH_P_NSH: _nsh}.get(eth_type)
    l4 = parse(packet, l3, key, meta) if parse else 0
    if l4 is None:
        return None
    return Extract(bytes(key.image), eth_type, l3, l4)


def _vlans(packet: bytes, key: _Key) -> int:
    """Parse up to two tags; the offset of what follows them."""
    at = 12
    for prefix in ("vlan", "cvlan"):
        tpid = be16(packet, at)
        if (tpid not in {ETH_P_8021Q, ETH_P_8021AD}
                or len(packet) < at + 6):
            break
        key.put_be16(f"{prefix}_tpid", tpid)
        key.put_be16(f"{prefix}_tci", be16(packet, at + 2) | CFI)
        at += 4
    return at


def _ethertype(packet: bytes, at: int) -> tuple[int, int]:
    """Ethernet type and the offset of its payload, LLC/SNAP included."""
    eth_type = be16(packet, at)
    at += 2
    if eth_type >= 0x0600:
        return eth_type, at
    if len(packet) < at + 8 or packet[at:at + 2] != b"\xaa\xaa":
        return ETH_P_802_2, at
    if packet[at + 3:at + 6] != bytes(3):
        return ETH_P_802_2, at
    at += 8
    eth_type = be16(packet, at - 2)
    return (eth_type if eth_type >= 0x0600 else ETH_P_802_2), at


def _ipv4(packet: bytes, l3: int, key: _Key, meta: Meta) -> int:
    header = (packet[l3] & 15) * 4 if len(packet) >= l3 + 20 else 0
    if header < 20 or len(packet) < l3 + header:
        return 0
    key.put("ipv4_src", packet[l3 + 12:l3 + 16])
    key.put("ipv4_dst", packet[l3 + 16:l3 + 20])
    key.put("ip_proto", packet[l3 + 9])
    key.put("ip_tos", packet[l3 + 1])
    key.put("ip_ttl", packet[l3 + 8])
    frag_off = be16(packet, l3 + 6)
    l4 = l3 + header
    if frag_off & 0x1fff:
        key.put("ip_frag", FRAG_LATER)
        return l4
    if frag_off & 0x2000 or meta.ufo:
        key.put("ip_frag", FRAG_FIRST)
    _transport(packet, l4, key, packet[l3 + 9])
    if packet[l3 + 9] == ICMP and len(packet) >= l4 + 8:
        key.put_be16("tp_src", packet[l4])
        key.put_be16("tp_dst", packet[l4 + 1])
    return l4


def _transport(packet: bytes, l4: int, key: _Key, proto: int) -> None:
    """TCP, UDP, SCTP: ports and flags, where the header is whole."""
    room = len(packet) - l4
    if proto == TCP:
        length = (packet[l4 + 12] >> 4) * 4 if room >= 20 else 0
        if length < 20 or room < length:
            return
        key.put_be16("tcp_flags", be16(packet, l4 + 12) & 0x0fff)
    elif proto == UDP:
        if room < 8:
            return
    elif proto != SCTP or room < 12:
        return
    key.put("tp_src", packet[l4:l4 + 2])
    key.put("tp_dst", packet[l4 + 2:l4 + 4])


def _arp(packet: bytes, l3: int, key: _Key, _meta: Meta) -> int:
    if (len(packet) < l3 + 28
            or packet[l3:l3 + 6] != bytes((0, 1, 8, 0, 6, 4))):
        return 0
    op = be16(packet, l3 + 6)
    key.put("ip_proto", op if op <= 0xff else 0)
    key.put("arp_sha", packet[l3 + 8:l3 + 14])
    key.put("ipv4_src", packet[l3 + 14:l3 + 18])
    key.put("arp_tha", packet[l3 + 18:l3 + 24])
    key.put("ipv4_dst", packet[l3 + 24:l3 + 28])
    return 0


def _mpls(packet: bytes, l3: int, key: _Key, _meta: Meta) -> int:
    stack = bytearray(12)
    count = 0
    while len(packet) >= l3 + 4 * (count + 1):
        lse = packet[l3 + 4 * count:l3 + 4 * count + 4]
        if count < 3:
            stack[4 * count:4 * count + 4] = lse
        count += 1
        if lse[2] & 1:
            key.put("mpls_labels", (1 << min(count, 3)) - 1)
            break
    key.put("mpls_lse", bytes(stack))
    return 0


def _nsh(packet: bytes, l3: int, key: _Key, _meta: Meta) -> int | None:
    if len(packet) < l3 + 8:
        return None
    word = be16(packet, l3)
    length = (word & 0x3f) * 4
    if word >> 14 or len(packet) < l3 + length:
        return None
    mdtype = packet[l3 + 2]
    if mdtype not in {1, 2} or (mdtype == 1 and length != 24):
        return None
    key.put("nsh_flags", word >> 12 & 3)
    key.put("nsh_ttl", word >> 6 & 0x3f)
    key.put("nsh_mdtype", mdtype)
    key.put("nsh_np", packet[l3 + 3])
    key.put("nsh_path_hdr", packet[l3 + 4:l3 + 8])
    if mdtype == 1:
        key.put("nsh_context", packet[l3 + 8:l3 + 24])
    return 0


def _ipv6(packet: bytes, l3: int, key: _Key, meta: Meta) -> int:
    if len(packet) < l3 + 40:
        return 0
    key.put("ipv6_exthdrs", exthdrs(packet, l3))
    key.put("ip_tos", be16(packet, l3) >> 4 & 0xff)
    key.put("ip_ttl", packet[l3 + 7])
    key.put("ipv6_label", bytes((0, packet[l3 + 1] & 15))
            + packet[l3 + 2:l3 + 4])
    key.put("ipv6_src", packet[l3 + 8:l3 + 24])
    key.put("ipv6_dst", packet[l3 + 24:l3 + 40])
    proto, l4, frag = walk(packet, l3)
    key.put("ip_frag", frag)
    if frag == FRAG_LATER:
        key.put("ip_proto", FRAGMENT)
        return 0
    if proto is None:
        key.put("ip_proto", NONE)
        return 0
    key.put("ip_proto", proto)
    if meta.ufo:
        key.put("ip_frag", FRAG_FIRST)
    _transport(packet, l4, key, proto)
    if proto == ICMPV6 and len(packet) >= l4 + 8:
        key.put_be16("tp_src", packet[l4])
        key.put_be16("tp_dst", packet[l4 + 1])
        if packet[l4] in {135, 136} and packet[l4 + 1] == 0:
            _nd(packet, l4, key)
    return l4


def walk(packet: bytes, l3: int) -> tuple[int | None, int, int]:
    """Walk IPv6 extension headers.

    :returns: upper protocol (None: cut short, or a later fragment whose
        first header is an extension header, which no one can read), its
        offset, and the fragment type
    """
    proto, at, frag = packet[l3 + 6], l3 + 40, FRAG_NONE
    extensions = {HOPOPTS, ROUTING, FRAGMENT, AH, DSTOPTS}
    while proto in extensions:
        if proto == FRAGMENT:
            if len(packet) < at + 2:
                return None, 0, frag
            frag = FRAG_FIRST
        need = {ROUTING: 4, FRAGMENT: 4}.get(proto, 2)
        if len(packet) < at + need:
            return None, 0, frag
        following = packet[at]
        if proto == FRAGMENT:
            if be16(packet, at + 2) & 0xfff8:
                if following in extensions:
                    return None, 0, frag
                return following, at + 8, FRAG_LATER
            at += 8
        elif proto == AH:
            at += (packet[at + 1] + 2) * 4
        else:
            at += (packet[at + 1] + 1) * 8
        proto = following
    return proto, at, frag


def exthdrs(packet: bytes, l3: int) -> int:
    """OVS_KEY_ATTR_IPV6_EXTHDRS: OFPIEH12_* bits.

    Unlike the kernel until it was mended ("openvswitch: fix wrong flag value
    in get_ipv6_ext_hdrs()"), a fragment header may precede an authentication
    header.  Unlike any kernel, this goes over the same headers as walk():
    an authentication header counts in units of 4 bytes, and nothing of a
    later fragment is a header.
    """
    none, auth, dest, frag, router, hop = 1, 4, 8, 16, 32, 64
    unrep, unseq = 128, 256
    before = {AH: hop | dest | router | frag,
              FRAGMENT: hop | dest | router,
              ROUTING: hop | dest}
    bits = {AH: auth, FRAGMENT: frag, ROUTING: router}
    found = dests = 0
    proto, at = packet[l3 + 6], l3 + 40
    while proto in {HOPOPTS, ROUTING, FRAGMENT, AH, NONE, DSTOPTS}:
        if proto == NONE:
            return found | none
        if proto == HOPOPTS:
            if found & hop:
                found |= unrep
            found |= hop if found == 0 else unseq
        elif proto == DSTOPTS:
            if dests == 0:
                if found & ~(hop | unrep):
                    found |= unseq
                found |= dest
            elif dests == 1:
                if found & ~(hop | dest | router | frag | auth | 2 | unrep):
                    found |= unseq
            else:
                found |= unrep
            dests += 1
        else:
            if found & bits[proto]:
                found |= unrep
            if found & ~(before[proto] | unrep) or dests >= 2:
                found |= unseq
            found |= bits[proto]
        if len(packet) < at + {ROUTING: 4, FRAGMENT: 4}.get(proto, 2):
            break
        if proto == FRAGMENT and be16(packet, at + 2) & 0xfff8:
            break
        size = (packet[at + 1] + 1) * 8
        if proto == FRAGMENT:
            size = 8
        elif proto == AH:
            size = (packet[at + 1] + 2) * 4
        proto, at = packet[at], at + size
    return found


def _nd(packet: bytes, l4: int, key: _Key) -> None:
    """Target and link-layer addresses of a neighbour message."""
    if len(packet) < l4 + 24:
        return
    key.put("nd_target", packet[l4 + 8:l4 + 24])
    at = l4 + 24
    while len(packet) - at >= 8:
        length = packet[at + 1] * 8
        if length == 0 or length > len(packet) - at:
            return
        name = {1: "nd_sll", 2: "nd_tll"}.get(packet[at])
        if name and length == 8:
            if any(key.image[KEY[name].slice]):
                key.zero("nd_target", "nd_sll", "nd_tll")
                return
            key.put(name, packet[at + 2:at + 8])
        at += length
