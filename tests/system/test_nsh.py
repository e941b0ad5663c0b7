# SPDX-License-Identifier: Apache-2.0
"""Network service headers between bridges, by a real ovs-vswitchd."""

from __future__ import annotations

import pytest
from lab import Host, Lab
from test_encap import connect

THERE = ("encap(nsh(md_type=1)),set_field:0x1234->nsh_spi,"
         "set_field:0x11223344->nsh_c1,encap(ethernet),"
         "set_field:02:00:00:00:00:02->dl_dst")
TYPE_2 = ("encap(nsh(md_type=2,tlv(0x1000,10,0x12345678),"
          "tlv(0x2000,20,0xfedcba9876543210))),encap(ethernet),"
          "set_field:02:00:00:00:00:02->dl_dst")
BACK = "decap(),decap()"


def talk(lab: Lab, one: Host, two: Host) -> None:
    """Big segments, too: a veth hands them on."""
    one.ping(two.ip, 10)
    lab.udp(one, two)
    lab.tcp(one, two, 8 << 20)
    lab.tcp(two, one, 8 << 20)


@pytest.mark.parametrize("there", [THERE, TYPE_2], ids=["1", "2"])
def test_service_on_the_way(lab: Lab, there: str) -> None:
    one, two = connect(lab, there, BACK, "0x894f")
    talk(lab, one, two)
    flows = lab.dpctl("dump-flows")
    assert "push_nsh" in flows
    assert "pop_nsh" in flows


def test_service_functions(lab: Lab) -> None:
    """What br1 gets, it sees once more with another index and context."""
    one, two = connect(lab, THERE, BACK, "0x894f")
    lab.ns.ip("link add x0 type veth peer name x1")
    for end in ("x0", "x1"):
        lab.ns.ip(f"link set {end} up")
        lab.vsctl("add-port", "br1", end)
    lab.ofctl("-Oopenflow13", "del-flows", "br1", "in_port=w1,dl_type=0x894f")
    for flow in (
            "in_port=w1,dl_type=0x894f,nsh_spi=0x1234,nsh_si=255,"
            "nsh_c1=0x11223344 actions=set_field:254->nsh_si,"
            "set_field:9->nsh_ttl,set_field:0x55667788->nsh_c2,x0",
            "in_port=x1,dl_type=0x894f,nsh_spi=0x1234,nsh_si=254,nsh_ttl=9,"
            f"nsh_c1=0x11223344,nsh_c2=0x55667788 actions={BACK},p1"):
        lab.ofctl("-Oopenflow13", "add-flow", "br1", flow)
    talk(lab, one, two)
    assert "set(nsh(" in lab.dpctl("dump-flows")
