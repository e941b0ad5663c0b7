# SPDX-License-Identifier: Apache-2.0
"""Ports of bridges that come, go and change, with a real ovs-vswitchd."""

from __future__ import annotations

import json

from lab import PROVIDER, Host, Lab

MISSING = (r"could not open network device|p\d\w*( failed)?: .*No such device"
           r"|cannot get R?STP status on nonexistent port")
"""What ovs-vswitchd says of a configured device that is not there."""


def interface(lab: Lab, name: str, column: str) -> str:
    return lab.vsctl("get", "interface", name, column).strip('"')


def ports(lab: Lab) -> set[str]:
    """Names of the datapath's ports."""
    return {line.split()[2] for line in lab.dpctl("show").splitlines()
            if line.strip().startswith("port ")}


def test_add_and_delete(lab: Lab) -> None:
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    for _ in range(3):
        two = lab.add_host("p2", "br0", "10.1.1.2/24")
        one.ping(two.ip)
        lab.vsctl("del-port", "p2")
        one.no_ping(two.ip)
        assert ports(lab) == {"ovs-bpf", "kept", "br0", "p1"}
        assert "PROMISC" not in lab.ns.ip("link show dev p2")
        lab.ns.ip("link del p2")
    lab.vsctl("del-br", "br0")
    lab.until(lambda: "br0" not in lab.ns.ip("link show"))
    assert ports(lab) == {"ovs-bpf", "kept"}


def test_many_ports(lab: Lab) -> None:
    lab.add_bridge("br0")
    lab.vsctl(*(word for i in range(50) for word in (
        "--", "add-port", "br0", f"i{i}", "--", "set", "interface", f"i{i}",
        "type=internal")))
    assert {f"i{i}" for i in range(50)} <= ports(lab)
    first = lab.add_host("p1", "br0", "10.1.1.1/24")
    first.ping(lab.address("i49", "10.1.1.49/24").ip)
    lab.vsctl("del-br", "br0")
    lab.until(lambda: "i49" not in lab.ns.ip("link show"))


def test_rename(lab: Lab) -> None:
    """As with the kernel's datapath, the port of the old name is lost to
    the bridge and one that is configured under the new name works."""
    lab.allowed.append(MISSING)
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    one.ping(two.ip)
    lab.ns.rename("p2", "p2new")
    lab.vsctl("del-port", "p2", "--", "add-port", "br0", "p2new")
    one.ping(two.ip)
    assert ports(lab) == {
        "ovs-bpf", "kept", "br0", "p1", "p2new"}


def test_vanish_and_return(lab: Lab) -> None:
    lab.allowed.append(MISSING)
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    one.ping(two.ip)
    lab.ns.ip("link del p2")
    lab.until(lambda: "p2" not in ports(lab))
    lab.until(lambda: interface(lab, "p2", "ofport") in ("-1", "[]"))
    lab.plug("p2", two.ns, "10.1.1.2/24")
    lab.until(lambda: "p2" in ports(lab))
    one.ping(two.ip)


def test_port_moved_to_another_namespace(lab: Lab) -> None:
    """A device leaves the datapath when it leaves its namespace."""
    lab.allowed.append(MISSING)
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    one.ping(two.ip)
    away = lab.add_namespace()
    lab.ns.ip(f"link set p2 netns {away.pid}")
    lab.until(lambda: "p2" not in ports(lab))
    away.ip(f"link set p2 netns {lab.ns.pid}")
    lab.ns.ip("link set p2 up")
    lab.until(lambda: "p2" in ports(lab))
    one.ping(two.ip)


def test_internal_port_in_another_namespace(lab: Lab) -> None:
    """How OVS's own tests make hosts (ADD_INT)."""
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    lab.vsctl("add-port", "br0", "int0", "--", "set", "interface", "int0",
              "type=internal")
    away = lab.add_namespace()
    lab.ns.ip(f"link set int0 netns {away.pid}")
    away.ip("addr add 10.1.1.5/24 dev int0")
    away.ip("link set int0 up")
    away.wait_up("int0")
    there = Host(away, "int0", "10.1.1.5", "int0")
    one.ping(there.ip)
    lab.tcp(one, there, 8 << 20)
    lab.tcp(there, one, 8 << 20)
    assert "int0" in ports(lab)
    lab.vsctl("del-port", "int0")
    assert "int0" not in away.ip("link show")


def test_internal_port_of_lost_namespace(lab: Lab) -> None:
    lab.allowed.append(MISSING)
    lab.allowed.append("int0")
    lab.add_bridge("br0")
    lab.vsctl("add-port", "br0", "int0", "--", "set", "interface", "int0",
              "type=internal")
    away = lab.add_namespace()
    lab.ns.ip(f"link set int0 netns {away.pid}")
    lab.until(lambda: "int0" in ports(lab))
    away.close()
    # ovs-vswitchd makes what is configured anew.
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    lab.until(lambda: "int0" in lab.ns.ip("link show"))
    one.ping(lab.address("int0", "10.1.1.5/24").ip)


def test_name_of_another_device(lab: Lab) -> None:
    """An internal port cannot have the name of a device of the host."""
    lab.allowed.append("taken")
    lab.ns.ip("link add taken type bridge")
    lab.add_bridge("br0")
    lab.vsctl("--no-wait", "add-port", "br0", "taken", "--", "set",
              "interface", "taken", "type=internal")
    lab.until(lambda: interface(lab, "taken", "ofport") == "-1")
    assert "taken" not in ports(lab)
    assert "bridge" in lab.ns.ip("-d link show dev taken")


def test_port_in_use(lab: Lab) -> None:
    """A device that is in a Linux bridge is refused."""
    lab.allowed.append("p1")
    lab.ns.ip("link add lb type bridge")
    lab.ns.ip("link add p1 type veth peer name p1b")
    lab.ns.ip("link set p1 master lb")
    lab.add_bridge("br0")
    lab.vsctl("--no-wait", "add-port", "br0", "p1")
    lab.until(lambda: interface(lab, "p1", "ofport") == "-1")
    assert "busy" in interface(lab, "p1", "error").lower()


def test_mtu(lab: Lab) -> None:
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    switch = lab.address("br0", "10.1.1.9/24")
    for device, ns in (("p1", lab.ns), ("eth0", one.ns)):
        ns.ip(f"link set {device} mtu 9000")
    lab.vsctl("set", "interface", "br0", "mtu_request=9000")
    lab.until(lambda: "mtu 9000" in lab.ns.ip("link show dev br0"))
    output = one.ns.run("ping", "-n", "-c2", "-W2", "-M", "do", "-s", "8900",
                        switch.ip)
    assert " 2 received" in output
    # A port drops what is larger than its device takes.
    lab.ns.ip("link set p1 mtu 1400")
    output = one.ns.run("ping", "-n", "-c2", "-W1", "-M", "do", "-s", "8900",
                        switch.ip, check=False)
    assert " 0 received" in output
    one.ping(switch.ip)


def test_statistics(lab: Lab) -> None:
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    one.ping(two.ip, 20)
    rows = {line.split(":")[0].split()[-1]: line
            for line in lab.ofctl("dump-ports", "br0", "p1").splitlines()
            if "rx pkts" in line}
    (line,) = rows.values()
    assert int(line.split("pkts=")[1].split(",")[0]) >= 20
    for port in ("p1", "p2"):
        lab.vsctl("set", "Open_vSwitch", ".",
                  "other_config:stats-update-interval=1000")
        lab.until(lambda port=port: statistic(  # type: ignore[misc]
            lab, port, "rx_packets") >= 20)


def statistic(lab: Lab, port: str, key: str) -> int:
    text = lab.vsctl("--format=json", "--columns=statistics", "find",
                     "interface", f"name={port}")
    return int(dict(json.loads(text)["data"][0][0][1]).get(key, 0))


def requests(lab: Lab) -> int:
    """What the provider has been asked so far."""
    shown = lab.appctl("coverage/show", target=PROVIDER)
    return int(shown.partition("netlink_request")[2].split()[1])


def test_ports_are_not_asked_for_again(own_lab: Lab) -> None:
    """ovs-vswitchd wants to know of all ports whenever one is added."""
    lab = own_lab
    # What is asked from time to time is none of it.
    lab.vsctl("set", "Open_vSwitch", ".",
              "other_config:stats-update-interval=3600000",
              "other_config:max-idle=3600000",
              "other_config:max-revalidator=3600000")
    lab.add_bridge("br0")
    names = [f"v{n}" for n in range(70)]
    for name in names:
        lab.ns.ip(f"link add {name} type veth peer name {name}x")
        lab.ns.ip(f"link set {name} up")

    def cost() -> int:
        """Requests for a few more ports, added one by one."""
        before = requests(lab)
        for _ in range(5):
            lab.vsctl("add-port", "br0", names.pop())
        return requests(lab) - before

    def add(count: int) -> None:
        """All at once."""
        more = [names.pop() for _ in range(count)]
        lab.vsctl(*[word for name in more
                    for word in ("--", "add-port", "br0", name)])

    add(5)
    with_few = cost()
    add(50)
    assert cost() < 2 * with_few


def test_ports_change_behind_the_switch(lab: Lab) -> None:
    """What ovs-vswitchd knows of ports is not kept longer than it is so."""
    lab.add_bridge("br0")
    lab.allowed.append(MISSING)
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    one.ping(two.ip)
    # Removed by hand: ovs-vswitchd adds it again when it looks at ports.
    lab.dpctl("del-if", "bpf@ovs-bpf", "p2")
    lab.until(lambda: interface(lab, "p2", "ofport") == "-1"
              or "p2" in ports(lab))
    lab.vsctl("set", "bridge", "br0", "external_ids:a=b")
    lab.until(lambda: "p2" in ports(lab))
    one.ping(two.ip)
    # Renamed: the port of that name has gone, the other is another's.
    lab.ns.rename("p2", "p2b")
    lab.until(lambda: not ports(lab) & {"p2", "p2b"})
    lab.ns.rename("p2b", "p2")
    lab.until(lambda: "p2" in ports(lab))
    one.ping(two.ip)
