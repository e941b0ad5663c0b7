# SPDX-License-Identifier: Apache-2.0
"""What a decoded flow key says for certain about its packets.

The validation of actions needs to know which headers every packet of a flow
has: an IPv4 header can be written only where the flow matches IPv4, exactly.
``wire.key`` returns a :class:`KeyFacts` beside the key image; ``core.actions``
takes it.
"""

from __future__ import annotations

from dataclasses import dataclass

MAC_PROTO_NONE = 0
"""Layer-3 packets (enum sw_flow_mac_proto of the kernel datapath).

Only KeyFacts uses these numbers; the key image uses OVS_MAC_PROTO_*."""

MAC_PROTO_ETHERNET = 1


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """The masked values of the fields on which actions depend.

    A field that the mask does not cover is as the masked key has it, i.e. 0:
    the kernel datapath validates actions against the masked key, too.  For an
    execute, which has no mask, the values are those of the packet.

    :param eth_type: Ethernet type in host order, after VLAN tags; 0x0004
        (ETH_P_802_2) for frames without one; 0 when wildcarded
    :param ip_proto: IP protocol; low byte of the opcode for ARP; 0 when
        wildcarded
    :param vlan_tci: outer VLAN TCI in host order, with the 0x1000 (CFI) bit
        when a tag is present; 0 when there is none or it is wildcarded
    :param mac_proto: MAC_PROTO_ETHERNET or MAC_PROTO_NONE
    :param ip_frag: enum ovs_frag_type: 0 none, 1 first, 2 later
    :param tun_proto: AF_INET or AF_INET6 of the tunnel key, 0: no tunnel
    :param nsh_mdtype: NSH metadata type, 0 when none is matched
    :param nsh_np: NSH next protocol, 0 when none is matched
    :param mpls_num_lse: number of MPLS labels that the packet must have
    """

    eth_type: int = 0
    ip_proto: int = 0
    vlan_tci: int = 0
    mac_proto: int = MAC_PROTO_ETHERNET
    ip_frag: int = 0
    tun_proto: int = 0
    nsh_mdtype: int = 0
    nsh_np: int = 0
    mpls_num_lse: int = 0
