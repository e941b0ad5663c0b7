# SPDX-License-Identifier: Apache-2.0
"""Checksums, tags and segments against scapy and against plain sums."""

from __future__ import annotations

import errno
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from dpif_bpf.abi import (
    OVS_CSUM_COMPLETE,
    OVS_CSUM_NONE,
    OVS_CSUM_PARTIAL,
    OVS_CSUM_UNNECESSARY,
)
from dpif_bpf.errors import RequestError
from dpif_bpf.wire.checksum import checksum, crc32c, finish_partial, ones_sum
from dpif_bpf.wire.gso import (
    SKB_GSO_DODGY,
    SKB_GSO_GRE,
    SKB_GSO_GRE_CSUM,
    SKB_GSO_IPXIP4,
    SKB_GSO_TCP_ACCECN,
    SKB_GSO_TCP_ECN,
    SKB_GSO_TCP_FIXEDID,
    SKB_GSO_TCP_FIXEDID_INNER,
    SKB_GSO_TCP_FIXEDID_OUTER,
    SKB_GSO_TCPV4,
    SKB_GSO_TCPV6,
    SKB_GSO_UDP_L4,
    SKB_GSO_UDP_TUNNEL,
    SKB_GSO_UDP_TUNNEL_CSUM,
    segment,
)
from dpif_bpf.wire.layers import find_layers
from dpif_bpf.wire.packet import (
    VIRTIO_NET_HDR,
    VNET_HDR_NONE,
    as_gso,
    insert_vlan,
    upcall_packets,
)

E = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
ESP = 1 << 15
NO_TAG = (b"\0\0", b"\0\0")


def plain_sum(data: bytes) -> int:
    """RFC 1071 as it is written there."""
    total = 0
    for i in range(0, len(data), 2):
        total += int.from_bytes(data[i:i + 2].ljust(2, b"\0"), "big")
        total = (total & 0xffff) + (total >> 16)
    return total


@given(st.one_of(st.binary(max_size=200),
                 st.lists(st.sampled_from((b"\0\0", b"\xff\xff", b"\0\1",
                                           b"\xff\xfe", b"\xff")),
                          max_size=9).map(b"".join)))
def test_ones_sum(data: bytes) -> None:
    assert ones_sum(data) == plain_sum(data)
    assert checksum(data) == plain_sum(data) ^ 0xffff
    assert checksum(data, 0x1ffff) == plain_sum(
        data + b"\0" * (len(data) & 1) + b"\xff\xff\0\1") ^ 0xffff


def test_zero_and_minus_zero() -> None:
    assert (ones_sum(b""), ones_sum(bytes(9))) == (0, 0)
    assert ones_sum(b"\xff\xff" * 70000) == 0xffff
    assert ones_sum(b"\x7f\xff\x80\x00") == 0xffff
    assert checksum(bytes(4)) == 0xffff
    assert checksum(b"\xff\xff") == 0


def test_crc32c() -> None:
    """The check value, and the vectors of RFC 3720 (B.4)."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


def unfinished(packet: Packet) -> tuple[bytes, bytes]:
    """The packet as it is and with CHECKSUM_PARTIAL."""
    whole = bytes(packet)
    at = find_layers(whole)
    part = bytearray(whole)
    pseudo = (whole[at.l3 + 12:at.l3 + 20] if at.version == 4
              else whole[at.l3 + 8:at.l3 + 40])
    pseudo += struct.pack("!HH", at.proto, len(whole) - at.l4)
    struct.pack_into("!H", part, at.check, plain_sum(pseudo))
    return whole, bytes(part)


def upcall(data: bytes, ip_summed: int = OVS_CSUM_NONE, start: int = 0,
           offset: int = 0, gso_size: int = 0, gso_type: int = 0,
           tag: tuple[bytes, bytes] = NO_TAG) -> list[bytes]:
    return list(upcall_packets(memoryview(data), ip_summed, start, offset,
                               gso_size, gso_type, *tag))


@pytest.mark.parametrize("packet", [
    E / IP() / TCP() / b"abc", E / IP() / UDP() / b"",
    E / IPv6() / UDP() / b"a",
    E / Dot1Q() / IPv6() / IPv6ExtHdrDestOpt() / TCP() / b"odd"])
def test_finish_partial(packet: Packet) -> None:
    whole, part = unfinished(packet)
    at = find_layers(whole)
    assert part != whole
    assert upcall(part, OVS_CSUM_PARTIAL, at.l4, at.check - at.l4) == [whole]
    for summed in (OVS_CSUM_NONE, OVS_CSUM_UNNECESSARY, OVS_CSUM_COMPLETE):
        assert upcall(part, summed, at.l4, at.check - at.l4) == [part]


def test_finish_partial_zero() -> None:
    """A sum of 0xffff leaves 0xffff, not 0: for UDP, 0 means no checksum."""
    packet = bytearray(b"\0\0\xff\xff\0\0\0\0")
    finish_partial(packet, 2, 4)
    assert packet == b"\0\0\xff\xff\0\0\xff\xff"


def test_finish_sctp() -> None:
    packet = bytes(E / IP() / SCTP() / SCTPChunkInit())
    part = packet[:42] + b"junk" + packet[46:]
    assert upcall(part, OVS_CSUM_PARTIAL, 34, 8) == [packet]


@pytest.mark.parametrize(("start", "offset"), [
    (60, 0), (59, 0), (0, 59), (52, 6 + 2), (65535, 65535), (34, 25)])
def test_partial_out_of_bounds(start: int, offset: int) -> None:
    with pytest.raises(RequestError) as error:
        upcall(bytes(60), OVS_CSUM_PARTIAL, start + 1, offset)
    assert error.value.errno == errno.EINVAL


def test_tag_is_put_outside() -> None:
    packet = bytes(E / Dot1Q(vlan=5) / IP() / UDP())
    want = bytes(E / Dot1AD(vlan=7, prio=2) / Dot1Q(vlan=5) / IP() / UDP())
    assert insert_vlan(packet, b"\x88\xa8", b"\x40\x07") == want
    assert upcall(packet, tag=(b"\x88\xa8", b"\x40\x07")) == [want]
    assert upcall(packet) == [packet]
    priority = upcall(packet, tag=(b"\x81\x00", b"\0\0"))
    assert priority == [insert_vlan(packet, b"\x81\x00", b"\0\0")]


def test_runt() -> None:
    with pytest.raises(RequestError):
        upcall(bytes(13))


L3 = [IP(id=0xfffe), IPv6(fl=5),
      IPv6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(),
      IP(id=7, flags="DF", options=[b"\x94\x04\0\0"])]
L2 = [E, E / Dot1Q(vlan=3), E / Dot1AD(vlan=3) / Dot1Q(vlan=4)]


def valid(packet: bytes) -> bool:
    """Scapy computes the same lengths and checksums anew."""
    again = Ether(packet)
    for layer, fields in ((IP, ("len", "chksum")), (IPv6, ("plen",)),
                          (UDP, ("len", "chksum")), (TCP, ("chksum",))):
        if layer in again:
            for field in fields:
                again[layer].delfieldval(field)
    return bytes(again) == packet


@pytest.mark.parametrize("l2", L2)
@pytest.mark.parametrize("l3", L3)
@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5000, 5001])
def test_tcp(l2: Packet, l3: Packet, size: int) -> None:
    data = bytes(n % 251 for n in range(size))
    packet = l2 / l3 / TCP(seq=2 ** 32 - 1500, flags="FPACE",
                           options=[("Timestamp", (1, 2))]) / data
    version = SKB_GSO_TCPV6 if IPv6 in packet else SKB_GSO_TCPV4
    whole, part = unfinished(packet)
    at = find_layers(whole)
    tag = b"\x88\xa8", b"\x0f\xff"
    found = upcall(part, OVS_CSUM_PARTIAL, at.l4, 16, 1000,
                   version | SKB_GSO_TCP_ECN | SKB_GSO_DODGY, tag)
    assert all(p[12:16] == b"\x88\xa8\x0f\xff" for p in found)
    found = [p[:12] + p[16:] for p in found]
    assert len(found) == max(-(-size // 1000), 1)
    assert b"".join(p[at.payload:] for p in found) == data
    for number, segment_ in enumerate(found):
        assert valid(segment_)
        tcp = Ether(segment_)[TCP]
        assert tcp.seq == (2 ** 32 - 1500 + 1000 * number) % 2 ** 32
        last = number == len(found) - 1
        flags = "FPAE" if last else "AE"
        flags += "C" if number == 0 else ""
        assert set(str(tcp.flags)) == set(flags)
        assert segment_[:at.l3] == whole[:at.l3]
        if IP in Ether(segment_):
            assert Ether(segment_)[IP].id == (
                (0xfffe if l3.id == 0xfffe else 7) + number) % 0x10000
            assert segment_[at.l3 + 20:at.l4] == whole[at.l3 + 20:at.l4]
    for one, two in pairwise(found):
        assert len(two) <= len(one)


def test_one_segment_is_the_packet() -> None:
    """With its own checksum, flags and id."""
    whole, part = unfinished(E / IP(id=9) / TCP(flags="FPC") / b"data")
    assert upcall(part, OVS_CSUM_PARTIAL, 34, 16, 100,
                  SKB_GSO_TCPV4) == [whole]


def test_gso_variants() -> None:
    _, part = unfinished(E / IP(id=9) / TCP(flags="AC") / bytes(2500))
    fixed = list(segment(part, 1000, SKB_GSO_TCPV4 | SKB_GSO_TCP_FIXEDID))
    assert [Ether(p)[IP].id for p in fixed] == [9, 9, 9]
    accurate = list(segment(part, 1000, SKB_GSO_TCPV4 | SKB_GSO_TCP_ACCECN))
    assert [str(Ether(p)[TCP].flags) for p in accurate] == ["AC"] * 3
    assert all(map(valid, fixed + accurate))


@pytest.mark.parametrize("l2", L2)
@pytest.mark.parametrize("l3", L3)
@pytest.mark.parametrize("size", [1, 1000, 1001, 5000])
def test_udp(l2: Packet, l3: Packet, size: int) -> None:
    data = bytes(n % 253 for n in range(size))
    whole, part = unfinished(l2 / l3 / UDP(sport=1) / data)
    at = find_layers(whole)
    found = upcall(part, OVS_CSUM_PARTIAL, at.l4, 6, 1000, SKB_GSO_UDP_L4)
    assert len(found) == -(-size // 1000)
    assert b"".join(p[at.payload:] for p in found) == data
    assert all(map(valid, found))
    assert all(any(p[at.check:at.check + 2]) for p in found)


def test_udp_without_checksum() -> None:
    packet = bytes(E / IP() / UDP(chksum=0) / bytes(1500))
    found = upcall(packet, OVS_CSUM_NONE, 0, 0, 1000, SKB_GSO_UDP_L4)
    assert [p[40:42] for p in found] == [b"\0\0"] * 2
    found = upcall(packet, OVS_CSUM_PARTIAL, 34, 6, 1000, SKB_GSO_UDP_L4)
    assert all(map(valid, found))


def test_udp_checksum_of_zero_is_mangled() -> None:
    """Of 65536 payloads that differ in one word, one sums up to 0."""
    header = E / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2)
    base = bytes(header / b"\0\0")
    word = int.from_bytes(base[40:42], "big")
    packet = bytes(header / struct.pack("!H", word))
    found, = segment(packet, 100, SKB_GSO_UDP_L4)
    assert found[40:42] == b"\xff\xff"
    assert valid(found)


BAD = {
    "ESP": (E / IP() / TCP(), SKB_GSO_TCPV4 | ESP, errno.EOPNOTSUPP),
    "no tunnel": (E / IP() / TCP(), SKB_GSO_TCPV4 | SKB_GSO_UDP_TUNNEL,
                  errno.EINVAL),
    "other tunnel": (E / IP() / GRE() / IP() / TCP(),
                     SKB_GSO_TCPV4 | SKB_GSO_UDP_TUNNEL, errno.EINVAL),
    "nothing in the tunnel": (E / IP() / UDP() / bytes(80),
                              SKB_GSO_TCPV4 | SKB_GSO_UDP_TUNNEL,
                              errno.EINVAL),
    "short tunnel": (E / IP() / UDP() / b"x",
                     SKB_GSO_TCPV4 | SKB_GSO_UDP_TUNNEL, errno.EINVAL),
    "no type": (E / IP() / TCP(), 0, errno.EINVAL),
    "UDP as TCP": (E / IP() / UDP(), SKB_GSO_TCPV4, errno.EINVAL),
    "TCP as UDP": (E / IP() / TCP(), SKB_GSO_UDP_L4, errno.EINVAL),
    "IPv6 as IPv4": (E / IPv6() / TCP(), SKB_GSO_TCPV4, errno.EINVAL),
    "ARP": (E / ARP(), SKB_GSO_TCPV4, errno.EINVAL),
    "ICMPv6": (E / IPv6() / ICMPv6EchoRequest(), SKB_GSO_TCPV6,
               errno.EINVAL),
    "IPv4 fragment": (E / IP(flags="MF") / TCP(), SKB_GSO_TCPV4,
                      errno.EINVAL),
    "later fragment": (E / IP(frag=1) / Raw(bytes(TCP())), SKB_GSO_TCPV4,
                       errno.EINVAL),
    "IPv6 fragment": (E / IPv6() / IPv6ExtHdrFragment() / TCP(),
                      SKB_GSO_TCPV6, errno.EINVAL),
    "short IHL": (E / IP(ihl=4) / TCP(), SKB_GSO_TCPV4, errno.EINVAL),
    "long IHL": (E / IP(ihl=15) / TCP(), SKB_GSO_TCPV4, errno.EINVAL),
    "short TCP": (E / IP() / TCP(dataofs=4), SKB_GSO_TCPV4, errno.EINVAL),
    "long TCP": (E / IP() / TCP(dataofs=15), SKB_GSO_TCPV4, errno.EINVAL),
}


@pytest.mark.parametrize("case", BAD)
def test_not_gso(case: str) -> None:
    packet, gso_type, code = BAD[case]
    with pytest.raises(RequestError) as error:
        upcall(bytes(packet), OVS_CSUM_PARTIAL, 84, 16, 1000, gso_type)
    assert error.value.errno == code


@given(st.sampled_from([
    E / Dot1Q() / IP() / TCP(options=[("NOP", None)] * 4) / b"1234567",
    E / IPv6() / IPv6ExtHdrHopByHop() / UDP() / b"1234567"]), st.data())
def test_cut_gso(packet: Packet, data: st.DataObject) -> None:
    """A cut packet is refused or cut in pieces, but nothing else."""
    whole = bytes(packet)
    size = data.draw(st.integers(0, len(whole)))
    kind = SKB_GSO_TCPV4 if TCP in packet else SKB_GSO_UDP_L4
    try:
        found = upcall(whole[:size], OVS_CSUM_PARTIAL, 0, 0, 3, kind)
    except RequestError:
        assert size < find_layers(whole).payload
    else:
        assert b"".join(p[find_layers(p).payload:] for p in found) == whole[
            find_layers(whole).payload:size]


@given(st.binary(min_size=14, max_size=90),
       st.sampled_from((0x0800, 0x86dd, 0x8100)), st.integers(0, 2 ** 20))
def test_junk(data: bytes, eth_type: int, gso_type: int) -> None:
    data = data[:12] + struct.pack("!H", eth_type) + data[14:]
    try:
        upcall(data, OVS_CSUM_PARTIAL, 20, 4, 7, gso_type)
    except RequestError as error:
        assert error.errno in {errno.EINVAL, errno.EOPNOTSUPP}


INNER = [
    (IP(id=0xffff) / TCP(flags="PAC"), SKB_GSO_TCPV4),
    (IPv6() / IPv6ExtHdrHopByHop() / TCP(flags="PA"), SKB_GSO_TCPV6),
    (IP(options=[b"\x94\x04\0\0"]) / UDP(), SKB_GSO_UDP_L4),
    (IPv6() / UDP(), SKB_GSO_UDP_L4),
]
TUNNELS = {
    "vxlan": (E / IP(id=7) / UDP(chksum=0) / VXLAN(vni=5) / E,
              SKB_GSO_UDP_TUNNEL),
    "vxlan6": (E / Dot1Q() / IPv6() / UDP() / VXLAN(vni=5) / E / Dot1Q(),
               SKB_GSO_UDP_TUNNEL_CSUM),
    "gre": (E / IP(id=7) / GRE(), SKB_GSO_GRE),
    "gretap": (E / IP(id=7) / GRE(key_present=1, key=8, chksum_present=1)
               / E, SKB_GSO_GRE_CSUM),
    "ip": (E / IP(id=7), SKB_GSO_IPXIP4),
}


@pytest.mark.parametrize("tunnel", TUNNELS)
@pytest.mark.parametrize("number", range(len(INNER)))
def test_tunnel(tunnel: str, number: int) -> None:
    outer, tunnel_type = TUNNELS[tunnel]
    inner, inner_type = INNER[number]
    data = bytes(n % 249 for n in range(2501))
    whole = bytes(outer / inner / data)
    payload = len(whole) - len(data)
    l4 = payload - (8 if UDP in inner else 20)
    found = upcall(whole, OVS_CSUM_PARTIAL, l4, 16, 1000,
                   tunnel_type | inner_type)
    for index, one in enumerate(found):
        part = data[1000 * index:1000 * index + 1000]
        want = (outer / inner / part).copy()
        for depth in (1, 2):
            layer = want.getlayer(IP, depth)
            if layer is not None:
                layer.id = (layer.id + index) % 0x10000
        tcp = want.getlayer(TCP)
        if tcp is not None:
            tcp.seq += 1000 * index
            if index < 2:
                tcp.flags &= ~0x08
            if index:
                tcp.flags &= ~0x80
        assert one == bytes(want)
    assert len(found) == 3


def test_fixed_ids_in_tunnels() -> None:
    """One bit for the inner header at first, two bits since Linux 6.18."""
    whole = bytes(E / IP(id=7) / UDP(chksum=0) / VXLAN() / E / IP(id=9)
                  / TCP() / bytes(1500))
    tunnel = SKB_GSO_UDP_TUNNEL | SKB_GSO_TCPV4

    def ids(packet: bytes, gso_type: int) -> list[list[int]]:
        return [[layer.id for layer in (Ether(p)[IP], Ether(p).getlayer(IP, 2))
                 if layer is not None]
                for p in segment(packet, 1000, gso_type, 84)]
    assert ids(whole, tunnel) == [[7, 9], [8, 10]]
    assert ids(whole, tunnel | SKB_GSO_TCP_FIXEDID) == [[7, 9], [8, 9]]
    assert ids(whole, tunnel | SKB_GSO_TCP_FIXEDID_INNER) == [[7, 9], [8, 9]]
    assert ids(whole, tunnel | SKB_GSO_TCP_FIXEDID_OUTER) == [[7, 9],
                                                              [7, 10]]
    plain = bytes(E / IP(id=7) / TCP() / bytes(1500))
    for bit, want in ((SKB_GSO_TCP_FIXEDID_OUTER, [[7], [7]]),
                      (SKB_GSO_TCP_FIXEDID_INNER, [[7], [8]])):
        assert ids(plain, SKB_GSO_TCPV4 | bit) == want


def test_as_gso() -> None:
    assert not any(VNET_HDR_NONE)
    assert len(VNET_HDR_NONE) == 10
    for packet, kind, place in (
            (E / IP() / TCP(flags="A") / bytes(3000), 1, 16),
            (E / IP() / TCP(flags="AC") / bytes(3000), 0x81, 16),
            (E / Dot1Q() / IPv6() / TCP(flags="A") / bytes(3000), 4, 16),
            (E / IPv6() / UDP() / bytes(3000), 5, 6)):
        whole, part = unfinished(packet)
        at = find_layers(whole)
        header, data = as_gso(whole, 1400)
        assert data == part
        assert VIRTIO_NET_HDR.unpack(header) == (
            1, kind, at.payload, 1400, at.l4, place)
    with pytest.raises(RequestError):
        as_gso(bytes(E / ARP()), 1400)


def test_layer_3_upcall() -> None:
    """What is before the network header was only room."""
    frame = bytes(Ether() / IP(src="192.0.2.1", dst="192.0.2.2")
                  / TCP(sport=1) / (b"abc" * 500))
    assert [*upcall_packets(memoryview(frame), OVS_CSUM_NONE, 0, 0, 0, 0,
                            bytes(2), bytes(2), True)] == [frame[14:]]
    assert len([*upcall_packets(
        memoryview(frame), OVS_CSUM_PARTIAL, 34, 16, 500, SKB_GSO_TCPV4,
        bytes(2), bytes(2), True)]) == 3


@pytest.mark.parametrize("labels", [1, 2, 5])
@pytest.mark.parametrize("network", [
    IP(src="192.0.2.1", dst="192.0.2.2"),
    IPv6(src="2001:db8::1", dst="2001:db8::2")], ids=["4", "6"])
def test_segments_below_labels(network: Packet, labels: int) -> None:
    """Cut as if there were no labels, and with all of them."""
    frame = bytes(Ether() / network / TCP(sport=1, seq=9) / bytes(1500))
    stack = b"\0\0\x30\x40" * (labels - 1) + b"\0\0\x31\x40"
    kind = SKB_GSO_TCPV4 if isinstance(network, IP) else SKB_GSO_TCPV6
    start = len(frame) - 1520
    plain = upcall(frame, OVS_CSUM_PARTIAL, start, 16, 600, kind)
    labelled = upcall(
        frame[:12] + b"\x88\x47" + stack + frame[14:],
        OVS_CSUM_PARTIAL, start + len(stack), 16, 600, kind)
    assert len(plain) == 3
    assert labelled == [packet[:12] + b"\x88\x47" + stack + packet[14:]
                        for packet in plain]


def test_labels_without_bottom_or_ip() -> None:
    for stack in (b"\0\0\x30\x40" * 3, b"\0\0\x31\x40" + bytes(40)):
        with pytest.raises(RequestError):
            upcall(bytes(12) + b"\x88\x47" + stack, OVS_CSUM_PARTIAL, 38,
                   16, 100, SKB_GSO_TCPV4)
