# SPDX-License-Identifier: Apache-2.0
"""Pushing, popping and writing NSH: what is taken and what is refused.

The programs' agreement with the oracle: tests/bpf/test_actions.py.
"""

from __future__ import annotations

import struct
from errno import EINVAL

import pytest

from dpif_bpf.abi import INSN, SET_NSH, Header, Op
from dpif_bpf.core.actions.programs import compile_actions
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.extract import packet_facts
from dpif_bpf.wire.facts import MAC_PROTO_NONE, KeyFacts
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u32

NSH = 0x894F
IP4 = KeyFacts(eth_type=0x0800, ip_proto=6)
TAGGED = KeyFacts(eth_type=0x0800, vlan_tci=0x1000)
L3 = KeyFacts(eth_type=0x0800, mac_proto=MAC_PROTO_NONE)
L3_ARP = KeyFacts(eth_type=0x0806, mac_proto=MAC_PROTO_NONE)
L3_MC = KeyFacts(eth_type=0x8848, mac_proto=MAC_PROTO_NONE)
L3_ANY = KeyFacts(mac_proto=MAC_PROTO_NONE)
OUT = nla_u32(uapi.OVS_ACTION_ATTR_OUTPUT, 1)
POP = nla_flag(uapi.OVS_ACTION_ATTR_POP_NSH)
POP_ETH = nla_flag(uapi.OVS_ACTION_ATTR_POP_ETH)
PUSH_ETH = nla(uapi.OVS_ACTION_ATTR_PUSH_ETH, bytes(12))
BASE, MD1, MD2 = (uapi.OVS_NSH_KEY_ATTR_BASE, uapi.OVS_NSH_KEY_ATTR_MD1,
                  uapi.OVS_NSH_KEY_ATTR_MD2)
NO_BASE = bytes(8)


def facts(np: int, mdtype: int = 1, l3: bool = True) -> KeyFacts:
    """Of packets with an NSH."""
    more = {"mac_proto": MAC_PROTO_NONE} if l3 else {}
    return KeyFacts(eth_type=NSH, nsh_mdtype=mdtype, nsh_np=np, **more)


def base(mdtype: int, flags: int = 1, ttl: int = 2, np: int = 0,
         path: int = 0x00010203) -> bytes:
    return struct.pack("!BBBBI", flags, ttl, mdtype, np, path)


def push(*inner: bytes) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_PUSH_NSH,
               nla(uapi.OVS_KEY_ATTR_NSH, b"".join(inner)))


def set_(*inner: bytes) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_SET,
               nla(uapi.OVS_KEY_ATTR_NSH, b"".join(inner)))


def masked(*inner: bytes) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_SET_MASKED,
               nla(uapi.OVS_KEY_ATTR_NSH, b"".join(inner)))


def md2(size: int) -> bytes:
    return push(nla(BASE, base(2)), nla(MD2, bytes(range(size))))


PUSH = push(nla(BASE, base(1)), nla(MD1, bytes(16)))
INDEX = masked(nla(BASE, NO_BASE + struct.pack("!4xI", 0xff)))
CONTEXT = masked(nla(MD1, bytes(16) + b"\xff" * 16))

ACCEPTED = [
    ("on Ethernet", KeyFacts(), PUSH),
    ("on a tagged frame", TAGGED, PUSH + PUSH_ETH),
    ("on layer 3", L3, PUSH),
    ("on itself", L3, PUSH + PUSH),
    ("and back", IP4, PUSH + POP),
    ("then Ethernet, then a tag", TAGGED, PUSH + PUSH_ETH + nla(
        uapi.OVS_ACTION_ATTR_PUSH_VLAN, b"\x81\0\x10\1")),
    ("a label before it", IP4, PUSH + nla(
        uapi.OVS_ACTION_ATTR_ADD_MPLS, b"\0\0\1\1\x88\x47\0\0")),
    ("the last of two that are alike", IP4,
     push(nla(BASE, base(2)), nla(MD1, b"x" * 16), nla(BASE, base(1)),
          nla(MD1, bytes(16)))),
    ("type 2, 1 byte", IP4, md2(1)),
    ("type 2, 247 bytes", IP4, md2(247)),
    ("pop of IPv4", facts(1), POP),
    ("pop of MPLS, then push", facts(5), POP + PUSH),
    ("pop of a frame, and its header", facts(3), POP + POP_ETH + PUSH),
    ("write to what was pushed", IP4, PUSH + INDEX + CONTEXT),
    ("write", facts(3, l3=False), INDEX + CONTEXT),
    ("write, type unknown", facts(0, 0), INDEX + CONTEXT),
    ("write to type 2", facts(1, 2), INDEX),
    ("write all", facts(3),
     set_(nla(BASE, base(1, np=3)), nla(MD1, bytes(16)))),
]

REFUSED = [
    ("layer 3, ARP", L3_ARP, PUSH),
    ("layer 3, multicast MPLS", L3_MC, PUSH),
    ("layer 3, unknown", L3_ANY, PUSH),
    ("no payload", IP4, nla(uapi.OVS_ACTION_ATTR_PUSH_NSH, b"")),
    ("another key", IP4, nla(uapi.OVS_ACTION_ATTR_PUSH_NSH, nla(
        27, nla(BASE, base(1)) + nla(MD1, bytes(16))))),
    ("a key that ends beyond the action", IP4,
     nla(uapi.OVS_ACTION_ATTR_PUSH_NSH, struct.pack("=HH", 200, 28))),
    ("a key of length 3", IP4,
     nla(uapi.OVS_ACTION_ATTR_PUSH_NSH, struct.pack("=HH", 3, 28))),
    ("nothing in it", IP4, push()),
    ("base alone", IP4, push(nla(BASE, base(1)))),
    ("no base", IP4, push(nla(MD1, bytes(16)))),
    ("both types", IP4, push(nla(BASE, base(1)), nla(MD1, bytes(16)),
                             nla(MD2, bytes(4)))),
    ("type 1 that is 2", IP4, push(nla(BASE, base(2)), nla(MD1, bytes(16)))),
    ("type 2 that is 1", IP4, push(nla(BASE, base(1)), nla(MD2, bytes(4)))),
    ("type 3", IP4, push(nla(BASE, base(3)), nla(MD1, bytes(16)))),
    ("base, short", IP4, push(nla(BASE, base(1)[:7]), nla(MD1, bytes(16)))),
    ("base, long", IP4, push(nla(BASE, base(1) * 2), nla(MD1, bytes(16)))),
    ("context, short", IP4, push(nla(BASE, base(1)), nla(MD1, bytes(12)))),
    ("type 2, empty", IP4, md2(0)),
    ("type 2, beyond the length field", IP4, md2(248)),
    ("type 2, too long", IP4, md2(249)),
    ("attribute 0", IP4, push(nla(0, b""), nla(BASE, base(1)),
                              nla(MD1, bytes(16)))),
    ("attribute 4", IP4, push(nla(BASE, base(1)), nla(MD1, bytes(16)),
                              nla(4, b""))),
    ("stray bytes", IP4, push(nla(BASE, base(1)), nla(MD1, bytes(16)),
                              b"\1\0")),
    ("pop of no NSH", IP4, POP),
    ("pop with payload", facts(1), nla(uapi.OVS_ACTION_ATTR_POP_NSH,
                                       bytes(4))),
    ("pop, next protocol unknown", facts(0), POP),
    ("pop, next protocol 6", facts(6), POP),
    ("pop below Ethernet", facts(3, l3=False), POP),
    ("pop of what was below", facts(4), POP + POP),
    ("Ethernet on Ethernet", facts(3), POP + PUSH_ETH),
    ("addresses below", L3, PUSH + nla(uapi.OVS_ACTION_ATTR_SET, nla(
        uapi.OVS_KEY_ATTR_IPV4, bytes(12)))),
    ("Ethernet below", IP4, PUSH + nla(uapi.OVS_ACTION_ATTR_SET, nla(
        uapi.OVS_KEY_ATTR_ETHERNET, bytes(12)))),
    ("a label below", IP4, PUSH + nla(
        uapi.OVS_ACTION_ATTR_PUSH_MPLS, b"\0\0\1\1\x88\x47\0\0")),
    ("a tag on NSH", IP4, PUSH + nla(
        uapi.OVS_ACTION_ATTR_PUSH_VLAN, b"\x81\0\x10\1")),
    ("write without NSH", IP4, INDEX),
    ("write nothing", facts(3), masked()),
    ("write type 2", facts(3, 2), masked(nla(MD2, bytes(8)))),
    ("write context of type 2", facts(3, 2), CONTEXT),
    ("write the type", facts(3), masked(nla(
        BASE, NO_BASE + b"\0\0\xff\0" + bytes(4)))),
    ("write the next protocol", facts(3), masked(nla(
        BASE, NO_BASE + b"\0\0\0\1" + bytes(4)))),
    ("another type", facts(3), set_(nla(BASE, base(2, np=3)))),
    ("another next protocol", facts(3), set_(nla(BASE, base(1, np=1)))),
    ("context alone, unmasked", facts(3), set_(nla(MD1, bytes(16)))),
    ("base without a mask", facts(3), masked(nla(BASE, base(1)))),
    ("base with a mask", facts(3), set_(nla(BASE, bytes(16)))),
    ("context without a mask", facts(3), masked(nla(MD1, bytes(16)))),
    ("bits outside of the mask", facts(3), masked(nla(
        BASE, struct.pack("!4xI4xI", 1, 0xfffffffe)))),
    ("context outside of the mask", facts(3), masked(nla(
        MD1, b"\1" + bytes(31)))),
]


@pytest.mark.parametrize(("known", "data"), [c[1:] for c in ACCEPTED],
                         ids=[c[0] for c in ACCEPTED])
def test_accepted(known: KeyFacts, data: bytes) -> None:
    compile_actions(data + OUT, known)


@pytest.mark.parametrize(("known", "data"), [c[1:] for c in REFUSED],
                         ids=[c[0] for c in REFUSED])
def test_refused(known: KeyFacts, data: bytes) -> None:
    with pytest.raises(RequestError) as error:
        compile_actions(data + OUT, known)
    assert error.value.errno == EINVAL


def first(data: bytes, known: KeyFacts) -> tuple[tuple[int, ...], bytes]:
    """The first instruction and its data."""
    code = compile_actions(data + OUT, known).code
    insn = INSN.struct.unpack_from(code)
    return insn, code[8:8 + 8 * insn[1]]


def test_header() -> None:
    """Bits that there is no room for are cut off, as by the kernel."""
    insn, data = first(push(
        nla(BASE, base(1, flags=0x17, ttl=0xff, np=9)),
        nla(MD1, bytes(range(16)))), IP4)
    assert insn == (Op.HEADER, 3, Header.PUSH_NSH, 24)
    assert data == bytes.fromhex("3fc6010000010203") + bytes(range(16))


@pytest.mark.parametrize(("size", "kept"), [(1, 0), (4, 4), (11, 8),
                                            (247, 244)])
def test_header_of_type_2(size: int, kept: int) -> None:
    """Whole words get into the packet."""
    insn, data = first(md2(size), IP4)
    assert insn == (Op.HEADER, len(data) // 8, Header.PUSH_NSH, 8 + kept)
    assert data[:8] == struct.pack("!HBBI", 0x1080 | 2 + kept // 4, 2, 0,
                                   0x00010203)
    assert data[8:8 + kept] == bytes(range(kept))
    assert len(data) - 8 - kept in {0, 4}


def test_set() -> None:
    insn, data = first(masked(
        nla(BASE, base(0, flags=2, ttl=3, path=5) + b"\xff\xff\0\0"
            + b"\0\0\0\xff"),
        nla(MD1, bytes(15) + b"\1" + bytes(15) + b"\x81")), facts(3))
    assert insn == (Op.HEADER, 6, Header.SET_NSH, 0)
    assert SET_NSH.struct.unpack(data) == (
        bytes.fromhex("20c0000000000005"), bytes(15) + b"\1",
        bytes.fromhex("3fc00000000000ff"), bytes(15) + b"\x81")


def test_set_of_nothing_is_left_out() -> None:
    code = compile_actions(masked(nla(BASE, bytes(16))) + OUT, facts(3)).code
    assert code == compile_actions(OUT, facts(3)).code


def nsh(first_word: int, mdtype: int, np: int, size: int) -> bytes:
    return bytes(12) + struct.pack("!HHBB", NSH, first_word, mdtype,
                                   np) + bytes(size - 4)


def test_facts_of_packets() -> None:
    found = packet_facts(nsh(0x0fc6, 1, 3, 24))
    assert (found.eth_type, found.nsh_mdtype, found.nsh_np) == (NSH, 1, 3)
    assert packet_facts(nsh(0x0fc3, 2, 5, 12)).nsh_mdtype == 2


@pytest.mark.parametrize("packet", [
    nsh(0x4fc6, 1, 3, 24), nsh(0x0fc6, 1, 3, 23), nsh(0x0fc5, 1, 3, 24),
    nsh(0x0fc6, 3, 3, 24), nsh(0x0fc3, 2, 3, 11), nsh(0x0fc2, 2, 3, 7)],
    ids=["version", "cut", "length", "type", "cut 2", "no base"])
def test_malformed_packets(packet: bytes) -> None:
    """An execute of them is refused, as there is no key."""
    with pytest.raises(RequestError) as error:
        packet_facts(packet)
    assert error.value.errno == EINVAL
