# SPDX-License-Identifier: Apache-2.0
"""What ovs-vswitchd found out about the datapath, and that it is true."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator

import pytest
from lab import Host, Lab

ETH_P_IP = 0x0800

CLAIMED = {
    "Truncate action": "Yes",
    "Clone action": "Yes",
    "Sample nesting": "10",
    "Check pkt length action": "Yes",
    "Max dp_hash algorithm": "0",
}


def features(lab: Lab) -> dict[str, str]:
    """The answers of ovs-appctl dpif/show-dp-features."""
    lines = lab.appctl("dpif/show-dp-features", "br0").splitlines()
    return {name.strip(): value.strip() for name, _, value in
            (line.partition(":") for line in lines)}


@pytest.fixture
def hosts(lab: Lab) -> list[Host]:
    lab.add_bridge("br0")
    made = [lab.add_host(f"p{n}", "br0", f"10.1.1.{n}/24")
            for n in (1, 2, 3)]
    for n in (1, 2, 3):
        lab.vsctl("set", "interface", f"p{n}", f"ofport_request={n}")
    return made


def actions(lab: Lab) -> str:
    """The actions of the installed flows."""
    return lab.dpctl("dump-flows")


@contextlib.contextmanager
def watched(host: Host) -> Iterator[list[int]]:
    """Lengths of the IPv4 packets that reach a host meanwhile."""
    found: list[int] = []
    with host.ns.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((host.device, ETH_P_IP))
    with sock:
        yield found
        sock.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while len(found) < 100:
                found.append(len(sock.recv(65536)))


def test_features(lab: Lab, hosts: list[Host]) -> None:
    found = features(lab)
    assert {name: found.get(name) for name in CLAIMED} == CLAIMED
    hosts[0].ping(hosts[1].ip)


def test_truncate(lab: Lab, hosts: list[Host]) -> None:
    one, two, three = hosts
    lab.ofctl("add-flow", "br0", "priority=9,in_port=1,ip,actions="
              "output(port=3,max_len=64),output:2")
    with watched(three) as found:
        one.ping(two.ip, 5)
    assert re.search(r"actions:trunc\(64\),\d+,\d+", actions(lab))
    assert found == [64] * 5


def test_clone(lab: Lab, hosts: list[Host]) -> None:
    """Truncation makes ovs-vswitchd use one: it cannot be undone."""
    one, two, three = hosts
    lab.ofctl("add-flow", "br0", "priority=9,in_port=1,ip,actions="
              f"clone(set_field:{three.mac}->eth_dst,"
              "set_field:10.9.9.9->ip_src,output(port=3,max_len=70)),output:2")
    with watched(three) as found:
        one.ping(two.ip, 5)
    assert "actions:clone(trunc(70),set(" in actions(lab)
    assert found == [70] * 5


def test_sample(lab: Lab, hosts: list[Host]) -> None:
    """sFlow samples every packet; all of them pass."""
    one, two, _ = hosts
    # Nobody listens.
    lab.allowed.append(r"collectors.*\|WARN\|.*sending to collector failed")
    lab.vsctl("--", "--id=@s", "create", "sflow", "agent=lo",
              'targets="127.0.0.1:6343"', "header=128", "sampling=1",
              "polling=0", "--", "set", "bridge", "br0", "sflow=@s")
    one.ping(two.ip, 5)
    lab.until(lambda: "userspace(" in actions(lab))
    lab.vsctl("set", "sflow", ".", "sampling=2")
    one.ping(two.ip, 5)
    lab.until(lambda: "sample(sample=50.0%" in actions(lab))
    lab.vsctl("clear", "bridge", "br0", "sflow")


def test_check_pkt_len(lab: Lab, hosts: list[Host]) -> None:
    one, two, three = hosts
    lab.ofctl("add-flow", "br0", "priority=9,in_port=1,ip,actions="
              "check_pkt_larger(500)->NXM_NX_REG0[0],resubmit(,1)")
    lab.ofctl("add-flow", "br0", "table=1,reg0=1,actions=output:3")
    lab.ofctl("add-flow", "br0", "table=1,reg0=0,actions=output:2")
    one.ping(two.ip, 3)
    with watched(three) as found:
        one.ns.run("ping", "-n", "-q", "-c", "3", "-i", "0.1", "-W", "0.3",
                   "-s", "600", two.ip, check=False)
    assert "check_pkt_len(size=500" in actions(lab)
    assert found == [642] * 3


def test_hash(lab: Lab, hosts: list[Host]) -> None:
    """A select group by dp_hash: every connection takes one way."""
    one, two, _ = hosts
    lab.ofctl("-O", "OpenFlow15", "add-group", "br0",
              "group_id=1,type=select,selection_method=dp_hash,"
              "bucket=output:2,bucket=output:2")
    lab.ofctl("-O", "OpenFlow15", "add-flow", "br0",
              "priority=9,in_port=1,ip,actions=group:1")
    one.ping(two.ip, 5)
    lab.udp(one, two)
    found = actions(lab)
    assert "hash(l4(0)),recirc(" in found
    assert "dp_hash(" in found
