# SPDX-License-Identifier: Apache-2.0
"""UDP packets whose upcalls are of fragments, and big packets below NSH."""

from __future__ import annotations

import errno

import pytest
from scapy.contrib.nsh import NSH
from scapy.layers.inet import IP, TCP, UDP, defragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    defragment6,
)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from dpif_bpf.abi import OVS_CSUM_NONE, OVS_CSUM_PARTIAL
from dpif_bpf.errors import RequestError
from dpif_bpf.wire.gso import (
    SKB_GSO_TCPV4,
    SKB_GSO_UDP,
    SKB_GSO_UDP_L4,
    SKB_GSO_UDP_TUNNEL,
    segment,
)
from dpif_bpf.wire.layers import find_layers
from dpif_bpf.wire.packet import upcall_packets

E = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
DATA = bytes(n % 251 for n in range(5003))
U = UDP(sport=1, dport=2) / Raw(DATA)


def cut(packet: bytes | Packet, size: int, kind: int = SKB_GSO_UDP,
        summed: int = OVS_CSUM_NONE, start: int = 0) -> list[bytes]:
    return list(upcall_packets(memoryview(bytes(packet)), summed, start, 6,
                               size, kind, b"\0\0", b"\0\0"))


@pytest.mark.parametrize("size", [8, 1400, 1407, 4992, 5003])
@pytest.mark.parametrize("summed", [OVS_CSUM_NONE, OVS_CSUM_PARTIAL])
@pytest.mark.parametrize("tag", [E, E / Dot1Q(vlan=5)], ids=["", "tag"])
def test_ipv4(tag: Packet, summed: int, size: int) -> None:
    """A sum of zero counts as one that is to be computed, too."""
    packet = tag / IP(id=77, flags="DF", options=b"\1" * 4) / U
    whole = bytes(packet)
    at = find_layers(whole)
    data = bytearray(whole)
    data[at.check:at.check + 2] = b"\x12\x34" if summed else b"\0\0"
    found = cut(data, size, summed=summed, start=at.l4)
    assert len(found) == -(-(len(DATA) + 8) // (size & ~7))
    parsed = [Ether(part) for part in found]
    assert all(part[IP].id == 77 for part in parsed)
    assert [bool(part[IP].flags.MF) for part in parsed] == (
        [True] * (len(found) - 1) + [False])
    for part in parsed:
        assert bytes(part) == bytes(part.__class__(bytes(part)))
        again = part.copy()
        del again[IP].chksum, again[IP].len
        assert bytes(again) == bytes(part)
    (joined,) = defragment([part[IP] for part in parsed])
    del joined[IP].chksum, joined[IP].len
    joined[IP].flags = "DF"
    assert bytes(joined) == whole[at.l3:]


@pytest.mark.parametrize(("extensions", "last"), [
    (None, 20), (IPv6ExtHdrHopByHop(), 54),
    (IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(), 62),
    (IPv6ExtHdrRouting(addresses=["2001:db8::7"]), 54)],
    ids=["none", "hop", "two", "routing"])
def test_ipv6(extensions: Packet | None, last: int) -> None:
    """`last`: where it is said what follows."""
    network = E / IPv6(src="2001:db8::1", dst="2001:db8::2")
    if extensions:
        network = network / extensions
    packet = network / U
    whole = bytes(packet)
    found = cut(whole, 1400)
    parsed = [Ether(part) for part in found]
    heads = [part[IPv6ExtHdrFragment] for part in parsed]
    assert [head.offset * 8 for head in heads] == [0, 1400, 2800, 4200]
    assert [head.m for head in heads] == [1, 1, 1, 0]
    assert len({head.id for head in heads}) == 1
    assert heads[0].id != 0
    before = bytearray(whole[:find_layers(whole).l4])
    before[last] = 44
    for part in found:
        before[18:20] = (len(part) - 54).to_bytes(2, "big")
        assert part[:len(before)] == before
        assert part[len(before):][:2] == b"\x11\0"
    if not extensions:
        assert bytes(defragment6([part[IPv6] for part in parsed])
                     ) == whole[14:]


def test_in_a_tunnel() -> None:
    """The fragments are below the tunnel's header, which each repeats."""
    inner = E / IP(id=5) / U
    whole = bytes(E / IP(id=9) / UDP(sport=3, dport=4789, chksum=0)
                  / VXLAN(vni=1) / inner)
    found = cut(whole, 1400, SKB_GSO_UDP | SKB_GSO_UDP_TUNNEL,
                OVS_CSUM_PARTIAL, 50 + 34)
    assert [part[50:] for part in found] == cut(inner, 1400)
    for number, part in enumerate(found):
        outer = Ether(part)
        assert (outer[IP].id, outer[IP].frag, outer[IP].len) == (
            9 + number, 0, len(part) - 14)
        assert outer[UDP].len == len(part) - 34


@pytest.mark.parametrize(("packet", "size"), [
    (E / IP() / TCP() / DATA, 1000), (E / IP() / U, 6000),
    (E / IP() / U, 5011), (E / IP() / U, 7), (E / IP(flags="MF") / U, 1000)],
    ids=["TCP", "one", "just one", "no size", "a fragment"])
def test_not_so(packet: Packet, size: int) -> None:
    with pytest.raises(RequestError) as error:
        cut(packet, size)
    assert error.value.errno == errno.EINVAL


BELOW = {
    "Ethernet": (NSH(context_header=bytes(16)) / E / IP(id=3), 1),
    "tag": (NSH(context_header=bytes(16)) / E / Dot1Q(vlan=5) / IP(id=3), 1),
    "IPv4": (NSH(nextproto=1, mdtype=2, length=2) / IP(id=3), 1),
    "NSH": (NSH(nextproto=4, context_header=bytes(16))
            / NSH(nextproto=1, context_header=bytes(16)) / IP(id=3), 1),
    "MPLS": (NSH(nextproto=5, context_header=bytes(16))
             / Raw(b"\0\0\1\1") / IP(id=3), 1),
    "IPv6": (NSH(nextproto=2, context_header=bytes(16)) / IPv6(), 0),
}


@pytest.mark.parametrize("case", BELOW)
def test_below_nsh(case: str) -> None:
    """As in a frame of its own, behind the same headers."""
    network, v4 = BELOW[case]
    plain = E / (network[IP] if v4 else network[IPv6]) / U
    found = list(segment(bytes(Ether(type=0x894f) / network / U), 1400,
                         SKB_GSO_UDP_L4))
    front = len(bytes(Ether(type=0x894f) / network)) - (20 if v4 else 40)
    assert [part[front:] for part in found] == [
        part[14:] for part in segment(bytes(plain), 1400, SKB_GSO_UDP_L4)]
    assert len({part[:front] for part in found}) == 1


@pytest.mark.parametrize("nsh", [
    b"", bytes(7), b"\0\1\1\1" + bytes(60), b"\0\6\1\6" + bytes(60),
    b"\0\6\1\3" + bytes(20), b"\0\2\2\4" + bytes(4)])
def test_no_ip_below_nsh(nsh: bytes) -> None:
    with pytest.raises(RequestError) as error:
        list(segment(bytes(Ether(type=0x894f)) + nsh, 100, SKB_GSO_TCPV4))
    assert error.value.errno == errno.EINVAL
