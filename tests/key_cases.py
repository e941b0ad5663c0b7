# SPDX-License-Identifier: Apache-2.0
"""Masks that are taken, keys and masks that are refused.

tests/unit/wire/key/test_key.py asks wire.key about them, and
tests/system/test_key_kernel.py the kernel's own datapath.
"""

from __future__ import annotations

import keys as k

from dpif_bpf.wire import uapi
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u8, nla_u32

PORT4 = k.join(FRAME_MASK := k.join(
    k.recirc_id(0xffffffff), k.in_port(0xffffffff)), k.eth_type(0xffff))

# kind of key, mask, its image beside what all masks have
MASKS: list[tuple[str, bytes, dict[str, str]]] = [
    # Any bit of a port or of an Ethernet type stands for all of them.
    ("udp", k.in_port(1), {"in_port": "ffff"}),
    ("udp", k.in_port(1 << 16), {"in_port": "ffff"}),
    ("udp", k.in_port(0), {}),
    ("udp", k.eth_type(0x0001), {"eth_type": "ffff"}),
    ("udp", k.eth_type(0), {}),
    # A key without Ethernet type: 802.2.
    ("802.2", k.eth_type(0xffff), {"eth_type": "ffff"}),
    ("802.2", k.eth_type(0), {}),
    # Fields whose attribute comes later need the earlier one exact.
    ("udp", k.join(k.eth_type(0xffff), k.ipv4(0, 0, 0, 0, b"\xff\0\0\0",
                                              bytes(4))),
     {"eth_type": "ffff", "ipv6_src": "ff" + "00" * 15}),
    ("udp", k.join(k.eth_type(0xffff), k.ipv4(0xff, 0, 0, 0xff, bytes(4),
                                              bytes(4)), k.udp(0, 0xff00)),
     {"eth_type": "ffff", "ip_proto": "ff", "ip_frag": "ff",
      "tp_dst": "ff00"}),
    ("udp", k.join(k.ipv4(0, 0, 0, 0, bytes(4), bytes(4)), k.udp(0, 0)), {}),
    # Zero attributes say nothing, whatever they are and however often.
    ("udp", k.join(k.udp(0, 0), k.udp(0, 0), k.tcp(0, 0), k.tcp_flags(0)),
     {}),
    ("udp", k.join(k.in_port(0), k.in_port(1)), {"in_port": "ffff"}),
    ("udp", nla(uapi.OVS_KEY_ATTR_CT_LABELS, bytes(16)), {}),
    ("udp", k.join(k.NO_CT, k.ct_tuple6(bytes(8))[:4] + bytes(40)), {}),
    ("udp", k.join(k.eth_type(0xffff), nla(
        uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4, bytes(12) + b"\xff\0\0\0")),
     {"eth_type": "ffff", "ct_orig_proto": "ff"}),
    # What is known of the connection, in any bits.
    ("tracked", k.ct(0xff, 0xffff, 0xf0, b"\x0f" * 16),
     {"ct_state": "ff", "ct_zone": "ffff", "ct_mark": "f0000000",
      "ct_labels": "0f" * 16}),
    ("tracked, tuple", k.join(k.eth_type(0xffff), k.ct_tuple()),
     {"eth_type": "ffff", "ct_orig_ipv6_src": "0a000001" + "0a000002"
      + "00" * 8, "ct_orig_tp_src": "0050", "ct_orig_tp_dst": "0051",
      "ct_orig_proto": "06"}),
    ("tracked, tuple 6", k.join(k.eth_type(0xffff), nla(
        uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6, b"\xff" * 16 + bytes(16)
        + b"\xff\xff\0\0\xff\0\0\0")),
     {"eth_type": "ffff", "ct_orig_ipv6_src": "ff" * 16,
      "ct_orig_tp_src": "ffff", "ct_orig_proto": "ff"}),
    ("udp", nla_u32(uapi.OVS_KEY_ATTR_DP_HASH, 0), {}),
    # That there is a tunnel is matched whatever is said of one.
    ("udp", k.tunnel(nla_u8(uapi.OVS_TUNNEL_KEY_ATTR_TTL, 0)),
     {"tun_proto": "ff"}),
    ("udp", k.tunnel(nla(uapi.OVS_TUNNEL_KEY_ATTR_ID, b"\xff" * 8),
                     nla_flag(uapi.OVS_TUNNEL_KEY_ATTR_CSUM)),
     {"tun_proto": "ff", "tun_id": "ff" * 8, "tun_flags": "0005"}),
    # ICMP: one byte in the key's 16 bits.
    ("icmp", k.join(PORT4, k.ipv4(0xff, 0, 0, 0, bytes(4), bytes(4)),
                    k.icmp(0xff, 0)),
     {"in_port": "ffff", "recirc_id": "ffffffff", "eth_type": "ffff",
      "ip_proto": "ff", "tp_src": "00ff"}),
    # ARP: the low byte of the opcode.
    ("arp", k.join(k.eth_type(0xffff), k.arp(0xffff, bytes(4), bytes(4),
                                             bytes(6), bytes(6))),
     {"eth_type": "ffff", "ip_proto": "ff"}),
    ("nd", k.join(k.eth_type(0xffff), k.ipv6(0xff, 0, 0, 0, 0, bytes(16),
                                             bytes(16)),
                  k.icmpv6(0xff, 0xff), k.nd(b"\xff" * 16, bytes(6),
                                             bytes(6))),
     {"eth_type": "ffff", "ip_proto": "ff", "tp_src": "00ff",
      "tp_dst": "00ff", "nd_target": "ff" * 16}),
    # A label's mask may be of any bits.
    ("udp6", k.join(k.eth_type(0xffff), k.ipv6(0, 0, 0, 0, 0xffffffff,
                                               bytes(16), bytes(16))),
     {"eth_type": "ffff", "ipv6_label": "ffffffff"}),
]

# masks of the key "vlan"
TAG_MASKS: list[tuple[bytes, dict[str, str]]] = [
    (k.join(k.eth(b"\0" * 6, b"\0" * 6), k.eth_type(0xffff), k.vlan(0x1fff),
            k.encap(k.eth_type(0xffff))),
     {"vlan_tpid": "ffff", "vlan_tci": "1fff", "eth_type": "ffff"}),
    # OVS does not look at the tag: any will do.
    (k.join(k.eth_type(0xffff), k.vlan(0), k.encap(k.eth_type(0xffff))),
     {"vlan_tpid": "ffff", "vlan_tci": "1000", "eth_type": "ffff"}),
    (k.join(k.eth_type(0xffff), k.encap(k.eth_type(0xffff))),
     {"vlan_tpid": "ffff", "vlan_tci": "1000", "eth_type": "ffff"}),
    # An empty OVS_KEY_ATTR_ENCAP is none: the type is the inner one.
    (k.join(k.eth_type(0xffff), k.encap()),
     {"vlan_tci": "ffff", "eth_type": "ffff"}),
    # Metadata may be inside.
    (k.join(k.eth_type(0xffff), k.vlan(0x1000), k.encap(k.in_port(1))),
     {"vlan_tpid": "ffff", "vlan_tci": "1000", "in_port": "ffff"}),
]

UDP4 = k.KEYS["udp"]
VLAN = k.KEYS["vlan"]
SUFFIX = k.join(k.eth_type(), k.ipv4(), k.udp())

# key, text, offset
BAD_KEYS: dict[str, tuple[bytes, str, int | None]] = {
    "empty": (b"", "neither OVS_KEY_ATTR_ETHERNET nor", None),
    "no Ethernet": (k.META, "neither OVS_KEY_ATTR_ETHERNET nor", None),
    "stray bytes": (UDP4 + b"\0\0", "stray or missing", len(UDP4)),
    "no padding": ((k.FRAME + k.eth_type())[:-2], "stray or missing", 38),
    "nla_len 3": (FRAME_MASK + b"\x03\0\x06\0", "nla_len 3", 16),
    "nla_len too long": (k.META + b"\x09\0\x06\0abcd", "nla_len 9", 16),
    "type 0": (k.META + nla(0, b""), "OVS_KEY_ATTR 0 is not", 16),
    "type 33": (k.META + nla_u32(33, 0), "OVS_KEY_ATTR 33 is not", 16),
    "packet type": (k.META + nla_u32(29, 0),
                    "OVS_KEY_ATTR_PACKET_TYPE is not supported", 16),
    "nd extensions": (k.META + nla(30, bytes(8)),
                      "OVS_KEY_ATTR_ND_EXTENSIONS is not supported", 16),
    "tunnel info": (k.META + nla(31, b""),
                    "OVS_KEY_ATTR_TUNNEL_INFO is not supported", 16),
    "twice": (k.join(k.in_port(), UDP4), "OVS_KEY_ATTR_IN_PORT is given",
              16),
    "twice, one in ENCAP": (
        k.join(k.in_port(), k.eth(), k.eth_type(0x8100), k.vlan(),
               k.encap(k.in_port(), SUFFIX)),
        "OVS_KEY_ATTR_IN_PORT is given", 44),
    "port out of range": (k.join(k.in_port(65535), k.eth()),
                          "OVS_KEY_ATTR_IN_PORT 65535", 0),
    "port far out of range": (k.join(k.in_port(1 << 16), k.eth()),
                              "OVS_KEY_ATTR_IN_PORT 65536", 0),
    "type below 0x600": (k.FRAME + k.eth_type(0x05ff),
                         "OVS_KEY_ATTR_ETHERTYPE 0x05ff is less", 32),
    "layer 3 type below 0x600": (
        k.META + k.eth_type(4), "OVS_KEY_ATTR_ETHERTYPE 0x0004 is less", 16),
    "layer 3 with tag": (
        k.join(k.META, k.eth_type(0x8100), k.vlan(), k.encap(SUFFIX)),
        "OVS_KEY_ATTR_VLAN where none", 24),
    "tag without type": (k.join(k.FRAME, k.vlan(), k.encap(SUFFIX)),
                         "OVS_KEY_ATTR_VLAN where none", 32),
    "tag of another type": (
        k.join(k.FRAME, k.eth_type(0x9100), k.vlan(), k.encap(SUFFIX)),
        "OVS_KEY_ATTR_VLAN where none", 40),
    "ENCAP alone": (k.join(k.FRAME, k.encap(SUFFIX)),
                    "OVS_KEY_ATTR_ENCAP where none", 32),
    "type of a tag alone": (k.FRAME + k.eth_type(0x8100),
                            "a VLAN frame without", 32),
    "tag without ENCAP": (k.join(k.FRAME, k.eth_type(0x8100), k.vlan()),
                          "a VLAN frame without", 32),
    "ENCAP without tag": (
        k.join(k.FRAME, k.eth_type(0x8100), k.encap(SUFFIX)),
        "a VLAN frame without", 32),
    "no CFI": (
        k.join(k.FRAME, k.eth_type(0x8100), k.vlan(10), k.encap(SUFFIX)),
        "OVS_KEY_ATTR_VLAN without the CFI bit", 40),
    "truncated tag, then more": (
        k.join(k.FRAME, k.eth_type(0x8100), k.vlan(0), k.encap(SUFFIX)),
        "OVS_KEY_ATTR_ENCAP of a truncated tag", 48),
    "Ethernet in ENCAP": (
        k.join(k.FRAME, k.eth_type(0x8100), k.vlan(),
               k.encap(k.eth(), SUFFIX)),
        "OVS_KEY_ATTR_ETHERNET is given twice", 52),
    "third tag": (
        k.join(k.FRAME, k.eth_type(0x88a8), k.vlan(), k.encap(
            k.eth_type(0x8100), k.vlan(), k.encap(
                k.eth_type(0x8100), k.vlan(), k.encap(SUFFIX)))),
        "OVS_KEY_ATTR_VLAN where none is expected: no more than 2", 80),
    "no IPv4": (k.FRAME + k.eth_type(), "OVS_KEY_ATTR_IPV4 is missing",
                None),
    "no IPv6": (k.FRAME + k.eth_type(0x86dd),
                "OVS_KEY_ATTR_IPV6 is missing", None),
    "no ARP": (k.FRAME + k.eth_type(0x0806), "OVS_KEY_ATTR_ARP is missing",
               None),
    "no RARP": (k.FRAME + k.eth_type(0x8035), "OVS_KEY_ATTR_ARP is missing",
                None),
    "no TCP": (k.join(k.FRAME, k.eth_type(), k.ipv4(6), k.tcp_flags()),
               "OVS_KEY_ATTR_TCP is missing", None),
    "no TCP flags": (k.join(k.FRAME, k.eth_type(), k.ipv4(6), k.tcp()),
                     "OVS_KEY_ATTR_TCP_FLAGS is missing", None),
    "no UDP": (k.join(k.FRAME, k.eth_type(), k.ipv4(17)),
               "OVS_KEY_ATTR_UDP is missing", None),
    "no UDP in a first fragment": (
        k.join(k.FRAME, k.eth_type(), k.ipv4(17, frag=1)),
        "OVS_KEY_ATTR_UDP is missing", None),
    "no SCTP": (k.join(k.FRAME, k.eth_type(0x86dd), k.ipv6(132)),
                "OVS_KEY_ATTR_SCTP is missing", None),
    "no ICMP": (k.join(k.FRAME, k.eth_type(), k.ipv4(1)),
                "OVS_KEY_ATTR_ICMP is missing", None),
    "no ICMPv6": (k.join(k.FRAME, k.eth_type(0x86dd), k.ipv6(58)),
                  "OVS_KEY_ATTR_ICMPV6 is missing", None),
    "no ND": (k.join(k.FRAME, k.eth_type(0x86dd), k.ipv6(58),
                     k.icmpv6(136)), "OVS_KEY_ATTR_ND is missing", None),
    "IPv4 fragment type": (
        k.join(k.FRAME, k.eth_type(), k.ipv4(17, frag=3), k.udp()),
        "OVS_KEY_ATTR_IPV4 has fragment type 3", 40),
    "IPv6 fragment type": (
        k.join(k.FRAME, k.eth_type(0x86dd), k.ipv6(17, frag=3), k.udp()),
        "OVS_KEY_ATTR_IPV6 has fragment type 3", 40),
    "flow label": (
        k.join(k.FRAME, k.eth_type(0x86dd), k.ipv6(label=1 << 20), k.udp()),
        "flow label 0x100000", 40),
    "ARP opcode": (k.join(k.FRAME, k.eth_type(0x0806), k.arp(0x0101)),
                   "opcode of OVS_KEY_ATTR_ARP", 40),
}
for _name, _type, _size in [
        ("PRIORITY", 2, 4), ("IN_PORT", 3, 4), ("ETHERNET", 4, 12),
        ("VLAN", 5, 2), ("ETHERTYPE", 6, 2), ("IPV4", 7, 12),
        ("IPV6", 8, 40), ("TCP", 9, 4), ("UDP", 10, 4), ("ICMP", 11, 2),
        ("ICMPV6", 12, 2), ("ARP", 13, 24), ("ND", 14, 28),
        ("SKB_MARK", 15, 4), ("SCTP", 17, 4), ("TCP_FLAGS", 18, 2),
        ("DP_HASH", 19, 4), ("RECIRC_ID", 20, 4), ("CT_STATE", 22, 4),
        ("CT_ZONE", 23, 2), ("CT_MARK", 24, 4), ("CT_LABELS", 25, 16),
        ("CT_ORIG_TUPLE_IPV4", 26, 16), ("CT_ORIG_TUPLE_IPV6", 27, 40)]:
    for _n in (_size - 1, _size + 1):
        BAD_KEYS[f"{_name} of {_n} bytes"] = (
            nla(_type, bytes(_n)) + UDP4,
            f"OVS_KEY_ATTR_{_name} has {_n} bytes instead of {_size}", 0)
for _name, _type, _size in [("IPV6_EXTHDRS", 32, 2)]:
    BAD_KEYS[f"{_name} is not supported"] = (
        UDP4 + nla(_type, bytes(_size)),
        f"OVS_KEY_ATTR_{_name} is not supported", len(UDP4))

# kind of key, mask, text, offset
BAD_MASKS: list[tuple[str, bytes, str, int | None]] = [
    ("udp", k.tcp(), "OVS_KEY_ATTR_TCP is not expected", 0),
    ("udp", k.tcp_flags(), "OVS_KEY_ATTR_TCP_FLAGS is not expected", 0),
    ("udp", k.vlan(), "OVS_KEY_ATTR_VLAN is not expected", 0),
    ("udp", nla_u32(uapi.OVS_KEY_ATTR_DP_HASH, 1),
     "OVS_KEY_ATTR_DP_HASH is not expected", 0),
    ("udp", nla_u32(uapi.OVS_KEY_ATTR_CT_STATE, 1),
     "OVS_KEY_ATTR_CT_STATE is not expected", 0),
    ("udp", k.nd(), "OVS_KEY_ATTR_ND is not expected", 0),
    ("tracked", k.ct(0x100), "OVS_KEY_ATTR_CT_STATE is not expected", 0),
    ("tracked, tuple", k.ct_tuple(),
     "OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4 without an exact match on"
     " OVS_KEY_ATTR_ETHERTYPE", 0),
    ("tracked, tuple 6", k.join(k.eth_type(0xffff), k.ct_tuple()),
     "OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4 is not expected", 8),
    ("nd", k.join(k.eth_type(0xffff), k.ct_tuple6()),
     "OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6 is not expected", 8),
    ("udp", k.ipv6(), "OVS_KEY_ATTR_IPV6 is not expected", 0),
    ("udp", k.arp(), "OVS_KEY_ATTR_ARP is not expected", 0),
    ("later fragment", k.join(PORT4, k.tcp()),
     "OVS_KEY_ATTR_TCP is not expected", 24),
    ("udp", k.ipv4(),
     "OVS_KEY_ATTR_IPV4 without an exact match on OVS_KEY_ATTR_ETHERTYPE",
     0),
    ("udp", k.join(k.eth_type(0), k.ipv4()),
     "OVS_KEY_ATTR_IPV4 without an exact match", 8),
    ("arp", k.arp(), "OVS_KEY_ATTR_ARP without an exact match", 0),
    ("tcp6", k.ipv6(), "OVS_KEY_ATTR_IPV6 without an exact match", 0),
    ("udp", k.udp(), "OVS_KEY_ATTR_UDP without an exact match on the IP", 0),
    ("udp", k.join(PORT4, k.ipv4(0xfe), k.udp()),
     "OVS_KEY_ATTR_UDP without an exact match on the IP protocol", 40),
    ("tcp", k.tcp_flags(1), "OVS_KEY_ATTR_TCP_FLAGS without an exact", 0),
    ("sctp", k.sctp(), "OVS_KEY_ATTR_SCTP without an exact match", 0),
    ("icmp", k.icmp(), "OVS_KEY_ATTR_ICMP without an exact match", 0),
    ("icmpv6", k.icmpv6(), "OVS_KEY_ATTR_ICMPV6 without an exact match", 0),
    ("nd", k.join(PORT4, k.ipv6(0xff), k.nd()),
     "OVS_KEY_ATTR_ND without an exact match on the ICMPv6 type", 68),
    ("nd", k.join(PORT4, k.ipv6(0xff), k.icmpv6(0x7f), k.nd()),
     "OVS_KEY_ATTR_ND without an exact match on the ICMPv6 type", 76),
    ("udp", k.join(k.in_port(1), k.in_port(2)),
     "OVS_KEY_ATTR_IN_PORT is given twice", 8),
    ("udp", nla_u32(29, 0), "OVS_KEY_ATTR_PACKET_TYPE is not supported", 0),
    ("udp", nla_u32(33, 0), "OVS_KEY_ATTR 33 is not supported", 0),
    ("udp", nla(3, b"\0\0"), "OVS_KEY_ATTR_IN_PORT has 2 bytes", 0),
    ("udp", k.in_port() + b"\0", "stray or missing", 8),
    ("udp", k.encap(k.eth_type(0xffff)),
     "OVS_KEY_ATTR_ENCAP, but the key has no such tag", 0),
    ("vlan truncated", k.join(k.eth_type(0xffff), k.vlan(0xffff),
                              k.encap(k.eth_type(0xffff))),
     "OVS_KEY_ATTR_ENCAP, but the key has no such tag", 16),
    ("vlan", k.join(k.eth_type(0xffff), k.vlan(0xffff)),
     "OVS_KEY_ATTR_VLAN is not expected", 8),
    ("vlan", k.join(k.vlan(0xffff), k.encap(k.eth_type(0xffff))),
     "OVS_KEY_ATTR_ENCAP without OVS_KEY_ATTR_ETHERTYPE", 8),
    ("vlan", k.join(k.eth_type(0xfffe), k.vlan(0xffff),
                    k.encap(k.eth_type(0xffff))), "a VLAN tag must", None),
    ("vlan", k.join(k.eth_type(0), k.vlan(0xffff),
                    k.encap(k.eth_type(0xffff))), "a VLAN tag must", None),
    ("vlan", k.join(k.eth_type(0xffff), k.vlan(0xefff),
                    k.encap(k.eth_type(0xffff))), "without the CFI", None),
    ("vlan", k.join(k.eth_type(0xffff), k.vlan(0xffff), k.encap(
        k.eth_type(0xffff), k.vlan(0xffff), k.encap(k.eth_type(0xffff)))),
     "OVS_KEY_ATTR_ENCAP, but the key has no such tag", 36),
    ("vlan", k.join(k.eth_type(0xffff), k.vlan(0xffff),
                    k.encap(k.tcp())), "OVS_KEY_ATTR_TCP is not", 20),
    ("udp", k.tunnel(nla_u8(16, 0)), "OVS_TUNNEL_KEY_ATTR_IPV4_INFO", 4),
    ("udp", k.tunnel(nla_u32(uapi.OVS_TUNNEL_KEY_ATTR_TTL, 0)),
     "OVS_TUNNEL_KEY_ATTR_TTL has 4 bytes instead of 1", 4),
]
