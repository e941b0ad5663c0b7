# SPDX-License-Identifier: Apache-2.0
"""The oracle against scapy, and against cases worked out by hand."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import (
    Output,
    Recirc,
    Undefined,
    Upcall,
    execute,
)
from oracle_key import Extract, Meta, extract
from oracle_set import update_checksum
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from dpif_bpf.abi import KEY, DropReason

E = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")


def nla(kind: int, payload: bytes = b"") -> bytes:
    length = 4 + len(payload)
    return (struct.pack("=HH", length, kind) + payload
            + bytes(-length % 4))


def u32(kind: int, value: int) -> bytes:
    return nla(kind, struct.pack("=I", value))


def parse(packet: Packet | bytes, meta: Meta | None = None) -> Extract:
    found = extract(bytes(packet), meta)
    assert found is not None
    return found


def port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def test_tcp4() -> None:
    key = parse(E / IP(src="1.2.3.4", dst="5.6.7.8", tos=0x2e, ttl=9)
                / TCP(sport=1, dport=2, flags="SA"),
                Meta(in_port=7, recirc_id=8, skb_priority=9, skb_mark=10))
    assert key.field("eth_dst") == bytes.fromhex("020000000001")
    assert key.field("eth_src") == bytes.fromhex("020000000002")
    assert key.field("eth_type") == b"\x08\x00"
    assert key.field("ipv4_src") == bytes((1, 2, 3, 4))
    assert key.field("ipv4_dst") == bytes((5, 6, 7, 8))
    assert [key.byte(n) for n in ("ip_proto", "ip_tos", "ip_ttl", "ip_frag",
                                  "mac_proto")] == [6, 0x2e, 9, 0, 0]
    assert key.field("tp_src") == port(1)
    assert key.field("tp_dst") == port(2)
    assert key.field("tcp_flags") == port(0x12)
    assert struct.unpack("=II", key.key[:8]) == (7, 8)
    assert key.field("skb_priority") == struct.pack("=I", 9)
    assert key.field("skb_mark") == struct.pack("=I", 10)
    assert (key.l3, key.l4) == (14, 34)


@pytest.mark.parametrize(("layer", "offset", "src", "dst"), [
    (UDP(sport=3, dport=4), 34, 3, 4),
    (SCTP(sport=5, dport=6), 34, 5, 6),
    (ICMP(type=8, code=1), 34, 8, 1),
])
def test_transport4(layer: Packet, offset: int, src: int, dst: int) -> None:
    key = parse(E / IP() / layer)
    assert key.field("tp_src") == port(src)
    assert key.field("tp_dst") == port(dst)
    assert key.l4 == offset


def test_tags() -> None:
    key = parse(E / Dot1AD(vlan=5, prio=3) / Dot1Q(vlan=0) / IP() / UDP())
    assert key.field("vlan_tpid") == b"\x88\xa8"
    assert key.field("vlan_tci") == port(0x7005)
    assert key.field("cvlan_tpid") == b"\x81\x00"
    assert key.field("cvlan_tci") == port(0x1000)
    assert (key.eth_type, key.l3) == (0x0800, 22)
    three = parse(E / Dot1Q(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / IP())
    assert (three.eth_type, three.l3) == (0x8100, 22)
    cut = bytes(E / Dot1Q(vlan=1))[:17]
    assert parse(cut).eth_type == 0x8100
    assert parse(cut).field("vlan_tci") == bytes(2)


def test_llc() -> None:
    dot3 = Dot3(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
    snap = parse(dot3 / LLC(dsap=0xaa, ssap=0xaa, ctrl=3)
                 / SNAP(OUI=0, code=0x0800) / IP(src="9.9.9.9"))
    assert (snap.eth_type, snap.l3) == (0x0800, 22)
    assert snap.field("ipv4_src") == b"\x09" * 4
    stp = parse(dot3 / LLC(dsap=0x42, ssap=0x42, ctrl=3) / Raw(bytes(40)))
    assert (stp.eth_type, stp.l3) == (4, 14)
    oui = parse(dot3 / LLC(dsap=0xaa, ssap=0xaa, ctrl=3)
                / SNAP(OUI=0xc, code=0x0800) / IP())
    assert oui.eth_type == 4
    short = parse(dot3 / Raw(b"\xaa\xaa\x03\x00\x00\x00\x08"))
    assert short.eth_type == 4


def test_arp() -> None:
    arp = ARP(op=2, psrc="1.1.1.1", pdst="2.2.2.2",
              hwsrc="02:00:00:00:00:03", hwdst="02:00:00:00:00:04")
    key = parse(E / arp)
    assert key.byte("ip_proto") == 2
    assert key.field("arp_sha") == bytes.fromhex("020000000003")
    assert key.field("arp_tha") == bytes.fromhex("020000000004")
    assert key.field("ipv4_src") == b"\x01" * 4
    assert key.field("ipv4_dst") == b"\x02" * 4
    arp.op = 0x101
    assert parse(E / arp).byte("ip_proto") == 0
    arp.hwtype = 6
    assert parse(E / arp).field("arp_sha") == bytes(6)


def test_fragments4() -> None:
    first = parse(E / IP(flags="MF") / UDP(sport=1))
    assert first.byte("ip_frag") == 1
    assert first.field("tp_src") == port(1)
    later = parse(E / IP(frag=3) / Raw(bytes(8)), None)
    assert later.byte("ip_frag") == 2
    udp = parse(E / IP(frag=3, proto=17) / Raw(b"x" * 8))
    assert udp.field("tp_src") == bytes(2)
    ufo = parse(E / IP() / UDP(sport=1), Meta(ufo=True))
    assert ufo.byte("ip_frag") == 1


@pytest.mark.parametrize("packet", [
    bytes(E / IP())[:33],
    bytes(E) + b"\x44" + bytes(IP())[1:],
    bytes(E / IP())[:14] + b"\x4f" + bytes(IP())[1:],
])
def test_malformed4(packet: bytes) -> None:
    packet = packet[:12] + b"\x08\x00" + packet[14:]
    key = parse(packet)
    assert key.eth_type == 0x0800
    assert key.l4 == 0
    assert key.key[KEY["ip_frag"].offset:KEY["eth_dst"].offset] == bytes(5)
    assert key.field("ipv6_src") == bytes(16)


def test_short_transport() -> None:
    for layer, size in ((TCP(sport=1), 20), (UDP(sport=1), 8),
                        (SCTP(sport=1), 12), (ICMP(type=3), 8)):
        whole = bytes(E / IP() / layer)[:34 + size]
        assert parse(whole).field("tp_src") != bytes(2)
        assert parse(whole[:-1]).field("tp_src") == bytes(2)
    assert parse(E / IP() / TCP(dataofs=4)).field("tp_src") == bytes(2)
    assert parse(E / IP() / TCP(dataofs=6)).field("tp_src") == bytes(2)


def test_ipv6_headers() -> None:
    key = parse(E / IPv6(src="::1", dst="::2", tc=0x5a, fl=0x12345, hlim=7)
                / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting()
                / IPv6ExtHdrDestOpt() / TCP(sport=1, flags="F"))
    assert key.byte("ip_proto") == 6
    assert key.byte("ip_tos") == 0x5a
    assert key.byte("ip_ttl") == 7
    assert key.field("ipv6_label") == bytes.fromhex("00012345")
    assert key.field("ipv6_dst") == bytes(15) + b"\x02"
    assert key.field("tp_src") == port(1)
    assert key.field("tcp_flags") == port(1)
    # hop, router, dest; dest after router is out of sequence
    assert key.field("ipv6_exthdrs") == struct.pack("=H", 64 | 32 | 8 | 256)
    assert key.l4 == 14 + 40 + 8 + 8 + 8


def test_ipv6_fragments() -> None:
    def frag(m: int, offset: int) -> Extract:
        return parse(E / IPv6() / IPv6ExtHdrFragment(nh=17, m=m,
                                                     offset=offset)
                     / UDP(sport=1))
    assert frag(1, 0).byte("ip_frag") == 1
    assert frag(0, 0).byte("ip_frag") == 1, "atomic"
    assert frag(1, 0).field("tp_src") == port(1)
    later = frag(0, 1)
    assert (later.byte("ip_frag"), later.byte("ip_proto")) == (2, 44)
    assert later.field("tp_src") == bytes(2)
    odd = parse(E / IPv6() / IPv6ExtHdrFragment(nh=60, offset=1)
                / Raw(bytes(16)))
    assert (odd.byte("ip_frag"), odd.byte("ip_proto")) == (1, 59)
    cut = bytes(E / IPv6(nh=0))
    assert parse(cut).byte("ip_proto") == 59
    assert parse(cut[:53]).field("ipv6_src") == bytes(16)


def test_nd() -> None:
    option = ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:09")
    message = E / IPv6() / ICMPv6ND_NS(tgt="fe80::9")
    key = parse(message / option)
    assert key.field("nd_target") == bytes.fromhex("fe80" + "0" * 26 + "09")[
        :16]
    assert key.field("nd_sll") == bytes.fromhex("020000000009")
    assert key.field("tp_src") == port(135)
    twice = parse(message / option / option)
    assert twice.field("nd_target") == bytes(16)
    assert twice.field("nd_sll") == bytes(6)
    bad = bytes(message / option)
    bad = bad[:-7] + b"\x00" + bad[-6:]
    assert parse(bad).field("nd_target") != bytes(16)
    assert parse(bad).field("nd_sll") == bytes(6)
    echo = parse(E / IPv6() / ICMPv6EchoRequest())
    assert echo.field("tp_src") == port(128)
    assert echo.field("nd_target") == bytes(16)


def test_mpls_nsh_l3() -> None:
    stack = bytes.fromhex("00001040" "00002140")
    mpls = bytes(E)[:12] + b"\x88\x47" + stack
    key = parse(mpls + bytes(20))
    assert key.field("mpls_lse") == stack + bytes(4)
    assert key.field("mpls_labels") == struct.pack("=I", 3)
    endless = parse(mpls[:18])
    assert endless.field("mpls_lse") == stack[:4] + bytes(8)
    assert endless.field("mpls_labels") == bytes(4)
    nsh = bytes.fromhex("0fc60103" "00000203") + bytes(range(16))
    key = parse(bytes(E)[:12] + b"\x89\x4f" + nsh)
    assert key.byte("nsh_ttl") == 63
    assert key.field("nsh_context") == bytes(range(16))
    assert extract(bytes(E)[:12] + b"\x89\x4f" + nsh[:20]) is None
    l3 = parse(bytes(IP(ttl=3) / UDP(sport=9)), Meta(protocol=0x0800))
    assert (l3.byte("mac_proto"), l3.byte("ip_ttl")) == (1, 3)
    assert l3.field("tp_src") == port(9)
    assert extract(bytes(20), Meta(protocol=0x8100)) is None
    assert extract(bytes(13)) is None


@given(st.binary(min_size=14, max_size=120), st.sampled_from(
    [0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x8847, 0x894f, 0x0010]))
def test_any_bytes(data: bytes, eth_type: int) -> None:
    """Extraction never fails on junk, nor on any cut of it."""
    data = data[:12] + port(eth_type) + data[14:]
    for end in range(14, len(data) + 1):
        found = extract(data[:end])
        assert found is None or len(found.key) == KEY.size


def test_actions_in_order() -> None:
    packet = bytes(E / IP() / UDP() / b"payload")
    upcall = nla(2, u32(1, 77) + nla(2, b"abc") + nla(4))
    push = nla(4, b"\x88\xa8" + port(0x3123))
    actions = (u32(1, 5) + push + upcall + u32(7, 9) + nla(5) + u32(1, 6))
    result = execute(packet, actions, Meta(in_port=1))
    tagged = packet[:12] + b"\x88\xa8\x21\x23" + packet[12:]
    output, up, recirc, last = result.events
    assert output == Output(5, packet)
    assert isinstance(up, Upcall)
    assert (up.pid, up.userdata, up.actions) == (77, b"abc", True)
    assert up.packet == tagged
    assert up.key == parse(tagged, Meta(in_port=1)).key
    assert isinstance(recirc, Recirc)
    assert recirc.key == parse(tagged, Meta(in_port=1, recirc_id=9)).key
    assert last == Output(6, packet)
    assert result.outputs == [(5, packet), (6, packet)]
    assert result.drop == DropReason.NONE


def test_drops() -> None:
    packet = bytes(E / IP())
    assert execute(packet, b"").drop == DropReason.EXPLICIT
    assert execute(packet, u32(24, 0)).drop == DropReason.ACTION
    assert execute(packet, u32(24, 3)).drop == DropReason.ACTION_ERROR
    cut = bytes(E / Dot1Q())[:17]
    assert execute(cut, nla(5) + u32(1, 1)).drop == DropReason.VLAN
    short = bytes(E / IP() / TCP())[:40]
    ports = nla(11, nla(9, bytes(4) + b"\xff" * 4))
    result = execute(short, u32(1, 3) + ports + u32(1, 1))
    assert (result.drop, len(result.events)) == (DropReason.SET, 1)
    with pytest.raises(Undefined):
        execute(bytes(E / IP(ihl=4)), nla(11, nla(
            7, bytes(12) + b"\xff" * 8 + bytes(4))) + u32(1, 1))


def masked(kind: int, value: bytes, mask: bytes) -> bytes:
    value = bytes(v & m for v, m in zip(value, mask, strict=True))
    return nla(11, nla(kind, value + mask))


@st.composite
def value_mask(draw: st.DrawFn, size: int) -> tuple[bytes, bytes]:
    value = draw(st.binary(min_size=size, max_size=size))
    mask = draw(st.one_of(
        st.binary(min_size=size, max_size=size),
        st.sampled_from((bytes(size), b"\xff" * size))))
    return value, mask


@given(value_mask(12), value_mask(4), st.sampled_from((TCP, UDP)))
def test_sets_keep_checksums4(ip: tuple[bytes, bytes],
                              tp: tuple[bytes, bytes],
                              layer: type[Packet]) -> None:
    """Scapy computes the same checksums anew."""
    value, mask = (bytearray(part) for part in ip)
    mask[8] = mask[11] = 0
    mask[9] &= 0xfc
    packet = bytes(E / IP(src="10.0.0.1", dst="10.0.0.2", options=[])
                   / layer() / b"odd")
    actions = (masked(7, bytes(value), bytes(mask))
               + masked(9 if layer is TCP else 10, *tp) + u32(1, 1))
    (_, out), = execute(packet, actions).outputs
    assert len(out) == len(packet)
    again = Ether(out)
    del again[IP].chksum
    del again[layer].chksum
    assert bytes(again) == out
    for at, start in ((26, 0), (30, 4)):
        for i in range(4):
            old, m, v = packet[at + i], mask[start + i], value[start + i]
            assert out[at + i] == old & ~m | v & m


@given(value_mask(40), value_mask(4), st.sampled_from((
    (TCP, 9), (UDP, 10), (ICMPv6EchoRequest, 0))))
def test_sets_keep_checksums6(ip: tuple[bytes, bytes],
                              tp: tuple[bytes, bytes],
                              kind: tuple[type[Packet], int]) -> None:
    value, mask = (bytearray(part) for part in ip)
    mask[36] = mask[39] = mask[32] = 0
    mask[33] &= 15
    layer, attr = kind
    packet = bytes(E / IPv6(src="fd00::1", dst="fd00::2", tc=9, fl=7)
                   / IPv6ExtHdrDestOpt() / layer() / b"odd")
    actions = masked(8, bytes(value), bytes(mask))
    if attr:
        actions += masked(attr, *tp)
    (_, out), = execute(packet, actions + u32(1, 1)).outputs
    again = Ether(out)
    if layer is ICMPv6EchoRequest:
        del again[layer].cksum
    else:
        del again[layer].chksum
    assert bytes(again) == out
    want, old = Ether(out)[IPv6], Ether(packet)[IPv6]
    assert want.hlim == old.hlim & ~mask[38] | value[38] & mask[38]
    assert want.tc == old.tc & ~mask[37] | value[37] & mask[37]
    bits = int.from_bytes(mask[33:36], "big")
    new = int.from_bytes(value[33:36], "big")
    assert want.fl == old.fl & ~bits | new & bits


def test_sets_under_three_tags() -> None:
    """Deeper than flow extract looks; the headers are still known."""
    push = nla(4, b"\x81\x00" + port(0x1001))
    ttl = masked(7, bytes(10) + b"\x09\0", bytes(10) + b"\xff\0")
    packet = bytes(E / Dot1Q(vlan=3) / IP() / UDP(chksum=0))
    (_, out), = execute(packet, push + push + ttl + nla(5) + ttl
                        + nla(5) + u32(1, 1)).outputs
    again = Ether(packet)
    again[IP].ttl = 9
    del again[IP].chksum
    assert out == bytes(again)


def test_set_whole_and_metadata() -> None:
    packet = bytes(E / IP() / UDP(chksum=0))
    ether = nla(3, nla(4, b"\x0a" * 6 + b"\x0b" * 6))
    udp = nla(3, nla(10, port(7) + port(8)))
    mark = nla(11, nla(15, struct.pack("=II", 0x20, 0xf0)))
    prio = nla(3, u32(2, 5))
    result = execute(packet, ether + udp + mark + prio + u32(1, 1),
                     Meta(skb_mark=0x11, skb_priority=1))
    (event,) = result.events
    assert isinstance(event, Output)
    assert event.packet[:12] == b"\x0b" * 6 + b"\x0a" * 6
    assert event.packet[34:42] == b"\x00\x07\x00\x08\x00\x08\x00\x00"
    assert (event.mark, event.priority) == (0x21, 5)


@given(st.binary(min_size=2, max_size=16).filter(lambda d: len(d) % 2 == 0),
       st.data())
def test_update_checksum(old: bytes, data: st.DataObject) -> None:
    new = data.draw(st.binary(min_size=len(old), max_size=len(old)))

    def whole(part: bytes) -> int:
        words = struct.unpack(f"!{len(part) // 2}H", part)
        total = 0x4500 + sum(map(int, words))
        while total >> 16:
            total = (total & 0xffff) + (total >> 16)
        return ~total & 0xffff
    assert update_checksum(whole(old), old, new) == whole(new)


@pytest.mark.parametrize("left", [0, 1])
def test_routing_header(left: int) -> None:
    """With segments left, the checksum covers another destination."""
    packet = bytes(E / IPv6(dst="fd00::2")
                   / IPv6ExtHdrRouting(addresses=["fd00::9"], segleft=left)
                   / UDP())
    new = bytes.fromhex("fd00") + bytes(13) + b"\x77"
    actions = masked(8, bytes(16) + new + bytes(8),
                     bytes(16) + b"\xff" * 16 + bytes(8))
    (_, out), = execute(packet, actions + u32(1, 1)).outputs
    assert out[38:54] == new
    assert (out[-2:] == packet[-2:]) == bool(left)
    src = masked(8, new + bytes(24), b"\xff" * 16 + bytes(24))
    (_, out), = execute(packet, src + u32(1, 1)).outputs
    assert out[-2:] != packet[-2:]
