# SPDX-License-Identifier: Apache-2.0
"""Devices that are renamed, moved and deleted under a running switch, as
udev, LXC, CNI plugins and operators do it: neither daemon ends, and ports of
other devices are not concerned."""

from __future__ import annotations

import signal
import time

import pytest
from lab import PROVIDER, SWITCH, Host, Lab
from netns import Namespace
from test_restart import ABSENT
from test_switch_ports import MISSING, interface, ports

NO_DEVICE = (rf"^{SWITCH}: .*(No such device|does not exist"
             r"|on nonexistent port|receive buffer overflowed)")
"""What ovs-vswitchd says of ports whose devices have gone or have other names,
and when it does not keep up with them."""


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.allowed += [MISSING, NO_DEVICE]
    return lab


def two_hosts(lab: Lab) -> tuple[Host, Host]:
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    one.ping(two.ip)
    return one, two


def batch(lab: Lab, *lines: str) -> None:
    """Commands of ip(8), one right after the other."""
    file = lab.rundir / "batch"
    file.write_text("".join(f"{line}\n" for line in lines))
    lab.ns.run("ip", "-batch", str(file))


def errors(lab: Lab) -> list[str]:
    return [line.strip() for line in lab.vsctl("show").splitlines()
            if "error" in line]


def devices(lab: Lab) -> dict[str, int]:
    """Indexes of devices by their names."""
    return {words[1].split("@")[0].rstrip(":"): int(words[0].rstrip(":"))
            for words in map(str.split,
                             lab.ns.ip("-o link show").splitlines())}


def add_internal(lab: Lab, name: str) -> None:
    lab.vsctl("add-port", "br0", name, "--", "set", "interface", name,
              "type=internal")


def give(lab: Lab, name: str, away: Namespace, ip: str) -> Host:
    """Gives an internal port to a container, which calls it eth0."""
    lab.ns.ip(f"link set {name} netns {away.pid}")
    away.ip(f"link set {name} name eth0")
    away.no_ipv6("eth0")
    away.ip(f"addr add {ip} dev eth0")
    away.ip("link set eth0 up")
    away.wait_up("eth0")
    return Host(away, name, ip.split("/")[0])


# Devices of the machine.

def test_renamed_and_deleted(lab: Lab) -> None:
    """What udev and CNI plugins do when a container ends."""
    one, two = two_hosts(lab)
    for _ in range(15):
        lab.ns.ip("link add v1 type veth peer name w1")
        lab.ns.ip("link set v1 up")
        lab.vsctl("add-port", "br0", "v1")
        batch(lab, "link set v1 name u1", "link del u1")
        lab.until(lambda: "v1" not in ports(lab))
        lab.vsctl("del-port", "v1")
    one.ping(two.ip)
    assert lab.alive


def test_renamed_and_back(lab: Lab) -> None:
    """Twice, as by LXC, and more often: the port is there in the end, and
    had a number whenever ovs-vswitchd took it for one."""
    one, two = two_hosts(lab)
    lab.ns.ip("link add v1 type veth peer name w1")
    lab.vsctl("add-port", "br0", "v1")
    for times in (1, 2, 5, 20):
        batch(lab, *["link set v1 name u1", "link set u1 name v1"] * times)
        lab.until(lambda: "v1" in ports(lab)
                  and int(interface(lab, "v1", "ofport")) > 0)
    assert "on port 65535" not in lab.text(f"{SWITCH}.log")
    one.ping(two.ip)


def test_port_that_ends_is_added_again(lab: Lab) -> None:
    """Also when nothing but its end tells of it: no device changes."""
    one, two = two_hosts(lab)
    lab.ns.ip("link add v1 type veth peer name w1")
    lab.ns.ip("link set v1 promisc on")
    lab.vsctl("add-port", "br0", "v1")
    for _ in range(3):
        lab.dpctl("del-if", "bpf@ovs-bpf", "v1")
        lab.until(lambda: "v1" in ports(lab)
                  and int(interface(lab, "v1", "ofport")) > 0)
    one.ping(two.ip)


def test_names_are_swapped(lab: Lab) -> None:
    """Each port is that of its name's device, whichever that is."""
    one, two = two_hosts(lab)
    hosts = {}
    for name, ip in (("pa", "10.1.1.3/24"), ("pb", "10.1.1.4/24")):
        hosts[name] = lab.add_host(name, "br0", ip)
        one.ping(hosts[name].ip)
    lab.vsctl("set", "port", "pa", "tag=7")
    one.no_ping(hosts["pa"].ip)
    for name in ("pa", "pb"):
        lab.ns.ip(f"link set {name} down")
    batch(lab, "link set pa name tmp0", "link set pb name pa",
          "link set tmp0 name pb", "link set pa up", "link set pb up")
    lab.until(lambda: {"pa", "pb"} <= ports(lab))
    lab.ns.wait_up("pa")
    lab.ns.wait_up("pb")
    lab.until(lambda: "0 received" not in one.ns.run(
        "ping", "-c1", "-W1", hosts["pa"].ip, check=False))
    one.no_ping(hosts["pb"].ip)
    one.ping(hosts["pa"].ip)
    lab.ns.rename("pb", "pc")
    lab.ns.rename("pa", "pd")
    lab.until(lambda: ports(lab) == {"ovs-bpf", "kept", "br0", "p1", "p2"})
    one.ping(two.ip)


def test_events_are_lost(lab: Lab) -> None:
    """More changes than the kernel keeps for one that does not listen."""
    one, two = two_hosts(lab)
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    lab.ns.ip("link add v1 type veth peer name w1")
    lab.ns.ip("link add v2 type veth peer name w2")
    lab.vsctl("add-port", "br0", "v1", "--", "add-port", "br0", "v2")
    away = lab.add_namespace()
    provider = lab.processes[PROVIDER]
    provider.send_signal(signal.SIGSTOP)
    try:
        batch(lab, *(f"link set w2 mtu {1000 + i % 300}"
                     for i in range(4000)))
        batch(lab, "link del v1", "link set v2 name u2",
              f"link set p3 netns {away.pid}")
        away.ip(f"link set p3 netns {lab.ns.pid}")
        lab.ns.ip("link set p3 up")
    finally:
        provider.send_signal(signal.SIGCONT)
    lab.until(lambda: ports(lab) == {"ovs-bpf", "kept", "br0", "p1", "p2",
                                     "p3"})
    assert "link events were lost" in lab.text(f"{PROVIDER}.log")
    one.ping(two.ip)
    lab.ns.wait_up("p3")
    one.ping(three.ip)


# Internal ports.

def test_internal_ports_of_containers(own_lab: Lab) -> None:
    """LXC, pipework and others move them and call them eth0."""
    lab = own_lab
    lab.allowed += [MISSING, NO_DEVICE, ABSENT]
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    hosts = []
    for i in (5, 6):
        add_internal(lab, f"int{i}")
        hosts.append(give(lab, f"int{i}", lab.add_namespace(),
                          f"10.1.1.{i}/24"))
    five, six = hosts

    def works() -> None:
        five.ping(six.ip)
        one.ping(five.ip)
        assert {"int5", "int6"} <= ports(lab)
        assert "eth0" not in ports(lab)
        assert "int5" not in devices(lab)
        assert not errors(lab)
        for name in ("int5", "int6"):
            assert int(interface(lab, name, "ofport")) > 0

    works()
    lab.tcp(one, five)
    lab.kill(PROVIDER)
    five.ping(six.ip)
    lab.start_provider()
    works()
    lab.kill(SWITCH)
    lab.start_switch()
    works()
    five.ns.ip("link set eth0 name lan0")
    five.device = "lan0"
    works()
    received = lab.vsctl("get", "interface", "int5", "statistics:rx_packets")
    assert int(received) > 0
    lab.vsctl("del-port", "int5")
    assert "lan0" not in five.ns.ip("link show")


def test_internal_port_returns_with_its_container(lab: Lab) -> None:
    """Its namespace goes, and it with that: it is there again, at home and
    under its name, and nobody has to do anything for it."""
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    add_internal(lab, "int5")
    number = interface(lab, "int5", "ofport")
    for i in range(3):
        away = Namespace()
        one.ping(give(lab, "int5", away, f"10.1.1.{5 + i}/24").ip)
        away.close()
        lab.until(lambda: "int5" in devices(lab))
    one.ping(lab.address("int5", "10.1.1.9/24").ip)
    assert interface(lab, "int5", "ofport") == number
    assert not errors(lab)


def test_renamed_at_home(own_lab: Lab) -> None:
    """It keeps its addresses, and stays the port that it was."""
    lab = own_lab
    lab.allowed += [MISSING, NO_DEVICE, ABSENT,
                    "br0: .*MTU|setting MAC"]
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    lab.address("br0", "10.1.1.9/24")
    one.ping("10.1.1.9")

    def works() -> None:
        one.ping("10.1.1.9")
        assert "br0" in ports(lab)
        assert interface(lab, "br0", "ofport") == "65534"
        assert not errors(lab)

    for i in range(12):
        lab.ns.rename("br0", "br9")
        add_internal(lab, f"int{i}")
        works()
        assert "br0" not in devices(lab)
        lab.vsctl("del-port", f"int{i}")
        lab.ns.rename("br9", "br0")
    lab.ns.rename("br0", "br9")
    lab.kill(SWITCH)
    lab.start_switch()
    works()
    lab.kill(PROVIDER)
    lab.start_provider()
    works()
    lab.vsctl("del-br", "br0")
    lab.until(lambda: "br9" not in devices(lab))


def test_deleted_internal_port_returns(lab: Lab) -> None:
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    add_internal(lab, "int5")
    number = interface(lab, "int5", "ofport")
    hidden = next(name for name in lab.ns.ip("link show").split()
                  if name.endswith("@int5:")).split("@")[0]
    for i, device in enumerate(("int5", hidden)):
        one.ping(lab.address("int5", f"10.1.1.{5 + i}/24").ip)
        lab.ns.ip(f"link del {device}")
        lab.until(lambda: "int5" in devices(lab))
    one.ping(lab.address("int5", "10.1.1.9/24").ip)
    lab.ns.ip(f"link set {hidden} down")
    lab.ns.wait_up("int5")
    one.ping("10.1.1.9")
    assert interface(lab, "int5", "ofport") == number


def test_datapath_outlives_its_devices(own_lab: Lab) -> None:
    """The local port, and the pair through which it sends to itself."""
    lab = own_lab
    lab.allowed.append(ABSENT)
    one, two = two_hosts(lab)
    before = devices(lab)
    sender = next(name for name in before if name.startswith("ovsx"))
    for device in ("ovs-bpf", "ovsh0p0", sender):
        lab.ns.ip(f"link del {device}")
        lab.until(lambda: {"ovs-bpf", "ovsh0p0", sender} <= set(
            devices(lab)))
        lab.flush()
        # The first packet of a flow passes through ovs-vswitchd.
        one.ping(two.ip)
    now = devices(lab)
    assert now["ovsh0p0"] == before["ovsh0p0"]
    assert now[sender] == before[sender]
    lab.ns.ip(f"link set {sender} down")
    lab.until(lambda: ",UP" in lab.ns.ip(f"link show dev {sender}"))
    lab.flush()
    one.ping(two.ip)
    lab.kill(PROVIDER)
    for device in ("ovs-bpf", sender):
        lab.ns.ip(f"link del {device}")
    lab.start_provider()
    assert "took over datapath" in lab.text(f"{PROVIDER}.log")
    assert devices(lab)["ovsh0p0"] == before["ovsh0p0"]
    lab.flush()
    one.ping(two.ip)
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    one.ping(three.ip)


def test_renamed_while_the_provider_is_away(own_lab: Lab) -> None:
    """The device is its owner's again, also for the time without OVS."""
    lab = own_lab
    lab.allowed += [MISSING, NO_DEVICE, ABSENT]
    one, two = two_hosts(lab)
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    assert "PROMISC" in lab.ns.ip("link show dev p3")
    lab.kill(SWITCH)
    lab.kill(PROVIDER)
    lab.ns.rename("p3", "p3b")
    lab.start_provider()
    assert "p3 is not there" in lab.text(f"{PROVIDER}.log")
    assert "PROMISC" not in lab.ns.ip("link show dev p3b")
    lab.ns.ip("addr add 10.1.1.99/24 dev p3b")
    three.ping("10.1.1.99")
    lab.ns.ip("addr del 10.1.1.99/24 dev p3b")
    lab.start_switch()
    one.ping(two.ip)
    lab.vsctl("add-port", "br0", "p3b")
    one.ping(three.ip)


def test_changes_amid_a_takeover(own_lab: Lab) -> None:
    """Devices come, go, and change their names while ports are adopted."""
    lab = own_lab
    lab.allowed += [MISSING, NO_DEVICE, ABSENT]
    one, two = two_hosts(lab)
    names = [f"v{i}" for i in range(6)]
    for name in names:
        lab.ns.ip(f"link add {name} type veth peer name w{name}")
        lab.vsctl("add-port", "br0", name)
    for _ in range(2):
        lab.kill(PROVIDER)
        lines = [line for _ in range(12) for name in names for line in (
            f"link set {name} name u{name}", f"link set u{name} name {name}",
            f"link del {name}",
            f"link add {name} type veth peer name w{name}")]
        (lab.rundir / "batch").write_text("\n".join(lines) + "\n")
        changing = lab.ns.popen("ip", "-batch", str(lab.rundir / "batch"))
        lab.start_provider()
        assert changing.wait(60) == 0
        one.ping(two.ip)
    lab.until(lambda: set(names) <= ports(lab))


def test_signals_do_not_hide_changes(lab: Lab) -> None:
    """What happened while the provider did not run is known to the first
    request that it answers then."""
    one, two = two_hosts(lab)
    lab.ns.ip("link add v1 type veth peer name w1")
    lab.vsctl("add-port", "br0", "v1")
    provider = lab.processes[PROVIDER]
    for _ in range(5):
        provider.send_signal(signal.SIGSTOP)
        batch(lab, "link del v1", "link add v1 type veth peer name w1")
        time.sleep(0.2)     # ovs-vswitchd asks by now
        provider.send_signal(signal.SIGCONT)
        lab.until(lambda: "v1" in ports(lab)
                  and int(interface(lab, "v1", "ofport")) > 0)
    one.ping(two.ip)
