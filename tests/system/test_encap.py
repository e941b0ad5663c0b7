# SPDX-License-Identifier: Apache-2.0
"""MPLS between two bridges: what ovs-vswitchd finds out, and what it does."""

from __future__ import annotations

import pytest
from lab import Host, Lab

PUSH = ("push_mpls:0x8847,set_mpls_label:3", "pop_mpls:0x0800")
ENCAP = ("encap(mpls),set_mpls_label:2,encap(ethernet),"
         "set_field:02:00:00:00:00:02->dl_dst",
         "decap(),decap(packet_type(ns=0,type=0))")


def features(lab: Lab) -> dict[str, str]:
    """dpif/show-dp-features."""
    text = lab.appctl("dpif/show-dp-features", "br0")
    return {name.strip(): value.strip() for name, _, value in
            (line.partition(":") for line in text.splitlines())}


def connect(lab: Lab, there: str, back: str,
            eth_type: str = "0x8847") -> tuple[Host, Host]:
    """Two bridges, with a host each, that say MPLS to each other.

    :param eth_type: or something else
    """
    lab.ns.ip("link add w0 type veth peer name w1")
    hosts = []
    for i in range(2):
        lab.ns.ip(f"link set w{i} up")
        lab.add_bridge(f"br{i}")
        host = lab.add_host(f"p{i}", f"br{i}", f"10.1.1.{i + 1}/24")
        host.ns.ip("link set eth0 mtu 1400")
        hosts.append(host)
        lab.vsctl("add-port", f"br{i}", f"w{i}")
        lab.ofctl("-Oopenflow13", "del-flows", f"br{i}")
        for flow in (f"in_port=p{i},dl_type=0x0800 actions={there},w{i}",
                     f"in_port=w{i},dl_type={eth_type} actions={back},p{i}",
                     f"in_port=p{i},arp actions=w{i}",
                     f"in_port=w{i},arp actions=p{i}"):
            lab.ofctl("-Oopenflow13", "add-flow", f"br{i}", flow)
    return hosts[0], hosts[1]


def test_what_is_found_out(lab: Lab) -> None:
    lab.add_bridge("br0")
    found = features(lab)
    assert found["Max MPLS depth"] == "3"
    assert found["MPLS Label add"] == "Yes"


@pytest.mark.parametrize(("there", "back"), [PUSH, ENCAP],
                         ids=["push", "encap"])
def test_labels_on_the_way(lab: Lab, there: str, back: str) -> None:
    """Big segments, too: a veth hands them on."""
    one, two = connect(lab, there, back)
    one.ping(two.ip, 10)
    lab.udp(one, two)
    lab.tcp(one, two, 8 << 20)
    lab.tcp(two, one, 8 << 20)
    flows = lab.dpctl("dump-flows")
    assert "push_mpls" in flows or "add_mpls" in flows
    assert "pop_mpls" in flows
