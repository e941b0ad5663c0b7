# SPDX-License-Identifier: Apache-2.0
"""SCTP of the kernel through the datapath, where the kernel has it."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest
from devices import PREFIX, ip
from frames import ports
from harness import Datapath, UpcallRecord
from lists import check_pkt_len, nla, output, userspace
from netns import Namespace
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP

from dpif_bpf import abi
from dpif_bpf.core.actions.compiler import compile_actions
from dpif_bpf.wire import uapi
from dpif_bpf.wire.facts import KeyFacts
from dpif_bpf.wire.packet import upcall_packets

SCTP4 = KeyFacts(eth_type=0x0800, ip_proto=socket.IPPROTO_SCTP)
SIZE = 400_000
SINK = f"""
import hashlib, socket
sink = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
sink.bind(("10.0.0.2", 10))
sink.listen(1)
print("ready", flush=True)
peer, _ = sink.accept()
seen, size = hashlib.sha256(), 0
while size < {SIZE}:
    data = peer.recv(65536)
    if not data:
        break
    seen.update(data)
    size += len(data)
print(seen.hexdigest(), flush=True)
"""
SOURCE = f"""
import hashlib, random, socket
source = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
source.connect(("10.0.0.2", 9))
data = random.Random(1).randbytes({SIZE})
for at in range(0, {SIZE}, 20000):
    source.sendall(data[at:at + 20000])
print(hashlib.sha256(data).hexdigest(), flush=True)
source.recv(1)
"""


@contextlib.contextmanager
def host(number: int) -> Iterator[Namespace]:
    """The far end of a port, with an address."""
    device = f"{PREFIX}{number}b"
    mac = "02:00:00:00:00:0{}"
    ns = Namespace()
    try:
        ip(f"link set {device} netns {ns.pid}")
        ns.ip(f"link set {device} arp on address {mac.format(number)}"
              " mtu 1500")
        ns.ip(f"addr add 10.0.0.{number}/24 dev {device}")
        ns.ip(f"link set {device} up")
        ns.ip(f"neigh add 10.0.0.{3 - number} dev {device} lladdr"
              f" {mac.format(3 - number)}")
        ns.wait_up(device)
        yield ns
    finally:
        ns.close()


def set_port(value: bytes, mask: bytes) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_SET_MASKED,
               nla(uapi.OVS_KEY_ATTR_SCTP, value + mask))


def add(dp: Datapath, in_port: int, actions: bytes) -> None:
    """A flow of what comes in by a port."""
    program = compile_actions(actions, SCTP4)
    key, mask = bytearray(abi.KEY.size), bytearray(abi.KEY.size)
    key[abi.KEY["in_port"].slice] = struct.pack("=H", in_port)
    mask[abi.KEY["in_port"].slice] = b"\xff" * 2
    dp.add_flow(program.link(tuple(desc.pid for desc in program.uspace)),
                bytes(key), bytes(mask))


def segments(upcall: UpcallRecord) -> list[bytes]:
    return list(upcall_packets(memoryview(upcall.packet), *(
        int(upcall.fields[name]) for name in (
            "ip_summed", "csum_start", "csum_offset", "gso_size",
            "gso_type")), bytes(2), bytes(2), parts=upcall.parts))


def test_sctp(shipped_object: None) -> None:
    """Ports are translated both ways, and big packets are cut where the
    sender's were to be cut; none of what comes of them is long."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM,
                      socket.IPPROTO_SCTP).close()
    except OSError as error:
        pytest.skip(f"no SCTP: {error}")
    with Datapath(ports=2) as dp, host(1) as one, host(2) as two:
        there = set_port(ports(0, 10), b"\0\0\xff\xff")
        add(dp, 1, check_pkt_len(1514, b"", there + userspace(7)
                                 + output(2)))
        add(dp, 2, set_port(ports(9, 0), b"\xff\xff\0\0") + output(1))
        sink = subprocess.Popen(two.command([sys.executable, "-c", SINK]),
                                stdout=subprocess.PIPE, text=True)
        assert sink.stdout is not None
        assert sink.stdout.readline() == "ready\n"
        source = subprocess.Popen(
            one.command([sys.executable, "-c", SOURCE]),
            stdout=subprocess.PIPE, text=True)
        try:
            got, _ = sink.communicate(timeout=120)
            sent, _ = source.communicate(timeout=120)
        finally:
            source.kill()
            sink.kill()
        assert got == sent != ""
        upcalls = dp.poll()
    large = [upcall for upcall in upcalls if upcall.parts]
    assert large, [upcall.fields for upcall in upcalls[:3]]
    for upcall in large:
        assert int(upcall.fields["gso_type"]) & abi.OVS_SKB_GSO_SCTP
        found = segments(upcall)
        assert len(found) == len(upcall.parts) > 1
        for packet in found:
            assert len(packet) <= 1514
            parsed = Ether(packet)
            again = parsed.copy()
            for layer in (IP, SCTP):
                del again[layer].chksum
            assert bytes(again) == packet
            assert parsed[SCTP].dport == 10
            assert parsed[IP].len == len(packet) - 14
