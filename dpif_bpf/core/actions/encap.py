# SPDX-License-Identifier: Apache-2.0
"""Compiles the actions that push and pop MPLS and Ethernet headers.

When they are accepted is as in Linux net/openvswitch/flow_netlink.c,
``__ovs_nla_copy_actions``.  Of what a label hides nothing is known until the
packet has been looked up again, so that no action may write to it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from struct import Struct

from dpif_bpf.abi import Header, Op
from dpif_bpf.core.actions.insn import Context, Insn, bad
from dpif_bpf.wire import uapi
from dpif_bpf.wire.facts import MAC_PROTO_ETHERNET, MAC_PROTO_NONE, KeyFacts
from dpif_bpf.wire.protocols import ETH_P_TEB

_MPLS = {0x8847, 0x8848}
_MAY_BE_LABELLED = {0x0800, 0x86DD, 0x0806, 0x8035} | _MPLS
_TPIDS = {0x8100, 0x88A8}
_VLAN_CFI = 0x1000
_COUNT = 0xFFFFFFFF

_WORD = Struct("=Q")
_ADDRESSES = Struct("6s2x6s2x")


def _raw(data: bytes) -> int:
    """Bytes of a packet as a number that the programs store."""
    return int.from_bytes(data, sys.byteorder)


def _check_type(name: str, eth_type: int) -> None:
    if eth_type not in _MPLS:
        raise bad(f"{name} with Ethernet type {eth_type:#06x}")


def _check_below(name: str, facts: KeyFacts) -> None:
    """Labels go between Ethernet and what is known to follow it."""
    if facts.vlan_tci & _VLAN_CFI:
        raise bad(f"{name} on packets with a VLAN tag")
    if facts.eth_type not in _MAY_BE_LABELLED:
        raise bad(f"{name} on packets of Ethernet type"
                  f" {facts.eth_type:#06x}")


def _push(context: Context, kind: Header, lse: bytes, eth_type: bytes,
          facts: KeyFacts) -> None:
    context.facts = replace(facts, eth_type=int.from_bytes(eth_type, "big"))
    context.insns.append(Insn(Op.HEADER, kind, _raw(lse),
                              _WORD.pack(_raw(eth_type))))


def compile_push_mpls(context: Context, start: int, _stop: int) -> None:
    """OVS_ACTION_ATTR_PUSH_MPLS: struct ovs_action_push_mpls."""
    name = "OVS_ACTION_ATTR_PUSH_MPLS"
    raw = context.actions[start:start + 6]
    _check_type(name, int.from_bytes(raw[4:], "big"))
    facts = context.facts
    _check_below(name, facts)
    _push(context, Header.PUSH_MPLS, raw[:4], raw[4:], replace(
        facts, mpls_num_lse=facts.mpls_num_lse + 1 & _COUNT))


def compile_add_mpls(context: Context, start: int, _stop: int) -> None:
    """OVS_ACTION_ATTR_ADD_MPLS: struct ovs_action_add_mpls."""
    name = "OVS_ACTION_ATTR_ADD_MPLS"
    lse, eth_type, flags = uapi.OVS_ACTION_ADD_MPLS.unpack_from(
        context.actions, start)
    _check_type(name, int.from_bytes(eth_type, "big"))
    facts = context.facts
    kind = Header.PUSH_MPLS
    labels = facts.mpls_num_lse + 1 & _COUNT
    if flags & uapi.OVS_MPLS_L3_TUNNEL_FLAG_MASK:
        _check_below(name, facts)
    elif facts.mac_proto == MAC_PROTO_ETHERNET:
        kind, labels = Header.ADD_MPLS, 1
        facts = replace(facts, mac_proto=MAC_PROTO_NONE)
    _push(context, kind, lse, eth_type, replace(facts, mpls_num_lse=labels))


def compile_pop_mpls(context: Context, start: int, _stop: int) -> None:
    """OVS_ACTION_ATTR_POP_MPLS: the type of what is below the label."""
    name = "OVS_ACTION_ATTR_POP_MPLS"
    facts = context.facts
    if facts.vlan_tci & _VLAN_CFI:
        raise bad(f"{name} on packets with a VLAN tag")
    if facts.eth_type not in _MPLS:
        raise bad(f"{name} on packets of Ethernet type"
                  f" {facts.eth_type:#06x}")
    raw = context.actions[start:start + 2]
    below = int.from_bytes(raw, "big")
    kind = Header.POP_MPLS
    mac_proto = facts.mac_proto
    if below == ETH_P_TEB:
        if mac_proto == MAC_PROTO_ETHERNET:
            raise bad(f"{name} to Ethernet, of packets that have an Ethernet"
                      " header before the label")
        kind, mac_proto = Header.POP_MPLS_ETH, MAC_PROTO_ETHERNET
    elif below in _TPIDS and mac_proto == MAC_PROTO_NONE:
        raise bad(f"{name} to a VLAN tag, of packets without an Ethernet"
                  " header")
    labels = facts.mpls_num_lse - 1 & _COUNT
    context.facts = replace(
        facts, mpls_num_lse=labels, mac_proto=mac_proto,
        eth_type=below if below in _MPLS and labels else 0)
    context.insns.append(Insn(Op.HEADER, kind, _raw(raw)))


def compile_push_eth(context: Context, start: int, _stop: int) -> None:
    """OVS_ACTION_ATTR_PUSH_ETH: struct ovs_action_push_eth."""
    if context.facts.mac_proto != MAC_PROTO_NONE:
        raise bad("OVS_ACTION_ATTR_PUSH_ETH on packets that have an Ethernet"
                  " header")
    src, dst = uapi.OVS_ACTION_PUSH_ETH.unpack_from(context.actions, start)
    context.facts = replace(context.facts, mac_proto=MAC_PROTO_ETHERNET)
    context.insns.append(Insn(Op.HEADER, Header.PUSH_ETH,
                              data=_ADDRESSES.pack(dst, src)))


def compile_pop_eth(context: Context, _start: int, _stop: int) -> None:
    """OVS_ACTION_ATTR_POP_ETH."""
    name = "OVS_ACTION_ATTR_POP_ETH"
    if context.facts.mac_proto != MAC_PROTO_ETHERNET:
        raise bad(f"{name} on packets without an Ethernet header")
    if context.facts.vlan_tci & _VLAN_CFI:
        raise bad(f"{name} on packets with a VLAN tag")
    context.facts = replace(context.facts, mac_proto=MAC_PROTO_NONE)
    context.insns.append(Insn(Op.HEADER, Header.POP_ETH))
