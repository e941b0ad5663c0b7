# SPDX-License-Identifier: Apache-2.0
"""Ports of tunnels against the kernel's own tunnel devices on the other side.

The switch's namespace is one end of the underlay, and a namespace with a
device of the same tunnel that needs no metadata the other one.  A kernel
without a tunnel's devices skips it: 6.1 and 6.12 of Debian have them all.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from lab import PROVIDER, Host, Lab
from netns import Namespace
from ovs.flow.odp import ODPFlow
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw
from streams import Stream

US, THEM = "172.31.1.1", "172.31.1.2"
US6, THEM6 = "fc00:31::1", "fc00:31::2"
DP = "bpf@dp3"
MAC1, MAC2 = "0a:00:00:00:00:01", "0a:00:00:00:00:02"


@dataclass(frozen=True, slots=True)
class Kind:
    """A tunnel as OVS and as ip-link(8) call it.

    :param options: of the interface, beside the remote address and the key
    :param device: of ip-link, with {us} and {them} seen from the other end
    """

    type: str
    device: str
    options: str = ""
    ipv6: bool = False


ENDS = "local {us} remote {them}"
KINDS = {
    "vxlan": Kind("vxlan", f"vxlan id 7 dstport 4789 dev eth0 {ENDS}"),
    "vxlan, no sums": Kind(
        "vxlan", f"vxlan id 7 dstport 4789 dev eth0 {ENDS} noudpcsum",
        "options:csum=false"),
    "vxlan, sums": Kind("vxlan", f"vxlan id 7 dstport 4789 dev eth0 {ENDS}",
                        "options:csum=true"),
    "vxlan, another port": Kind(
        "vxlan", f"vxlan id 7 dstport 8472 dev eth0 {ENDS}",
        "options:dst_port=8472"),
    "vxlan, groups": Kind(
        "vxlan", f"vxlan id 7 dstport 4789 dev eth0 {ENDS} gbp",
        "options:exts=gbp"),
    "vxlan over IPv6": Kind(
        "vxlan", f"vxlan id 7 dstport 4789 dev eth0 {ENDS} udp6zerocsumrx",
        ipv6=True),
    "vxlan over IPv6, sums": Kind(
        "vxlan", f"vxlan id 7 dstport 4789 dev eth0 {ENDS}",
        "options:csum=true", ipv6=True),
    "geneve": Kind("geneve", "geneve id 7 remote {them}"),
    "geneve over IPv6": Kind(
        "geneve", "geneve id 7 remote {them} udp6zerocsumrx", ipv6=True),
    "gre": Kind("gre", f"gretap key 7 {ENDS}"),
    "gre over IPv6": Kind("ip6gre", f"ip6gretap key 7 {ENDS}", ipv6=True),
    "erspan 1": Kind(
        "erspan", f"erspan oseq key 7 {ENDS} erspan_ver 1 erspan 5",
        "options:erspan_ver=1 options:erspan_idx=5"),
    "erspan 2": Kind(
        "erspan", f"erspan oseq key 7 {ENDS} erspan_ver 2 erspan_dir ingress"
        " erspan_hwid 4", "options:erspan_ver=2 options:erspan_dir=1"
        " options:erspan_hwid=4"),
    "erspan 1 over IPv6": Kind(
        "ip6erspan", f"ip6erspan oseq key 7 {ENDS} erspan_ver 1 erspan 5",
        "options:erspan_ver=1 options:erspan_idx=5", ipv6=True),
}


def underlay(lab: Lab) -> Namespace:
    """A machine at the other end of a cable."""
    ns = lab.add_namespace()
    lab.plug("u0", ns, f"{THEM}/24")
    for where, device, ip, ip6 in ((lab.ns, "u0", US, US6),
                                   (ns, "eth0", THEM, THEM6)):
        where.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/"
                  f"{device}/disable_ipv6")
        if ip == US:
            where.ip(f"addr add {ip}/24 dev {device}")
        where.ip(f"addr add {ip6}/64 dev {device} nodad")
    return ns


def peer(ns: Namespace, kind: Kind) -> Host:
    """The host behind the other end of the tunnel."""
    us, them = (THEM6, US6) if kind.ipv6 else (THEM, US)
    made = ns.run("ip", "link", "add", "tun", "type",
                  *kind.device.format(us=us, them=them).split(), check=False)
    if made:
        pytest.skip(f"{kind.device.split()[0]}: {made.strip()}")
    ns.no_ipv6("tun")
    ns.ip("addr add 10.1.1.2/24 dev tun")
    ns.ip("link set tun mtu 1400 up")
    return Host(ns, "tun0", "10.1.1.2", "tun")


def add_tunnel(lab: Lab, kind: Kind) -> None:
    remote = THEM6 if kind.ipv6 else THEM
    lab.vsctl("add-port", "br0", "tun0", "--", "set", "interface", "tun0",
              f"type={kind.type}", f'options:remote_ip="{remote}"',
              "options:key=7", *kind.options.split())


@pytest.mark.parametrize("name", KINDS)
def test_between_ovs_and_the_kernel(lab: Lab, name: str) -> None:
    kind = KINDS[name]
    lab.vsctl("set", "Open_vSwitch", ".", "other_config:max-idle=300000")
    other = underlay(lab)
    two = peer(other, kind)
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    one.ns.ip("link set eth0 mtu 1400")
    add_tunnel(lab, kind)
    one.ping(two.ip)
    for size in (1372, 1373, 65000):    # the last fit, and fragments
        one.ns.run("ping", "-n", "-q", "-c", "2", "-i", "0.1", "-W", "5",
                   "-s", str(size), two.ip)
    lab.tcp(one, two, 1 << 22)
    lab.tcp(two, one, 1 << 22)
    lab.udp(one, two)
    assert any("tunnel" in flow.match for flow in lab.flows())


class Wire:
    """A datapath of its own with p1 (1) and a VXLAN (2), and what is at the
    other end of both.

    :ivar near: of p1
    :ivar far: of the underlay
    """

    def __init__(self, lab: Lab, *options: str) -> None:
        self._lab = lab
        self.other = underlay(lab)
        host = lab.add_namespace()
        lab.plug("p1", host, "10.1.1.1/24")
        lab.ns.run("ip", "link", "add", "vx0", "type", "vxlan", "external",
                   "dstport", "4789", *options)
        lab.ns.no_ipv6("vx0")
        lab.ns.ip("link set vx0 up")
        self.near, self.far = raw(host), raw(self.other)
        lab.dpctl("add-dp", DP)
        lab.dpctl("add-if", DP, "p1,port_no=1", "vx0,port_no=2")

    def add(self, match: str, actions: str) -> None:
        self._lab.dpctl("add-flow", DP, match, actions)

    def only(self, match: str, actions: str) -> None:
        self._lab.dpctl("del-flows", DP)
        self.add(match, actions)

    def flows(self) -> list[str]:
        return self._lab.dpctl("dump-flows", "-m", DP).splitlines()

    def close(self) -> None:
        self.near.close()
        self.far.close()
        self._lab.dpctl("del-dp", DP)
        self._lab.until(lambda: "dp3" not in self._lab.ns.ip("link show"))


def raw(ns: Namespace, device: str = "eth0") -> socket.socket:
    with ns.entered():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300)
        made.bind((device, 0x0003))
    made.settimeout(20)
    return made


@pytest.fixture(params=["", "gbp"])
def wire(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Wire]:
    """With group policies, and without."""
    made = Wire(lab, *request.param.split())
    yield made
    made.close()


def frame(text: bytes) -> Packet:
    return Ether(src=MAC1, dst=MAC2) / IP(src="10.1.1.1", dst="10.1.1.9",
                                          tos=0) / UDP(
        sport=1, dport=2) / Raw(text)


def outer(sock: socket.socket) -> Packet:
    """The next VXLAN packet."""
    while True:
        found = Ether(sock.recv(65536))
        if UDP in found and found[UDP].dport == 4789:
            return found


def inner(sock: socket.socket, text: bytes) -> Packet:
    """The frame that has this text."""
    while True:
        found = sock.recv(65536)
        if text in found:
            return Ether(found)


UDP4 = ("in_port({}),eth(src=" + MAC1 + ",dst=" + MAC2 + "),eth_type(0x0800),"
        "ipv4(src=10.1.1.1,dst=10.1.1.9,proto=17,tos=0,ttl=64,frag=no),"
        "udp(src=1,dst=2)")


@pytest.mark.parametrize("wire", ["gbp"], indirect=True)
def test_what_is_sent(wire: Wire) -> None:
    """Each part of the key that is set is in the packet, as scapy reads it,
    and what is not set is not that of the packet before."""
    sets = {
        b"all": ("tun_id=0x123456,src=" + US + ",dst=" + THEM + ",tos=8,"
                 "ttl=9,tp_dst=4789,vxlan(gbp(id=258,flags=0x8)),"
                 "flags(df|csum|key)"),
        b"few": "tun_id=0x1,dst=" + THEM + ",ttl=64,tp_dst=4789,flags(key)",
        b"six": ("tun_id=0x2,ipv6_dst=" + THEM6 + ",ttl=5,tos=4,tp_dst=4789,"
                 "flags(csum|key)"),
    }
    found = {}
    for text, tunnel in sets.items():
        wire.only(UDP4.format(1), f"set(tunnel({tunnel})),2")
        wire.near.send(bytes(frame(text)))
        found[text] = outer(wire.far)
        assert bytes(found[text][VXLAN].payload) == bytes(frame(text))
    packet = found[b"all"]
    assert (packet[IP].src, packet[IP].dst) == (US, THEM)
    assert (packet[IP].tos, packet[IP].ttl, packet[IP].flags) == (8, 9, "DF")
    assert packet[VXLAN].vni == 0x123456
    assert (packet[VXLAN].gpid, int(packet[VXLAN].gpflags)) == (258, 8)
    assert packet[UDP].chksum == IP(bytes(packet[IP]))[UDP].chksum != 0
    packet = found[b"few"]
    assert (packet[IP].tos, packet[IP].ttl, int(packet[IP].flags)) == (
        0, 64, 0)
    assert (packet[VXLAN].vni, packet[UDP].chksum) == (1, 0)
    assert int(packet[VXLAN].flags) == 0x08
    packet = found[b"six"]
    assert (packet[IPv6].src, packet[IPv6].dst) == (US6, THEM6)
    assert (packet[IPv6].tc, packet[IPv6].hlim) == (4, 5)
    assert packet[UDP].chksum != 0
    assert packet[VXLAN].vni == 2


def test_what_is_received(lab: Lab, wire: Wire) -> None:
    """Flows of the tunnel's key: each matches its own packet, in all bits or
    in some, and none that came otherwise."""
    eth = Ether(src=MAC1, dst=lab_mac(lab))
    sent = {
        b"first": eth / IP(src=THEM, dst=US, tos=4, ttl=7, flags="DF")
        / UDP(sport=5555, dport=4789) / VXLAN(vni=7, flags=0x08),
        b"other id": eth / IP(src=THEM, dst=US) / UDP(
            sport=5556, dport=4789, chksum=0) / VXLAN(vni=8, flags=0x08),
        b"over six": eth / IPv6(src=THEM6, dst=US6, tc=4, hlim=9) / UDP(
            sport=5557, dport=4789) / VXLAN(vni=7, flags=0x08),
    }
    tunnels = {
        b"first": "tun_id=0x7,src=" + THEM + ",dst=" + US + ",tos=4,ttl=7,"
        "tp_src=5555,tp_dst=4789,flags(+csum+key)",
        b"other id": "tun_id=0x8/0xff,src=172.31.0.0/255.255.0.0,dst=" + US
        + ",ttl=64,flags(-csum+key)",
        b"over six": "tun_id=0x7,ipv6_src=" + THEM6 + ",ipv6_dst=" + US6
        + ",tos=4,ttl=9,flags(+key)",
    }
    for tunnel in tunnels.values():
        wire.add(f"tunnel({tunnel})," + UDP4.format(2), "1")
    for number, (text, packet) in enumerate(sent.items(), 1):
        wire.far.send(bytes(packet / frame(text)))
        found = inner(wire.near, text)
        assert bytes(found) == bytes(frame(text))
        lab.until(lambda wanted=number: sum(
            "packets:1" in line for line in wire.flows()) == wanted)
    assert len(wire.flows()) == len(sent)


def lab_mac(lab: Lab) -> str:
    words = lab.ns.ip("link show dev u0").split()
    return words[words.index("link/ether") + 1]


@pytest.mark.parametrize("wire", ["gbp"], indirect=True)
def test_groups(lab: Lab, wire: Wire) -> None:
    """The group policy of a packet is matched, and that of none is."""
    wire.add("tunnel(tun_id=0x7,src=" + THEM + ",dst=" + US + ",ttl=64,"
             "vxlan(gbp(id=258,flags=0x8)),flags(key))," + UDP4.format(2),
             "1")
    with_group = VXLAN(vni=7, flags=0x88, gpid=258, gpflags=8)
    for number, header in enumerate(
            (with_group, VXLAN(vni=7, flags=0x08),
             VXLAN(vni=7, flags=0x88, gpid=259, gpflags=8))):
        wire.far.send(bytes(Ether(src=MAC1, dst=lab_mac(lab)) / IP(
            src=THEM, dst=US) / UDP(sport=5555, dport=4789, chksum=0)
            / header / frame(b"group %d" % number)))
    assert bytes(inner(wire.near, b"group 0")) == bytes(frame(b"group 0"))
    lab.until(lambda: missed(lab) >= 2)
    (line,) = wire.flows()
    assert "packets:1," in line
    assert "gbp(id=258,flags=0x8)" in line


def missed(lab: Lab) -> int:
    return int(lab.dpctl("show", DP).partition("missed:")[2].split()[0])


TO = "set(tunnel(tun_id={},dst=" + THEM + ",ttl=64,tp_dst=4789,flags(key)))"
LISTS = {
    "clone": f"clone({TO.format(1)},2),{TO.format(2)},2",
    "of a changed packet":
        f"{TO.format(1)},clone(set(ipv4(ttl=9)),2),{TO.format(2)},2",
    "sample": f"{TO.format(1)},sample(sample=100.0%,actions(2)),"
              f"{TO.format(2)},2",
    "two, and one that is plain": f"{TO.format(1)},2,1,{TO.format(2)},2",
    "recirculated": f"{TO.format(1)},2,{TO.format(2)},recirc(1)",
    "recirculated copy": f"{TO.format(1)},recirc(1),{TO.format(2)},2",
    "truncated": f"{TO.format(1)},trunc(60),2,{TO.format(2)},2",
}


@pytest.mark.parametrize("wire", [""], indirect=True)
@pytest.mark.parametrize("name", LISTS)
def test_lists_of_actions(wire: Wire, name: str) -> None:
    """Each copy goes where it was told to go."""
    wire.add("recirc_id(0)," + UDP4.format(1), LISTS[name])
    wire.add("recirc_id(1)," + UDP4.format(1), "2")
    text = b"text of sixty bytes and more, so that it can be cut off.."
    for _ in range(2):
        wire.near.send(bytes(frame(text)))
        found = {packet[VXLAN].vni: bytes(packet[VXLAN].payload)
                 for packet in (outer(wire.far), outer(wire.far))}
        assert found.keys() == {1, 2}
        assert found[2] == bytes(frame(text))
        assert len(found[1]) == (60 if name == "truncated"
                                 else len(text) + 42)


@pytest.mark.parametrize("wire", [""], indirect=True)
def test_what_cannot_be_sent(lab: Lab, wire: Wire) -> None:
    """It is dropped and counted: without a tunnel, to another UDP port."""
    for number, actions in enumerate((
            "2", TO.format(1).replace("4789", "4790") + ",2"), 1):
        wire.only(UDP4.format(1), actions)
        wire.near.send(bytes(frame(b"nowhere")))
        lab.until(lambda wanted=number: drops(lab, "tunnel") == wanted)
    wire.only(UDP4.format(1), TO.format(1) + ",2")
    wire.near.send(bytes(frame(b"somewhere")))
    assert b"somewhere" in bytes(outer(wire.far))


def drops(lab: Lab, reason: str) -> int:
    shown = lab.appctl("dpif-bpf/drops", target=PROVIDER)
    return sum(int(line.rsplit(None, 1)[1]) for line in shown.splitlines()
               if reason in line)


@pytest.mark.parametrize("name", ["vxlan", "vxlan over IPv6"])
def test_slow_path(lab: Lab, name: str) -> None:
    """What ovs-vswitchd sends itself goes through the tunnel, too."""
    kind = KINDS[name]
    other = underlay(lab)
    two = peer(other, kind)
    lab.add_bridge("br0")
    add_tunnel(lab, kind)
    with raw(two.ns, "tun") as sock:
        lab.ofctl("packet-out", "br0", "in_port=LOCAL packet="
                  + bytes(frame(b"from OVS")).hex() + " actions=output:tun0")
        assert bytes(inner(sock, b"from OVS")) == bytes(frame(b"from OVS"))


def test_connections(lab: Lab) -> None:
    """What ct() knows of a packet, and the tunnel that it came by: the
    second lookup has both."""
    kind = KINDS["vxlan"]
    other = underlay(lab)
    two = peer(other, kind)
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    add_tunnel(lab, kind)
    lab.ofctl("del-flows", "br0")
    for flow in ("arp,actions=normal",
                 "ip,ct_state=-trk,actions=ct(table=1)",
                 "table=1,in_port=p1,ip,ct_state=+new,"
                 "actions=ct(commit),output:tun0",
                 "table=1,in_port=p1,ip,ct_state=+est,actions=output:tun0",
                 "table=1,in_port=tun0,ip,tun_id=7,ct_state=+est,"
                 "actions=output:p1"):
        lab.ofctl("add-flow", "br0", flow)
    one.ping(two.ip)
    lab.tcp(one, two)
    two.no_ping(one.ip)
    assert any("tunnel" in flow.match and "ct_state" in flow.match
               and int(flow.match["recirc_id"]) for flow in lab.flows()
               if flow.match.get("eth_type") == 0x0800)


def test_flow_text(wire: Wire) -> None:
    """What was put is shown, and what is shown can be put."""
    wire.add("tunnel(tun_id=0x7,src=" + THEM + ",dst=" + US + ",tos=1,"
             "ttl=64/0xf0,geneve({class=0x102,type=0x80,len=4,0x5/0xff}),"
             "flags(df|key))," + UDP4.format(2),
             "set(tunnel(tun_id=0x9,dst=" + THEM + ",ttl=64,geneve({class="
             "0x102,type=0x80,len=8,0x1122334455667788}),flags(df|key))),2")
    (line,) = wire.flows()
    flow = ODPFlow(line)
    wire.only(line[line.index("tunnel("):line.index(", packets")],
              line.partition("actions:")[2].replace("vx0", "2"))
    (second,) = wire.flows()
    assert ODPFlow(second).match == flow.match
    assert ODPFlow(second).actions == flow.actions
    assert "geneve" in line


def test_a_device_that_goes(lab: Lab) -> None:
    """While packets use it, and again and again: CVE-2026-31678 was one."""
    kind = KINDS["vxlan"]
    other = underlay(lab)
    two = peer(other, kind)
    lab.allowed.append("vxlan_sys_4789|nonexistent port|port_del failed"
                       "|receive tunnel port not found")
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    add_tunnel(lab, kind)
    one.ping(two.ip)
    source = lab.spawn(one, "udp-send", two.ip, "5003", "2000")
    for _ in range(20):
        lab.ns.run("ip", "link", "del", "vxlan_sys_4789", check=False)
        lab.vsctl("--if-exists", "del-port", "br0", "tun0")
        add_tunnel(lab, kind)
    source.send_signal(signal.SIGTERM)
    source.communicate(timeout=60)
    one.ping(two.ip)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_provider_restarts(own_lab: Lab, how: signal.Signals) -> None:
    """Nothing is lost in the tunnel, in which the device stays."""
    lab = own_lab
    kind = KINDS["vxlan"]
    lab.vsctl("set", "Open_vSwitch", ".", "other_config:max-idle=300000")
    other = underlay(lab)
    two = peer(other, kind)
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    add_tunnel(lab, kind)
    index = lab.ns.ip("-o link show vxlan_sys_4789").split(":")[0]
    one.knows(two.ip, two.mac)
    two.knows(one.ip, one.mac)
    one.ping(two.ip)
    for source, sink in ((one, two), (two, one)):
        stream = Stream(lab, source, sink, 200)
        time.sleep(1)
        stream.lost()
        stream = Stream(lab, source, sink, 1000)
        time.sleep(0.5)
        lab.kill(PROVIDER, how)
        time.sleep(0.5)
        lab.start_provider()
        time.sleep(1)
        assert stream.lost() == 0
    assert lab.ns.ip("-o link show vxlan_sys_4789").split(":")[0] == index
    assert "vxlan_sys_4789 (vxlan" in lab.dpctl("show")
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    three.ping(two.ip)
