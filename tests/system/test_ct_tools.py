# SPDX-License-Identifier: Apache-2.0
"""Conntrack by OVS's own tools: shown, flushed, counted, limited, timed; and
all of it after the provider was killed."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from lab import PROVIDER, SWITCH, Host, Lab

from dpif_bpf.core.conntrack.table import SLICE

DP = "bpf@ovs-bpf"
ZONES = 5, 6


@dataclass(slots=True)
class Site:
    """Hosts at ports p1 and p2; what p1 begins to p2 is in zone 5, and what
    p3 begins to p4 in zone 6."""

    lab: Lab
    hosts: list[Host]

    def shown(self, *args: str) -> list[str]:
        """dpctl/dump-conntrack, but for what nobody has asked for."""
        return [line for line in self.lab.appctl(
            "dpctl/dump-conntrack", *args).splitlines()
            if "icmp6" not in line and line]

    def zones(self) -> list[int]:
        """Of the connections."""
        return sorted(int(re.search(r"zone=(\d+)", line)[1])
                      for line in self.shown())

    def udp(self, zone: int, count: int = 1) -> None:
        """Connections from ports of their own."""
        one, two = self.hosts[:2] if zone == 5 else self.hosts[2:]
        for _ in range(count):
            self.lab.udp(one, two, 2, 64)


@pytest.fixture
def site(own_lab: Lab) -> Iterator[Site]:
    lab = own_lab
    # What asks for a datapath without its name looks for those of all types.
    lab.allowed.append("failed to enumerate system datapaths")
    lab.add_bridge("br0")
    hosts = [lab.add_host(f"p{n}", "br0", f"10.1.1.{n}/24")
             for n in (1, 2, 3, 4)]
    lab.ofctl("add-flow", "br0", "table=0,priority=20,arp,actions=normal")
    lab.ofctl("add-flow", "br0", "table=0,priority=0,actions=drop")
    for zone, ports in zip(ZONES, (("p1", "p2"), ("p3", "p4")), strict=True):
        for port in ports:
            lab.ofctl("add-flow", "br0",
                      f"table=0,priority=10,ip,in_port={port},"
                      f"actions=ct(table=1,zone={zone})")
        lab.ofctl("add-flow", "br0",
                  f"table=1,priority=10,ip,ct_state=+new,in_port={ports[0]},"
                  f"actions=ct(commit,zone={zone},exec("
                  f"set_field:{zone}->ct_mark,set_field:0x{zone}77->ct_label"
                  ")),normal")
    lab.ofctl("add-flow", "br0",
              "table=1,priority=10,ip,ct_state=+est,actions=normal")
    yield Site(lab, hosts)


def test_shown(site: Site) -> None:
    lab = site.lab
    one, two = site.hosts[:2]
    one.ping(two.ip)
    site.udp(5)
    lab.tcp(one, two, 1 << 16)
    lines = {line.split(",")[0]: line for line in site.shown("-m", "-s", DP)}
    assert set(lines) == {"icmp", "udp", "tcp"}
    for line in lines.values():
        assert "zone=5" in line and "mark=5" in line
        assert "labels=0x577" in line
        assert f"orig=(src={one.ip},dst={two.ip}," in line
        assert f"reply=(src={two.ip},dst={one.ip}," in line
        assert re.search(r"start=2\d\d\d-\d\d-\d\dT", line)
        assert "packets=0" not in line
    assert "type=8,code=0,packets=3,bytes=252" in lines["icmp"]
    assert "status=SEEN_REPLY|CONFIRMED" in lines["udp"]
    assert "status=SEEN_REPLY|ASSURED|CONFIRMED" in lines["tcp"]
    assert re.search(r"protoinfo=\(state_orig=\w+,state_reply=\w+,wscale",
                     lines["tcp"])
    assert site.shown("zone=6") == []
    assert len(site.shown("zone=5")) == 3
    shown = lab.appctl("dpctl/ct-stats-show", DP, "verbose")
    assert re.search(r"Total: 3\n\s+TCP: 1\n", shown)
    # And by the tool that is none of ovs-vswitchd.
    assert len(lab.dpctl("dump-conntrack").splitlines()) == 3
    shown = lab.appctl("dpif-bpf/ct-show", target=PROVIDER)
    assert "connections: 3 of 262144" in shown and "zone 5: 3\n" in shown


def test_flushed(site: Site) -> None:
    """All, a zone, one, and those of an address."""
    lab = site.lab
    for zone in ZONES:
        site.udp(zone, 3)
    assert site.zones() == [5] * 3 + [6] * 3
    one, two = site.hosts[:2]
    port = re.search(r"sport=(\d+)", site.shown("zone=5")[0])[1]
    for wrong in ("6", "5"):
        lab.tool("ovs-appctl", "-t", SWITCH, "dpctl/flush-conntrack",
                 f"zone={wrong}", f"ct_nw_src={one.ip},ct_nw_dst={two.ip},"
                 f"ct_nw_proto=17,ct_tp_src={port},ct_tp_dst=5002",
                 check=False)
        assert site.zones().count(5) == 3 - (wrong == "5")
    lab.appctl("dpctl/flush-conntrack", f"ct_nw_src={site.hosts[2].ip}")
    assert site.zones() == [5] * 2
    site.udp(6)
    lab.appctl("dpctl/flush-conntrack", "zone=5")
    assert site.zones() == [6]
    lab.ofctl("ct-flush-zone", "br0", "6")
    lab.until(lambda: not site.shown())
    site.udp(5)
    lab.appctl("dpctl/flush-conntrack")
    assert site.zones() == []
    # The next packets begin anew.
    site.udp(5)
    assert site.zones() == [5]


def test_limits(site: Site) -> None:
    lab = site.lab
    lab.appctl("dpctl/ct-set-limits", DP, "default=4", "zone=5,limit=2")
    site.udp(6, 3)
    site.udp(5, 2)
    one, two = site.hosts[:2]
    one.no_ping(two.ip)
    assert site.zones() == [5] * 2 + [6] * 3
    assert lab.appctl("dpctl/ct-get-limits", DP, "zone=5,6").splitlines(
        ) == ["default limit=4", "zone=5,limit=2,count=2",
              "zone=6,limit=4,count=3"]
    assert "too many of a zone 2" in lab.appctl("dpif-bpf/ct-show",
                                                target=PROVIDER)
    lab.appctl("dpctl/ct-del-limits", DP, "zone=5")
    one.ping(two.ip)
    lab.appctl("dpctl/flush-conntrack", "zone=5")
    assert "zone=5,limit=4,count=0" in lab.appctl(
        "dpctl/ct-get-limits", DP, "zone=5")


def test_as_many_as_may_be(site: Site) -> None:
    lab = site.lab
    assert lab.appctl("dpctl/ct-get-maxconns", DP).strip() == "262144"
    lab.appctl("dpctl/ct-set-maxconns", DP, "2")
    assert lab.appctl("dpctl/ct-get-maxconns", DP).strip() == "2"
    site.udp(5, 2)
    assert lab.appctl("dpctl/ct-get-nconns", DP).strip() == "2"
    site.hosts[2].no_ping(site.hosts[3].ip)
    shown = lab.tool("ovs-appctl", "-t", SWITCH,
                     "dpctl/ct-set-maxconns", DP, "1000000", check=False)
    assert "successful" not in shown
    lab.appctl("dpctl/ct-set-maxconns", DP, "0")
    site.hosts[2].ping(site.hosts[3].ip)
    assert lab.appctl("dpctl/ct-get-nconns", DP).strip() == "3"


def timeouts(site: Site) -> list[int]:
    """Seconds that the connections have left."""
    return [int(re.search(r"timeout=(\d+)", line)[1])
            for line in site.shown("-s")]


def untimed(site: Site) -> set[str]:
    """With what is counted, but for how long each lasts."""
    return {re.sub("timeout=[0-9]+", "", line)
            for line in site.shown("-s", DP)}


def add_policies(lab: Lab) -> None:
    lab.vsctl("--", "--id=@m", "create", "Datapath", "datapath_version=0",
              "--", "set", "Open_vSwitch", ".", "datapaths:bpf=@m")
    lab.vsctl("add-zone-tp", "bpf", "zone=5", "udp_single=1000",
              "udp_multiple=1000", "icmp_first=2000", "icmp_reply=2000")


def test_timeout_policies(site: Site) -> None:
    """They are there as long as flows have them."""
    lab = site.lab
    add_policies(lab)
    lab.until(lambda: "policies: 6" in lab.appctl("dpif-bpf/ct-show",
                                                  target=PROVIDER))
    site.udp(5)
    assert 900 < timeouts(site)[0] <= 1000
    lab.appctl("dpctl/flush-conntrack")
    site.udp(6)
    assert timeouts(site)[0] <= 120
    assert "which actions have 0 times" not in lab.appctl(
        "dpif-bpf/ct-show", target=PROVIDER)
    lab.vsctl("del-zone-tp", "bpf", "zone=5")
    lab.until(lambda: "policies: 0" in lab.appctl(
        "dpif-bpf/ct-show", target=PROVIDER), 60)
    lab.appctl("dpctl/flush-conntrack")
    site.udp(5)
    assert timeouts(site)[0] <= 120


def test_all_of_it_outlives_the_provider(site: Site) -> None:
    lab = site.lab
    one, two = site.hosts[:2]
    add_policies(lab)
    lab.until(lambda: "policies: 6" in lab.appctl("dpif-bpf/ct-show",
                                                  target=PROVIDER))
    lab.appctl("dpctl/ct-set-limits", DP, "default=40", "zone=5,limit=20")
    lab.appctl("dpctl/ct-set-maxconns", DP, "1000")
    site.udp(5, 2)
    one.ping(two.ip)
    site.udp(6)
    before = untimed(site)
    server = lab.spawn(two, "tcp-sink", two.ip, "5001")
    source = lab.spawn(one, "tcp-source", two.ip, "5001", str(1 << 28))
    lab.until(lambda: any(line.startswith("tcp") for line in site.shown()))
    lab.kill(PROVIDER, signal.SIGKILL)
    assert source.poll() is None
    lab.start_provider()
    lab.until(lambda: DP in lab.appctl("dpctl/dump-dps"))  # it is back there
    assert before <= untimed(site)
    assert lab.appctl("dpctl/ct-get-limits", DP, "zone=5,6").splitlines(
        ) == ["default limit=40", "zone=5,limit=20,count=4",
              "zone=6,limit=40,count=1"]
    assert lab.appctl("dpctl/ct-get-maxconns", DP).strip() == "1000"
    shown = lab.appctl("dpif-bpf/ct-show", target=PROVIDER)
    assert "policies: 6" in shown and "have 0 times" not in shown
    sent, _ = source.communicate(timeout=120)
    got, _ = server.communicate(timeout=20)
    assert sent and got == sent
    # What is new has the old policy, and a zone is flushed as a whole.
    lab.appctl("dpctl/flush-conntrack", "zone=5")
    assert site.zones() == [6]
    site.udp(5)
    assert max(timeouts(site)) > 900


SEND = """
import socket, sys
for port in range(10000, 10000 + int(sys.argv[2])):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        sock.sendto(b"x", (sys.argv[1], 9))
"""


def test_many(site: Site) -> None:
    """A dump has each once; a flush of one zone leaves the other alone."""
    one, two = site.hosts[:2]
    for zone in ZONES:  # which has their flows put
        site.udp(zone)
    site.lab.appctl("dpctl/flush-conntrack", "zone=5")
    count = SLICE + 500
    one.ns.run(sys.executable, "-c", SEND, two.ip, str(count))
    site.lab.until(lambda: site.lab.appctl(
        "dpctl/ct-get-nconns", DP).strip() == str(count + 1))
    ports = re.findall(r"orig=\(src=10.1.1.1,dst=10.1.1.2,sport=(\d+)",
                       "\n".join(site.shown()))
    assert sorted(map(int, ports)) == list(range(10000, 10000 + count))
    site.lab.appctl("dpctl/flush-conntrack", "zone=5")
    assert site.zones() == [6]
