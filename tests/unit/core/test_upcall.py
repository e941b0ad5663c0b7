# SPDX-License-Identifier: Apache-2.0
"""core.upcall: where records of the ring go, and what they become."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_key import Meta, extract
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from dpif_bpf import abi
from dpif_bpf.core.actions.insn import PsampleDesc, UserspaceDesc
from dpif_bpf.core.devices import Tunnel
from dpif_bpf.core.upcall import SEGMENTS, Upcalls
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.gso import SKB_GSO_TCPV4, SKB_GSO_UDP, SKB_GSO_UDP_L4
from dpif_bpf.wire.netlink import iter_attrs, nla_string, nla_u32
from tests.fake_plane import FakePlane, FakeProvider, Peer

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
        self.port = self.dp.ports.make("p1", u.OVS_VPORT_TYPE_NETDEV, 1,
                                      (31, 32, 33))
        self.sent: list[tuple[int, dict[int, bytes]]] = []
        self.taken: bool | None = True
        self.upcalls = Upcalls(self.dp, self.send)

    def send(self, pid: int, message: bytes) -> bool | None:
        if not self.taken:
            return self.taken
        self.sent.append((pid, {
            kind: message[start:stop]
            for kind, start, stop in iter_attrs(message, 24)}))
        return True

    @property
    def plane(self) -> FakePlane:
        return self.peer.provider.planes[0]

    def record(self, cmd: int = MISS, *, port: int = 1, desc: int = 0,
               cpu: int = 0, hash_: int = 0, packet: bytes = FRAME,
               pkt_len: int | None = None, gso_size: int = 0,
               tag: bytes = bytes(4), cutlen: int = 0,
               gso_type: int = SKB_GSO_TCPV4, parts: bytes = b"",
               mru: int = 0, key: bytes | None = None, more: bytes = b"",
               csum: tuple[int, int, int] = (0, 0, 0)) -> list[int]:
        """Hands a record over; how many messages each turn made of it."""
        found = extract(packet, Meta(in_port=port,
                                     ufo=gso_type == SKB_GSO_UDP))
        assert found is not None
        made = [self.upcalls.handle(memoryview(abi.UPCALL.struct.pack(
            len(packet), len(packet) if pkt_len is None else pkt_len, cmd,
            *csum, gso_size, gso_type if gso_size else 0, desc, hash_,
            3 | abi.OVS_UPCALL_TUNNEL * bool(more),
            mru, cpu, 0, tag[2:], tag[:2], cutlen,
            key or found.key[:abi.OVS_KEY_BASE * 8]) + parts + more
            + packet))]
        while self.upcalls.busy:
            made.append(self.upcalls.go_on())
        return made


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
    per_cpu.taken = False
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


# Packets whose lengths somebody else chose

LARGEST = 0xffff - 4
"""Bytes that an attribute holds."""
TAG = b"\x81\x00\x00\x05"


def frame(size: int) -> bytes:
    return (b"\2" * 12 + b"\x88\xb5").ljust(size, b"x")


def counts(bench: Bench) -> tuple[int, int, int, int]:
    """Messages sent, lost, too big, malformed."""
    return (len(bench.sent), bench.dp.lost, bench.upcalls.too_big,
            bench.upcalls.malformed)


@pytest.mark.parametrize("size, tag, sent", [
    (LARGEST, bytes(4), True), (LARGEST + 1, bytes(4), False),
    (65549, bytes(4), False), (65664, bytes(4), False),
    (LARGEST - 4, TAG, True), (LARGEST - 3, TAG, False)])
def test_packet_that_no_attribute_holds(
        per_cpu: Bench, size: int, tag: bytes, sent: bool) -> None:
    """EFBIG to queue_userspace_packet(): lost, and the next one is sent."""
    per_cpu.record(packet=frame(size), tag=tag)
    assert counts(per_cpu) == ((1, 0, 0, 0) if sent else (0, 1, 1, 0))
    assert per_cpu.port.upcall_fail == (0 if sent else 1)
    per_cpu.sent.clear()
    per_cpu.record()
    assert len(per_cpu.sent) == 1


def test_truncated_packet_is_sent_though_it_was_too_big(
        per_cpu: Bench) -> None:
    number = per_cpu.dp.descs.add(UserspaceDesc(77))
    per_cpu.record(ACTION, desc=number, packet=frame(65600), tag=TAG,
                   cutlen=65500, csum=(abi.OVS_CSUM_PARTIAL, 14, 20))
    ((_, attrs),) = per_cpu.sent
    assert len(attrs[u.OVS_PACKET_ATTR_PACKET]) == 104
    assert attrs[u.OVS_PACKET_ATTR_LEN] == struct.pack("=I", 65604)


def test_large_packet_of_small_segments_goes_up(per_cpu: Bench) -> None:
    """Though it is itself longer than an attribute."""
    large = bytes(Ether() / IP(len=40) / TCP() / Raw(bytes(65600)))
    per_cpu.record(packet=large, gso_size=32800)
    assert counts(per_cpu) == (2, 0, 0, 0)


@pytest.mark.parametrize("kind, layer", [
    (SKB_GSO_TCPV4, TCP()), (SKB_GSO_UDP_L4, UDP())])
def test_segments_longer_than_ip_says(per_cpu: Bench, kind: int,
                                      layer: Packet) -> None:
    large = bytes(Ether() / IP(len=40) / layer / Raw(bytes(65500)))
    for size in (65520, 65535):
        per_cpu.record(packet=large + bytes(60), gso_size=size,
                       gso_type=kind)
    assert counts(per_cpu) == (0, 2, 0, 2)
    per_cpu.record(packet=large, gso_size=65470, gso_type=kind)
    assert (len(per_cpu.sent), per_cpu.upcalls.malformed) == (2, 2)


@pytest.mark.parametrize("network", [IP(len=40), IPv6(plen=40)])
def test_fragments_beyond_what_ip_puts_together(
        per_cpu: Bench, network: Packet) -> None:
    large = bytes(Ether() / network / UDP(len=8) / Raw(bytes(65560)))
    per_cpu.record(packet=large, gso_size=1000, gso_type=SKB_GSO_UDP)
    assert counts(per_cpu) == (0, 1, 0, 1)


def test_sctp_packet_longer_than_ip_says(per_cpu: Bench) -> None:
    large = bytes(Ether() / IP(len=40) / SCTP() / Raw(bytes(65535)))
    per_cpu.record(packet=large, gso_size=0xffff,
                   parts=abi.UPCALL_PARTS.struct.pack(
                       struct.pack("=H", 65535)),
                   gso_type=abi.OVS_SKB_GSO_SCTP)
    assert counts(per_cpu) == (0, 1, 0, 1)


def test_sctp_packet_of_no_packets(per_cpu: Bench) -> None:
    per_cpu.record(packet=bytes(Ether() / IP() / SCTP()), gso_size=0xffff,
                   parts=abi.UPCALL_PARTS.struct.pack(b""),
                   gso_type=abi.OVS_SKB_GSO_SCTP)
    assert counts(per_cpu) == (0, 1, 0, 1)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_many_small_segments(per_cpu: Bench, size: int) -> None:
    """The sender chose their size: there are so many upcalls, and no more."""
    large = bytes(Ether() / IP() / TCP() / Raw(bytes(65000)))
    per_cpu.record(packet=large, gso_size=size)
    assert counts(per_cpu) == (SEGMENTS, 1, 1, 0)


def test_segments_of_a_turn(per_cpu: Bench) -> None:
    """The sender chose their size, but not how long others wait: a turn has
    its budget of them, and goes on where the last one ended."""
    large = bytes(Ether() / IP() / TCP() / Raw(bytes(range(250))))
    per_cpu.record(packet=large, gso_size=4)
    whole = [attrs[u.OVS_PACKET_ATTR_PACKET] for _, attrs in per_cpu.sent]
    assert len(whole) == 63
    per_cpu.sent.clear()
    per_cpu.plane.done.clear()
    per_cpu.upcalls = Upcalls(per_cpu.dp, per_cpu.send, budget=16)
    assert per_cpu.record(packet=large, gso_size=4) == [16, 16, 16, 15]
    assert [attrs[u.OVS_PACKET_ATTR_PACKET]
            for _, attrs in per_cpu.sent] == whole
    assert per_cpu.plane.done == [(1, 1 + len(large) // 512)]
    assert per_cpu.upcalls.go_on() == 0
    assert per_cpu.record() == [1]


def test_segments_whose_peer_leaves_between_turns(per_cpu: Bench) -> None:
    per_cpu.upcalls = Upcalls(per_cpu.dp, lambda pid, message: (
        len(per_cpu.sent) < 20 and per_cpu.send(pid, message)), budget=16)
    large = bytes(Ether() / IP() / TCP() / Raw(bytes(250)))
    assert per_cpu.record(packet=large, gso_size=4) == [16, 4]
    assert per_cpu.dp.lost == 1 and len(per_cpu.plane.done) == 1


def test_segments_after_a_lost_one_are_not_made(per_cpu: Bench) -> None:
    """As by queue_gso_packets(): the packet is lost once."""
    per_cpu.taken = False
    large = bytes(Ether() / IP() / TCP() / Raw(bytes(2500)))
    per_cpu.record(packet=large, gso_size=1000)
    assert counts(per_cpu) == (0, 1, 0, 0)
    assert per_cpu.port.upcall_fail == 1


@pytest.mark.parametrize("start, offset", [
    (65535, 0), (65535, 65535), (0, 65535), (0, 8), (40, 16), (90, 8)])
def test_checksum_beyond_the_packet(per_cpu: Bench, start: int,
                                    offset: int) -> None:
    per_cpu.record(packet=frame(50), csum=(
        abi.OVS_CSUM_PARTIAL, start, offset))
    inside = (start, offset) == (0, 8)
    assert counts(per_cpu) == ((1, 0, 0, 0) if inside else (0, 1, 0, 1))


def test_frames_in_frames(per_cpu: Bench) -> None:
    """More of them than calls can be nested."""
    nsh = b"\x0f\x82\x02\x03" + bytes(4)
    packet = (bytes(12) + b"\x89\x4f" + nsh) * 2900
    per_cpu.record(packet=packet, gso_size=1000)
    assert counts(per_cpu) == (0, 1, 0, 1)
    inner = bytes(Ether() / IP() / TCP() / Raw(bytes(1500)))
    per_cpu.record(packet=packet[:22 * 8] + inner, gso_size=1000)
    assert len(per_cpu.sent) == 2


def test_records_that_are_none(per_cpu: Bench) -> None:
    """Cut anywhere, they are lost, and nothing is raised."""
    record = abi.UPCALL.struct.pack(
        100, 100, MISS, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, bytes(2), bytes(2),
        0, bytes(abi.OVS_KEY_BASE * 8)) + bytes(100)
    for size in (0, 1, abi.UPCALL.size - 1, abi.UPCALL.size, len(record) - 1):
        per_cpu.upcalls.handle(memoryview(record[:size]))
    assert counts(per_cpu) == (0, 5, 0, 5)


def test_sample_of_a_runt_without_ethernet(per_cpu: Bench) -> None:
    """No length becomes negative."""
    number = per_cpu.dp.descs.add(PsampleDesc(1, None, 0xffffffff))
    key = bytearray(abi.OVS_KEY_BASE * 8)
    key[abi.KEY["mac_proto"].offset] = abi.OVS_MAC_PROTO_NONE
    per_cpu.upcalls.handle(memoryview(abi.UPCALL.struct.pack(
        3, 3, ACTION, 0, 0, 0, 0, 0, number, 0, 0, 0, 0, 0, bytes(2),
        bytes(2), 9, bytes(key)) + bytes(3)))
    assert counts(per_cpu) == (0, 0, 0, 0)
    assert per_cpu.dp.samples.sent == 1


# What a peer does not take for now

def test_upcalls_wait_for_a_peer_port_by_port(per_cpu: Bench) -> None:
    per_cpu.taken = None
    for number in range(4):
        per_cpu.record(port=7, packet=frame(100 + number))
    per_cpu.record(port=8, packet=frame(200))
    per_cpu.record(port=8, packet=frame(600))
    per_cpu.upcalls.flush()
    assert not per_cpu.sent and not per_cpu.plane.done
    per_cpu.taken = True
    # Nobody overtakes those who wait.
    per_cpu.record(port=9, packet=frame(300))
    assert not per_cpu.sent
    per_cpu.upcalls.flush()
    sizes = [len(attrs[u.OVS_PACKET_ATTR_PACKET])
             for _, attrs in per_cpu.sent]
    assert sizes == [100, 200, 300, 101, 600, 102, 103]
    assert per_cpu.plane.done == [(7, 1), (8, 1), (9, 1), (7, 1), (8, 2),
                                  (7, 1), (7, 1)]
    assert per_cpu.upcalls.sent == 7 and per_cpu.dp.lost == 0
    per_cpu.record(packet=frame(100))
    assert len(per_cpu.sent) == 8


def test_one_peer_is_not_kept_by_another(per_cpu: Bench) -> None:
    full = {51}
    per_cpu.upcalls = Upcalls(
        per_cpu.dp, lambda pid, message: None if pid in full
        else per_cpu.send(pid, message))
    for cpu in (0, 1, 0, 1):
        per_cpu.record(cpu=cpu)
    assert [pid for pid, _ in per_cpu.sent] == [52, 52]
    full.clear()
    per_cpu.upcalls.flush()
    assert [pid for pid, _ in per_cpu.sent] == [52, 52, 51, 51]
    assert len(per_cpu.plane.done) == 4


def test_peer_that_leaves_with_upcalls_waiting(per_cpu: Bench) -> None:
    per_cpu.taken = None
    per_cpu.record()
    per_cpu.record()
    per_cpu.taken = False
    per_cpu.upcalls.flush()
    assert per_cpu.dp.lost == 2 and per_cpu.port.upcall_fail == 2
    assert per_cpu.plane.done == [(1, 1), (1, 1)]


def test_segments_that_wait_are_done_with_at_the_last(
        per_cpu: Bench) -> None:
    large = bytes(Ether() / IP() / TCP(flags="PA") / Raw(b"y" * 2500))
    per_cpu.taken = None
    per_cpu.record(packet=large, gso_size=1000)
    assert not per_cpu.plane.done
    per_cpu.taken = True
    per_cpu.upcalls.flush()
    assert len(per_cpu.sent) == 3
    assert per_cpu.plane.done == [(1, 1 + len(large) // 512)]


def test_what_is_no_message_is_done_with(per_cpu: Bench) -> None:
    """Whatever becomes of a record, the port's share comes back."""
    per_cpu.record(packet=frame(LARGEST + 1))
    per_cpu.record(ACTION, desc=1234)
    per_cpu.record(packet=frame(100), gso_size=100)
    per_cpu.dp.per_cpu_pids = ()
    per_cpu.record()
    assert not per_cpu.sent and per_cpu.dp.lost == 4
    assert [units for _, units in per_cpu.plane.done] == [
        1 + (LARGEST + 1) // 512, 1, 1, 1]


def test_refused_upcalls_are_failures_of_the_port(per_cpu: Bench) -> None:
    per_cpu.taken = False
    per_cpu.record()
    per_cpu.plane.refused[1] = 5
    assert per_cpu.dp.ports.reply(per_cpu.port).upcall_stats == (0, 6)


OPTIONS = bytes.fromhex("0102800200000001" "00000002")


def tunnel_key(**fields: bytes | int) -> bytes:
    """The key of FRAME, which came by a tunnel."""
    found = extract(FRAME, Meta(in_port=1))
    assert found is not None
    key = bytearray(found.key[:abi.OVS_KEY_BASE * 8])
    for name, value in ({"tun_proto": abi.OVS_AF_INET, "tun_ttl": 64,
                         "tun_ipv4_src": b"\xac\x1f\1\2",
                         "tun_ipv4_dst": b"\xac\x1f\1\1"} | fields).items():
        key[abi.KEY[name].slice] = (value if isinstance(value, bytes)
                                    else bytes((value,)))
    return bytes(key)


def more(options: bytes = b"", **to: bytes | int) -> bytes:
    """struct ovs_upcall_tunnel."""
    made = bytearray(abi.UPCALL_MORE.size)
    made[:len(options)] = options
    at = abi.UPCALL_MORE["to"].offset
    for name, value in to.items():
        place = abi.TUNNEL[name]
        made[at + place.offset:at + place.end] = (
            value if isinstance(value, bytes) else bytes((value,)))
    return bytes(made)


def nested(attrs: bytes) -> dict[int, bytes]:
    return {kind: attrs[start:stop]
            for kind, start, stop in iter_attrs(attrs)}


def test_the_options_of_a_tunnel_come_along(per_cpu: Bench) -> None:
    flags = (abi.OVS_TUNNEL_KEY | abi.OVS_TUNNEL_GENEVE_OPT).to_bytes(2,
                                                                      "big")
    per_cpu.record(key=tunnel_key(tun_opts_len=len(OPTIONS), tun_flags=flags,
                                  tun_id=bytes(7) + b"\7"),
                   more=more(OPTIONS), hash_=5)
    ((_, attrs),) = per_cpu.sent
    assert attrs[u.OVS_PACKET_ATTR_PACKET] == FRAME
    assert struct.unpack("=Q", attrs[u.OVS_PACKET_ATTR_HASH]) == (5 | 3 << 32,)
    tunnel = nested(nested(attrs[u.OVS_PACKET_ATTR_KEY])[
        u.OVS_KEY_ATTR_TUNNEL])
    assert tunnel == {
        u.OVS_TUNNEL_KEY_ATTR_ID: bytes(7) + b"\7",
        u.OVS_TUNNEL_KEY_ATTR_IPV4_SRC: b"\xac\x1f\1\2",
        u.OVS_TUNNEL_KEY_ATTR_IPV4_DST: b"\xac\x1f\1\1",
        u.OVS_TUNNEL_KEY_ATTR_TTL: b"\x40",
        u.OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS: OPTIONS}


def test_where_a_packet_goes_is_told_when_it_is_asked(per_cpu: Bench) -> None:
    """Of a port that is a tunnel's, and of a packet that has been told."""
    link = per_cpu.peer.provider.ports.add_device("vx0")
    per_cpu.peer.provider.ports.devices["vx0"].link = replace(
        link, tunnel=Tunnel(4789))
    per_cpu.peer.provider.ports.sources[b"\xfd" * 16] = b"\xfc" * 16
    per_cpu.dp.ports.make("vx0", u.OVS_VPORT_TYPE_NETDEV, 2, (0,))
    to = more(proto=abi.OVS_AF_INET6, ttl=9, ipv6_dst=b"\xfd" * 16,
              flags=abi.OVS_TUNNEL_CSUM.to_bytes(2, "big"))
    for port, wanted in ((2, {
            u.OVS_TUNNEL_KEY_ATTR_IPV6_SRC: b"\xfc" * 16,
            u.OVS_TUNNEL_KEY_ATTR_IPV6_DST: b"\xfd" * 16,
            u.OVS_TUNNEL_KEY_ATTR_TTL: b"\x09",
            u.OVS_TUNNEL_KEY_ATTR_CSUM: b"",
            u.OVS_TUNNEL_KEY_ATTR_TP_DST: b"\x12\xb5"}),
            (1, None), (7, None), (None, None)):
        number = per_cpu.dp.descs.add(UserspaceDesc(77, egress=port))
        per_cpu.record(ACTION, desc=number, more=to)
        _, attrs = per_cpu.sent.pop()
        egress = attrs.get(u.OVS_PACKET_ATTR_EGRESS_TUN_KEY)
        assert (None if egress is None else nested(egress)) == wanted
        per_cpu.record(ACTION, desc=number)
        _, attrs = per_cpu.sent.pop()
        assert u.OVS_PACKET_ATTR_EGRESS_TUN_KEY not in attrs
