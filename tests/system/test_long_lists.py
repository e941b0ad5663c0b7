# SPDX-License-Identifier: Apache-2.0
"""Lists of actions as long as a netlink attribute, by OVS's own tools."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from lab import Host, Lab

ETH_P_TEST = 0x88b5
SO_RCVBUFFORCE = 33
MATCH = ("recirc_id(0),in_port({}),eth(src={},dst={}),eth_type(0x88b5)")


@pytest.fixture
def hosts(lab: Lab) -> Iterator[list[Host]]:
    """No revalidator deletes what ovs-dpctl adds."""
    lab.add_bridge("br0")
    made = [lab.add_host(f"p{n}", "br0", f"10.1.1.{n}/24") for n in (1, 2)]
    lab.appctl("revalidator/pause")
    yield made
    lab.appctl("revalidator/resume")


def port(lab: Lab, name: str) -> str:
    """Its number in the datapath."""
    found = re.search(rf"port (\d+): {name}\b", lab.dpctl("show"))
    assert found
    return found[1]


@pytest.mark.parametrize(("step", "count"), [
    ("{}", 8190), ("userspace(pid=1),{}", 900),
    ("push_vlan(vid=7,pcp=0),pop_vlan,{}", 3200),
    ("clone(push_vlan(vid=7,pcp=0),{})", 3200)])
def test_put_and_dumped(lab: Lab, hosts: list[Host], step: str,
                        count: int) -> None:
    one, two = hosts
    match = MATCH.format(port(lab, "p1"), one.mac, two.mac)
    actions = ",".join([step.format(port(lab, "p2"))] * count)
    lab.dpctl("add-flow", "bpf@ovs-bpf", match, actions)
    line, = (line for line in lab.dpctl("dump-flows").splitlines()
             if "0x88b5" in line)
    shown = line.partition("actions:")[2]
    assert shown.count(port(lab, "p2") if step == "{}" else
                       step.partition("(")[0]) == count
    lab.dpctl("del-flow", "bpf@ovs-bpf", match)


def test_every_copy_arrives(lab: Lab, hosts: list[Host]) -> None:
    """More than one tail call each could make, and more than a list defers
    at a time; less than netdev_max_backlog."""
    one, two = hosts
    # The actions have a cookie, but none of ovs-vswitchd's.
    lab.allowed.append(r"\|WARN\|invalid user cookie")
    match = MATCH.format(port(lab, "p1"), one.mac, two.mac)
    step = (f"set(eth(dst={two.mac})),userspace(pid=1),"
            f"clone(set(eth(src=02:00:00:00:00:{{:02x}})),{port(lab, 'p2')})")
    copies = 250
    lab.dpctl("add-flow", "bpf@ovs-bpf", match,
              ",".join(step.format(number) for number in range(copies)))
    sources = []
    with two.ns.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
        sock.bind((two.device, ETH_P_TEST))
    with one.ns.entered():
        source = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        source.bind((one.device, 0))
    with sock, source:
        sock.settimeout(5)
        mac = (bytes.fromhex(host.mac.replace(":", "")) for host in (two, one))
        source.send(b"".join(mac) + ETH_P_TEST.to_bytes(2, "big") + bytes(50))
        while len(sources) < copies:
            sources.append(sock.recv(2048)[11])
    assert sorted(sources) == list(range(copies))
    drops = lab.appctl("dpif-bpf/drops", target="ovs-bpfd")
    assert not re.search("defer|redirect|tail", drops), drops
    lab.dpctl("del-flow", "bpf@ovs-bpf", match)
