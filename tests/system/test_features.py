# SPDX-License-Identifier: Apache-2.0
"""What ovs-vswitchd found out about the datapath, and that it is true.

Each line of ``dpif/show-dp-features`` is in FEATURES: what it claims is done
with packets, what it denies is asked of the datapath, which must refuse it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from lab import Host, Lab
from test_psample import listener, read

from dpif_bpf.edge.psample_group import Psample
from dpif_bpf.wire import psample_messages as psample

ETH_P_IP, ETH_P_MPLS, ETH_P_TEST = 0x0800, 0x8847, 0x9009
NO = {"No", "0"}

ETH = "eth(src=02:09:00:00:00:01,dst=02:09:00:00:00:02)"
IP4 = ("eth_type(0x0800),ipv4(src=10.9.9.1,dst=10.9.9.2,proto=17,tos=0,"
       "ttl=64,frag=no),udp(src=1,dst=2)")
IP6 = ("eth_type(0x86dd),ipv6(src=fd09::1,dst=fd09::2,label=0,proto=58,"
       "tclass=0,hlimit=255,frag=no),icmpv6(type=135,code=0),"
       "nd(target=fd09::2,sll=02:09:00:00:00:01,tll=00:00:00:00:00:00)")


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
def captured(host: Host, count: int, protocol: int = ETH_P_IP,
             ) -> Iterator[list[bytes]]:
    """Frames of a protocol that reach a host, and they are `count`."""
    found: list[bytes] = []
    with host.ns.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((host.device, protocol))
    with sock:
        yield found
        sock.settimeout(5)
        with contextlib.suppress(TimeoutError):
            while len(found) < count:
                found.append(sock.recv(65536))
        sock.settimeout(.2)
        with contextlib.suppress(TimeoutError):
            while True:
                found.append(sock.recv(65536))
    assert len(found) == count, [len(frame) for frame in found]


def send(host: Host, frame: bytes) -> None:
    with host.ns.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((host.device, 0))
    with sock:
        sock.send(frame.ljust(60, b"\0"))


def refused(lab: Lab, match: str, actions: str) -> str | None:
    """Why the datapath does not take a flow, None when it does."""
    try:
        lab.dpctl("add-flow", "bpf@ovs-bpf", match, actions)
    except AssertionError as error:
        return str(error).splitlines()[-1]
    lab.dpctl("del-flow", "bpf@ovs-bpf", match)
    return None


@contextlib.contextmanager
def paused(lab: Lab) -> Iterator[None]:
    """No revalidator wonders about flows that are not ovs-vswitchd's."""
    lab.appctl("revalidator/pause")
    try:
        yield
    finally:
        lab.appctl("revalidator/resume")


# What is claimed, with packets.


def masked_set(lab: Lab, hosts: list[Host]) -> None:
    one, two, three = hosts
    lab.ofctl("add-flow", "br0", "priority=9,in_port=1,ip,actions="
              "load:77->NXM_OF_IP_DST[0..7],output:3,"
              "load:2->NXM_OF_IP_DST[0..7],output:2")
    with captured(three, 5) as found:
        one.ping(two.ip, 5)
    assert "set(ipv4(dst=0.0.0.77/0.0.0.255" in actions(lab)
    assert {frame[30:34] for frame in found} == {bytes((10, 1, 1, 77))}


def ufid(lab: Lab, hosts: list[Host]) -> None:
    """A flow is found by it, and none by another."""
    hosts[0].ping(hosts[1].ip)
    line = next(line for line in lab.dpctl("dump-flows", "-m").splitlines()
                if "eth_type(0x0800)" in line)
    found = re.match(r"(ufid:[0-9a-f-]+), .*(eth\(src=\S*?\))", line)
    assert found, line
    assert found[2] in lab.dpctl("get-flow", "bpf@ovs-bpf", found[1])
    other = found[1][:-1] + ("1" if found[1][-1] == "0" else "0")
    with pytest.raises(AssertionError, match="No such file"):
        lab.dpctl("get-flow", "bpf@ovs-bpf", other)


def truncate(lab: Lab, hosts: list[Host]) -> None:
    one, two, three = hosts
    lab.ofctl("add-flow", "br0", "priority=9,in_port=1,ip,actions="
              "output(port=3,max_len=64),output:2")
    with captured(three, 5) as found:
        one.ping(two.ip, 5)
    assert re.search(r"actions:trunc\(64\),\d+,\d+", actions(lab))
    assert {len(frame) for frame in found} == {64}


def clone(lab: Lab, hosts: list[Host]) -> None:
    """Truncation makes ovs-vswitchd use one: it cannot be undone."""
    one, two, three = hosts
    lab.ofctl("add-flow", "br0", "priority=9,in_port=1,ip,actions="
              f"clone(set_field:{three.mac}->eth_dst,"
              "set_field:10.9.9.9->ip_src,output(port=3,max_len=70)),output:2")
    with captured(three, 5) as found:
        one.ping(two.ip, 5)
    assert "actions:clone(trunc(70),set(" in actions(lab)
    assert {len(frame) for frame in found} == {70}
    assert {frame[26:30] for frame in found} == {bytes((10, 9, 9, 9))}


def sample_nesting(lab: Lab, hosts: list[Host]) -> None:
    """Where there is no clone, samples of 100 % in one another serve."""
    one, two, three = hosts
    depth = 9
    lab.appctl("dpif/set-dp-features", "br0", "clone", "false")
    try:
        lab.ofctl("add-flow", "br0", "priority=9,in_port=1,ip,actions="
                  + "".join(f"clone(set_field:10.9.9.{n}->ip_src,"
                            for n in range(1, depth + 1))
                  + "output(port=3,max_len=64)" + ")" * depth + ",output:2")
        with captured(three, 5) as found:
            one.ping(two.ip, 5)
        assert {frame[26:30] for frame in found} == {
            bytes((10, 9, 9, depth))}
        assert "sample(sample=100.0%" in actions(lab)
    finally:
        lab.appctl("dpif/set-dp-features", "br0", "clone", "true")


def check_pkt_len(lab: Lab, hosts: list[Host]) -> None:
    one, two, three = hosts
    lab.ofctl("add-flow", "br0", "priority=9,in_port=1,ip,actions="
              "check_pkt_larger(500)->NXM_NX_REG0[0],resubmit(,1)")
    lab.ofctl("add-flow", "br0", "table=1,reg0=1,actions=output:3")
    lab.ofctl("add-flow", "br0", "table=1,reg0=0,actions=output:2")
    one.ping(two.ip, 3)
    with captured(three, 3) as found:
        one.ns.run("ping", "-n", "-q", "-c", "3", "-i", "0.1", "-W", "0.3",
                   "-s", "600", two.ip, check=False)
    assert "check_pkt_len(size=500" in actions(lab)
    assert {len(frame) for frame in found} == {642}


def local_samples(lab: Lab, hosts: list[Host]) -> None:
    """Samples that a process in the switch's namespace takes."""
    one, two, _ = hosts
    lab.vsctl("--", "--id=@b", "get", "bridge", "br0", "--", "create",
              "Flow_Sample_Collector_Set", "bridge=@b", "id=1",
              "local_group_id=10")
    lab.ofctl("add-flow", "br0", "priority=9,in_port=1,ip,actions="
              "sample(probability=65535,collector_set_id=1,"
              "obs_domain_id=5,obs_point_id=6),output:2")
    with lab.ns.entered(), contextlib.closing(Psample()) as edge:
        assert edge.family()
        with listener(edge.group) as sock:
            one.ping(two.ip, 5)
            found = [read(sock) for _ in range(5)]
    assert "psample(group=10,cookie=0x500000006" in actions(lab), actions(lab)
    for got in found:
        assert got[psample.ATTR_SAMPLE_GROUP] == struct.pack("=I", 10)
        assert got[psample.ATTR_SAMPLE_RATE] == b"\xff" * 4
        assert got[psample.ATTR_USER_COOKIE] == struct.pack("!II", 5, 6)
        assert len(got[psample.ATTR_DATA]) == 98


def dp_hash(lab: Lab, hosts: list[Host]) -> None:
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
    assert re.search(r"hash\((sym_)?l4\(0\)\),recirc\(", found)
    assert "dp_hash(" in found


def explicit_drop(lab: Lab, hosts: list[Host]) -> None:
    one, two, _ = hosts
    lab.vsctl("set", "Open_vSwitch", ".",
              "other_config:explicit-drop-action=true")
    try:
        lab.ofctl("add-flow", "br0", "priority=9,in_port=1,ip,actions=drop")
        one.no_ping(two.ip)
        drops = lab.appctl("dpif-bpf/drops", target="ovs-bpfd")
        assert re.search(r"\baction\b", drops), drops
    finally:
        lab.vsctl("remove", "Open_vSwitch", ".", "other_config",
                  "explicit-drop-action")


def add_mpls(lab: Lab, hosts: list[Host]) -> None:
    one, two, three = hosts
    lab.ofctl("-Oopenflow13", "add-flow", "br0", "priority=9,in_port=1,ip,"
              "actions=output:2,encap(mpls),set_mpls_label:77,encap(ethernet)"
              f",set_field:{three.mac}->eth_dst,output:3")
    with captured(three, 5, ETH_P_MPLS) as found:
        one.ping(two.ip, 5)
    assert re.search(r"(add|push)_mpls\(label=77", actions(lab))
    assert {int.from_bytes(frame[14:18], "big") >> 12
            for frame in found} == {77}


def vlan_headers(lab: Lab, hosts: list[Host]) -> None:
    """Both tags are matched; the inner one of another frame differs."""
    one, _, three = hosts
    lab.vsctl("set", "Open_vSwitch", ".", "other_config:vlan-limit=2")
    lab.ofctl("add-flow", "br0",
              "priority=9,in_port=1,dl_vlan=10,actions=pop_vlan,resubmit(,1)")
    lab.ofctl("add-flow", "br0", "table=1,dl_vlan=20,actions=pop_vlan,"
              "output:3")
    with captured(three, 2, ETH_P_TEST):
        for inner in (20, 21, 20):
            send(one, bytes.fromhex(three.mac.replace(":", ""))
                 + b"\x02\x09\0\0\0\1" + struct.pack(
                     "!HHHHH", 0x88a8, 10, 0x8100, inner, ETH_P_TEST))
            lab.until(lambda: "encap(" in actions(lab))
    assert "encap(eth_type(0x8100),vlan(vid=20" in actions(lab)


def mpls_depth(lab: Lab, hosts: list[Host]) -> None:
    """Three labels are matched."""
    one, _, three = hosts
    for table, label in ((0, 11), (1, 12), (2, 13)):
        action = "output:3" if table == 2 else (
            f"pop_mpls:0x8847,resubmit(,{table + 1})")
        lab.ofctl("-Oopenflow13", "add-flow", "br0", f"table={table},"
                  f"priority=9,mpls,mpls_label={label},actions={action}")
    with captured(three, 2, ETH_P_MPLS) as found:
        for last in (13, 14, 13):
            send(one, bytes.fromhex(three.mac.replace(":", ""))
                 + b"\x02\x09\0\0\0\1\x88\x47" + b"".join(
                     struct.pack("!I", label << 12 | (label == last) << 8
                                 | 64) for label in (11, 12, last)))
            lab.until(lambda: "mpls(" in actions(lab))
    assert {frame[14:17] for frame in found} == {
        struct.pack("!I", 13 << 12 | 1 << 8)[:3]}


def conntrack(lab: Lab, hosts: list[Host], commit: str = "",
              reply: str = "", wanted: str = "ct(commit") -> None:
    """Answers pass when they are of a connection that was committed.

    :param commit: more of the commit
    :param reply: more of what answers are matched by
    :param wanted: in the flows that this makes
    """
    one, two, _ = hosts
    for rule in ("in_port=1,ip,actions="
                 f"ct(commit,zone=7{commit}),output:2",
                 "in_port=2,ip,actions=ct(zone=7,nat,table=1)"):
        lab.ofctl("add-flow", "br0", f"priority=9,{rule}")
    lab.ofctl("add-flow", "br0", "table=1,ct_state=+trk+est+rpl,ip"
              f"{reply},actions=output:1")
    one.ping(two.ip, 3)
    assert wanted in actions(lab), actions(lab)
    # Another zone has no such connection.
    lab.ofctl("add-flow", "br0",
              "priority=10,in_port=2,ip,actions=ct(zone=8,table=1)")
    lab.flush()
    one.no_ping(two.ip)


def ct_zone(lab: Lab, hosts: list[Host]) -> None:
    conntrack(lab, hosts, reply=",ct_zone=7", wanted="ct_zone(0x7)")


def ct_mark(lab: Lab, hosts: list[Host]) -> None:
    conntrack(lab, hosts, ",exec(set_field:5->ct_mark)", ",ct_mark=5",
              "ct_mark(0x5)")


def ct_label(lab: Lab, hosts: list[Host]) -> None:
    conntrack(lab, hosts, ",exec(set_field:6->ct_label)", ",ct_label=6",
              "ct_label(0x6)")


def ct_tuple(lab: Lab, hosts: list[Host]) -> None:
    conntrack(lab, hosts, reply=",ct_nw_src=10.1.1.1,ct_nw_dst=10.1.1.2,"
              "ct_nw_proto=1", wanted="ct_tuple4(src=10.1.1.1,dst=10.1.1.2")


def ct_tuple6(lab: Lab, hosts: list[Host]) -> None:
    one = lab.add_host("p4", "br0", "fd09::1/64")
    two = lab.add_host("p5", "br0", "fd09::2/64")
    for table, rule in (
            (0, "icmp_type=128,actions=ct(commit,zone=7),normal"),
            (0, "icmp_type=129,actions=ct(zone=7,table=1)"),
            (1, "ct_state=+trk+est+rpl,ct_ipv6_src=fd09::1,"
                "ct_ipv6_dst=fd09::2,ct_nw_proto=58,actions=normal")):
        lab.ofctl("add-flow", "br0", f"table={table},priority=9,icmp6,{rule}")
    one.ping(two.ip, 3)
    assert "ct_tuple6(src=fd09::1,dst=fd09::2" in actions(lab)


def ct_nat(lab: Lab, hosts: list[Host]) -> None:
    """Requests have another source, to which answers go."""
    one, two, three = hosts
    two.knows("10.1.1.77", one.mac)
    conntrack(lab, hosts, ",nat(src=10.1.1.77)", ",ct_state=+dnat", "+dnat")
    lab.ofctl("add-flow", "br0", "priority=11,in_port=1,ip,actions="
              "ct(commit,zone=7,nat(src=10.1.1.77)),output:3")
    with captured(three, 2) as found:
        one.ns.run("ping", "-n", "-q", "-c", "2", "-i", "0.1", "-W", "0.3",
                   two.ip, check=False)
    assert {frame[26:30] for frame in found} == {bytes((10, 1, 1, 77))}


def ct_clear(lab: Lab, hosts: list[Host]) -> None:
    one, two, _ = hosts
    for table, rule in (
            (0, "in_port=1,ip,actions=ct(zone=7,table=1)"),
            (1, "ip,ct_state=+trk,actions=ct_clear,resubmit(,2)"),
            (2, "ip,ct_state=-trk,actions=output:2")):
        lab.ofctl("add-flow", "br0", f"table={table},priority=9,{rule}")
    one.ping(two.ip, 3)
    assert "ct_clear" in actions(lab)


def ct_timeout(lab: Lab, hosts: list[Host]) -> None:
    lab.vsctl("--", "--id=@d", "create", "Datapath", "datapath_version=0",
              "--", "set", "Open_vSwitch", ".", "datapaths:bpf=@d")
    try:
        lab.vsctl("add-zone-tp", "bpf", "zone=7", "icmp_first=40",
                  "icmp_reply=50")
        conntrack(lab, hosts, wanted="timeout=ovs_tp_")
    finally:
        lab.vsctl("remove", "Open_vSwitch", ".", "datapaths", "bpf")


def zero_snat(lab: Lab, hosts: list[Host]) -> None:
    """A source that is free stays as it is."""
    conntrack(lab, hosts, ",nat(src=0.0.0.0)", wanted="nat(src")


def claims_nothing(lab: Lab, hosts: list[Host]) -> None:
    raise AssertionError("claimed, and nothing here shows that it is so")


@dataclass(frozen=True, slots=True)
class Feature:
    """One line.

    :param shown: does it with packets
    :param denied: matches after in_port and Ethernet, and actions, that are
        refused when the line says no
    :param beyond: likewise, when it says so many
    """

    shown: Callable[[Lab, list[Host]], None] = claims_nothing
    denied: tuple[tuple[str, str], ...] = ()
    beyond: tuple[tuple[str, str], ...] = ()


def _nested(depth: int) -> str:
    return ("sample(sample=50.0%,actions(" * depth + "2" + "))" * depth)


CT = ((IP4, "ct"), (IP4, "ct(commit,zone=3)"), (IP4, "ct(commit,nat)"))
CT_MATCH = "ct_state(+trk),"
NAT_MATCH = "ct_state(+snat),"

FEATURES = {
    "Masked set action": Feature(masked_set),
    # In OVS 3.1 and 3.2 the number of tnl_pop is the kernel's of drop.
    "Tunnel push pop": Feature(),
    "Ufid": Feature(ufid),
    "Truncate action": Feature(truncate),
    "Clone action": Feature(clone),
    "Sample nesting": Feature(sample_nesting, beyond=((IP4, _nested(17)),)),
    "Conntrack eventmask": Feature(conntrack, denied=CT),
    "Conntrack clear": Feature(ct_clear, denied=((IP4, "ct_clear"),)),
    "Conntrack timeout policy": Feature(
        ct_timeout, denied=((IP4, "ct(commit,timeout=a)"),)),
    "Conntrack all-zero IP SNAT": Feature(
        zero_snat, denied=((IP4, "ct(commit,nat(src=0.0.0.0))"),)),
    "Max dp_hash algorithm": Feature(dp_hash),
    "Check pkt length action": Feature(check_pkt_len),
    # By its type alone OVS 3.1 decides that, which numbers it otherwise.
    "Explicit Drop action": Feature(explicit_drop, ((IP4, "drop"),)),
    "Optimized Balance TCP mode": Feature(denied=((IP4, "lb_output(1)"),)),
    "MPLS Label add": Feature(add_mpls),
    "psample action": Feature(
        local_samples, denied=((IP4, "psample(group=1)"),)),
    "Max VLAN headers": Feature(vlan_headers),
    "Max MPLS depth": Feature(mpls_depth),
    "Recirc": Feature(dp_hash),
    "CT state": Feature(conntrack, denied=((CT_MATCH + IP4, "2"),)),
    "CT zone": Feature(ct_zone, denied=((f"ct_zone(1),{IP4}", "2"),)),
    "CT mark": Feature(ct_mark, denied=((f"ct_mark(1),{IP4}", "2"),
                                        (IP4, "ct(commit,mark=1/1)"))),
    "CT label": Feature(ct_label, denied=((f"ct_label(1),{IP4}", "2"),)),
    "CT state NAT": Feature(ct_nat, denied=((NAT_MATCH + IP4, "2"),)),
    "CT orig tuple": Feature(ct_tuple, denied=((
        "ct_tuple4(src=10.9.9.1,dst=10.9.9.2,proto=17,tp_src=1,tp_dst=2),"
        + IP4, "2"),)),
    "CT orig tuple for IPv6": Feature(ct_tuple6, denied=((
        "ct_tuple6(src=fd09::1,dst=fd09::2,proto=58,tp_src=1,tp_dst=2),"
        + IP6, "2"),)),
    "IPv6 ND Extension": Feature(denied=((
        IP6 + ",nd_ext(nd_reserved=0x1,nd_options_type=1)", "2"),)),
}
"""By the names of OVS 3.1, 3.5 and 4.0, which agree."""


def test_every_line_is_known(lab: Lab, hosts: list[Host]) -> None:
    found = features(lab)
    assert found.keys() <= FEATURES.keys()
    assert found.keys() >= {"Ufid", "Recirc", "CT state"}
    hosts[0].ping(hosts[1].ip)


@pytest.mark.parametrize("name", FEATURES)
def test_feature(lab: Lab, hosts: list[Host], name: str) -> None:
    feature = FEATURES[name]
    found = features(lab)
    if name not in found:
        pytest.skip("this version of OVS does not ask")
    base = f"recirc_id(0),in_port(1),{ETH},"
    with paused(lab):
        for match in (IP4, IP6):
            assert refused(lab, base + match, "2") is None
    if found[name] in NO:
        cases = feature.denied
    else:
        cases = feature.beyond
        feature.shown(lab, hosts)
    with paused(lab):
        for match, what in cases:
            why = refused(lab, base + match, what)
            assert why is not None, (match, what)
            # The datapath's answer, not that of OVS's parser.
            assert "updating flow table" in why, why


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
