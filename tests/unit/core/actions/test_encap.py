# SPDX-License-Identifier: Apache-2.0
"""Pushing and popping MPLS and Ethernet: what is taken and what is refused.

The programs' agreement with the oracle: tests/bpf/test_actions.py.
"""

from __future__ import annotations

import struct
from errno import EINVAL

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpif_bpf.abi import INSN, Header, Op
from dpif_bpf.core.actions.compiler import HANDLERS
from dpif_bpf.core.actions.programs import compile_actions
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.facts import MAC_PROTO_NONE, KeyFacts
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u32

MPLS, MPLS_MC, TEB, VLAN = 0x8847, 0x8848, 0x6558, 0x8100
IP4 = KeyFacts(eth_type=0x0800, ip_proto=6)
ONE = KeyFacts(eth_type=MPLS, mpls_num_lse=1)
TWO = KeyFacts(eth_type=MPLS, mpls_num_lse=2)
ANY_LABELS = KeyFacts(eth_type=MPLS)
TAGGED = KeyFacts(eth_type=0x0800, vlan_tci=0x1000)
TAGGED_MPLS = KeyFacts(eth_type=MPLS, vlan_tci=0x1000, mpls_num_lse=1)
OTHER = KeyFacts(eth_type=0x88CC)
L3 = KeyFacts(eth_type=0x0800, ip_proto=6, mac_proto=MAC_PROTO_NONE)
L3_MPLS = KeyFacts(eth_type=MPLS, mac_proto=MAC_PROTO_NONE, mpls_num_lse=1)
OUT = nla_u32(uapi.OVS_ACTION_ATTR_OUTPUT, 1)
LSE = bytes.fromhex("00003140")


def push(kind: int = MPLS, lse: bytes = LSE) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_PUSH_MPLS,
               lse + struct.pack("!HH", kind, 0))


def add(flags: int, kind: int = MPLS) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_ADD_MPLS,
               LSE + struct.pack("!H", kind) + struct.pack("=H", flags))


def pop(below: int) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_POP_MPLS, struct.pack("!H", below))


PUSH_ETH = nla(uapi.OVS_ACTION_ATTR_PUSH_ETH, bytes(range(12)))
POP_ETH = nla_flag(uapi.OVS_ACTION_ATTR_POP_ETH)
PUSH_VLAN = nla(uapi.OVS_ACTION_ATTR_PUSH_VLAN, b"\x81\0\x10\0")
SET_TCP = nla(uapi.OVS_ACTION_ATTR_SET, nla(uapi.OVS_KEY_ATTR_TCP, bytes(4)))
SET_ETH = nla(uapi.OVS_ACTION_ATTR_SET, nla(uapi.OVS_KEY_ATTR_ETHERNET,
                                            bytes(12)))
SET_MPLS = nla(uapi.OVS_ACTION_ATTR_SET, nla(uapi.OVS_KEY_ATTR_MPLS,
                                             bytes(4)))

REFUSED = [
    ("push, type IPv4", IP4, push(0x0800)),
    ("push, type in host order", IP4, push(0x4788)),
    ("push, unknown packets", KeyFacts(), push()),
    ("push, LLDP", OTHER, push()),
    ("push below a tag", TAGGED, push()),
    ("push below a tag that was pushed", IP4, PUSH_VLAN + push()),
    ("push what was popped", ONE, pop(0x0800) + push()),
    ("add, type IPv4", IP4, add(0, 0x0800)),
    ("add, layer 3, type IPv6", IP4, add(1, 0x86DD)),
    ("add, layer 3, unknown packets", KeyFacts(), add(1)),
    ("add, layer 3, below a tag", TAGGED, add(1)),
    ("pop, no MPLS", IP4, pop(0x0800)),
    ("pop, unknown packets", KeyFacts(), pop(0x0800)),
    ("pop below a tag", TAGGED_MPLS, pop(0x0800)),
    ("pop twice, one label", ONE, pop(MPLS) + pop(0x0800)),
    ("pop three, two labels", TWO, pop(MPLS) * 2 + pop(MPLS)),
    ("pop twice, IPv4 between", TWO, pop(0x0800) + pop(0x0800)),
    ("pop to Ethernet below Ethernet", ONE, pop(TEB)),
    ("pop to a tag, layer 3", L3_MPLS, pop(VLAN)),
    ("add before a tag, pop", TAGGED, add(0) + pop(TEB)),
    ("pop to Ethernet twice", IP4, add(0) + pop(TEB) + pop(TEB)),
    ("set what is hidden", IP4, push() + SET_TCP),
    ("set what was popped to", ONE, pop(0x0800) + SET_TCP),
    ("set MPLS, popped", ONE, pop(MPLS) + SET_MPLS),
    ("push_eth on Ethernet", IP4, PUSH_ETH),
    ("push_eth twice", L3, PUSH_ETH + PUSH_ETH),
    ("pop_eth, layer 3", L3, POP_ETH),
    ("pop_eth twice", IP4, POP_ETH + POP_ETH),
    ("pop_eth below a tag", TAGGED, POP_ETH),
    ("set Ethernet that was popped", IP4, POP_ETH + SET_ETH),
    ("set Ethernet that is hidden", IP4, add(0) + SET_ETH),
    ("push_vlan, popped", IP4, POP_ETH + PUSH_VLAN),
]

TAKEN = [
    ("push", IP4, push()), ("push on ARP", KeyFacts(eth_type=0x0806), push()),
    ("push on MPLS", TWO, push(MPLS_MC)), ("push, layer 3", L3, push()),
    ("push twice, pop twice", IP4, push() * 2 + pop(MPLS) + pop(0x0800)),
    ("push, set", IP4, push() + SET_MPLS),
    ("push, tag", IP4, push() + PUSH_VLAN + OUT),
    ("set below a tag", TAGGED_MPLS, SET_MPLS),
    ("add, push_eth", OTHER, add(0) + PUSH_ETH),
    ("add twice", KeyFacts(), add(0) + add(0) + PUSH_ETH),
    ("add, pop to Ethernet", OTHER, add(0) + pop(TEB)),
    ("add below Ethernet", IP4, add(1)),
    ("pop, labels not known", ANY_LABELS, pop(MPLS) + pop(MPLS)),
    ("pop to anything", ONE, pop(0x1234)),
    ("pop to a tag", ONE, pop(VLAN)),
    ("pop and pop_eth", L3_MPLS, pop(TEB) + POP_ETH),
    ("set below Ethernet", IP4, POP_ETH + SET_TCP + PUSH_ETH + SET_TCP),
]


@pytest.mark.parametrize(("facts", "data"), [c[1:] for c in REFUSED],
                         ids=[c[0] for c in REFUSED])
def test_refused(facts: KeyFacts, data: bytes) -> None:
    with pytest.raises(RequestError) as error:
        compile_actions(data + OUT, facts, 100)
    assert error.value.errno == EINVAL
    assert error.value.text and error.value.offset is not None


@pytest.mark.parametrize(("facts", "data"), [c[1:] for c in TAKEN],
                         ids=[c[0] for c in TAKEN])
def test_taken(facts: KeyFacts, data: bytes) -> None:
    compile_actions(data + OUT, facts)


@pytest.mark.parametrize("action", [push(), add(0), add(1), pop(0x0800),
                                    PUSH_ETH, POP_ETH])
def test_size(action: bytes) -> None:
    kind = struct.unpack_from("=H", action, 2)[0]
    size = HANDLERS[kind].size
    assert size is not None
    for wrong in {0, 1, 2, 4, 8, 12, size - 1, size + 1, size + 4} - {size}:
        if wrong < 0:
            continue
        for facts in (IP4, ONE, L3, L3_MPLS):
            with pytest.raises(RequestError, match=f"{wrong} bytes instead"):
                compile_actions(nla(kind, bytes(wrong)) + OUT, facts)


def test_instructions() -> None:
    """Numbers of packets are as they are in the packets."""
    code = compile_actions(push(lse=LSE) + OUT, IP4).code
    insn = dict(zip(INSN.fields, INSN.struct.unpack_from(code), strict=True))
    assert (insn["op"], insn["arg"]) == (Op.HEADER, Header.PUSH_MPLS)
    assert code[INSN["imm"].slice] == LSE
    assert code[8:10] == b"\x88\x47"
    code = compile_actions(add(0) + PUSH_ETH + OUT, IP4).code
    assert code[18:20] == Header.PUSH_ETH.to_bytes(2, "little")
    assert code[24:30] == bytes(range(6, 12))
    assert code[32:38] == bytes(range(6))


@given(st.lists(st.sampled_from([
    push(), add(0), add(1), pop(MPLS), pop(0x0800), pop(TEB), PUSH_ETH,
    POP_ETH, PUSH_VLAN, SET_MPLS, SET_TCP, SET_ETH]), max_size=6),
    st.sampled_from([IP4, ONE, TWO, TAGGED, TAGGED_MPLS, L3, L3_MPLS]))
def test_ethernet_is_there_or_not(steps: list[bytes],
                                  facts: KeyFacts) -> None:
    """No accepted list pops what is not there, or pushes it twice."""
    data = b"".join(steps)
    try:
        code = compile_actions(data + OUT, facts).code
    except RequestError:
        return
    ethernet = facts.mac_proto != MAC_PROTO_NONE
    at = 0
    while at < len(code):
        op, words, arg, _imm = INSN.struct.unpack_from(code, at)
        at += 8 + 8 * words
        if op in {Op.PUSH_VLAN, Op.POP_VLAN, Op.SET_ETH}:
            assert ethernet
        if op != Op.HEADER:
            continue
        if arg in {Header.POP_ETH, Header.ADD_MPLS}:
            assert ethernet
            ethernet = False
        elif arg in {Header.PUSH_ETH, Header.POP_MPLS_ETH}:
            assert not ethernet
            ethernet = True
