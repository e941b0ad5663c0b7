# SPDX-License-Identifier: Apache-2.0
"""Frames for hypothesis: scapy's, of all layers that flow keys know, some
with lengths that lie, bytes that were changed, and ends that were cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from scapy.contrib.mpls import MPLS
from scapy.contrib.nsh import NSH, NSHTLV
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, LLC, SNAP, Dot3, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

Draw = Callable[[st.SearchStrategy[Any]], Any]

MAC = st.sampled_from(["02:00:00:00:00:0a", "02:00:00:00:00:0b",
                       "33:33:00:00:00:01", "ff:ff:ff:ff:ff:ff"])
V4 = st.sampled_from(["10.0.0.1", "10.0.0.2", "192.0.2.77", "224.0.0.5"])
V6 = st.sampled_from(["2001:db8::1", "2001:db8::2", "fe80::1", "ff02::1"])
PORT = st.sampled_from([53, 80, 1000, 0, 65535])
TTL = st.sampled_from([64, 1, 0, 2, 255])
BYTE = st.integers(0, 255)
TYPES = {"ipv4": 0x0800, "ipv6": 0x86dd, "arp": 0x0806, "rarp": 0x8035,
         "mpls": 0x8847, "mpls-mc": 0x8848, "nsh": 0x894f, "other": 0x88cc}


def sometimes(draw: Draw, percent: int) -> bool:
    """True in so many percent; shrinks to False."""
    return bool(draw(st.integers(0, 99)) >= 100 - percent)


def _payload(draw: Draw) -> bytes:
    size = draw(st.sampled_from([40, 0, 1, 7, 18, 60, 300, 700]))
    return bytes(i & 0xff for i in range(size))


def _tcp(draw: Draw) -> Packet:
    options = draw(st.sampled_from([[], [("MSS", 1460)], [
        ("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]]))
    fields = {"dataofs": draw(st.integers(0, 15))} if sometimes(
        draw, 8) else {}
    return TCP(sport=draw(PORT), dport=draw(PORT), flags=draw(BYTE),
               reserved=draw(st.integers(0, 7)), options=options, **fields)


def _udp(draw: Draw) -> Packet:
    fields: dict[str, int] = {}
    if sometimes(draw, 10):
        fields["chksum"] = 0
    if sometimes(draw, 5):
        fields["len"] = draw(st.sampled_from([0, 7, 8, 65535]))
    return UDP(sport=draw(PORT), dport=draw(PORT), **fields)


def _sctp(draw: Draw) -> Packet:
    return SCTP(sport=draw(PORT), dport=draw(PORT), chksum=0x12345678)


def _icmp6(draw: Draw) -> Packet:
    kind = draw(st.integers(0, 2))
    if not kind:
        return ICMPv6EchoRequest(type=draw(st.sampled_from([128, 129, 1])),
                                 code=draw(st.sampled_from([0, 3])))
    make = ICMPv6ND_NS if kind == 1 else ICMPv6ND_NA
    packet = make(tgt=draw(V6), code=int(sometimes(draw, 10)))
    for _ in range(draw(st.integers(0, 3))):
        option = draw(st.sampled_from([
            ICMPv6NDOptSrcLLAddr, ICMPv6NDOptDstLLAddr, ICMPv6NDOptMTU]))
        fields = {"len": draw(st.integers(0, 3))} if sometimes(
            draw, 12) else {}
        if option is not ICMPv6NDOptMTU:
            fields["lladdr"] = draw(MAC)
        packet = packet / option(**fields)
    return packet


def _ipv4(draw: Draw) -> Packet:
    proto = draw(st.sampled_from([6, 17, 1, 132, 47]))
    fields: dict[str, Any] = {}
    if sometimes(draw, 15):
        fields["options"] = b"\x01" * draw(st.sampled_from([4, 8, 40]))
    if sometimes(draw, 20):
        fields["flags"] = draw(st.sampled_from(["MF", "DF"]))
        fields["frag"] = draw(st.sampled_from([0, 1, 100, 0x1fff]))
    if sometimes(draw, 5):
        fields["ihl"] = draw(st.integers(0, 15))
    if sometimes(draw, 5):
        fields["len"] = draw(st.sampled_from([0, 19, 20, 65535]))
    packet = IP(src=draw(V4), dst=draw(V4), tos=draw(BYTE), ttl=draw(TTL),
                proto=proto, **fields)
    makers = {6: _tcp, 17: _udp, 132: _sctp}
    if proto == 1:
        packet = packet / ICMP(type=draw(st.sampled_from([8, 0, 3])),
                               code=draw(st.sampled_from([0, 1])))
    elif proto in makers:
        packet = packet / makers[proto](draw)
    return packet / _payload(draw)


def _extension(draw: Draw) -> Packet:
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return IPv6ExtHdrFragment(
            offset=draw(st.sampled_from([0, 0, 1, 100])),
            m=draw(st.integers(0, 1)), id=7)
    lie = {"len": draw(st.sampled_from([0, 5, 255]))} if sometimes(
        draw, 8) else {}
    if kind == 1:
        return IPv6ExtHdrHopByHop(**lie)
    if kind == 2:
        return IPv6ExtHdrDestOpt(options=PadN(optdata=bytes(
            draw(st.sampled_from([4, 12])))), **lie)
    if kind == 3:
        return IPv6ExtHdrRouting(
            addresses=["2001:db8::7"] * draw(st.integers(0, 2)),
            segleft=draw(st.integers(0, 1)), **lie)
    lie = {"payloadlen": draw(BYTE)} if lie else {}
    return AH(icv=bytes(draw(st.sampled_from([12, 4]))), **lie)


def _ipv6(draw: Draw) -> Packet:
    packet = IPv6(src=draw(V6), dst=draw(V6), tc=draw(BYTE),
                  fl=draw(st.sampled_from([0, 0xfffff, 0x12345])),
                  hlim=draw(TTL))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2, 4]))):
        packet = packet / _extension(draw)
    proto = draw(st.sampled_from([6, 17, 58, 132, 59]))
    makers = {6: _tcp, 17: _udp, 58: _icmp6, 132: _sctp}
    if proto == 59:
        packet.lastlayer().nh = 59
        return packet / Raw(_payload(draw))
    packet = packet / makers[proto](draw)
    return packet if proto == 58 else packet / _payload(draw)


def _arp(draw: Draw) -> Packet:
    fields: dict[str, int] = {}
    if sometimes(draw, 10):
        fields[draw(st.sampled_from(["hwtype", "hwlen", "plen"]))] = draw(
            st.sampled_from([6, 4, 8]))
    return ARP(op=draw(st.sampled_from([1, 2, 3, 255, 256])),
               hwsrc=draw(MAC), hwdst=draw(MAC), psrc=draw(V4),
               pdst=draw(V4), **fields) / Raw(
                   bytes(draw(st.sampled_from([0, 18]))))


def _mpls(draw: Draw) -> Packet:
    depth = draw(st.integers(1, 4))
    bottom = not sometimes(draw, 10)
    packet = None
    for i in range(depth):
        label = MPLS(label=draw(st.sampled_from([3, 0xfffff, 100])),
                     cos=draw(st.integers(0, 7)), ttl=draw(TTL),
                     s=int(bottom and i == depth - 1))
        packet = label if packet is None else packet / label
    below = draw(st.integers(0, 3))
    if below == 0:
        return packet / Raw(_payload(draw))
    if below == 1:
        return packet / _ipv4(draw)
    if below == 2:
        return packet / _ipv6(draw)
    return packet / Ether(dst=draw(MAC), src=draw(MAC)) / _ipv4(draw)


def _nsh(draw: Draw) -> Packet:
    fields: dict[str, Any] = {
        "ttl": draw(st.sampled_from([63, 0, 1])), "spi": draw(
            st.sampled_from([1, 0xffffff])), "si": draw(BYTE),
        "oam": draw(st.integers(0, 1))}
    if sometimes(draw, 8):
        fields["length"] = draw(st.sampled_from([0, 1, 2, 6, 63]))
    if sometimes(draw, 5):
        fields["ver"] = draw(st.integers(0, 3))
    if sometimes(draw, 40):
        packet = NSH(mdtype=2, nextproto=draw(st.sampled_from([1, 2, 3])),
                     vlch=[NSHTLV(metadata=[0x01020304] * n) for n in
                           range(draw(st.integers(0, 3)))], **fields)
    else:
        packet = NSH(mdtype=1, nextproto=draw(st.sampled_from([1, 2, 3])),
                     context_header=bytes(range(16)), **fields)
    packet = Raw(bytes(packet))
    return packet / (Ether(dst=draw(MAC), src=draw(MAC)) / _ipv4(draw)
                     if draw(st.booleans()) else _ipv4(draw))


LAYERS: dict[str, Callable[[Draw], Packet]] = {
    "ipv4": _ipv4, "ipv6": _ipv6, "arp": _arp, "rarp": _arp, "mpls": _mpls,
    "mpls-mc": _mpls, "nsh": _nsh}
KINDS = ["ipv4"] * 5 + ["ipv6"] * 5 + [
    "arp", "rarp", "mpls", "mpls-mc", "nsh", "nsh", "other"]


@st.composite
def whole_frames(draw: Draw) -> bytes:
    """A frame as a sender meant it."""
    kind = draw(st.sampled_from(KINDS))
    body = (bytes(LAYERS[kind](draw)) if kind in LAYERS
            else bytes(range(draw(st.sampled_from([46, 0, 8])))))
    tags = b"".join(
        draw(st.sampled_from([b"\x81\0", b"\x88\xa8"]))
        + draw(st.sampled_from([b"\0\5", b"\x60\x0a", b"\x1f\xff", b"\0\0"]))
        for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3]))))
    addresses = bytes(Ether(dst=draw(MAC), src=draw(MAC)))[:12]
    eth_type = TYPES[kind].to_bytes(2, "big")
    if sometimes(draw, 8):
        return addresses + tags + _llc(draw, eth_type, body)
    return addresses + tags + eth_type + body


def _llc(draw: Draw, eth_type: bytes, body: bytes) -> bytes:
    """The payload of an 802.3 frame, its length before it."""
    if sometimes(draw, 30):
        llc = LLC(dsap=0x42, ssap=0x42, ctrl=3) / Raw(body)
    else:
        llc = LLC(dsap=0xaa, ssap=0xaa, ctrl=draw(st.sampled_from(
            [3, 0]))) / SNAP(OUI=draw(st.sampled_from([0, 0, 1])),
                             code=int.from_bytes(eth_type, "big")) / Raw(
                                 body)
    data = bytes(Dot3(dst="0:0:0:0:0:0", src="0:0:0:0:0:0") / llc)[12:]
    return data[:0x600 + 2]


@st.composite
def frames(draw: Draw) -> bytes:
    """A frame as it comes in: perhaps broken."""
    frame = draw(whole_frames())
    if sometimes(draw, 15):
        frame = frame[:draw(st.integers(14, max(15, min(len(frame), 120))))]
    if sometimes(draw, 15):
        data = bytearray(frame)
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(12, 90))
            if at < len(data):
                data[at] = draw(BYTE)
        frame = bytes(data)
    return frame.ljust(14, b"\0")


@st.composite
def large_frames(draw: Draw) -> bytes:
    """A TCP packet that is worth cutting, its checksum as it should be."""
    head = Ether(dst=draw(MAC), src=draw(MAC))
    if draw(st.booleans()):
        packet = head / IP(src=draw(V4), dst=draw(V4), tos=draw(BYTE),
                           ttl=draw(TTL), id=0xfffe)
    else:
        packet = head / IPv6(src=draw(V6), dst=draw(V6), tc=draw(BYTE),
                             hlim=draw(TTL))
    tcp = TCP(sport=draw(PORT), dport=draw(PORT), flags=draw(BYTE),
              seq=0xffffff00, options=draw(st.sampled_from([[], [
                  ("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]])))
    return bytes(packet / tcp / bytes(draw(st.sampled_from(
        [700, 1400, 3000]))))


def arrives(frame: bytes) -> bool:
    """Whether skb_vlan_untag() of the kernel lets it through to a hook."""
    return len(frame) >= 20 or frame[12:14] not in {b"\x81\0", b"\x88\xa8"}
