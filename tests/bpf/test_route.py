# SPDX-License-Identifier: Apache-2.0
"""Stage ROUTE does what stage ACT does, for packets that the cache of exact
matches knows."""

from __future__ import annotations

import random
import struct

import pytest
from devices import ETH_P_ALL, Vnet, packet_socket
from harness import TC_ACT_REDIRECT, TC_ACT_SHOT, Datapath
from lists import (
    compiled,
    dec_ttl,
    drop,
    output,
    push_vlan,
    set_masked,
    set_whole,
)
from oracle_key import extract
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from test_offload import BIG, PAYLOAD, TCPV4, TCPV6, gso, partial

from dpif_bpf import abi
from dpif_bpf.abi import DropReason, Stage
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.wire import uapi

SEEDS = 150
VNET_HDR = 10
"""Bytes of struct virtio_net_hdr."""
ETH = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
V4 = ETH / IP(src="192.0.2.1", dst="192.0.2.2", tos=0x11, ttl=64, id=7)
V6 = ETH / IPv6(src="2001:db8::1", dst="2001:db8::2", tc=0x12, fl=0x34567,
                hlim=64)
NEW = bytes(range(0x20, 0x2c))
SET_ETH = set_whole(uapi.OVS_KEY_ATTR_ETHERNET, NEW)
ROUTE = struct.pack("=I", Stage.ROUTE)


def set4(tos: int, tos_mask: int, ttl: int, ttl_mask: int,
         addresses: int = 0) -> bytes:
    """ToS and TTL; `addresses` is the mask of each of their bytes."""
    return set_masked(
        uapi.OVS_KEY_ATTR_IPV4,
        bytes((addresses,) * 8 + (0, tos & tos_mask, ttl & ttl_mask, 0)),
        bytes((addresses,) * 8 + (0, tos_mask, ttl_mask, 0)))


def set6(limit: int, limit_mask: int, tclass_mask: int = 0) -> bytes:
    return set_masked(
        uapi.OVS_KEY_ATTR_IPV6, bytes(37) + bytes((0, limit & limit_mask, 0)),
        bytes(37) + bytes((tclass_mask, limit_mask, 0)))


def add(dp: Datapath, actions: bytes, frame: bytes) -> int:
    parsed = extract(frame)
    assert parsed is not None
    return dp.add_flow(compiled(actions, frame, parsed))


def routes(dp: Datapath, frame: bytes) -> bool:
    """Whether stage ROUTE is where a packet goes that is known."""
    progs = dp.obj.map_fd("ovs_progs")
    before = dp.drops().get(DropReason.TAIL_CALL, 0)
    bpfsys.map_delete(progs, ROUTE)
    try:
        dp.run(frame)
    finally:
        bpfsys.map_update(progs, ROUTE, struct.pack(
            "=I", dp.obj.prog_fd("ovs_route")))
    return dp.drops().get(DropReason.TAIL_CALL, 0) > before


def both(dp: Datapath, frame: bytes, flow: int
         ) -> tuple[bpfprog.TestRun, bpfprog.TestRun]:
    """A packet that is not known, and then the same again."""
    runs, counted, drops = [], [], []
    for _ in range(2):
        stats, dropped = dp.flow_stats(flow), dp.drops()
        runs.append(dp.run(frame))
        after = dp.flow_stats(flow)
        counted.append((after[0] - stats[0], after[1] - stats[1], after[3]))
        drops.append({reason: count - dropped.get(reason, 0)
                      for reason, count in dp.drops().items()
                      if count != dropped.get(reason, 0)})
    assert counted[0] == counted[1] == (1, len(frame), counted[0][2])
    assert drops[0] == drops[1]
    return runs[0], runs[1]


def frame_of(rng: random.Random, ip6: bool) -> bytes:
    """With any checksum, right ones and others."""
    ttl, tos = rng.choice((0, 1, 2, 64, 255)), rng.getrandbits(8)
    packet = (ETH / IPv6(hlim=ttl, tc=tos, fl=rng.getrandbits(20)) if ip6 else
              ETH / IP(ttl=ttl, tos=tos, id=rng.getrandbits(16),
                       flags=rng.choice(("", "DF"))))
    packet /= rng.choice((TCP(flags=rng.choice(("S", "PA"))), UDP()))
    frame = bytearray(bytes(packet / rng.randbytes(rng.choice((0, 9, 80)))))
    if not ip6 and rng.random() < .5:
        frame[24:26] = rng.choice((bytes(2), b"\xff\xff", rng.randbytes(2)))
    return bytes(frame)


def steps(rng: random.Random, ip6: bool) -> bytes:
    """Actions as a router has them, one to three."""
    def mask() -> int:
        return rng.choice((0, 0xff, rng.getrandbits(8)))

    def one() -> bytes:
        draw = rng.random()
        if draw < .4:
            return set_masked(uapi.OVS_KEY_ATTR_ETHERNET, rng.randbytes(12),
                              rng.choice((b"\xff" * 12, rng.randbytes(12))))
        if draw < .6:
            return dec_ttl()
        if ip6:
            return set6(rng.getrandbits(8), mask())
        return set4(rng.getrandbits(8), mask(), rng.getrandbits(8), mask())

    return b"".join(one() for _ in range(rng.randint(1, 3)))


@pytest.mark.parametrize("ip6", [False, True], ids=["ipv4", "ipv6"])
def test_as_stage_act(dp: Datapath, one_cpu: None, ip6: bool) -> None:
    rng = random.Random(11 + ip6)
    routed = 0
    for _ in range(SEEDS):
        dp.clear()
        frame = frame_of(rng, ip6)
        flow = add(dp, steps(rng, ip6) + output(2), frame)
        first, second = both(dp, frame, flow)
        assert (first.retval, first.data) == (second.retval, second.data)
        if first.retval == TC_ACT_REDIRECT and first.data != frame:
            assert routes(dp, frame)
            routed += 1
    assert routed > SEEDS // 2


@pytest.mark.parametrize(("packet", "actions"), [
    (V4 / UDP() / PAYLOAD, SET_ETH + set4(0, 0, 1, 0xff, 0xff) + output(2)),
    (V4 / UDP() / PAYLOAD, push_vlan(0x8100, 3) + output(2)),
    (V4 / UDP() / PAYLOAD, SET_ETH + output(3) + output(2)),
    (V4 / UDP() / PAYLOAD, SET_ETH + drop(0)),
    (V4 / UDP() / PAYLOAD, SET_ETH * 4 + output(2)),
    (V6 / UDP() / PAYLOAD, set6(9, 0xff, 0xff) + output(2)),
    (V6 / UDP() / PAYLOAD, set_whole(
        uapi.OVS_KEY_ATTR_UDP, b"\0\7\0\7") + output(2)),
], ids=["address", "tag", "outputs", "drop", "many", "class", "port"])
def test_other_lists_are_for_stage_act(dp: Datapath, one_cpu: None,
                                       packet: Packet, actions: bytes
                                       ) -> None:
    frame = bytes(packet)
    flow = add(dp, actions, frame)
    first, second = both(dp, frame, flow)
    assert (first.retval, first.data) == (second.retval, second.data)
    assert not routes(dp, frame)


@pytest.mark.parametrize("packet", [V4, V6], ids=["ipv4", "ipv6"])
def test_a_ttl_that_ends(dp: Datapath, one_cpu: None,
                         packet: Packet) -> None:
    frame = bytearray(bytes(packet / UDP() / PAYLOAD))
    frame[21 if IPv6 in packet else 22] = 1
    flow = add(dp, SET_ETH + dec_ttl() + output(2), bytes(frame))
    for run in both(dp, bytes(frame), flow):
        assert run.retval == TC_ACT_SHOT
    assert dp.drops()[DropReason.TTL] >= 2


def test_what_the_port_does_not_take(dp: Datapath, one_cpu: None) -> None:
    """Stage RX sees to it, and finds the flow once more."""
    frame = bytes(V4 / UDP() / bytes(400))
    flow = add(dp, SET_ETH + output(3), frame)
    both(dp, frame, flow)
    for mtu, flags, reason in (
            (0, abi.OVS_PORT_F_L3, DropReason.LAYER3),
            (len(frame) - 15, abi.OVS_PORT_F_VETH, DropReason.MTU)):
        dp.set_port(3, dp.ports[3].ifindex, mtu, flags)
        before = dp.drops().get(reason, 0)
        assert all(run.retval == TC_ACT_SHOT for run in both(dp, frame, flow))
        assert dp.drops()[reason] == before + 2
    dp.set_port(3, dp.ports[3].ifindex)


@pytest.mark.parametrize("packet", [V4 / TCP(), V4 / UDP(), V6 / TCP()],
                         ids=["tcp4", "udp4", "tcp6"])
def test_an_unfinished_checksum(dp: Datapath, one_cpu: None,
                                packet: Packet) -> None:
    frame, csum = partial(packet / PAYLOAD)
    add(dp, SET_ETH + dec_ttl() + output(2), frame)
    for _ in range(2):
        dp.ports[1].send(frame, Vnet(csum))
    first, second = dp.outputs(2)
    assert first == second
    assert first[1][:12] == NEW[6:] + NEW[:6]
    assert first[2].csum == csum
    assert routes(dp, frame)


@pytest.mark.parametrize(("packet", "kind"), [
    (V4 / TCP(flags="A") / BIG, TCPV4), (V6 / TCP(flags="A") / BIG, TCPV6),
], ids=["tcp4", "tcp6"])
def test_gso(dp: Datapath, one_cpu: None, packet: Packet, kind: int) -> None:
    frame, vnet = gso(packet, kind, 1200)
    add(dp, SET_ETH + dec_ttl() + output(2), frame)
    for _ in range(2):
        dp.ports[1].send(frame, vnet)
    first, second = dp.outputs(2)
    assert first == second
    assert first[2].gso[0] == kind


def test_a_tag_beside_the_frame_stays(dp: Datapath, one_cpu: None) -> None:
    frame = bytes(V4 / UDP() / PAYLOAD)
    tagged = frame[:12] + b"\x81\0\0\5" + frame[12:]
    add(dp, SET_ETH + dec_ttl() + output(2), tagged)
    for _ in range(2):
        dp.ports[1].send(tagged)
    first, second = dp.outputs(2)
    assert first[1] == second[1]
    assert first[1][12:16] == tagged[12:16]


def test_whoever_listens_sees_the_packet_as_it_came(
        dp: Datapath, one_cpu: None) -> None:
    """It is cloned for him before anybody writes into it."""
    frame = bytes(V4 / UDP() / PAYLOAD)
    add(dp, SET_ETH + dec_ttl() + output(2), frame)
    with packet_socket() as sock:
        sock.bind((dp.ports[1].near, ETH_P_ALL))
        sock.settimeout(5)
        for _ in range(3):
            dp.ports[1].send(frame)
        sent = dp.outputs(3)
        seen = [sock.recv(2000)[VNET_HDR:] for _ in range(3)]
    assert {data for _, data, _ in sent} == {sent[0][1]} != {frame}
    assert seen == [frame] * 3
