# SPDX-License-Identifier: Apache-2.0
"""Traffic through bridges of type "bpf" with a real ovs-vswitchd."""

from __future__ import annotations

import errno
import socket
import time

from lab import PROVIDER, Host, Lab


def test_two_hosts(lab: Lab) -> None:
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    one.ping("10.1.1.2", 10)
    assert "10.1.1.2" in one.ns.ip("neigh show nud reachable")
    lab.udp(one, two)
    lab.udp(two, one)
    lab.tcp(one, two)
    lab.tcp(two, one)


def test_packets_after_the_first_stay_in_bpf(lab: Lab) -> None:
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    lab.add_host("p2", "br0", "10.1.1.2/24")
    one.ping("10.1.1.2", 3)
    before, missed = lab.packets("p1"), lab.lookups()[1]
    one.ping("10.1.1.2", 20)
    assert lab.packets("p1") - before == 20
    assert lab.lookups()[1] - missed <= 2, "ARP at most"


def test_internal_port(lab: Lab) -> None:
    lab.add_bridge("br0")
    host = lab.add_host("p1", "br0", "10.1.1.1/24")
    switch = lab.address("br0", "10.1.1.9/24")
    host.ping(switch.ip)
    switch.ping(host.ip)
    lab.udp(host, switch)
    lab.tcp(host, switch, 8 << 20)
    lab.tcp(switch, host, 8 << 20)


def test_ipv6(lab: Lab) -> None:
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "fd00::1/64")
    two = lab.add_host("p2", "br0", "fd00::2/64")
    switch = lab.address("br0", "fd00::9/64")
    one.ping(two.ip)
    two.ping(switch.ip)
    lab.udp(one, two)
    lab.tcp(one, two)
    lab.tcp(two, switch)
    assert any("nd" in flow.match or "icmpv6" in flow.match
               for flow in lab.flows())


def test_big_segments(lab: Lab) -> None:
    """Segmentation offload passes whole: few packets, many bytes."""
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    one.ping(two.ip)
    size = 64 << 20
    before = lab.packets("p1")
    lab.tcp(one, two, size)
    used = lab.packets("p1") - before
    assert 0 < used < size / 1500 / 4


def test_big_first_packets(lab: Lab) -> None:
    """Misses of packets with unfinished checksums and of big segments."""
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    lab.ofctl("del-flows", "br0")
    lab.ofctl("add-flow", "br0", "priority=10,arp,actions=normal")
    # A flow for each source port and length of a controller's liking.
    lab.ofctl("add-flow", "br0", "tcp,actions=normal")
    lab.ofctl("add-flow", "br0", "udp,actions=normal")
    for _ in range(3):
        lab.flush()
        lab.tcp(one, two, 4 << 20)
        lab.flush()
        lab.udp(one, two, 5, 1400)
        lab.flush()
        lab.udp(one, two, 5, 9000)      # fragments


def test_flush_amid_tcp(lab: Lab) -> None:
    """Flows that go away under traffic make upcalls of big segments."""
    # Upcalls that wait in sockets still are looked at after the end.
    lab.allowed.append("received packet on unknown port")
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    one.ping(two.ip)
    sink = lab.spawn(two, "tcp-sink", two.ip, "5001")
    source = lab.spawn(one, "tcp-source", two.ip, "5001", str(512 << 20))
    while source.poll() is None:
        lab.flush()
        time.sleep(0.1)
    sent, got = source.communicate()[0], sink.communicate(timeout=20)[0]
    assert sent == got


def test_vlans(lab: Lab) -> None:
    """Access ports with another implementation at the trunk's end."""
    # Its taps are moved to the hosts.
    lab.allowed.append("netdev_linux.*br1i")
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24", "tag=7")
    two = lab.add_host("p2", "br0", "10.1.1.2/24", "tag=7")
    three = lab.add_host("p3", "br0", "10.1.1.3/24", "tag=8")
    lab.add_bridge("br1", "netdev")
    cable(lab, "br0", "br1")
    for host in (one, three):
        # The datapath in user space takes packets as they are on the wire.
        host.ns.run("ethtool", "-K", "eth0", "tx", "off")
    far7 = tagged_host(lab, "br1", 7, "10.1.1.4/24")
    far8 = tagged_host(lab, "br1", 8, "10.1.1.5/24")
    one.ping(two.ip)
    one.no_ping(three.ip)
    one.ping(far7.ip)
    far7.ping(two.ip)
    one.no_ping(far8.ip)
    three.ping(far8.ip)
    lab.udp(one, far7)
    lab.udp(far8, three)
    lab.tcp(two, one, 4 << 20)


def test_vlan_trunk(lab: Lab) -> None:
    """Big segments keep their tag between two bridges of ours."""
    lab.add_bridge("br0")
    lab.add_bridge("br1")
    cable(lab, "br0", "br1")
    one = lab.add_host("p1", "br0", "10.1.1.1/24", "tag=7")
    two = lab.add_host("p2", "br1", "10.1.1.2/24", "tag=7")
    three = lab.add_host("p3", "br1", "10.1.1.3/24", "tag=8")
    four = tagged_host(lab, "br0", 8, "10.1.1.4/24")
    one.ping(two.ip)
    lab.tcp(one, two, 8 << 20)
    lab.tcp(two, one, 8 << 20)
    lab.tcp(three, four, 8 << 20)
    lab.tcp(four, three, 8 << 20)
    one.no_ping(three.ip)


def cable(lab: Lab, bridge: str, other: str) -> None:
    """Joins two bridges by a veth pair that trunks VLANs 7 and 8."""
    lab.ns.ip("link add t0 type veth peer name t1")
    for name, end in (("t0", bridge), ("t1", other)):
        lab.ns.no_ipv6(name)
        lab.ns.ip(f"link set {name} up")
        lab.vsctl("add-port", end, name, "trunks=7,8")


def tagged_host(lab: Lab, bridge: str, tag: int, ip: str) -> Host:
    """A host on an internal access port."""
    name = f"{bridge}i{tag}"
    lab.vsctl("add-port", bridge, name, f"tag={tag}", "--", "set",
              "interface", name, "type=internal")
    ns = lab.add_namespace()
    lab.ns.ip(f"link set {name} netns {ns.pid}")
    ns.no_ipv6(name)
    ns.ip(f"addr add {ip} dev {name}")
    ns.ip(f"link set {name} up")
    if "tun" not in ns.ip(f"-d link show dev {name}"):
        ns.wait_up(name)
    return Host(ns, name, ip.split("/")[0], name)


def test_two_bridges(lab: Lab) -> None:
    lab.add_bridge("br0")
    lab.add_bridge("br1")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    three = lab.add_host("p3", "br1", "10.1.1.3/24")
    four = lab.add_host("p4", "br1", "10.1.1.4/24")
    one.ping(two.ip)
    three.ping(four.ip)
    one.no_ping(three.ip)
    # A patch between them joins the two.
    lab.vsctl("add-port", "br0", "to1", "--", "set", "interface", "to1",
              "type=patch", "options:peer=to0", "--",
              "add-port", "br1", "to0", "--", "set", "interface", "to0",
              "type=patch", "options:peer=to1")
    one.ping(three.ip)
    lab.tcp(one, four)
    lab.vsctl("del-br", "br1")
    one.ping(two.ip)
    one.no_ping(four.ip)


def test_beside_netdev(lab: Lab) -> None:
    lab.add_bridge("br0")
    lab.add_bridge("br1", "netdev")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    three = lab.add_host("p3", "br1", "10.1.1.3/24")
    four = lab.add_host("p4", "br1", "10.1.1.4/24")
    one.ping(two.ip)
    three.ping(four.ip)
    one.no_ping(three.ip)
    shown = lab.appctl("dpif/show")
    assert "bpf@ovs-bpf" in shown and "netdev@ovs-netdev" in shown


def test_dump_flows_parses(lab: Lab) -> None:
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24", "tag=5")
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    one.ping(three.ip)
    lab.udp(one, three)
    one.no_ping(two.ip)
    flows = lab.flows()
    assert flows
    for flow in flows:
        assert "in_port" in flow.match and "eth_type" in flow.match
        assert "ufid" in flow.info or "ufid" in str(flow.orig)
    by_appctl = lab.appctl("dpctl/dump-flows", "-m", "bpf@ovs-bpf")
    assert "in_port(p1)" in by_appctl


def test_rewriting(lab: Lab) -> None:
    """What OpenFlow sets is on the wire, checksums included."""
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.2.2.2/24")
    gw = "02:00:00:00:00:fe"
    for host, peer in ((one, "10.1.1.9"), (two, "10.2.2.9")):
        host.knows(peer, gw)
    # 10.1.1.9 for one is two, 10.2.2.9 for two is one.
    lab.ofctl("del-flows", "br0")
    for source, sink, was, now in (
            (one, two, "10.1.1.9", "10.2.2.9"),
            (two, one, "10.2.2.9", "10.1.1.9")):
        lab.ofctl("add-flow", "br0",
                  f"in_port={source.port},ip,nw_dst={was},actions="
                  f"mod_dl_src:{gw},mod_dl_dst:{sink.mac},"
                  f"mod_nw_src:{now},mod_nw_dst:{sink.ip},dec_ttl,"
                  f"output:{sink.port}")
    one.ping("10.1.1.9")
    two.ping("10.2.2.9")
    output = one.ns.run("ping", "-n", "-c1", "-W2", "10.1.1.9")
    assert "ttl=63" in output
    server = lab.spawn(two, "tcp-sink", two.ip, "5001")
    client = lab.spawn(one, "tcp-source", "10.1.1.9", "5001", str(8 << 20))
    assert client.communicate(timeout=30) == server.communicate(timeout=30)


def test_nothing_reaches_the_host(lab: Lab) -> None:
    """A port's device is the switch's: the host behind it has no stack."""
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    lab.ns.ip("addr add 10.1.1.8/24 dev p1")
    one.no_ping("10.1.1.8")
    lab.ofctl("del-flows", "br0")
    one.no_ping("10.1.1.8")


def test_drops_are_counted(lab: Lab) -> None:
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    lab.add_host("p2", "br0", "10.1.1.2/24")
    lab.ofctl("del-flows", "br0")
    lab.ofctl("add-flow", "br0", "actions=drop")
    one.no_ping("10.1.1.2")
    shown = lab.appctl("dpif-bpf/drops", target=PROVIDER)
    counts = [int(line.rsplit(None, 1)[1]) for line in shown.splitlines()
              if "explicit" in line]
    assert counts and counts[0] > 0, shown


def test_unknown_sockets_are_refused(lab: Lab) -> None:
    """The provider goes on when a stranger talks nonsense to it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(str(lab.rundir / "ovs-bpfd.sock"))
        stranger.send(b"\xff" * 64)
        stranger.settimeout(5)
        try:
            assert stranger.recv(4096) == b""
        except OSError as error:
            assert error.errno == errno.ECONNRESET
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    one.ping(lab.address("br0", "10.1.1.9/24").ip)
