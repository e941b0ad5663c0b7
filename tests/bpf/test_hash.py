# SPDX-License-Identifier: Apache-2.0
"""Which actions take the packet's hash away: those on what it is made of,
as in execute_masked_set_action() of Linux net/openvswitch/actions.c."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Datapath
from lists import (
    POP_VLAN,
    compiled,
    dec_ttl,
    pop_mpls,
    push_mpls,
    push_vlan,
    set_masked,
    userspace,
)
from objects import compile_object
from oracle_key import Meta, extract
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP

from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.libbpf import BpfObject
from dpif_bpf.wire import uapi

HASH = 0x12345678
ETH = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
V4 = ETH / IP(src="192.0.2.1", dst="192.0.2.2", ttl=9)
V6 = ETH / IPv6(src="2001:db8::1", dst="2001:db8::2", hlim=9)
LSE = struct.pack("!I", 5 << 12 | 1 << 8 | 64)


@pytest.fixture(scope="module")
def first(datapath: Datapath, tmp_path_factory: pytest.TempPathFactory,
          ) -> Iterator[int]:
    """A program that sets the hash before the entry."""
    path = compile_object(Path(__file__).parent / "hash.bpf.c",
                          tmp_path_factory.mktemp("hash"))
    with BpfObject(path) as obj:
        obj.load()
        bpfsys.map_update(obj.map_fd("t_next"), bytes(4), struct.pack(
            "=I", datapath.obj.prog_fd("ovs_entry")))
        yield obj.prog_fd("t_hash")


def ipv4(src: str = "0.0.0.0", tos: int = 0, ttl: int = 0) -> bytes:
    value = bytes(map(int, src.split("."))) + bytes(5) + bytes((tos, ttl, 0))
    mask = (b"\xff" * 4 if any(value[:4]) else bytes(4)) + bytes(5) + bytes(
        (0xff if tos else 0, 0xff if ttl else 0, 0))
    return set_masked(uapi.OVS_KEY_ATTR_IPV4, value, mask)


def ipv6(last: int = 0, tclass: int = 0, hlimit: int = 0,
         label: int = 0) -> bytes:
    value = (bytes(31) + bytes((last,)) + struct.pack("!I", label)
             + bytes((0, tclass, hlimit, 0)))
    mask = (bytes(16) + b"\xff" * 16 if last else bytes(32)) + struct.pack(
        "!I", 0xfffff if label else 0) + bytes(
        (0, 0xff if tclass else 0, 0xff if hlimit else 0, 0))
    return set_masked(uapi.OVS_KEY_ATTR_IPV6, value, mask)


def ports(kind: int) -> bytes:
    return set_masked(kind, b"\0\1\0\2", b"\xff" * 4)


MACS = set_masked(uapi.OVS_KEY_ATTR_ETHERNET, bytes(range(12)), b"\xff" * 12)
KEPT = {
    "eth": (V4 / TCP(), MACS),
    "ttl": (V4 / TCP(), ipv4(ttl=3)),
    "tos": (V4 / UDP(), ipv4(tos=3)),
    "same address": (V4 / UDP(), ipv4("192.0.2.1")),
    "dec_ttl": (V4 / TCP(), dec_ttl()),
    "hlimit": (V6 / TCP(), ipv6(hlimit=3)),
    "tclass, label": (V6 / UDP(), ipv6(tclass=4, label=5)),
    "dec_ttl of IPv6": (V6 / UDP(), dec_ttl()),
    "vlan": (V4 / UDP(), push_vlan(0x8100, 5) + push_vlan(0x8100, 6)
             + POP_VLAN),
    "mpls": (V4 / UDP(), push_mpls(LSE, 0x8847) + pop_mpls(0x0800)),
}
LOST = {
    "address": (V4 / TCP(), ipv4("192.0.2.9")),
    "address and ttl": (V4 / UDP(), ipv4("192.0.2.9", ttl=9)),
    "address of IPv6": (V6 / TCP(), ipv6(7)),
    "tcp": (V4 / TCP(), ports(uapi.OVS_KEY_ATTR_TCP)),
    "udp": (V6 / UDP(), ports(uapi.OVS_KEY_ATTR_UDP)),
    "sctp": (V4 / SCTP(), ports(uapi.OVS_KEY_ATTR_SCTP)),
}


@pytest.mark.parametrize("what", [*KEPT, *LOST])
def test_hash(dp: Datapath, first: int, what: str) -> None:
    """The one that an upcall carries, behind the action."""
    packet, actions = (KEPT | LOST)[what]
    frame = bytes(packet / bytes(40))
    parsed = extract(frame, Meta(in_port=1))
    assert parsed is not None
    dp.add_flow(compiled(actions + userspace(1), frame, parsed))
    ctx = bytearray(192)
    struct.pack_into("=I", ctx, 40, dp.ports[1].ifindex)
    bpfprog.test_run(first, frame, bytes(ctx))
    upcall, = dp.poll(1)
    assert (upcall.fields["hash"] == HASH) == (what in KEPT)
