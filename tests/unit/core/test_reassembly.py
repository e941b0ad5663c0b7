# SPDX-License-Identifier: Apache-2.0
"""Fragments that come as records, whole packets that go on at their ct()."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from dpif_bpf import abi
from dpif_bpf.core.conntrack.fragments import split
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.upcall import Upcalls
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.facts import KeyFacts
from dpif_bpf.wire.netlink import nla, nla_u16, nla_u32
from tests.fake_plane import FakePlane, FakeProvider, Peer

FACTS = KeyFacts(eth_type=0x0800, ip_proto=17)
OUT = nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2)
ETH = bytes(range(12))
PACKET = bytes(IP(src="10.0.0.1", dst="10.0.0.2", id=7) / UDP(
    sport=1, dport=2) / Raw(bytes(n & 0xff for n in range(3000))))
SIX = bytes(IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=1, dport=2) / Raw(
    bytes(3000)))


@dataclass(slots=True)
class Bench:
    dp: Datapath
    plane: FakePlane
    upcalls: Upcalls

    def record(self, cmd: int, desc: int, packet: bytes, *, mru: int = 0,
               tag: bytes = bytes(4), layer3: bool = False,
               bridge: int = 4) -> None:
        key = bytearray(abi.OVS_KEY_BASE * 8)
        key[:4] = (1).to_bytes(4, "little")
        key[abi.KEY["eth_type"].slice] = b"\x08\0"
        key[abi.KEY["mac_proto"].offset] = layer3
        self.upcalls.handle(memoryview(abi.UPCALL.struct.pack(
            len(packet), len(packet), cmd, 0, 0, 0, 0, 0, desc, 0, 0, mru, 0,
            bridge, tag[2:], tag[:2], 0, bytes(key)) + packet))


@pytest.fixture
def bench() -> Bench:
    peer = Peer(FakeProvider())
    peer.do(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_NEW,
            nla(u.OVS_DP_ATTR_NAME, b"dp0\0"),
            nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0))
    dp = peer.provider.dps[0]
    return Bench(dp, peer.provider.planes[0],
                 Upcalls(dp, lambda *_: pytest.fail("an upcall")))


def frames(packet: bytes = PACKET) -> list[bytes]:
    return [ETH + b"\x08\0" + bytes(part)
            for part in fragment(IP(packet), 1480)]


def ct(zone: int) -> bytes:
    return nla(u.OVS_ACTION_ATTR_CT, nla_u16(u.OVS_CT_ATTR_ZONE, zone))


def test_goes_on_at_its_ct(bench: Bench) -> None:
    """Whole, with its Ethernet header and its tag, in its bridge, with how
    long its fragments were; its list is held until it has passed."""
    dp = bench.dp
    program = dp.programs.get(OUT + ct(7) + OUT, FACTS)
    pc = program.pc + 1
    parts = frames()
    tag = b"\x81\0\x10\5"
    for part in parts:
        assert not bench.plane.executed
        bench.record(abi.OVS_UPCALL_FRAGMENT, pc, part + bytes(3), tag=tag)
    (held, bridge, key, packet), = bench.plane.executed
    assert held is program and bridge == 4 and key[:4] == b"\1\0\0\0"
    assert packet == ETH + tag + b"\x08\0" + PACKET
    assert bench.plane.places == [(pc, 1500)]
    assert program._refs == 2
    assert sum(units for _, units in bench.plane.done) == sum(
        1 + (len(part) + 3) // abi.OVS_UPCALL_UNIT for part in parts)


def test_zones_and_bridges_are_apart(bench: Bench) -> None:
    dp = bench.dp
    one = dp.programs.get(ct(1) + OUT, FACTS).pc
    two = dp.programs.get(ct(2) + OUT, FACTS).pc
    parts = frames()
    for part in parts[:2]:
        bench.record(abi.OVS_UPCALL_FRAGMENT, one, part)
    bench.record(abi.OVS_UPCALL_FRAGMENT, two, parts[2])
    bench.record(abi.OVS_UPCALL_FRAGMENT, one, parts[2], bridge=5)
    assert not bench.plane.executed and len(
        dp.reassembly.fragments) == 3
    bench.record(abi.OVS_UPCALL_FRAGMENT, one, parts[2])
    assert len(bench.plane.executed) == 1


def test_a_list_that_has_gone(bench: Bench) -> None:
    """Or what is no ct(), or no IP: is lost."""
    dp = bench.dp
    program = dp.programs.get(ct(1) + OUT, FACTS)
    parts = frames()
    for part in parts[:2]:
        bench.record(abi.OVS_UPCALL_FRAGMENT, program.pc, part)
    dp.programs.release(program)
    bench.record(abi.OVS_UPCALL_FRAGMENT, program.pc, parts[2])
    other = dp.programs.get(OUT, FACTS)
    bench.record(abi.OVS_UPCALL_FRAGMENT, other.pc, parts[0])
    again = dp.programs.get(ct(1) + OUT, FACTS)
    bench.record(abi.OVS_UPCALL_FRAGMENT, again.pc, ETH + b"\x08\6"
                 + bytes(46))
    assert not bench.plane.executed and dp.reassembly.lost == 3


def test_without_ethernet(bench: Bench) -> None:
    pc = bench.dp.programs.get(ct(1) + OUT, FACTS).pc
    for part in frames():
        bench.record(abi.OVS_UPCALL_FRAGMENT, pc, part, layer3=True)
    (*_, packet), = bench.plane.executed
    assert packet == bytes(12) + b"\x08\0" + PACKET


@pytest.mark.parametrize("tags", [b"", b"\x88\xa8\0\1\x81\0\0\2"])
def test_goes_out_in_fragments(bench: Bench, tags: bytes) -> None:
    """Each by a list that is nothing but the output."""
    head = ETH + tags + b"\x08\0"
    bench.record(abi.OVS_UPCALL_SPLIT, 3, head + PACKET, mru=1500)
    sent = [packet for *_, packet in bench.plane.executed]
    assert sent == [head + part for part in split(PACKET, 1500, 0)]
    for program, *_ in bench.plane.executed:
        words = bench.plane.acts[program.pc:program.pc + program.words]
        assert [word & 0xff for word in words] == [abi.Op.OUTPUT_LAST]
        assert words[0] >> 32 == 3
    assert all(mru == 0 for _, mru in bench.plane.places)


def test_ipv6(bench: Bench) -> None:
    """By the family's own rules, with one identification for all."""
    head = ETH + b"\x86\xdd"
    bench.record(abi.OVS_UPCALL_SPLIT, 3, head + SIX, mru=1280)
    parts = [packet[14:] for *_, packet in bench.plane.executed]
    assert len(parts) == 3 and len({part[44:48] for part in parts}) == 1
    pc = bench.dp.programs.get(ct(1) + OUT, KeyFacts(
        eth_type=0x86dd, ip_proto=17)).pc
    for part in parts:
        bench.record(abi.OVS_UPCALL_FRAGMENT, pc, head + part)
    *_, packet = bench.plane.executed[-1]
    assert packet == head + SIX and bench.plane.places[-1] == (
        pc, max(map(len, parts)))


def test_what_cannot_be_sent(bench: Bench) -> None:
    bench.plane.refuse = True
    pc = bench.dp.programs.get(ct(1) + OUT, FACTS).pc
    for part in chain(frames()):
        bench.record(abi.OVS_UPCALL_FRAGMENT, pc, part)
    assert bench.dp.reassembly.lost == 1
    bench.record(abi.OVS_UPCALL_SPLIT, 3, ETH + b"\x08\0" + PACKET, mru=20)
    assert bench.dp.reassembly.lost == 2
