# SPDX-License-Identifier: Apache-2.0
"""SCTP GSO packets, whose upcalls are of what they are to be cut into."""

from __future__ import annotations

import errno

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet

from dpif_bpf import abi
from dpif_bpf.abi import OVS_CSUM_NONE, OVS_CSUM_PARTIAL, OVS_SKB_GSO_SCTP
from dpif_bpf.errors import RequestError
from dpif_bpf.wire.packet import upcall_packets

E = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
PORTS = SCTP(sport=1, dport=2, tag=3)
CHUNKS = [bytes(SCTPChunkData(tsn=n, data=bytes(range(size))))
          for n, size in enumerate((200, 200, 33, 1))]
BUNDLES = (CHUNKS[0], CHUNKS[1] + CHUNKS[2], CHUNKS[3])
GSO_BY_FRAGS = 0xffff


def whole(network: Packet) -> bytes:
    """As a sender leaves it to the device: no checksum yet."""
    data = bytearray(bytes(network / PORTS / b"".join(BUNDLES)))
    at = len(bytes(network / PORTS)) - 4
    data[at:at + 4] = bytes(4)
    return bytes(data)


def cut(data: bytes, parts: tuple[int, ...],
        summed: int = OVS_CSUM_PARTIAL) -> list[bytes]:
    return list(upcall_packets(
        memoryview(data), summed, 34, 8, GSO_BY_FRAGS, OVS_SKB_GSO_SCTP,
        b"\0\0", b"\0\0", parts=parts))


@pytest.mark.parametrize(("before", "network"), [
    (E, IP(id=0xffff)), (E / Dot1Q(vlan=5), IP(id=1)), (E, IPv6())],
    ids=["ipv4", "tag", "ipv6"])
def test_segments(before: Packet, network: Packet) -> None:
    found = cut(whole(before / network), tuple(map(len, BUNDLES)))
    for number, bundle in enumerate(BUNDLES):
        one = network.copy()
        if IP in one:
            one.id = (one.id + number) % 0x10000
        assert found[number] == bytes(before / one / PORTS / bundle)
    assert len(found) == len(BUNDLES)


def test_a_checksum_that_is_there_stays() -> None:
    found = cut(whole(E / IP()), tuple(map(len, BUNDLES)), OVS_CSUM_NONE)
    assert all(packet[42:46] == bytes(4) for packet in found)


@pytest.mark.parametrize(("data", "parts"), [
    (whole(E / IP()), (1, 2)), (whole(E / IP()), ()),
    (bytes(E / IP() / UDP() / bytes(40)), (36,)), (whole(E / IP())[:40], ())],
    ids=["too short", "none", "UDP", "cut"])
def test_not_so(data: bytes, parts: tuple[int, ...]) -> None:
    with pytest.raises(RequestError) as error:
        cut(data, parts)
    assert error.value.errno == errno.EINVAL


def test_room_for_the_smallest() -> None:
    """A packet of SCTP has 512 bytes at least, unless it is the last."""
    headers = 20 + 12
    assert -(-65535 // (512 - headers)) <= abi.OVS_UPCALL_PARTS
