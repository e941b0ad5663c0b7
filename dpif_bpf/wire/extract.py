# SPDX-License-Identifier: Apache-2.0
"""What a packet's own headers say for the validation of its actions.

An execute has no mask: its actions are held to what its packet has, as
ovs_flow_key_extract_userspace() does before ovs_nla_copy_actions() in Linux
net/openvswitch/datapath.c.  Only what KeyFacts has is looked at here; the
programs extract the whole key when the packet passes.
"""

from __future__ import annotations

from struct import Struct

from dpif_bpf.wire.facts import MAC_PROTO_ETHERNET, KeyFacts

ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_RARP = 0x8035
ETH_P_IPV6 = 0x86DD
ETH_P_8021Q = 0x8100
ETH_P_8021AD = 0x88A8
ETH_P_MPLS_UC = 0x8847
ETH_P_MPLS_MC = 0x8848
ETH_P_802_3_MIN = 0x0600
ETH_P_802_2 = 0x0004

FRAG_NONE, FRAG_FIRST, FRAG_LATER = 0, 1, 2
_VLAN_CFI = 0x1000
_U16 = Struct("!H").unpack_from
_U32 = Struct("!I").unpack_from

_IPV6_OPTIONS = {0, 43, 60}
"""Hop-by-hop, routing and destination options: 8-byte units follow."""
_IPV6_AUTH = 51
_IPV6_FRAGMENT = 44


def packet_facts(packet: bytes) -> KeyFacts:
    """The facts of a frame that begins with its Ethernet header.

    Headers that are cut off or malformed leave their fields at 0.
    """
    at = 12
    tci = 0
    end = len(packet)
    (eth_type,) = _U16(packet, at)
    for outer in (True, False):
        if eth_type not in (ETH_P_8021Q, ETH_P_8021AD) or at + 6 > end:
            break
        if outer:
            tci = _U16(packet, at + 2)[0] | _VLAN_CFI
        at += 4
        (eth_type,) = _U16(packet, at)
    at += 2
    if eth_type < ETH_P_802_3_MIN:
        eth_type = ETH_P_802_2
        if packet[at:at + 6] == b"\xaa\xaa\x03\0\0\0" and at + 8 <= end:
            snap = _U16(packet, at + 6)[0]
            if snap >= ETH_P_802_3_MIN:
                eth_type = snap
                at += 8
    proto, frag, labels = 0, FRAG_NONE, 0
    if eth_type == ETH_P_IP:
        proto, frag = _ipv4(packet, at)
    elif eth_type == ETH_P_IPV6:
        proto, frag = _ipv6(packet, at)
    elif eth_type in (ETH_P_ARP, ETH_P_RARP) and at + 28 <= end:
        op = _U16(packet, at + 6)[0]
        proto = op if op <= 0xff else 0
    elif eth_type in (ETH_P_MPLS_UC, ETH_P_MPLS_MC):
        labels = _mpls(packet, at)
    return KeyFacts(eth_type=eth_type, ip_proto=proto, vlan_tci=tci,
                    mac_proto=MAC_PROTO_ETHERNET, ip_frag=frag,
                    mpls_num_lse=labels)


def _ipv4(packet: bytes, at: int) -> tuple[int, int]:
    if at + 20 > len(packet) or packet[at] >> 4 != 4 \
            or packet[at] & 15 < 5 or at + packet[at] % 16 * 4 > len(packet):
        return 0, FRAG_NONE
    (offset,) = _U16(packet, at + 6)
    frag = (FRAG_LATER if offset & 0x1fff
            else FRAG_FIRST if offset & 0x2000 else FRAG_NONE)
    return packet[at + 9], frag


def _ipv6(packet: bytes, at: int) -> tuple[int, int]:
    end = len(packet)
    if at + 40 > end or packet[at] >> 4 != 6:
        return 0, FRAG_NONE
    proto = packet[at + 6]
    frag = FRAG_NONE
    at += 40
    while at + 8 <= end:
        if proto in _IPV6_OPTIONS:
            size = (packet[at + 1] + 1) * 8
        elif proto == _IPV6_AUTH:
            size = (packet[at + 1] + 2) * 4
        elif proto == _IPV6_FRAGMENT:
            size = 8
            (offset,) = _U16(packet, at + 2)
            frag = FRAG_LATER if offset & 0xfff8 else FRAG_FIRST
            if frag == FRAG_LATER:
                return proto, frag
        else:
            break
        proto = packet[at]
        at += size
    return proto, frag


def _mpls(packet: bytes, at: int) -> int:
    labels = 0
    while at + 4 <= len(packet):
        labels += 1
        if _U32(packet, at)[0] & 0x100:
            break
        at += 4
    return labels
