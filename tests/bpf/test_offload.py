# SPDX-License-Identifier: Apache-2.0
"""Packets whose checksum or size is left to the device, and paged ones."""

from __future__ import annotations

import os
import random

import packets
import pytest
import verifier
from devices import Vnet
from frames import SET_DST6, SET_SRC4, SET_SRC6, ether, ports
from harness import Datapath, insn, key_words
from lists import compiled, output, push_vlan, set_whole, userspace
from oracle_key import Meta, extract
from packets import difference, finished, unfinished
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q
from scapy.packet import Packet

from dpif_bpf import abi
from dpif_bpf.abi import DropReason, Op
from dpif_bpf.wire import uapi

TCPV4, UFO, TCPV6, UDP_L4 = 1, 3, 4, 5
SKB_GSO_TCPV4, SKB_GSO_TCPV6, SKB_GSO_UDP = 1, 1 << 4, 1 << 16
USO = pytest.mark.skipif(
    tuple(map(int, verifier.series().split("."))) < (6, 2),
    reason="packet sockets and taps know USO from Linux 6.2 on")
PORTS_TCP = set_whole(uapi.OVS_KEY_ATTR_TCP, ports(5, 6))
PORTS_UDP = set_whole(uapi.OVS_KEY_ATTR_UDP, ports(5, 6))


def partial(packet: Packet) -> tuple[bytes, tuple[int, int]]:
    """A packet whose checksum is not finished."""
    return unfinished(bytes(packet))


def l4_is_right(data: bytes) -> bool:
    """scapy computes the same checksums."""
    whole = ether(_pkt=data)
    again = whole.copy()
    for layer in (IP, TCP, UDP):
        if layer in again:
            del again[layer].chksum
    return bytes(again) == data


def add(dp: Datapath, actions: bytes, frame: bytes) -> None:
    parsed = extract(frame)
    assert parsed is not None
    dp.add_flow(compiled(actions, frame, parsed))


PAYLOAD = bytes(range(100))
V4 = ether() / IP(src="192.0.2.1", dst="192.0.2.2")
V6 = ether() / IPv6(src="2001:db8::1", dst="2001:db8::2")


@pytest.mark.parametrize(("packet", "actions"), [
    (V4 / TCP() / PAYLOAD, SET_SRC4 + PORTS_TCP),
    (V4 / UDP() / PAYLOAD, SET_SRC4 + PORTS_UDP),
    (V6 / TCP() / PAYLOAD, SET_SRC6 + SET_DST6 + PORTS_TCP),
    (V6 / UDP() / PAYLOAD, SET_DST6 + PORTS_UDP),
], ids=["tcp4", "udp4", "tcp6", "udp6"])
@pytest.mark.parametrize("tagged", [False, True])
def test_unfinished_checksum(dp: Datapath, packet: Packet, actions: bytes,
                             tagged: bool) -> None:
    frame, csum = partial(packet)
    tag = push_vlan(0x8100, 7) if tagged else b""
    add(dp, actions + tag + output(2), frame)
    dp.ports[1].send(frame, Vnet(csum))
    (_, data, vnet), = dp.outputs(1)
    # The kernel's numbers count from behind the tag that is beside the
    # frame; harness put it back.
    assert vnet.csum == csum
    if tagged:
        assert data[12:16] == b"\x81\0\0\7"
        data = data[:12] + data[16:]
    assert data != frame
    assert data[csum[0]:csum[0] + 4] == ports(5, 6)
    assert l4_is_right(finished(data, csum))


def test_upcall_of_an_unfinished_checksum(dp: Datapath) -> None:
    frame, csum = partial(V4 / TCP() / PAYLOAD)
    add(dp, push_vlan(0x8100, 7) + userspace(9), frame)
    dp.ports[1].send(frame, Vnet(csum))
    dp.ports[1].send(bytes(V4 / TCP() / PAYLOAD))
    upcall, plain = dp.poll(2)
    assert upcall.fields["ip_summed"] == abi.OVS_CSUM_PARTIAL
    assert (upcall.fields["csum_start"], upcall.fields["csum_offset"]) == csum
    assert upcall.fields["vlan_tpid"] == b"\x81\0"
    assert upcall.fields["vlan_tci"] == b"\0\7"
    assert upcall.packet == frame[:12] + b"\x81\0\0\7" + frame[12:]
    assert plain.fields["ip_summed"] != abi.OVS_CSUM_PARTIAL
    assert plain.fields["csum_start"] == plain.fields["csum_offset"] == 0
    assert plain.fields["gso_size"] == plain.fields["gso_type"] == 0


def gso(packet: Packet, kind: int, size: int) -> tuple[bytes, Vnet]:
    frame, csum = partial(packet)
    hdr_len = csum[0] + (20 if kind in {TCPV4, TCPV6} else 8)
    return frame, Vnet(csum, (kind, hdr_len, size))


BIG = bytes(i * 7 & 0xff for i in range(60000))


@pytest.mark.parametrize(("packet", "kind", "actions"), [
    (V4 / TCP(flags="A") / BIG, TCPV4, SET_SRC4 + PORTS_TCP),
    (V6 / TCP(flags="A") / BIG, TCPV6, SET_SRC6 + PORTS_TCP),
    pytest.param(V4 / UDP() / BIG, UDP_L4, SET_SRC4 + PORTS_UDP, marks=USO),
], ids=["tcp4", "tcp6", "udp4"])
def test_gso_passes_whole(dp: Datapath, packet: Packet, kind: int,
                          actions: bytes) -> None:
    """Through a port with a small MTU, too: the device cuts it."""
    frame, vnet = gso(packet, kind, 1200)
    dp.set_port(2, dp.ports[2].ifindex, mtu=1500)
    add(dp, actions + output(3) + output(2), frame)
    dp.ports[1].send(frame, vnet)
    sent = dp.outputs(2)
    dp.set_port(2, dp.ports[2].ifindex)
    assert [port for port, _, _ in sent] == [2, 3]
    for _, data, offload in sent:
        assert len(data) == len(frame)
        assert offload.gso[0] == kind
        assert offload.gso[2] == 1200
        assert offload.csum == vnet.csum
        assert l4_is_right(finished(data, vnet.csum or (0, 0)))


@pytest.mark.parametrize(("packet", "kind", "gso_type"), [
    (V4 / TCP(flags="A") / BIG, TCPV4, SKB_GSO_TCPV4),
    (V6 / TCP(flags="A") / BIG, TCPV6, SKB_GSO_TCPV6),
], ids=["tcp4", "tcp6"])
def test_upcall_of_gso(dp: Datapath, packet: Packet, kind: int,
                       gso_type: int) -> None:
    frame, vnet = gso(packet, kind, 1400)
    dp.ports[1].send(frame, vnet)
    upcall, = dp.poll(1)
    assert upcall.packet == frame
    assert upcall.fields["gso_size"] == 1400
    assert int(upcall.fields["gso_type"]) & gso_type
    assert (upcall.fields["csum_start"],
            upcall.fields["csum_offset"]) == vnet.csum
    assert upcall.fields["pkt_len"] == upcall.fields["len"] == len(frame)


@pytest.mark.parametrize(("kind", "frag"), [
    (UFO, 1), pytest.param(UDP_L4, 0, marks=USO)])
def test_what_ufo_cuts_is_a_first_fragment(dp: Datapath, kind: int,
                                           frag: int) -> None:
    """From a tap, because a veth does not take UFO."""
    frame, vnet = gso(V4 / UDP() / BIG[:5000], kind, 1400)
    with dp.tap(9) as tap:
        os.write(tap, vnet.pack() + frame)
        upcall, = dp.poll(1)
    assert upcall.packet == frame
    assert upcall.fields["gso_size"] == 1400
    assert upcall.key[abi.KEY["ip_frag"].offset] == frag
    assert bool(int(upcall.fields["gso_type"]) & SKB_GSO_UDP) == bool(frag)


def test_mtu(dp: Datapath) -> None:
    """One tag is not counted, as by the kernel's ovs_vport_send()."""
    dp.set_port(2, dp.ports[2].ifindex, mtu=1000)
    dp.add_flow(insn(Op.OUTPUT_LAST, 2))
    fits = bytes(ether() / Dot1Q() / IP() / UDP() / bytes(1000 - 28))
    before = dp.drops().get(DropReason.MTU, 0)
    dp.ports[1].send(fits)
    dp.ports[1].send(fits[:12] + fits[16:])
    assert len(dp.outputs(2)) == 2
    dp.ports[1].send(fits + b"x")
    dp.ports[1].send(fits[:12] + fits[16:] + b"x")
    assert dp.outputs(0, .05) == []
    assert dp.drops()[DropReason.MTU] == before + 2
    # in the frame, where no device puts it
    assert dp.run(fits).retval == 7
    assert dp.run(fits + b"x").retval == 2
    dp.set_port(2, dp.ports[2].ifindex)


@pytest.mark.parametrize("seed", range(2))
def test_paged_packets(dp: Datapath, seed: int) -> None:
    """Only the Ethernet header is in the linear part."""
    rng = random.Random(seed)
    for number in range(300):
        frame = packets.packet(rng)
        frame += bytes(4200 - len(frame))
        wanted = extract(frame, Meta(in_port=1))
        assert wanted is not None
        dp.ports[1].send(frame, Vnet(None, (0, 14, 0)))
        upcall, = dp.poll(1)
        where = f"seed {seed}, packet {number}: {frame[:100].hex()}: "
        assert upcall.packet == frame, where
        assert upcall.key == wanted.key[:len(upcall.key)], (
            where + difference(key_words(upcall.key),
                               key_words(wanted.key)))


@pytest.mark.parametrize("length", [
    14, 127, 128, 129, 256, 257, 512, 513, 1600, 1601, 9000])
def test_upcalls_of_all_sizes(dp: Datapath, length: int) -> None:
    frame = random.Random(length).randbytes(12) + b"\x90\0" + BIG
    dp.ports[1].send(frame[:length])
    upcall, = dp.poll(1)
    assert upcall.packet == frame[:length]


def test_the_largest_upcall(dp: Datapath) -> None:
    packet = V4 / TCP(flags="A") / BIG[:5000]
    frame, vnet = gso(packet, TCPV4, 1400)
    for size in (9216, 9217, 65535):
        whole = (frame + BIG + BIG)[:size]
        dp.ports[1].send(whole, vnet)
        upcall, = dp.poll(1)
        assert upcall.packet == whole
