# SPDX-License-Identifier: Apache-2.0
"""Netlink attributes of a flow key or of its mask, in plain Python.

A second reading of ``__ovs_nla_put_key()`` of Linux
net/openvswitch/flow_netlink.c, independent of ``dpif_bpf.wire``, as far as
the datapath tells of its keys: nothing of tunnels, of the tuples of
connections and OVS_KEY_ATTR_IPV6_EXTHDRS.
"""

from __future__ import annotations

import struct

from oracle_key import (
    CFI,
    ETH_P_802_2,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_MPLS_MC,
    ETH_P_MPLS_UC,
    ETH_P_NSH,
    ETH_P_RARP,
    FRAG_LATER,
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
)

from dpif_bpf.abi import KEY

(ENCAP, PRIORITY, IN_PORT, ETHERNET, VLAN, ETHERTYPE, IPV4, IPV6, TCP_ATTR,
 UDP_ATTR, ICMP_ATTR, ICMPV6_ATTR, ARP, ND, SKB_MARK) = range(1, 16)
(SCTP_ATTR, TCP_FLAGS, DP_HASH, RECIRC_ID, MPLS, CT_STATE, CT_ZONE, CT_MARK,
 CT_LABELS) = range(17, 26)
NSH = 28
_TAGS = {0x8100, 0x88a8}


def nla(kind: int, payload: bytes) -> bytes:
    return (struct.pack("=HH", 4 + len(payload), kind) + payload
            + bytes(-len(payload) % 4))


class _Image:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def __getitem__(self, name: str) -> bytes:
        return self.data[KEY[name].slice]

    def be16(self, name: str) -> int:
        return int.from_bytes(self[name], "big")

    def byte(self, name: str) -> int:
        return self.data[KEY[name].offset]


def put_key(key: bytes, mask: bytes | None = None) -> bytes:
    """The attributes of a key image, or those of a mask of such a key."""
    shape, out = _Image(key), _Image(key if mask is None else mask)
    data = b"".join(nla(kind, out[name]) for kind, name in (
        (RECIRC_ID, "recirc_id"), (DP_HASH, "dp_hash"),
        (PRIORITY, "skb_priority")))
    data += nla(IN_PORT, out["in_port"] + bytes(2))
    data += nla(SKB_MARK, out["skb_mark"])
    data += nla(CT_STATE, struct.pack("=I", out.byte("ct_state")))
    data += b"".join(nla(kind, out[name]) for kind, name in (
        (CT_ZONE, "ct_zone"), (CT_MARK, "ct_mark"), (CT_LABELS, "ct_labels")))
    inner = _below(shape, out, mask is not None)
    if shape.byte("mac_proto"):
        return data + inner
    data += nla(ETHERNET, out["eth_src"] + out["eth_dst"])
    return data + _tagged(shape, out, mask is not None, inner)


def _tagged(shape: _Image, out: _Image, is_mask: bool,
            inner: bytes) -> bytes:
    """Tags around what follows them.

    A tag that the packet is too short for has no TCI, and nothing follows;
    its type is given, where the kernel leaves 0.
    """
    tags = [name for name in ("vlan", "cvlan")
            if shape.be16(f"{name}_tci") & CFI]
    if shape.be16("eth_type") in _TAGS and len(tags) < 2:
        inner = _tag(b"\xff\xff" if is_mask else out["eth_type"], bytes(2),
                     b"")
    for name in reversed(tags):
        inner = _tag(b"\xff\xff" if is_mask else out[f"{name}_tpid"],
                     out[f"{name}_tci"], inner)
    return inner


def _tag(tpid: bytes, tci: bytes, inner: bytes) -> bytes:
    return nla(ETHERTYPE, tpid) + nla(VLAN, tci) + nla(ENCAP, inner)


def _below(shape: _Image, out: _Image, is_mask: bool) -> bytes:
    """The Ethernet type and what it tells of."""
    eth_type = shape.be16("eth_type")
    if eth_type == ETH_P_802_2 and not shape.byte("mac_proto"):
        return nla(ETHERTYPE, out["eth_type"]) if (
            is_mask and any(out["eth_type"])) else b""
    data = nla(ETHERTYPE, out["eth_type"])
    ip = out["ip_proto"] + out["ip_tos"] + out["ip_ttl"] + out["ip_frag"]
    if eth_type == ETH_P_IP:
        data += nla(IPV4, out["ipv4_src"] + out["ipv4_dst"] + ip)
    elif eth_type == ETH_P_IPV6:
        data += nla(IPV6, out["ipv6_src"] + out["ipv6_dst"]
                    + out["ipv6_label"] + ip)
    elif eth_type in {ETH_P_ARP, ETH_P_RARP}:
        data += nla(ARP, out["ipv4_src"] + out["ipv4_dst"] + b"\0"
                    + out["ip_proto"] + out["arp_sha"] + out["arp_tha"]
                    + bytes(2))
    elif eth_type in {ETH_P_MPLS_UC, ETH_P_MPLS_MC}:
        count = int.from_bytes(shape["mpls_labels"], "little").bit_count()
        data += nla(MPLS, out["mpls_lse"][:4 * count])
    elif eth_type == ETH_P_NSH:
        base = (out["nsh_flags"] + out["nsh_ttl"] + out["nsh_mdtype"]
                + out["nsh_np"] + out["nsh_path_hdr"])
        nested = nla(1, base)
        if shape.byte("nsh_mdtype") == 1:
            nested += nla(2, out["nsh_context"])
        data += nla(NSH, nested)
    if (eth_type in {ETH_P_IP, ETH_P_IPV6}
            and shape.byte("ip_frag") != FRAG_LATER):
        data += _transport(shape, out)
    return data


def _transport(shape: _Image, out: _Image) -> bytes:
    proto, ports = shape.byte("ip_proto"), out["tp_src"] + out["tp_dst"]
    icmp = out["tp_src"][1:] + out["tp_dst"][1:]
    if proto == TCP:
        return nla(TCP_ATTR, ports) + nla(TCP_FLAGS, out["tcp_flags"])
    if proto in {UDP, SCTP}:
        return nla(UDP_ATTR if proto == UDP else SCTP_ATTR, ports)
    if proto == ICMP and shape.be16("eth_type") == ETH_P_IP:
        return nla(ICMP_ATTR, icmp)
    if proto == ICMPV6 and shape.be16("eth_type") == ETH_P_IPV6:
        data = nla(ICMPV6_ATTR, icmp)
        if shape.be16("tp_src") in {135, 136}:
            data += nla(ND, out["nd_target"] + out["nd_sll"]
                        + out["nd_tll"])
        return data
    return b""
