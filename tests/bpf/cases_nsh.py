# SPDX-License-Identifier: Apache-2.0
"""Cases of network service headers, and of SCTP ports."""

from __future__ import annotations

from typing import Any

from frames import DATA, LSE, NEW, B, C, Case, ether, tagged, tcp4, tcp6
from lists import (
    POP_ETH,
    POP_NSH,
    clone,
    nsh_base,
    output,
    push_eth,
    push_mpls,
    push_nsh,
    push_vlan,
    recirc,
    set_masked,
    set_nsh,
    set_whole,
    userspace,
)
from scapy.contrib.mpls import MPLS
from scapy.contrib.nsh import NSH, NSHTLV
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw

from dpif_bpf.abi import DropReason
from dpif_bpf.wire import uapi

CONTEXT = bytes(range(16))
PUSH = push_nsh(nsh_base(0x123456, 7, flags=2, ttl=9, mdtype=1), CONTEXT)
ETH = push_eth(NEW)
KEY_SCTP = uapi.OVS_KEY_ATTR_SCTP
TLV = bytes.fromhex("0102030411223344")


def outer(**fields: Any) -> Packet:
    """What PUSH and ETH put in front."""
    return Ether(src=C, dst=B, type=0x894f) / nsh(**fields)


def nsh(**fields: Any) -> Packet:
    return NSH(**{"oam": 1, "ttl": 9, "spi": 0x123456, "si": 7,
                  "context_header": CONTEXT, **fields})


def sctp(below: Packet, sport: int = 1000, dport: int = 2000,
         data: bytes = bytes(range(41))) -> Packet:
    return below / SCTP(sport=sport, dport=dport, tag=7) / SCTPChunkData(
        data=data)


def _ports(src: int, dst: int) -> bytes:
    return src.to_bytes(2, "big") + dst.to_bytes(2, "big")


def _wrong() -> Case:
    """A checksum that is wrong by some bits stays wrong by these."""
    before, after = (Ether(bytes(sctp(ether() / IP(), port)))
                     for port in (1000, 9))
    before[SCTP].chksum ^= 0x12345678
    after[SCTP].chksum ^= 0x12345678
    return Case("a wrong checksum of SCTP stays wrong", before, set_masked(
        KEY_SCTP, _ports(9, 0), b"\xff\xff\0\0") + output(2),
        ((2, after),))


def _padded() -> Case:
    """What fills a frame up is not in the checksum."""
    pad = Raw(b"\xa5" * 9)
    packet, after = (Ether(bytes(sctp(ether() / IP(), port)) + bytes(pad))
                     for port in (1000, 9))
    return Case("SCTP in a frame that was filled up", packet, set_masked(
        KEY_SCTP, _ports(9, 0), b"\xff\xff\0\0") + output(2),
        ((2, after),))


def _ip6() -> Packet:
    return ether() / IPv6(src="2001:db8::1", dst="2001:db8::2")


SET_BOTH = set_whole(KEY_SCTP, _ports(9, 10))

CASES = (
    Case("push NSH", tcp4(), PUSH + ETH + output(2),
         ((2, outer() / tcp4()),)),
    Case("push NSH on a tagged frame", tagged(Dot1Q(vlan=5)),
         PUSH + ETH + push_vlan(0x8100, 9) + output(2),
         ((2, Ether(src=C, dst=B) / Dot1Q(vlan=9, type=0x894f) / nsh()
           / tagged(Dot1Q(vlan=5))),)),
    Case("push NSH on two tags and LLC", ether() / Dot1Q(vlan=5)
         / Dot1Q(vlan=6, type=6) / Raw(b"\x42\x42\3\0\0\0"),
         PUSH + ETH + output(2),
         ((2, outer() / ether() / Dot1Q(vlan=5) / Dot1Q(vlan=6, type=6)
           / Raw(b"\x42\x42\3\0\0\0")),)),
    Case("push NSH on IPv4", tcp4(), POP_ETH + PUSH + ETH + output(2),
         ((2, outer(nextproto=1) / tcp4()[IP]),)),
    Case("push NSH on IPv6", tcp6(), POP_ETH + PUSH + ETH + output(2),
         ((2, outer(nextproto=2) / tcp6()[IPv6]),)),
    Case("push NSH on MPLS", tcp4(),
         push_mpls(LSE, 0x8847) + POP_ETH + PUSH + ETH + output(2),
         ((2, outer(nextproto=5) / MPLS(LSE) / tcp4()[IP]),)),
    Case("push NSH on NSH", tcp4(),
         PUSH + push_nsh(nsh_base(1, 2, ttl=63, mdtype=1), bytes(16)) + ETH
         + output(2),
         ((2, Ether(src=C, dst=B, type=0x894f)
           / NSH(spi=1, si=2, nextproto=4, context_header=bytes(16))
           / nsh() / tcp4()),)),
    Case("metadata of type 2", tcp4(),
         push_nsh(nsh_base(1, 2, ttl=63, mdtype=2), TLV) + ETH + output(2),
         ((2, Ether(src=C, dst=B, type=0x894f)
           / NSH(spi=1, si=2, mdtype=2, length=4, vlch=[NSHTLV(TLV)])
           / tcp4()),)),
    Case("the longest header", tcp4(),
         push_nsh(nsh_base(1, 2, ttl=63, mdtype=2), bytes(range(244))) + ETH
         + output(2),
         ((2, Ether(src=C, dst=B, type=0x894f)
           / Raw(bytes.fromhex("0fff020300000102") + bytes(range(244)))
           / tcp4()),)),
    Case("push NSH and pop it", tcp4(), PUSH + POP_NSH + output(2),
         ((2, tcp4()),)),
    Case("no Ethernet header before NSH", tcp4(), PUSH + output(2), (),
         DropReason.LAYER3),
    Case("a frame out of NSH", outer() / tcp4(),
         POP_ETH + POP_NSH + output(2), ((2, tcp4()),)),
    Case("a tagged frame out of NSH", outer() / tagged(Dot1Q(vlan=5)),
         POP_ETH + POP_NSH + output(2) + recirc(1),
         ((2, tagged(Dot1Q(vlan=5))),)),
    Case("IPv4 out of NSH", outer(nextproto=1) / tcp4()[IP],
         POP_ETH + POP_NSH + push_eth(NEW) + output(2),
         ((2, Ether(src=C, dst=B) / tcp4()[IP]),)),
    Case("MPLS out of NSH", outer(nextproto=5) / MPLS(LSE) / tcp4()[IP],
         POP_ETH + POP_NSH + push_eth(NEW) + output(2),
         ((2, Ether(src=C, dst=B, type=0x8847) / MPLS(LSE) / tcp4()[IP]),)),
    Case("NSH out of NSH", outer(nextproto=4) / nsh() / tcp4(),
         POP_ETH + POP_NSH + push_eth(NEW) + output(2),
         ((2, outer() / tcp4()),)),
    Case("NSH of type 2 that is popped", Ether(src=C, dst=B, type=0x894f)
         / NSH(mdtype=2, length=4, vlch=[NSHTLV(TLV)]) / tcp4(),
         POP_ETH + POP_NSH + output(2), ((2, tcp4()),)),
    Case("another NSH", outer() / tcp4(),
         POP_ETH + POP_NSH
         + push_nsh(nsh_base(1, 2, ttl=63, mdtype=1), bytes(16)) + ETH
         + output(2),
         ((2, Ether(src=C, dst=B, type=0x894f)
           / NSH(spi=1, si=2, context_header=bytes(16)) / tcp4()),)),
    Case("index and TTL", outer() / tcp4(),
         set_nsh(nsh_base(0, 6, ttl=8) + nsh_base(0, 255, ttl=63))
         + output(2), ((2, outer(si=6, ttl=8) / tcp4()),)),
    Case("flags, path and context, below a tag",
         ether() / Dot1Q(vlan=5, type=0x894f) / nsh() / tcp4(),
         set_nsh(nsh_base(0xa0b000, 0, flags=1)
                 + nsh_base(0xfff000, 0, flags=3),
                 bytes(12) + b"\0\xab\xcd\0" + bytes(12)
                 + b"\0\xff\xff\0") + output(2),
         ((2, ether() / Dot1Q(vlan=5, type=0x894f)
           / nsh(spi=0xa0b456, oam=0, unused1=1,
                 context_header=CONTEXT[:13] + b"\xab\xcd\x0f")
           / tcp4()),)),
    Case("every field", outer() / tcp4(),
         set_whole(uapi.OVS_KEY_ATTR_NSH, bytes.fromhex(
             "0c000100013f010300000509140002000102030405060708"
             "090a0b0c0d0e0f10")) + output(2),
         ((2, outer(oam=0, unused1=1, ttl=63, spi=5, si=9,
                    context_header=bytes(range(1, 17))) / tcp4()),)),
    Case("write to what was pushed", tcp4(),
         PUSH + set_nsh(nsh_base(0, 6) + nsh_base(0, 255)) + ETH + output(2),
         ((2, outer(si=6) / tcp4()),)),
    Case("NSH in a clone", tcp4(),
         clone(PUSH, ETH, output(2)) + output(3),
         ((2, outer() / tcp4()), (3, tcp4()))),
    Case("NSH for user space", tcp4(), PUSH + userspace(7), upcalls=1),
    Case("SCTP ports", sctp(ether() / IP()), SET_BOTH + output(2),
         ((2, sctp(ether() / IP(), 9, 10)),)),
    Case("one SCTP port", sctp(ether() / IP()), set_masked(
        KEY_SCTP, _ports(0, 10), b"\0\0\xff\xff") + output(2),
        ((2, sctp(ether() / IP(), 1000, 10)),)),
    Case("SCTP over IPv6, below a tag",
         sctp(ether() / Dot1Q(vlan=5) / _ip6()[IPv6]
              / IPv6ExtHdrHopByHop()), SET_BOTH + output(2),
         ((2, sctp(ether() / Dot1Q(vlan=5) / _ip6()[IPv6]
                   / IPv6ExtHdrHopByHop(), 9, 10)),)),
    Case("a long SCTP packet", sctp(_ip6(), data=DATA.load * 210),
         SET_BOTH + output(2),
         ((2, sctp(_ip6(), 9, 10, DATA.load * 210)),)),
    _wrong(),
    _padded(),
)
