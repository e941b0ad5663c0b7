# SPDX-License-Identifier: Apache-2.0
"""wire.extract against the oracle, over frames with bytes cut and changed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_key import extract
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw

from dpif_bpf.wire.extract import packet_facts

FRAMES: list[Packet] = [
    Ether() / IP() / TCP(),
    Ether() / IP(options=b"\1" * 8) / UDP() / Raw(bytes(20)),
    Ether() / IP(flags="MF") / UDP(),
    Ether() / IP(frag=3) / Raw(bytes(9)),
    Ether() / Dot1Q(vlan=5) / IP() / ICMP(),
    Ether() / Dot1AD(vlan=5) / Dot1Q(vlan=6) / IPv6() / TCP(),
    Ether() / IPv6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(m=1)
    / UDP(),
    Ether() / IPv6() / IPv6ExtHdrFragment(offset=4) / Raw(bytes(12)),
    Ether() / IPv6() / IPv6ExtHdrRouting() / AH() / IPv6ExtHdrDestOpt()
    / TCP(),
    Ether() / ARP(op=2),
    Ether(type=0x8035) / ARP(op=0x103),
    Dot3() / LLC(dsap=0x42, ssap=0x42) / Raw(bytes(8)),
    Dot3() / LLC(dsap=0xaa, ssap=0xaa) / SNAP(code=0x0800) / IP() / UDP(),
    Ether(type=0x8847) / Raw(bytes.fromhex("0000104000002040000031ff")),
    Ether(type=0x88cc) / Raw(bytes(40)),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda f: f.summary())
def test_whole_frames_say_something(frame: Packet) -> None:
    check(bytes(frame))
    assert packet_facts(bytes(frame)).eth_type


@settings(max_examples=400)
@given(st.sampled_from([bytes(frame) for frame in FRAMES]),
       st.lists(st.tuples(st.integers(12, 90), st.integers(0, 255)),
                max_size=4), st.integers(14, 200))
def test_mutated_frames(frame: bytes, changes: list[tuple[int, int]],
                        length: int) -> None:
    data = bytearray(frame)
    for at, value in changes:
        if at < len(data):
            data[at] = value
    check(bytes(data[:length]))


def check(packet: bytes) -> None:
    wanted = extract(packet)
    if wanted is None:
        return
    facts = packet_facts(packet)
    assert facts.eth_type == wanted.eth_type
    assert facts.ip_proto == wanted.byte("ip_proto")
    assert facts.ip_frag == wanted.byte("ip_frag")
    assert facts.vlan_tci == struct.unpack("!H", wanted.field("vlan_tci"))[0]
    assert facts.mpls_num_lse == struct.unpack(
        "=I", wanted.field("mpls_labels"))[0].bit_count()
