# SPDX-License-Identifier: Apache-2.0
"""Cases of headers that are pushed and popped."""

from __future__ import annotations

from frames import (
    DATA,
    KEY_MPLS,
    LSE,
    NEW,
    SET_SRC4,
    B,
    C,
    Case,
    ether,
    mpls,
    tagged,
    tcp4,
    udp4,
)
from lists import (
    POP_ETH,
    add_mpls,
    clone,
    dec_ttl,
    output,
    pop_mpls,
    push_eth,
    push_mpls,
    push_vlan,
    recirc,
    set_masked,
)
from scapy.layers.inet import IP
from scapy.layers.l2 import Dot1Q, Ether

from dpif_bpf.abi import DropReason

CASES = (
    Case("push a label", tcp4(), push_mpls(LSE, 0x8847) + output(2),
         ((2, ether(type=0x8847) / mpls(3, ttl=64, cos=5, s=1)
           / tcp4()[IP]),)),
    Case("push two labels, pop one", tcp4(),
         push_mpls(LSE, 0x8847) + push_mpls(b"\0\0\x20\x07", 0x8848)
         + output(2) + pop_mpls(0x8847) + output(3),
         ((2, ether(type=0x8848) / mpls(2, ttl=7, s=0)
           / mpls(3, ttl=64, cos=5, s=1) / tcp4()[IP]),
          (3, ether(type=0x8847) / mpls(3, ttl=64, cos=5, s=1)
           / tcp4()[IP]))),
    Case("push a label, then a tag", tcp4(),
         push_mpls(LSE, 0x8847) + push_vlan(0x8100, 9) + output(2),
         ((2, ether() / Dot1Q(vlan=9, type=0x8847)
           / mpls(3, ttl=64, cos=5, s=1) / tcp4()[IP]),)),
    Case("pop the only label", ether(type=0x8847) / mpls(3, s=1)
         / tcp4()[IP], pop_mpls(0x0800) + output(2), ((2, tcp4()),)),
    Case("pop a label, then recirculate", ether(type=0x8847) / mpls(3, s=1)
         / tcp4()[IP], pop_mpls(0x0800) + output(2) + recirc(5),
         ((2, tcp4()),)),
    Case("label and TTL of the outer label", ether(type=0x8847)
         / mpls(3, ttl=9, s=0) / mpls(4, s=1) / DATA,
         set_masked(KEY_MPLS, bytes.fromhex("12345008"),
                    bytes.fromhex("fffff0ff")) + output(2),
         ((2, ether(type=0x8847) / mpls(0x12345, ttl=8, s=0)
           / mpls(4, s=1) / DATA),)),
    Case("a label below a tag", ether() / Dot1Q(vlan=9, type=0x8847)
         / mpls(3, ttl=9, s=1) / DATA,
         set_masked(KEY_MPLS, bytes(4), b"\0\0\0\xff") + output(2),
         ((2, ether() / Dot1Q(vlan=9, type=0x8847) / mpls(3, ttl=0, s=1)
           / DATA),)),
    Case("Ethernet in MPLS in Ethernet", udp4(),
         add_mpls(LSE, 0x8847, 0) + push_eth(NEW) + output(2),
         ((2, Ether(src=C, dst=B, type=0x8847)
           / mpls(3, ttl=64, cos=5, s=1) / udp4()),)),
    Case("and out again", ether(type=0x8848) / mpls(3, s=1) / udp4(),
         POP_ETH + pop_mpls(0x6558) + output(2), ((2, udp4()),)),
    Case("a tagged frame out of MPLS", ether(type=0x8847) / mpls(3, s=1)
         / tagged(Dot1Q(vlan=7)), POP_ETH + pop_mpls(0x6558) + output(2),
         ((2, tagged(Dot1Q(vlan=7))),)),
    Case("another Ethernet header", udp4(), POP_ETH + push_eth(NEW)
         + SET_SRC4 + output(2), ((2, Ether(
             src=C, dst=B) / udp4(src="10.9.8.7")[IP]),)),
    Case("no Ethernet header", udp4(), output(2) + POP_ETH + output(3),
         ((2, udp4()),), DropReason.LAYER3),
    Case("a label in a clone", tcp4(),
         clone(push_mpls(LSE, 0x8847), output(2)) + output(3),
         ((2, ether(type=0x8847) / mpls(3, ttl=64, cos=5, s=1)
           / tcp4()[IP]), (3, tcp4()))),
    Case("no label, and a clone with one hop less",
         ether(type=0x8847) / mpls(3, s=1) / tcp4(ttl=9)[IP],
         pop_mpls(0x0800) + clone(dec_ttl(), output(2)) + output(3),
         ((2, tcp4(ttl=8)), (3, tcp4(ttl=9)))),
    Case("no Ethernet header in a clone", udp4(),
         clone(POP_ETH, push_eth(NEW), output(2)) + output(3),
         ((2, Ether(src=C, dst=B) / udp4()[IP]), (3, udp4()))),
)
