# SPDX-License-Identifier: Apache-2.0
"""core.upcall: where records of the ring go, and what they become."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_key import Meta, extract
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from dpif_bpf import abi
from dpif_bpf.core.insn import UserspaceDesc
from dpif_bpf.core.upcall import Upcalls
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.gso import SKB_GSO_TCPV4, SKB_GSO_UDP
from dpif_bpf.wire.netlink import iter_attrs, nla_string, nla_u32
from tests.fake_plane import FakeProvider, Peer

FRAME = bytes(Ether() / IP() / TCP() / Raw(b"x" * 40))
MISS, ACTION = u.OVS_PACKET_CMD_MISS, u.OVS_PACKET_CMD_ACTION


class Bench:
    """A datapath with port p1, and what its peers were sent."""

    def __init__(self, features: int) -> None:
        self.peer = Peer(FakeProvider())
        self.peer.do(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_NEW,
                     nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"),
                     nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0),
                     nla_u32(u.OVS_DP_ATTR_USER_FEATURES, features))
        (self.dp,) = self.peer.provider.dps
        self.peer.provider.ports.add_device("p1")
        self.port = self.dp.make_port("p1", u.OVS_VPORT_TYPE_NETDEV, 1,
                                      (31, 32, 33))
        self.sent: list[tuple[int, dict[int, bytes]]] = []
        self.full = False
        self.upcalls = Upcalls(self.dp, self.send)

    def send(self, pid: int, message: bytes) -> bool:
        if self.full:
            return False
        self.sent.append((pid, {
            kind: message[start:stop]
            for kind, start, stop in iter_attrs(message, 24)}))
        return True

    def record(self, cmd: int = MISS, *, desc: int = 0, cpu: int = 0,
               hash_: int = 0, packet: bytes = FRAME,
               pkt_len: int | None = None, gso_size: int = 0,
               tag: bytes = bytes(4), cutlen: int = 0,
               gso_type: int = SKB_GSO_TCPV4, parts: bytes = b"") -> None:
        found = extract(packet, Meta(in_port=1,
                                     ufo=gso_type == SKB_GSO_UDP))
        assert found is not None
        self.upcalls.handle(memoryview(abi.UPCALL.struct.pack(
            len(packet), len(packet) if pkt_len is None else pkt_len, cmd,
            0, 0, 0, gso_size, gso_type if gso_size else 0, desc, hash_, 3,
            cpu, 0, tag[2:], tag[:2], cutlen,
            found.key[:abi.OVS_KEY_BASE * 8]) + parts + packet))


@pytest.fixture
def per_cpu() -> Bench:
    bench = Bench(u.OVS_DP_F_DISPATCH_UPCALL_PER_CPU)
    bench.dp.per_cpu_pids = (51, 52)
    return bench


@pytest.fixture
def per_vport() -> Bench:
    return Bench(u.OVS_DP_F_VPORT_PIDS)


def test_miss(per_cpu: Bench) -> None:
    per_cpu.record(hash_=0xabcd, cpu=1)
    ((pid, attrs),) = per_cpu.sent
    assert pid == 52
    assert attrs[u.OVS_PACKET_ATTR_PACKET] == FRAME
    assert struct.unpack("=Q", attrs[u.OVS_PACKET_ATTR_HASH]) == (
        0xabcd | 3 << 32,)
    assert u.OVS_PACKET_ATTR_LEN not in attrs
    assert u.OVS_PACKET_ATTR_USERDATA not in attrs
    assert per_cpu.port.upcall_success == 1


def test_a_cpu_without_a_socket_uses_anothers(per_cpu: Bench) -> None:
    per_cpu.record(cpu=5)
    assert per_cpu.sent[0][0] == 52


def test_miss_goes_to_a_socket_of_the_port(per_vport: Bench) -> None:
    for hash_ in (0, 1, 2, 3):
        per_vport.record(hash_=hash_)
    assert [pid for pid, _ in per_vport.sent] == [31, 32, 33, 31]


def test_action(per_vport: Bench, per_cpu: Bench) -> None:
    for bench, pid in ((per_vport, 77), (per_cpu, 51)):
        number = bench.dp.descs.add(UserspaceDesc(77, b"cookie", b"acts"))
        bench.record(ACTION, desc=number)
        ((got, attrs),) = bench.sent
        assert got == pid
        assert attrs[u.OVS_PACKET_ATTR_USERDATA] == b"cookie"
        assert attrs[u.OVS_PACKET_ATTR_ACTIONS] == b"acts"


def test_action_of_a_flow_that_has_gone(per_cpu: Bench) -> None:
    per_cpu.record(ACTION, desc=4711)
    assert not per_cpu.sent
    assert per_cpu.dp.lost == 1


def test_lost_upcalls_are_counted(per_cpu: Bench) -> None:
    per_cpu.full = True
    per_cpu.record()
    per_cpu.dp.per_cpu_pids = ()
    per_cpu.record()
    assert (per_cpu.dp.lost, per_cpu.port.upcall_fail) == (2, 2)
    assert per_cpu.dp.counters().lost == 2


def test_offloaded_tag_is_put_back(per_cpu: Bench) -> None:
    per_cpu.record(tag=b"\x81\x00\x00\x05")
    packet = per_cpu.sent[0][1][u.OVS_PACKET_ATTR_PACKET]
    assert packet == FRAME[:12] + b"\x81\x00\x00\x05" + FRAME[12:]


def test_large_packet_goes_up_in_segments(per_cpu: Bench) -> None:
    large = bytes(Ether() / IP() / TCP(flags="PA") / Raw(b"y" * 2500))
    per_cpu.record(packet=large, gso_size=1000)
    sizes = [len(attrs[u.OVS_PACKET_ATTR_PACKET])
             for _, attrs in per_cpu.sent]
    assert sizes == [1054, 1054, 554]


def test_fragments_have_keys_of_fragments(per_cpu: Bench) -> None:
    """The first one has its ports, the others have none."""
    large = bytes(Ether() / IP() / UDP(sport=1, dport=2) / Raw(b"y" * 2500))
    per_cpu.record(packet=large, gso_size=1000, gso_type=SKB_GSO_UDP)
    keys = [{kind: attrs[u.OVS_PACKET_ATTR_KEY][start:stop]
             for kind, start, stop in iter_attrs(
                 attrs[u.OVS_PACKET_ATTR_KEY])}
            for _, attrs in per_cpu.sent]
    assert [key[u.OVS_KEY_ATTR_IPV4][-1] for key in keys] == [1, 2, 2]
    assert [u.OVS_KEY_ATTR_UDP in key for key in keys] == [True, False,
                                                           False]
    assert [int.from_bytes(attrs[u.OVS_PACKET_ATTR_PACKET][20:22], "big")
            for _, attrs in per_cpu.sent] == [0x2000, 0x2000 | 125, 250]


def test_sctp_goes_up_in_its_packets(per_cpu: Bench) -> None:
    large = bytes(Ether() / IP() / SCTP() / Raw(b"y" * 300))
    parts = abi.UPCALL_PARTS.struct.pack(
        struct.pack("=3H", 100, 160, 40))
    per_cpu.record(packet=large, gso_size=0xffff, parts=parts,
                   gso_type=abi.OVS_SKB_GSO_SCTP)
    assert [len(attrs[u.OVS_PACKET_ATTR_PACKET])
            for _, attrs in per_cpu.sent] == [146, 206, 86]


def test_truncated_packet_tells_its_length(per_cpu: Bench) -> None:
    def cut(**fields: Any) -> tuple[bytes, int]:
        number = per_cpu.dp.descs.add(UserspaceDesc(77))
        per_cpu.record(ACTION, desc=number, **fields)
        _, attrs = per_cpu.sent.pop()
        length, = struct.unpack("=I", attrs[u.OVS_PACKET_ATTR_LEN])
        return attrs[u.OVS_PACKET_ATTR_PACKET], length

    size = len(FRAME)
    assert cut(pkt_len=1500, cutlen=1500 - size) == (FRAME, 1500)
    # One that had to come up whole is cut here.
    assert cut(cutlen=size - 20) == (FRAME[:20], size)
    tag = b"\x81\x00\x00\x05"
    assert cut(cutlen=size - 20, tag=tag) == (
        FRAME[:12] + tag + FRAME[12:20], size + 4)
    large = bytes(Ether() / IP() / TCP(flags="PA") / Raw(b"y" * 2500))
    packet, length = cut(packet=large, gso_size=2000, cutlen=2354)
    assert (len(packet), length) == (200, 554)
    assert len(per_cpu.sent.pop()[1][u.OVS_PACKET_ATTR_PACKET]) == 200


@given(st.binary(min_size=0, max_size=60))
def test_records_that_make_no_sense_are_counted(noise: bytes) -> None:
    """What claims to be GSO and is not: lost, and nothing else happens."""
    bench = Bench(u.OVS_DP_F_DISPATCH_UPCALL_PER_CPU)
    bench.dp.per_cpu_pids = (51,)
    bench.record(packet=b"\2" * 12 + b"\x88\xcc" + noise, gso_size=100)
    assert not bench.sent
    assert (bench.upcalls.malformed, bench.dp.lost) == (1, 1)
