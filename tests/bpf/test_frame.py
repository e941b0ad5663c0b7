# SPDX-License-Identifier: Apache-2.0
"""The entry's straight flow extract gives the keys of the whole one."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import packets
import pytest
from gen_frames import frames, large_frames
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from objects import compile_object
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1Q, Ether

from dpif_bpf.edge import bpfprog
from dpif_bpf.edge.libbpf import BpfObject
from dpif_bpf.errors import BackendError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
EXAMPLES = int(os.environ.get("AGREEMENT_EXAMPLES", "400"))
SEED = int(os.environ.get("AGREEMENT_SEED", "1"))
OTHER, SAME = 0, 1
GSO_SIZE = 176
"""Where it is in struct __sk_buff."""


@pytest.fixture(scope="module")
def prog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path = compile_object(Path(__file__).parent / "frame.bpf.c",
                          tmp_path_factory.mktemp("frame"))
    with BpfObject(path) as obj:
        obj.load()
        yield obj.prog_fd("t_frame")


def run(prog: int, frame: bytes, mark: int = 0, priority: int = 0,
        gso_size: int = 0) -> int:
    ctx = bytearray(192)
    struct.pack_into("=I", ctx, 8, mark)
    struct.pack_into("=I", ctx, 32, priority)
    struct.pack_into("=I", ctx, GSO_SIZE, gso_size)
    return bpfprog.test_run(prog, frame, bytes(ctx)).retval


ETH = Ether(dst="02:00:00:00:00:0a", src="02:00:00:00:00:0b")
PAD = bytes(30)
KNOWN = {
    "udp": ETH / IP(tos=0xb9, ttl=3) / UDP(sport=0x1234, dport=0xfedc) / PAD,
    "tcp": ETH / IP(flags="DF") / TCP(flags=0xfff, dport=1) / PAD,
    "tcp with options": ETH / IP() / TCP(
        options=[("Timestamp", (1, 2)), ("NOP", None), ("NOP", None)]),
    "udp6": ETH / IPv6(tc=0xab, fl=0xfedcb, hlim=9) / UDP() / PAD,
    "tcp6": ETH / IPv6() / TCP(flags="SA") / PAD,
}
UNKNOWN = {
    "options": ETH / IP(options=b"\1\1\1\1") / UDP() / PAD,
    "first fragment": ETH / IP(flags="MF") / UDP() / PAD,
    "later fragment": ETH / IP(frag=3) / UDP() / PAD,
    "icmp": ETH / IP() / ICMP() / PAD,
    "arp": ETH / ARP() / PAD,
    "extension": ETH / IPv6() / IPv6ExtHdrHopByHop() / UDP() / PAD,
    "tag in the frame": ETH / Dot1Q(vlan=3) / IP() / UDP() / PAD,
    "data offset": ETH / IP() / TCP(dataofs=4) / PAD,
    "options cut off": ETH / IP() / TCP(dataofs=15) / PAD,
}


@pytest.mark.parametrize("what", KNOWN)
@pytest.mark.parametrize("tag", [0, 1])
def test_common_frames_are_known(prog: int, what: str, tag: int) -> None:
    frame = bytes(KNOWN[what])
    assert run(prog, frame, 0xfffffffe | tag, 0xfedcba98) == SAME


@pytest.mark.parametrize("what", UNKNOWN)
def test_others_are_left_alone(prog: int, what: str) -> None:
    assert run(prog, bytes(UNKNOWN[what])) == OTHER


def test_large_packets(prog: int) -> None:
    """TCP's segments have its header, UDP's may be fragments."""
    for what, wanted in (("tcp", SAME), ("tcp6", SAME), ("udp", OTHER),
                         ("udp6", OTHER)):
        frame = bytes(KNOWN[what]) + bytes(3000)
        assert run(prog, frame, gso_size=1400) == wanted


def test_random_frames(prog: int) -> None:
    """Whatever is known of a frame, the whole extract finds, too."""
    same = 0

    @seed(SEED)
    @settings(max_examples=EXAMPLES * 5, deadline=None, database=None,
              suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink))
    @given(st.one_of(frames(), large_frames()), st.booleans())
    def check(frame: bytes, tag: bool) -> None:
        nonlocal same
        try:
            got = run(prog, frame, int(tag), 7)
        except BackendError:
            assert len(frame) < 14 + 40     # it ends in an IP header
            return
        assert got in {OTHER, SAME}, frame.hex()
        same += got == SAME

    check()
    assert same > EXAMPLES / 2


def test_broken_frames(prog: int) -> None:
    rng = random.Random(SEED)
    same = 0
    for _ in range(EXAMPLES * 5):
        frame = packets.broken(rng, packets.packet(rng))
        try:
            got = run(prog, frame, rng.getrandbits(32), rng.getrandbits(32))
        except BackendError:
            assert len(frame) < 14 + 40
            continue
        assert got in {OTHER, SAME}, frame.hex()
        same += got == SAME
    assert same > EXAMPLES / 8
