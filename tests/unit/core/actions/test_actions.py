# SPDX-License-Identifier: Apache-2.0
"""Compiled action lists do what the oracle says of the netlink lists."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Output, Recirc, Result, Upcall, execute
from oracle_key import Meta
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from dpif_bpf import abi
from dpif_bpf.abi import INSN, DropReason, Op
from dpif_bpf.core.actions.insn import Compiled
from dpif_bpf.core.actions.programs import UserspaceDesc, compile_actions
from dpif_bpf.wire.facts import KeyFacts
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u32
from dpif_bpf.wire.uapi import (
    OVS_ACTION_ATTR_DROP,
    OVS_ACTION_ATTR_OUTPUT,
    OVS_ACTION_ATTR_POP_VLAN,
    OVS_ACTION_ATTR_PUSH_VLAN,
    OVS_ACTION_ATTR_RECIRC,
    OVS_ACTION_ATTR_SET,
    OVS_ACTION_ATTR_SET_MASKED,
    OVS_ACTION_ATTR_USERSPACE,
    OVS_KEY_ATTR_ETHERNET,
    OVS_KEY_ATTR_IPV4,
    OVS_KEY_ATTR_IPV6,
    OVS_KEY_ATTR_PRIORITY,
    OVS_KEY_ATTR_SKB_MARK,
    OVS_KEY_ATTR_TCP,
    OVS_KEY_ATTR_UDP,
    OVS_USERSPACE_ATTR_ACTIONS,
    OVS_USERSPACE_ATTR_PID,
    OVS_USERSPACE_ATTR_USERDATA,
)

TCP4 = KeyFacts(eth_type=0x0800, ip_proto=6)
UDP6 = KeyFacts(eth_type=0x86DD, ip_proto=17)
ANY = KeyFacts()


def out(port: int) -> bytes:
    return nla_u32(OVS_ACTION_ATTR_OUTPUT, port)


def userspace(pid: int, userdata: bytes | None = None,
              actions: bool = False) -> bytes:
    inner = nla_u32(OVS_USERSPACE_ATTR_PID, pid)
    if userdata is not None:
        inner += nla(OVS_USERSPACE_ATTR_USERDATA, userdata)
    if actions:
        inner += nla_flag(OVS_USERSPACE_ATTR_ACTIONS)
    return nla(OVS_ACTION_ATTR_USERSPACE, inner)


def push(tci: int = 0x1001, tpid: int = 0x8100) -> bytes:
    return nla(OVS_ACTION_ATTR_PUSH_VLAN, struct.pack("!HH", tpid, tci))


def set_(kind: int, value: bytes) -> bytes:
    return nla(OVS_ACTION_ATTR_SET, nla(kind, value))


def masked(kind: int, value: bytes, mask: bytes) -> bytes:
    return nla(OVS_ACTION_ATTR_SET_MASKED, nla(kind, value + mask))


POP = nla_flag(OVS_ACTION_ATTR_POP_VLAN)


def decode(code: bytes) -> Iterator[tuple[Op, int, int, bytes]]:
    """(op, arg, imm, data) of each instruction."""
    at = 0
    while at < len(code):
        op, words, arg, imm = INSN.struct.unpack_from(code, at)
        at += 8
        yield Op(op), arg, imm, code[at:at + words * 8]
        at += words * 8
    assert at == len(code)


def ops(data: bytes, facts: KeyFacts = ANY) -> list[Op]:
    return [op for op, *_ in decode(compile_actions(data, facts).code)]


def test_layout() -> None:
    """Instruction words, byte for byte."""
    code = compile_actions(out(0x01020304 & 0xff) + push(0x3123, 0x88a8)
                           + out(7), ANY).code
    be16 = 0x88a8 if sys.byteorder == "big" else 0xa888
    tci = 0x3123 if sys.byteorder == "big" else 0x2331
    assert code == (struct.pack("=BBHI", 1, 0, 0, 4)
                    + struct.pack("=BBHI", 7, 0, be16, tci)
                    + struct.pack("=BBHI", 2, 0, 0, 7))
    code = compile_actions(masked(OVS_KEY_ATTR_SKB_MARK,
                                  struct.pack("=I", 0x50),
                                  struct.pack("=I", 0xf0)) + out(1), ANY).code
    assert code[:16] == struct.pack("=BBHIQ", Op.SET_MARK, 1, 0, 0x50, 0xf0)


@pytest.mark.parametrize(("data", "expected"), [
    (b"", [Op.END]),
    (out(1), [Op.OUTPUT_LAST]),
    (out(1) + out(2), [Op.OUTPUT, Op.OUTPUT_LAST]),
    (out(1) + POP, [Op.OUTPUT_LAST]),
    (push(), [Op.END]),
    (out(1) + POP + userspace(1), [Op.OUTPUT, Op.POP_VLAN, Op.USERSPACE,
                                   Op.END]),
    (userspace(1) + out(1), [Op.USERSPACE, Op.OUTPUT_LAST]),
    (nla_u32(OVS_ACTION_ATTR_RECIRC, 9), [Op.RECIRC_LAST]),
    (nla_u32(OVS_ACTION_ATTR_RECIRC, 9) + push() + out(1),
     [Op.RECIRC, Op.PUSH_VLAN, Op.OUTPUT_LAST]),
    (nla_u32(OVS_ACTION_ATTR_DROP, 0), [Op.DROP]),
    (out(1) + nla_u32(OVS_ACTION_ATTR_DROP, 3), [Op.OUTPUT, Op.DROP]),
])
def test_last(data: bytes, expected: list[Op]) -> None:
    assert ops(data) == expected


def test_userspace() -> None:
    data = (userspace(5, b"cookie", actions=True) + out(1)
            + userspace(6) + userspace(7, b""))
    compiled = compile_actions(data, ANY)
    assert compiled.uspace == (UserspaceDesc(5, b"cookie", data),
                               UserspaceDesc(6), UserspaceDesc(7, b""))
    found = [imm for op, _, imm, _ in decode(compiled.link((10, 11, 12)))
             if op == Op.USERSPACE]
    assert found == [10, 11, 12]
    last = nla(OVS_ACTION_ATTR_USERSPACE, nla_u32(OVS_USERSPACE_ATTR_PID, 1)
               + nla(OVS_USERSPACE_ATTR_PID, struct.pack("=II", 2, 3))
               + nla(OVS_USERSPACE_ATTR_USERDATA, b"a")
               + nla(OVS_USERSPACE_ATTR_USERDATA, b"b"))
    assert compile_actions(last, ANY).uspace == (UserspaceDesc(2, b"b"),)


def test_flags_on_types() -> None:
    """NLA_F_NESTED and NLA_F_NET_BYTEORDER are not part of a type."""
    nested = nla(OVS_ACTION_ATTR_SET_MASKED | 0x8000,
                 nla(OVS_KEY_ATTR_TCP | 0x4000, b"\0\1\0\2" + b"\xff" * 4))
    assert ops(nested + nla_u32(OVS_ACTION_ATTR_OUTPUT | 0xc000, 1),
               TCP4) == [Op.SET_TP, Op.OUTPUT_LAST]


def test_set_writes_all_bits() -> None:
    ipv6 = bytes(range(32)) + bytes((0, 9, 8, 7)) + bytes((17, 5, 6, 0))
    data = (set_(OVS_KEY_ATTR_IPV6, ipv6)
            + set_(OVS_KEY_ATTR_UDP, b"\0\1\0\2") + out(1))
    six, udp, _ = decode(compile_actions(data, UDP6).code)
    assert abi.SET_IPV6.struct.unpack(six[3]) == (
        bytes(range(16)), bytes(range(16, 32)), b"\xff" * 16, b"\xff" * 16,
        bytes((0, 9, 8, 7)), bytes((0, 15, 255, 255)), 5, 255, 6, 255, 0)
    assert udp[1] == 17
    assert abi.SET_TP.struct.unpack(udp[3]) == (
        b"\0\1", b"\0\2", b"\xff\xff", b"\xff\xff")


@pytest.mark.parametrize(("kind", "size", "facts"), [
    (OVS_KEY_ATTR_PRIORITY, 4, ANY), (OVS_KEY_ATTR_SKB_MARK, 4, ANY),
    (OVS_KEY_ATTR_ETHERNET, 12, ANY), (OVS_KEY_ATTR_IPV4, 12, TCP4),
    (OVS_KEY_ATTR_IPV6, 40, UDP6), (OVS_KEY_ATTR_TCP, 4, TCP4),
    (OVS_KEY_ATTR_UDP, 4, UDP6)])
def test_empty_mask_is_nothing(kind: int, size: int,
                               facts: KeyFacts) -> None:
    assert ops(masked(kind, bytes(size), bytes(size)) + out(1),
               facts) == [Op.OUTPUT_LAST]
    # An odd byte after the mask: let pass, as by the kernel.
    assert ops(nla(OVS_ACTION_ATTR_SET_MASKED, nla(
        kind, bytes(2 * size + 1))) + out(1), facts) == [Op.OUTPUT_LAST]


def test_longest_list() -> None:
    """As much as one attribute can hold: 8191 outputs, or sets."""
    data = b"".join(out(n) for n in range(8191))
    assert len(data) == 65528
    compiled = compile_actions(data, ANY)
    assert len(compiled.code) == 8191 * 8
    data = set_(OVS_KEY_ATTR_PRIORITY, bytes(4)) * 5400 + out(1)
    assert len(compile_actions(data, ANY).code) == 5400 * 16 + 8


# Random lists: back from instructions to netlink, and through the oracle.

def decompile(compiled: Compiled) -> bytes:
    """Netlink that does what the instructions say."""
    ids = tuple(range(1, len(compiled.uspace) + 1))
    found = b""
    for op, arg, imm, data in decode(compiled.link(ids)):
        found += BACK[op](arg, imm, data, compiled.uspace)
    return found


Back = Callable[[int, int, bytes, tuple[UserspaceDesc, ...]], bytes]


def _back_eth(_arg: int, _imm: int, data: bytes,
              _uspace: tuple[UserspaceDesc, ...]) -> bytes:
    dst, _, src, _, dmask, _, smask, _ = abi.SET_ETH.struct.unpack(data)
    return masked(OVS_KEY_ATTR_ETHERNET, src + dst, smask + dmask)


def _back_ipv4(_arg: int, _imm: int, data: bytes,
               _uspace: tuple[UserspaceDesc, ...]) -> bytes:
    (src, dst, smask, dmask, tos, tos_mask, ttl, ttl_mask,
     _) = abi.SET_IPV4.struct.unpack(data)
    return masked(OVS_KEY_ATTR_IPV4, src + dst + bytes((0, tos, ttl, 0)),
                  smask + dmask + bytes((0, tos_mask, ttl_mask, 0)))


def _back_ipv6(_arg: int, _imm: int, data: bytes,
               _uspace: tuple[UserspaceDesc, ...]) -> bytes:
    (src, dst, smask, dmask, label, lmask, tclass, tmask, hlimit, hmask,
     _) = abi.SET_IPV6.struct.unpack(data)
    return masked(OVS_KEY_ATTR_IPV6,
                  src + dst + label + bytes((0, tclass, hlimit, 0)),
                  smask + dmask + lmask + bytes((0, tmask, hmask, 0)))


def _back_tp(arg: int, _imm: int, data: bytes,
             _uspace: tuple[UserspaceDesc, ...]) -> bytes:
    src, dst, smask, dmask = abi.SET_TP.struct.unpack(data)
    return masked({6: OVS_KEY_ATTR_TCP, 17: OVS_KEY_ATTR_UDP}[arg],
                  src + dst, smask + dmask)


def _back_meta(kind: int) -> Back:
    def back(_arg: int, imm: int, data: bytes,
             _uspace: tuple[UserspaceDesc, ...]) -> bytes:
        mask, = struct.unpack("=Q", data)
        return masked(kind, struct.pack("=I", imm), struct.pack("=I", mask))
    return back


def _back_user(_arg: int, imm: int, _data: bytes,
               uspace: tuple[UserspaceDesc, ...]) -> bytes:
    desc = uspace[imm - 1]
    return userspace(desc.pid, desc.userdata, desc.actions is not None)


BACK: dict[Op, Back] = {
    Op.END: lambda *_: b"",
    Op.OUTPUT: lambda _a, imm, *_: out(imm),
    Op.OUTPUT_LAST: lambda _a, imm, *_: out(imm),
    Op.USERSPACE: _back_user,
    Op.RECIRC: lambda _a, imm, *_: nla_u32(OVS_ACTION_ATTR_RECIRC, imm),
    Op.RECIRC_LAST: lambda _a, imm, *_: nla_u32(OVS_ACTION_ATTR_RECIRC, imm),
    Op.DROP: lambda _a, imm, *_: nla_u32(OVS_ACTION_ATTR_DROP, imm),
    Op.PUSH_VLAN: lambda arg, imm, *_: nla(
        OVS_ACTION_ATTR_PUSH_VLAN, struct.pack("=HH", arg, imm)),
    Op.POP_VLAN: lambda *_: POP,
    Op.SET_PRIORITY: _back_meta(OVS_KEY_ATTR_PRIORITY),
    Op.SET_MARK: _back_meta(OVS_KEY_ATTR_SKB_MARK),
    Op.SET_ETH: _back_eth,
    Op.SET_IPV4: _back_ipv4,
    Op.SET_IPV6: _back_ipv6,
    Op.SET_TP: _back_tp,
}

PACKETS = [
    (Ether() / IP() / TCP() / b"abc", TCP4),
    (Ether() / Dot1Q(vlan=9) / IP() / UDP() / b"x",
     KeyFacts(eth_type=0x0800, ip_proto=17, vlan_tci=0x1009)),
    (Ether() / IPv6() / UDP() / b"abcd", UDP6),
    (Ether() / IPv6(nh=6) / TCP(), KeyFacts(eth_type=0x86DD, ip_proto=6)),
    (Ether() / ARP(), KeyFacts(eth_type=0x0806, ip_proto=1)),
]


@st.composite
def field_set(draw: st.DrawFn, facts: KeyFacts) -> bytes:
    kinds = {OVS_KEY_ATTR_PRIORITY: 4, OVS_KEY_ATTR_SKB_MARK: 4,
             OVS_KEY_ATTR_ETHERNET: 12}
    if facts.eth_type == 0x0800:
        kinds[OVS_KEY_ATTR_IPV4] = 12
    if facts.eth_type == 0x86DD:
        kinds[OVS_KEY_ATTR_IPV6] = 40
    if facts.ip_proto == 6:
        kinds[OVS_KEY_ATTR_TCP] = 4
    if facts.ip_proto == 17:
        kinds[OVS_KEY_ATTR_UDP] = 4
    kind = draw(st.sampled_from(sorted(kinds)))
    size = kinds[kind]
    mask = bytearray(draw(st.one_of(
        st.binary(min_size=size, max_size=size),
        st.sampled_from((bytes(size), b"\xff" * size)))))
    value = bytearray(draw(st.binary(min_size=size, max_size=size)))
    whole = draw(st.booleans())
    proto = {OVS_KEY_ATTR_IPV4: 8, OVS_KEY_ATTR_IPV6: 36}.get(kind)
    if proto is not None:
        mask[proto] = mask[proto + 3] = 0
        value[proto], value[proto + 3] = facts.ip_proto, 0
    if kind == OVS_KEY_ATTR_IPV6:
        for part in (value, mask):
            part[32] = 0
            part[33] &= 15
    if whole:
        return set_(kind, bytes(value))
    value = bytearray(v & m for v, m in zip(value, mask, strict=True))
    return masked(kind, bytes(value), bytes(mask))


@st.composite
def action_list(draw: st.DrawFn, facts: KeyFacts) -> bytes:
    one = st.one_of(
        st.integers(0, 65534).map(out),
        st.builds(userspace, st.integers(1, 2 ** 32 - 1),
                  st.one_of(st.none(), st.binary(max_size=20)),
                  st.booleans()),
        st.builds(push, st.integers(0, 0xffff).map(lambda n: n | 0x1000),
                  st.sampled_from((0x8100, 0x88a8))),
        st.just(POP),
        st.integers(0, 2 ** 32 - 1).map(
            lambda n: nla_u32(OVS_ACTION_ATTR_RECIRC, n)),
        field_set(facts))
    data = b"".join(draw(st.lists(one, max_size=12)))
    if draw(st.booleans()):
        data += nla_u32(OVS_ACTION_ATTR_DROP, draw(st.integers(0, 2)))
    return data


def seen(result: Result) -> list[tuple[object, ...]]:
    """What the world sees: an output's metadata too."""
    found: list[tuple[object, ...]] = []
    for event in result.events:
        if isinstance(event, Output):
            found.append((event.port, event.packet, event.priority,
                          event.mark))
        elif isinstance(event, Upcall):
            found.append((event.pid, event.userdata, event.actions,
                          event.packet, event.key))
        else:
            assert isinstance(event, Recirc)
            found.append((event.recirc_id, event.packet, event.key))
    return found


@settings(max_examples=300)
@given(st.data())
def test_random_lists(data: st.DataObject) -> None:
    packet, facts = data.draw(st.sampled_from(PACKETS))
    actions = data.draw(action_list(facts))
    compiled = compile_actions(actions, facts)
    meta = Meta(in_port=3, skb_mark=0x1234, skb_priority=0x5678)
    asked = execute(bytes(packet), actions, meta)
    given_ = execute(bytes(packet), decompile(compiled), meta)
    assert seen(asked) == seen(given_)
    assert asked.drop == given_.drop
    assert asked.drop in {DropReason.NONE, DropReason.EXPLICIT,
                          DropReason.ACTION, DropReason.ACTION_ERROR}
