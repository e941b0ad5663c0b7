# SPDX-License-Identifier: Apache-2.0
"""Cases of packets and actions, worked out with scapy.

scapy computes every checksum of what is expected anew, so that an update
that only agrees with itself is found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from frames import (
    DATA,
    ETHERNET,
    IPV4,
    IPV6,
    KEY_TCP,
    KEY_UDP,
    SET_DST4,
    SET_DST6,
    SET_SRC4,
    SET_SRC6,
    A,
    C,
    Case,
    ether,
    fixed,
    ipv4_value,
    ipv6_value,
    options4,
    ping6,
    ports,
    tagged,
    tcp4,
    tcp6,
    udp4,
    udp4_zero,
    udp6,
)
from lists import (
    POP_VLAN,
    check_pkt_len,
    clone,
    dec_ttl,
    drop,
    output,
    push_vlan,
    recirc,
    sample,
    set_masked,
    set_whole,
    trunc,
    userspace,
)
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from dpif_bpf.abi import DropReason


def _same(name: str, make: Callable[..., Packet], actions: bytes,
          before: dict[str, Any], after: dict[str, Any]) -> Case:
    return Case(name, make(**before), actions + output(2),
                ((2, make(**after)),))


def _later4() -> Case:
    packet = (ether() / IP(src="192.0.2.1", dst="192.0.2.2", frag=100,
                           proto=6) / DATA)
    after = packet.copy()
    after[IP].src = "10.9.8.7"
    return Case("a later fragment's payload is left alone", packet,
                SET_SRC4 + output(2), ((2, after),))


def _first4() -> Case:
    whole = fixed(tcp4())
    packet = whole.copy()
    packet[IP].flags = "MF"
    del packet[IP].chksum
    after = packet.copy()
    after[IP].src = "10.9.8.7"
    after[TCP].chksum = fixed(tcp4(src="10.9.8.7"))[TCP].chksum
    return Case("a first fragment's checksum follows", packet,
                SET_SRC4 + output(2), ((2, after),))


def _routing(left: int) -> Case:
    packet = fixed(ether() / IPv6(src="2001:db8::1", dst="2001:db8::2")
                   / IPv6ExtHdrRouting(addresses=["2001:db8::7"],
                                       segleft=left)
                   / TCP(sport=1, dport=2) / DATA)
    after = packet.copy()
    after[IPv6].dst = "2001:db8::99"
    name = "with segments left the destination is in no checksum"
    if not left:
        name = "a routing header that is done does not matter"
        after = (ether() / IPv6(src="2001:db8::1", dst="2001:db8::99")
                 / IPv6ExtHdrRouting(addresses=["2001:db8::7"], segleft=0)
                 / TCP(sport=1, dport=2) / DATA)
        packet = (ether() / IPv6(src="2001:db8::1", dst="2001:db8::2")
                  / IPv6ExtHdrRouting(addresses=["2001:db8::7"], segleft=0)
                  / TCP(sport=1, dport=2) / DATA)
    return Case(name, packet, SET_DST6 + output(2), ((2, after),))


def _computed_zero() -> Case:
    """What is missing to a sum of 0xffff is added to the source port."""
    def packet(src: str, sport: int) -> Packet:
        return fixed(ether() / IP(src=src, dst="192.0.2.2")
                     / UDP(sport=sport, dport=2000) / b"ab")

    sport = 1 + packet("10.9.8.7", 1)[UDP].chksum
    after = packet("10.9.8.7", sport)
    assert after[UDP].chksum == 0xffff
    return Case("a UDP checksum that comes out as zero is 0xffff",
                packet("192.0.2.1", sport), SET_SRC4 + output(2),
                ((2, after),))


def _masked_mac() -> Case:
    value = bytes.fromhex("02aaaaaaaaaa020000000000")
    mask = bytes.fromhex("00ffff000000ff0000000000")
    return Case("bits outside of the mask stay",
                ether() / IP() / UDP() / DATA,
                set_masked(ETHERNET, value, mask) + output(2),
                ((2, ether(src="02:aa:aa:00:00:0a") / IP() / UDP() / DATA),))


CASES = (
    Case("output to one port", tcp4(), output(2), ((2, tcp4()),)),
    Case("output to three ports and back", tcp4(),
         output(2) + output(3) + output(1),
         ((1, tcp4()), (2, tcp4()), (3, tcp4()))),
    Case("no actions", tcp4(), b"", drop=DropReason.EXPLICIT),
    Case("a drop action", tcp4(), drop(0), drop=DropReason.ACTION),
    Case("a drop action with an error", tcp4(), drop(22),
         drop=DropReason.ACTION_ERROR),
    Case("output, then drop", tcp4(), output(2) + drop(0), ((2, tcp4()),),
         DropReason.ACTION),
    Case("a port that is none", tcp4(), output(77),
         drop=DropReason.NO_PORT),
    Case("a copy to a port that is none", tcp4(), output(77) + output(2),
         ((2, tcp4()),), DropReason.NO_PORT),
    Case("user space alone is no drop", tcp4(), userspace(7), upcalls=1),
    Case("each copy is as its actions left it", tcp4(),
         output(2) + SET_SRC4 + output(3) + push_vlan(0x8100, 5) + output(4),
         ((2, tcp4()), (3, tcp4(src="10.9.8.7")),
          (4, ether() / Dot1Q(vlan=5) / tcp4(src="10.9.8.7")[IP]))),
    _same("TCP over IPv4, source", tcp4, SET_SRC4, {}, {"src": "10.9.8.7"}),
    _same("TCP over IPv4, destination", tcp4, SET_DST4, {},
          {"dst": "10.9.8.7"}),
    _same("IPv4 with options", options4, SET_DST4, {}, {"dst": "10.9.8.7"}),
    _same("UDP over IPv4", udp4, SET_SRC4, {}, {"src": "10.9.8.7"}),
    _same("a UDP checksum of zero stays zero", udp4_zero, SET_SRC4, {},
          {"src": "10.9.8.7"}),
    _same("TOS and TTL", udp4, set_masked(
        IPV4, ipv4_value(tos=0xb8, ttl=9), bytes(9) + b"\xfc\xff\0"),
        {"tos": 3, "ttl": 64}, {"tos": 0xbb, "ttl": 9}),
    _same("TCP over IPv6, destination", tcp6, SET_DST6, {},
          {"dst": "2001:db8::99"}),
    _same("UDP over IPv6 with an extension header", udp6, SET_SRC6, {},
          {"src": "2001:db8::99"}),
    _same("ICMPv6", ping6, SET_SRC6 + SET_DST6, {},
          {"src": "2001:db8::99", "dst": "2001:db8::99"}),
    _same("traffic class, label and hop limit", tcp6, set_masked(
        IPV6, ipv6_value(label=0x54321, tclass=0xa0, hlimit=3),
        bytes(32) + b"\0\x0f\xff\xff\0\xf0\xff\0"),
        {"tc": 5, "fl": 0xabcde, "hlim": 60},
        {"tc": 0xa5, "fl": 0x54321, "hlim": 3}),
    Case("TCP ports", tcp4(),
         set_whole(KEY_TCP, ports(5, 6)) + output(2),
         ((2, ether() / IP(src="192.0.2.1", dst="192.0.2.2")
           / TCP(sport=5, dport=6, flags="S") / DATA),)),
    Case("one UDP port", udp4(),
         set_masked(KEY_UDP, ports(0, 53), bytes(2) + b"\xff\xff")
         + output(2),
         ((2, ether() / IP(src="192.0.2.1", dst="192.0.2.2")
           / UDP(sport=1000, dport=53) / DATA),)),
    Case("SCTP and ARP pass", ether() / IP() / SCTP(sport=1, dport=2),
         output(2), ((2, ether() / IP() / SCTP(sport=1, dport=2)),)),
    Case("ARP, new addresses", ether(dst="ff:ff:ff:ff:ff:ff") / ARP(),
         set_masked(ETHERNET, bytes.fromhex("02000000000c") + bytes(6),
                    b"\xff" * 6 + bytes(6)) + output(3),
         ((3, ether(dst="ff:ff:ff:ff:ff:ff", src=C) / ARP()),)),
    Case("neighbour solicitation passes",
         ether() / IPv6() / ICMPv6ND_NS() / ICMPv6NDOptSrcLLAddr(lladdr=A),
         output(2), ((2, ether() / IPv6() / ICMPv6ND_NS()
                      / ICMPv6NDOptSrcLLAddr(lladdr=A)),)),
    Case("ping", ether() / IP() / ICMP(), output(4),
         ((4, ether() / IP() / ICMP()),)),
    _masked_mac(),
    _later4(),
    _first4(),
    _routing(1),
    _routing(0),
    _computed_zero(),
    Case("a later IPv6 fragment",
         ether() / IPv6(src="2001:db8::1", dst="2001:db8::2")
         / IPv6ExtHdrFragment(offset=10, nh=6) / DATA, SET_SRC6 + output(2),
         ((2, ether() / IPv6(src="2001:db8::99", dst="2001:db8::2")
           / IPv6ExtHdrFragment(offset=10, nh=6) / DATA),)),
    Case("push a tag", tagged(), push_vlan(0x8100, 0x6064) + output(2),
         ((2, tagged(Dot1Q(vlan=0x64, prio=3, type=0x800))),)),
    Case("push a second tag, 802.1ad", tagged(Dot1Q(vlan=7)),
         push_vlan(0x88a8, 0x64) + output(2),
         ((2, tagged(Dot1AD(vlan=0x64), Dot1Q(vlan=7))),)),
    Case("pop the only tag", tagged(Dot1Q(vlan=7, prio=5)),
         POP_VLAN + output(2), ((2, tagged()),)),
    Case("pop the outer tag", tagged(Dot1AD(vlan=9), Dot1Q(vlan=7, prio=5)),
         POP_VLAN + output(2), ((2, tagged(Dot1Q(vlan=7, prio=5))),)),
    Case("pop both, then set",
         ether() / Dot1AD(vlan=9) / Dot1Q(vlan=7) / tcp4()[IP],
         POP_VLAN + POP_VLAN + SET_SRC4 + output(2),
         ((2, tcp4(src="10.9.8.7")),)),
    Case("set behind two tags",
         ether() / Dot1AD(vlan=9) / Dot1Q(vlan=7) / tcp4()[IP],
         SET_SRC4 + output(2),
         ((2, ether() / Dot1AD(vlan=9) / Dot1Q(vlan=7)
           / tcp4(src="10.9.8.7")[IP]),)),
    Case("a priority tag and the DEI bit pass",
         tagged(Dot1Q(vlan=0, prio=7, dei=1)), output(2),
         ((2, tagged(Dot1Q(vlan=0, prio=7, dei=1))),)),
    Case("change the VLAN", tagged(Dot1Q(vlan=7, prio=5)),
         POP_VLAN + push_vlan(0x8100, 8) + output(2),
         ((2, tagged(Dot1Q(vlan=8))),)),
    Case("truncate a copy, not the packet", tcp4(),
         trunc(60) + output(2) + output(3),
         ((2, Ether(_pkt=bytes(tcp4())[:60])), (3, tcp4()))),
    Case("truncate beyond the end", tcp4(), trunc(2000) + output(2),
         ((2, tcp4()),)),
    # A limit: the kernel's helper does not cut before the TCP header.
    Case("truncate into the headers", tcp4(),
         trunc(14) + output(2) + output(3), ((3, tcp4()),),
         DropReason.TRUNC),
    Case("a tag does not count, and grows what is sent", tagged(),
         trunc(50) + push_vlan(0x8100, 0x64) + output(2),
         ((2, Raw(bytes(tagged(Dot1Q(vlan=0x64)))[:54])),)),
    Case("a clone's changes are its own", tcp4(),
         clone(SET_SRC4, push_vlan(0x8100, 5), output(2)) + output(3),
         ((2, ether() / Dot1Q(vlan=5) / tcp4(src="10.9.8.7")[IP]),
          (3, tcp4()))),
    Case("a clone in a clone", tcp4(),
         clone(SET_SRC4, clone(SET_DST4, output(2)), output(3)) + output(4),
         ((2, tcp4(src="10.9.8.7", dst="10.9.8.7")),
          (3, tcp4(src="10.9.8.7")), (4, tcp4()))),
    Case("a sample that happens", tcp4(),
         sample(0xffffffff, SET_SRC4, output(2)) + output(3),
         ((2, tcp4(src="10.9.8.7")), (3, tcp4()))),
    Case("a sample that does not", tcp4(), sample(0, output(2)),
         (), DropReason.EXPLICIT),
    Case("a short packet", tcp4(),
         check_pkt_len(94, output(2), output(3)), ((3, tcp4()),)),
    Case("a long packet, in a copy", tcp4(),
         check_pkt_len(93, SET_SRC4 + output(2), output(3)) + output(4),
         ((2, tcp4(src="10.9.8.7")), (4, tcp4()))),
    _same("one hop less", tcp4, dec_ttl(), {"ttl": 9}, {"ttl": 8}),
    _same("one hop less, IPv6", tcp6, dec_ttl(), {"hlim": 9}, {"hlim": 8}),
    Case("the last hop", tcp4(ttl=1), dec_ttl() + output(2), (),
         DropReason.TTL),
    Case("the last hop, with a list for it", tcp4(ttl=1),
         dec_ttl(output(3)) + output(2), ((3, tcp4(ttl=1)),)),
    Case("no hops", ether() / ARP(), dec_ttl() + output(2),
         ((2, ether() / ARP()),)),
    Case("recirculation that no flow takes is an upcall of a miss", tcp4(),
         output(2) + recirc(5), ((2, tcp4()),)),
)
