# SPDX-License-Identifier: Apache-2.0
"""What a packet's own headers say for the validation of its actions.

An execute has no mask: its actions are held to what its packet has, as
ovs_flow_key_extract_userspace() does before ovs_nla_copy_actions() in Linux
net/openvswitch/datapath.c.  Only what KeyFacts has is looked at here; the
programs extract the whole key when the packet passes.
"""

from __future__ import annotations

import errno
from struct import Struct

from dpif_bpf.errors import RequestError, decoder
from dpif_bpf.wire.facts import MAC_PROTO_ETHERNET, KeyFacts
from dpif_bpf.wire.protocols import (
    ETH_P_802_2,
    ETH_P_802_3_MIN,
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_MPLS_MC,
    ETH_P_MPLS_UC,
    ETH_P_NSH,
    ETH_P_RARP,
    IPPROTO_ICMPV6,
)

FRAG_NONE, FRAG_FIRST, FRAG_LATER = 0, 1, 2
_VLAN_CFI = 0x1000
_U16 = Struct("!H").unpack_from

_HOPOPTS, _ROUTING, _FRAGMENT, _AUTH, _NONE, _DSTOPTS = 0, 43, 44, 51, 59, 60
_EXTENSIONS = {_HOPOPTS, _ROUTING, _FRAGMENT, _AUTH, _DSTOPTS}
_NEEDED = {_ROUTING: 4, _FRAGMENT: 4}
"""Bytes of an extension header without which it is not looked at; else 2."""
_ND_TYPES = {135, 136}
"""Of ICMPv6: neighbour solicitation and advertisement."""
_ARP = bytes((0, 1, 8, 0, 6, 4))
"""An ARP header's start: Ethernet and IPv4, with their lengths."""


@decoder
def packet_facts(packet: bytes) -> KeyFacts:
    """The facts of a frame that begins with its Ethernet header.

    Headers that are cut off or malformed leave their fields at 0, but for
    NSH, without which there is no key.

    :raises RequestError: EINVAL for a malformed NSH
    """
    end = len(packet)
    eth_type, at, tci = _ethernet(packet)
    proto, frag, labels, nsh = 0, FRAG_NONE, 0, (0, 0)
    if eth_type == ETH_P_IP:
        proto, frag = _ipv4(packet, at)
    elif eth_type == ETH_P_IPV6:
        proto, frag, _ = _ipv6(packet, at)
    elif eth_type in (ETH_P_ARP, ETH_P_RARP):
        if at + 28 <= end and packet[at:at + 6] == _ARP:
            op = _U16(packet, at + 6)[0]
            proto = op if op <= 0xff else 0
    elif eth_type in (ETH_P_MPLS_UC, ETH_P_MPLS_MC):
        labels = _mpls(packet, at)
    elif eth_type == ETH_P_NSH:
        nsh = _nsh(packet, at)
    return KeyFacts(eth_type=eth_type, ip_proto=proto, vlan_tci=tci,
                    mac_proto=MAC_PROTO_ETHERNET, ip_frag=frag,
                    nsh_mdtype=nsh[0], nsh_np=nsh[1], mpls_num_lse=labels)


def is_neighbour_discovery(packet: bytes) -> bool:
    """Whether a frame's key has the fields of neighbour discovery:
    sw_flow_key_is_nd()."""
    eth_type, at, _ = _ethernet(packet)
    if eth_type != ETH_P_IPV6:
        return False
    proto, frag, at = _ipv6(packet, at)
    return (proto == IPPROTO_ICMPV6 and frag != FRAG_LATER
            and at + 8 <= len(packet) and packet[at] in _ND_TYPES
            and not packet[at + 1])


def _ethernet(packet: bytes) -> tuple[int, int, int]:
    """Ethernet type, where what it tells of is, and the outer tag."""
    at, end, tci = 12, len(packet), 0
    eth_type: int = _U16(packet, at)[0]
    for outer in (True, False):
        if eth_type not in (ETH_P_8021Q, ETH_P_8021AD) or at + 6 > end:
            break
        if outer:
            tci = _U16(packet, at + 2)[0] | _VLAN_CFI
        at += 4
        eth_type = _U16(packet, at)[0]
    at += 2
    if eth_type < ETH_P_802_3_MIN:
        eth_type, at = _llc(packet, at)
    return eth_type, at, tci


def _llc(packet: bytes, at: int) -> tuple[int, int]:
    """Ethernet type of an IEEE 802.3 frame, and where its payload is."""
    if (at + 8 > len(packet) or packet[at:at + 2] != b"\xaa\xaa"
            or packet[at + 3:at + 6] != bytes(3)):
        return ETH_P_802_2, at
    eth_type: int = _U16(packet, at + 6)[0]
    return (eth_type if eth_type >= ETH_P_802_3_MIN else ETH_P_802_2,
            at + 8)


def _ipv4(packet: bytes, at: int) -> tuple[int, int]:
    if at + 20 > len(packet):
        return 0, FRAG_NONE
    size = (packet[at] & 15) * 4
    if size < 20 or at + size > len(packet):
        return 0, FRAG_NONE
    (offset,) = _U16(packet, at + 6)
    frag = (FRAG_LATER if offset & 0x1fff
            else FRAG_FIRST if offset & 0x2000 else FRAG_NONE)
    return packet[at + 9], frag


def _ipv6(packet: bytes, at: int) -> tuple[int, int, int]:
    """Protocol, fragment type, and where its header is."""
    end = len(packet)
    if at + 40 > end:
        return 0, FRAG_NONE, at
    proto, frag = packet[at + 6], FRAG_NONE
    at += 40
    while proto in _EXTENSIONS:
        if proto == _FRAGMENT and at + 2 <= end:
            frag = FRAG_FIRST
        if at + _NEEDED.get(proto, 2) > end:
            return _NONE, frag, at
        after = packet[at]
        if proto == _FRAGMENT:
            if _U16(packet, at + 2)[0] & 0xfff8:
                if after in _EXTENSIONS:
                    return _NONE, frag, at
                return _FRAGMENT, FRAG_LATER, at
            at += 8
        elif proto == _AUTH:
            at += (packet[at + 1] + 2) * 4
        else:
            at += (packet[at + 1] + 1) * 8
        proto = after
    return proto, frag, at


def _mpls(packet: bytes, at: int) -> int:
    """Labels up to the bottom of the stack, at most three."""
    labels = 0
    while at + 4 <= len(packet):
        labels += 1
        if packet[at + 2] & 1:
            return min(labels, 3)
        at += 4
    return 0


def _nsh(packet: bytes, at: int) -> tuple[int, int]:
    """Metadata type and next protocol."""
    if at + 8 <= len(packet):
        size = (packet[at + 1] & 0x3f) * 4
        mdtype, np = packet[at + 2:at + 4]
        if (packet[at] < 0x40 and at + size <= len(packet)
                and (mdtype == 2 or (mdtype == 1 and size == 24))):
            return mdtype, np
    raise RequestError(errno.EINVAL, "the packet's NSH is malformed")
