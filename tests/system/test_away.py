# SPDX-License-Identifier: Apache-2.0
"""A provider that hangs, or is dead for long."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from lab import PATIENCE, PROVIDER, SWITCH, Host, Lab

SAID = r"p3|p5|n3|port_del failed|ovs-bpfd does not answer"
"""Warnings of changes that have to wait for the provider."""


def openflow_ports(lab: Lab) -> dict[str, str]:
    rows = lab.vsctl("--format=csv", "--no-headings",
                     "--columns=name,ofport", "list", "interface")
    return dict(row.split(",") for row in rows.splitlines())


def answered(source: Host, to: str) -> bool:
    return " 1 received" in source.ns.run(
        "ping", "-n", "-q", "-c", "1", "-W", "1", to, check=False)


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_nothing_waits_for_the_provider(own_lab: Lab,
                                        how: signal.Signals) -> None:
    """Bridges of other types go on, and ovs-vswitchd is at one's service;
    when the provider goes on all is as it was, and what was asked for
    meanwhile is done."""
    lab = own_lab
    lab.vsctl("set", "Open_vSwitch", ".", "other_config:max-idle=300000")
    lab.add_bridge("br0")
    one, two, five = (lab.add_host(f"p{n}", "br0", f"10.1.1.{n}/24")
                      for n in (1, 2, 5))
    lab.add_bridge("nd0", "netdev")
    n1, n2 = (lab.add_host(f"n{n}", "nd0", f"10.2.0.{n}/24") for n in (1, 2))
    one.ping(two.ip)
    five.ping(two.ip)
    n1.ping(n2.ip)
    ports = openflow_ports(lab)
    lab.allowed.append(SAID)

    pings = subprocess.Popen(
        n1.ns.command(["ping", "-n", "-q", "-c", "30", "-i", "0.1", "-W",
                       str(2 * PATIENCE), n2.ip]),
        stdout=subprocess.PIPE, text=True)
    process = lab.processes[PROVIDER]
    if how == signal.SIGSTOP:
        os.kill(process.pid, how)
    else:
        lab.kill(PROVIDER, how)
    lab.until(lambda: "waiting for ovs-bpfd" in lab.text(f"{SWITCH}.log"))
    assert " 30 received" in pings.communicate()[0]

    assert lab.tool("ovs-appctl", "--timeout=3", "version")
    assert "p1 " in lab.tool("ovs-appctl", "--timeout=3", "dpif/show")
    # All that makes ovs-vswitchd look at ports anew.
    one.ns.ip("link set eth0 down")
    one.ns.ip("link set eth0 up")
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    lab.vsctl("del-port", "p5")
    n3 = lab.add_host("n3", "nd0", "10.2.0.3/24")
    n3.ping(n1.ip)
    lab.until(lambda: "could not add network device p3"
              in lab.text(f"{SWITCH}.log"))
    assert "p1 " in lab.tool("ovs-appctl", "--timeout=3", "dpif/show")

    if how == signal.SIGSTOP:
        os.kill(process.pid, signal.SIGCONT)
    else:
        lab.start_provider()
    lab.until(lambda: answered(three, two.ip))
    lab.until(lambda: answered(one, two.ip))
    three.ping(one.ip)
    lab.until(lambda: "p5" not in lab.dpctl("show"))
    now = openflow_ports(lab)
    assert {name: now[name] for name in ports if name != "p5"} == {
        name: port for name, port in ports.items() if name != "p5"}


def test_flows_change_while_the_provider_is_away(own_lab: Lab) -> None:
    """A revalidator takes a flow for changed though it could not change it;
    and no warning comes of it."""
    lab = own_lab
    lab.vsctl("set", "Open_vSwitch", ".", "other_config:max-idle=300000")
    lab.add_bridge("br0")
    one, two, three = (lab.add_host(f"p{n}", "br0", f"10.1.1.{n}/24")
                       for n in (1, 2, 3))
    for other in (two, three):
        one.knows(other.ip, other.mac)
    lab.ofctl("add-flow", "br0", "priority=9,icmp,in_port=p1,actions=p2")
    one.no_ping(three.ip)
    assert actions_of_pings(lab) == [dp_port(lab, "p2")]

    lab.kill(PROVIDER)
    lab.appctl("revalidator/wait")  # no call waits for the provider then
    lab.ofctl("mod-flows", "br0", "icmp,in_port=p1,actions=p3")
    lab.appctl("revalidator/wait")
    lab.start_provider()
    wanted = [dp_port(lab, "p3")]
    lab.until(lambda: actions_of_pings(lab) == wanted)


def dp_port(lab: Lab, name: str) -> str:
    """A port's number in the datapath."""
    words = lab.dpctl("show").split()
    return words[words.index(name) - 1].rstrip(":")


def actions_of_pings(lab: Lab) -> list[str]:
    return [line.rpartition("actions:")[2]
            for line in lab.dpctl("dump-flows").splitlines()
            if "proto=1" in line or "icmp" in line]
