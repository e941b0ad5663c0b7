# SPDX-License-Identifier: Apache-2.0
"""Sets on packets with a checksum over the whole packet (CHECKSUM_COMPLETE),
as devices of tunnels leave them."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from devices import ip
from harness import Datapath
from lists import compiled, dec_ttl, output, set_masked
from objects import compile_object
from oracle_key import Meta, extract
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.libbpf import BpfObject
from dpif_bpf.edge.ports.clsact import Clsact
from dpif_bpf.wire import uapi

ETH = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
V4 = ETH / IP(src="192.0.2.1", dst="192.0.2.2", ttl=9)
V6 = ETH / IPv6(src="2001:db8::1", dst="2001:db8::2", hlim=9)
DATA = bytes(range(100))
TUNNEL, TUNNEL_NAME = 7, "bpftvx"
"""The port that packets come in by."""

_IPV4 = set_masked(uapi.OVS_KEY_ATTR_IPV4,
                   bytes((198, 51, 100, 7, 1, 2, 3, 4, 0, 0x55, 3, 0)),
                   b"\xff" * 8 + bytes((0, 0xff, 0xff, 0)))
_IPV6 = set_masked(uapi.OVS_KEY_ATTR_IPV6, bytes(range(1, 33)) + struct.pack(
    "!I", 0x12345) + bytes((0, 0x55, 3, 0)), b"\xff" * 32 + struct.pack(
    "!I", 0xfffff) + bytes((0, 0xff, 0xff, 0)))
_LIMIT = set_masked(uapi.OVS_KEY_ATTR_IPV6, bytes(37) + b"\x55\3\0",
                    bytes(37) + b"\xff\xff\0")
CASES = {
    "nothing": (V4 / UDP() / DATA, b""),
    "eth": (V4 / UDP() / DATA, set_masked(
        uapi.OVS_KEY_ATTR_ETHERNET, bytes(range(12)), b"\xff" * 12)),
    "ipv4 udp": (V4 / UDP() / DATA, _IPV4),
    "ipv4 tcp": (V4 / TCP() / DATA, _IPV4),
    "ipv6 udp": (V6 / UDP() / DATA, _IPV6),
    "ipv6 tcp": (V6 / TCP() / DATA, _IPV6),
    "hop limit": (V6 / TCP() / DATA, _LIMIT),
    "dec_ttl": (V4 / TCP() / DATA, dec_ttl()),
    "dec_ttl of IPv6": (V6 / TCP() / DATA, dec_ttl()),
    "tcp": (V6 / TCP() / DATA, set_masked(
        uapi.OVS_KEY_ATTR_TCP, b"\1\2\3\4", b"\xff" * 4)),
    "udp": (V4 / UDP() / DATA, set_masked(
        uapi.OVS_KEY_ATTR_UDP, b"\1\2\3\4", b"\xff" * 4)),
}


@pytest.fixture(scope="module")
def counts(datapath: Datapath, tmp_path_factory: pytest.TempPathFactory,
           ) -> Iterator[int]:
    """The map of the program at the far end of port 2; port TUNNEL is made,
    too."""
    path = compile_object(Path(__file__).parent / "csum.bpf.c",
                          tmp_path_factory.mktemp("csum"))
    ip(f"link add {TUNNEL_NAME} type vxlan id 5 local 127.0.0.1"
       " dstport 4789 nolearning",
       f"link set {TUNNEL_NAME} arp off addrgenmode none",
       f"link set {TUNNEL_NAME} up")
    ifindex = socket.if_nametoindex(TUNNEL_NAME)
    datapath.set_port(TUNNEL, ifindex)
    far = socket.if_nametoindex(datapath.ports[2].far)
    with BpfObject(path) as obj, contextlib.ExitStack() as stack:
        obj.load()
        if bpfprog.has_tcx():
            link = bpfprog.link_create(obj.prog_fd("t_csum"), far,
                                       bpfprog.ATTACH_TCX_INGRESS)
            stack.callback(os.close, link)
        else:
            clsact = stack.enter_context(contextlib.closing(Clsact()))
            clsact.attach(far, obj.prog_fd("t_csum"), "t_csum")
        stack.enter_context(datapath._attached("ovs_entry", ifindex))
        yield obj.map_fd("t_counts")


def read(counts: int) -> list[int]:
    """Packets with such a sum, and with a wrong one, so far."""
    return [int.from_bytes(bpfsys.map_lookup(
        counts, struct.pack("=I", what), 8) or b"", sys.byteorder)
        for what in (0, 1)]


@pytest.mark.parametrize("what", CASES)
def test_whole_sums(dp: Datapath, counts: int, one_cpu: None,
                    what: str) -> None:
    """Also of a packet that the cache of exact matches knows."""
    packet, actions = CASES[what]
    frame = bytes(packet)
    parsed = extract(frame, Meta(in_port=TUNNEL))
    assert parsed is not None
    dp.add_flow(compiled(actions + output(2), frame, parsed))
    seen, wrong = read(counts)
    outer = bytes(IP(src="127.0.0.1", dst="127.0.0.1") / UDP(
        sport=1, dport=4789) / (b"\x08\0\0\0\0\0\5\0" + frame))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW,
                       socket.IPPROTO_UDP) as sock:
        for _ in range(2):
            sock.sendto(outer[20:], ("127.0.0.1", 0))
    (_, first, _), (_, second, _) = dp.outputs(2)
    assert first == second
    assert read(counts) == [seen + 2, wrong]
