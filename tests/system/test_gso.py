# SPDX-License-Identifier: Apache-2.0
"""wire.gso and wire.checksum against the kernel: the same bytes come out."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from netns import Namespace
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from dpif_bpf.abi import OVS_CSUM_PARTIAL
from dpif_bpf.wire.gso import (
    SKB_GSO_TCP_ECN,
    SKB_GSO_TCPV4,
    SKB_GSO_TCPV6,
    SKB_GSO_UDP,
    SKB_GSO_UDP_L4,
    SKB_GSO_UDP_TUNNEL,
    SKB_GSO_UDP_TUNNEL_CSUM,
)
from dpif_bpf.wire.layers import find_layers
from dpif_bpf.wire.packet import VIRTIO_NET_HDR, as_gso, upcall_packets

SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_AUXDATA = 8
ETH_P_ALL = 3
E = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
OURS = bytes(E)[6:12]


@dataclass
class Wire:
    """A device without offloads, and what comes out at its other end."""

    near: socket.socket
    far: socket.socket

    def send(self, header: bytes, packet: bytes) -> None:
        self.near.sendmsg((header, packet))

    def receive(self, count: int, src: bytes = OURS) -> list[bytes]:
        """The next `count` packets from `src`, their tags in place."""
        found: list[bytes] = []
        deadline = time.monotonic() + 2
        while len(found) < count and time.monotonic() < deadline:
            if not select.select((self.far,), (), (), 0.1)[0]:
                continue
            data, control, _, sender = self.far.recvmsg(70000, 100)
            if sender[2] == socket.PACKET_OUTGOING or data[6:12] != src:
                continue
            for level, kind, aux in control:
                if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                    status = int.from_bytes(aux[:4], "little")
                    tci, tpid = (int.from_bytes(aux[i:i + 2], "little")
                                 for i in (16, 18))
                    if status & 0x10:
                        data = (data[:12] + tpid.to_bytes(2, "big")
                                + tci.to_bytes(2, "big") + data[12:])
            found.append(data)
        return found


@pytest.fixture
def wire(namespace: Namespace) -> Iterator[Wire]:
    namespace.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    namespace.ip("link add ga type veth peer name gb")
    namespace.run("ethtool", "-K", "ga", "tx", "off", "tso", "off",
                  "tx-udp-segmentation", "off")
    namespace.run("ethtool", "-K", "gb", "gro", "off")
    for name in ("ga", "gb"):
        namespace.ip(f"link set {name} up")
    # Until the carrier is known, what is sent is dropped.
    deadline = time.monotonic() + 5
    while ("state UP" not in namespace.ip("link show dev ga")
           and time.monotonic() < deadline):
        time.sleep(0.01)
    near = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    near.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    near.bind(("ga", 0))
    far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                        socket.htons(ETH_P_ALL))
    far.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    far.bind(("gb", ETH_P_ALL))
    yield Wire(near, far)
    near.close()
    far.close()


def tcp(size: int, flags: str = "PACEF") -> Packet:
    return TCP(sport=1, dport=2, seq=2 ** 32 - 9, flags=flags,
               options=[("Timestamp", (7, 8))]) / bytes(
                   n % 251 for n in range(size))


def udp(size: int) -> Packet:
    return UDP(sport=1, dport=2) / bytes(n % 241 for n in range(size))


CASES = {
    "tcp4": (E / IP(id=0xffff) / tcp(5001), SKB_GSO_TCPV4),
    "tcp4 vlan": (E / Dot1Q(vlan=9) / IP(flags="DF") / tcp(2801, "PA"),
                  SKB_GSO_TCPV4),
    "tcp4 even": (E / IP() / tcp(2800), SKB_GSO_TCPV4),
    "tcp4 60k": (E / IP() / tcp(60000), SKB_GSO_TCPV4),
    "tcp6": (E / IPv6(fl=3, tc=2) / tcp(4999), SKB_GSO_TCPV6),
    "tcp6 options": (E / IPv6() / IPv6ExtHdrHopByHop() / tcp(3000),
                     SKB_GSO_TCPV6),
    "udp4": (E / IP(id=5) / udp(4201), SKB_GSO_UDP_L4),
    "udp6": (E / IPv6() / udp(2800), SKB_GSO_UDP_L4),
}


@pytest.mark.parametrize("case", CASES)
def test_segments(wire: Wire, case: str) -> None:
    packet, kind = CASES[case]
    whole = bytes(packet)
    header, data = as_gso(whole, 1400)
    at = find_layers(whole)
    ours = list(upcall_packets(
        memoryview(data), OVS_CSUM_PARTIAL, at.l4, at.check - at.l4, 1400,
        kind | SKB_GSO_TCP_ECN, b"\0\0", b"\0\0"))
    assert len(ours) > 1
    wire.send(header, data)
    assert wire.receive(len(ours)) == ours


@pytest.mark.parametrize("packet", [
    E / IP(id=5) / udp(4201), E / Dot1Q(vlan=9) / IP(flags="DF") / udp(2792),
    E / IPv6(tc=3) / udp(4201)], ids=["ipv4", "tag", "ipv6"])
def test_fragments(wire: Wire, packet: Packet) -> None:
    """UDP that is to become fragments (VIRTIO_NET_HDR_GSO_UDP)."""
    whole = bytes(packet)
    header, data = as_gso(whole, 1400)
    at = find_layers(whole)
    ours = list(upcall_packets(
        memoryview(data), OVS_CSUM_PARTIAL, at.l4, at.check - at.l4, 1400,
        SKB_GSO_UDP, b"\0\0", b"\0\0"))
    assert len(ours) > 1
    wire.send(header[:1] + b"\3" + header[2:], data)
    theirs = wire.receive(len(ours))
    if at.version == 6:  # of random identification
        assert {part[58:62] for part in theirs}.isdisjoint({bytes(4)})
        ours, theirs = ([part[:58] + part[62:] for part in parts]
                        for parts in (ours, theirs))
    assert theirs == ours


@pytest.mark.parametrize(("checksums", "tunnel_type"), [
    ("noudpcsum", SKB_GSO_UDP_TUNNEL), ("udpcsum", SKB_GSO_UDP_TUNNEL_CSUM)])
@pytest.mark.parametrize("case", CASES)
def test_tunnel(wire: Wire, namespace: Namespace, case: str, checksums: str,
                tunnel_type: int) -> None:
    """What a VXLAN device sends; its outer header is taken from there."""
    for name in ("ga", "gb"):
        namespace.ip(f"link set {name} mtu 2000")
    namespace.ip("addr add 10.9.0.1/24 dev ga")
    namespace.ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:09 dev ga")
    said = namespace.run(
        *f"ip link add vx type vxlan id 3 remote 10.9.0.2 dev ga dstport"
        f" 4789 {checksums}".split(), check=False)
    if "Unknown device type" in said:
        pytest.skip("the kernel has no VXLAN")
    namespace.ip("link set vx up")
    device = namespace.ip("-br link show ga").split()[2]
    packet, kind = CASES[case]
    whole = bytes(packet)
    header, data = as_gso(whole, 1400)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as near:
        near.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        near.bind(("vx", 0))
        near.sendmsg((header, data))
    at = find_layers(whole)
    count = -(-(len(whole) - at.payload) // 1400)
    theirs = wire.receive(count, bytes.fromhex(device.replace(":", "")))
    assert len(theirs) == count > 1
    outer = 14 + 20 + 8 + 8
    ours = list(upcall_packets(
        memoryview(theirs[0][:outer] + whole), OVS_CSUM_PARTIAL,
        outer + at.l4, at.check - at.l4, 1400,
        kind | tunnel_type | SKB_GSO_TCP_ECN, b"\0\0", b"\0\0"))
    assert theirs == ours


@pytest.mark.parametrize("packet", [
    E / IP() / tcp(100), E / IP() / udp(0), E / IPv6() / udp(33),
    E / Dot1Q() / IPv6() / tcp(1)])
def test_partial(wire: Wire, packet: Packet) -> None:
    """The kernel finishes a checksum as wire.checksum does."""
    whole = bytes(packet)
    at = find_layers(whole)
    _, data = as_gso(whole, 1400)
    header = VIRTIO_NET_HDR.pack(1, 0, 0, 0, at.l4, at.check - at.l4)
    wire.send(header, data)
    assert wire.receive(1) == [whole] == [*upcall_packets(
        memoryview(data), OVS_CSUM_PARTIAL, at.l4, at.check - at.l4, 0, 0,
        b"\0\0", b"\0\0")]


def test_partial_zero(wire: Wire) -> None:
    """A result of zero is sent as 0xffff."""
    whole = bytearray(bytes(E / IP() / udp(0)) + bytes(2))
    whole[16:18] = (30).to_bytes(2, "big")
    data = bytes(whole[:34]) + b"\0\0\xff\xff" + bytes(6)
    header = VIRTIO_NET_HDR.pack(1, 0, 0, 0, 34, 6)
    wire.send(header, data)
    found, = wire.receive(1)
    assert found[40:42] == b"\xff\xff"
    assert [found] == [*upcall_packets(
        memoryview(data), OVS_CSUM_PARTIAL, 34, 6, 0, 0, b"\0\0", b"\0\0")]
