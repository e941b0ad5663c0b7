# SPDX-License-Identifier: Apache-2.0
"""rtnetlink messages (dpif_bpf.wire.rtnl), and that fakes fit protocols."""

from __future__ import annotations

import errno
import struct

import pytest
from fakes import FakeDatabase, FakePorts

from dpif_bpf.core.devices import DbEdge, LinkChange, PortEdge
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import rtnl
from dpif_bpf.wire.netlink import (
    Message,
    build,
    iter_messages,
    nla,
    nla_s32,
    nla_string,
    nla_u32,
)


def message(kind: int, payload: bytes) -> Message:
    (made,) = iter_messages(build(kind, 0, 1, 0, payload))
    return made


def ifinfo(index: int, family: int = 0, type_: int = 1,
           flags: int = 0) -> bytes:
    return struct.pack("=BBHiII", family, 0, type_, index, flags, 0)


def test_parse_link() -> None:
    info = rtnl.parse_link(message(rtnl.RTM_NEWLINK, ifinfo(
        7, flags=0x1003) + nla_string(rtnl.IFLA_IFNAME, "v0")
        + nla_u32(rtnl.IFLA_MTU, 1400) + nla(rtnl.IFLA_ADDRESS, b"\2" * 6)
        + nla_u32(rtnl.IFLA_LINK, 9) + nla_s32(rtnl.IFLA_LINK_NETNSID, 0)
        + nla_u32(rtnl.IFLA_MASTER, 3) + nla_string(999, "unknown")
        + nla(rtnl.IFLA_LINKINFO, nla_string(rtnl.IFLA_INFO_KIND, "veth"))
        + nla_string(rtnl.IFLA_IFALIAS, "an alias")))
    assert info == rtnl.LinkInfo(7, "v0", 1, 0x1003, 1400, b"\2" * 6,
                                 "an alias", "veth", 3, 9, 0)


def test_parse_link_of_hardware() -> None:
    info = rtnl.parse_link(message(rtnl.RTM_NEWLINK, ifinfo(2)
                                   + nla_string(rtnl.IFLA_IFNAME, "eth0")))
    assert info.kind == "" and info.peer == 0 and info.peer_nsid is None


@pytest.mark.parametrize(("kind", "data", "metadata"), [
    ("vxlan", nla(25, b"\1"), True),
    ("vxlan", nla(25, b"\0"), False),
    ("geneve", nla_u32(1, 5) + nla(6, b""), True),
    ("geneve", nla_u32(1, 5), False),
    ("gretap", nla(18, b""), True),
    ("ip6tnl", nla(19, b""), True),
    ("bareudp", b"", True),
    ("vlan", nla(25, b"\1"), False),
])
def test_parse_link_of_tunnel(kind: str, data: bytes, metadata: bool) -> None:
    info = rtnl.parse_link(message(
        rtnl.RTM_NEWLINK, ifinfo(2) + nla(rtnl.IFLA_LINKINFO, nla_string(
            rtnl.IFLA_INFO_KIND, kind) + nla(rtnl.IFLA_INFO_DATA, data))))
    assert info.metadata is metadata


@pytest.mark.parametrize(("kind", "data", "port", "gbp"), [
    ("vxlan", nla(25, b"\1") + nla(15, b"\x12\xb5"), 4789, False),
    ("vxlan", nla(25, b"\1") + nla(15, b"\x12\xb5") + nla(23, b""), 4789,
     True),
    ("vxlan", nla(15, b"\x12\xb5"), 0, False),
    ("geneve", nla(6, b"") + nla(5, b"\x17\xc1"), 6081, False),
    ("bareudp", nla(1, b"\0\7"), 7, False),
    ("gretap", nla(18, b"") + nla(15, b"\1\2"), 0, False),
])
def test_parse_link_of_metadata(kind: str, data: bytes, port: int,
                                gbp: bool) -> None:
    info = rtnl.parse_link(message(
        rtnl.RTM_NEWLINK, ifinfo(2) + nla(rtnl.IFLA_LINKINFO, nla_string(
            rtnl.IFLA_INFO_KIND, kind) + nla(rtnl.IFLA_INFO_DATA, data))))
    assert (info.udp_port, info.gbp) == (port, gbp)


def test_link_index() -> None:
    assert rtnl.link_index(message(rtnl.RTM_NEWLINK, ifinfo(5))) == 5
    bridge = ifinfo(5, family=7)    # AF_BRIDGE
    assert rtnl.link_index(message(rtnl.RTM_DELLINK, bridge)) == 0
    assert rtnl.link_index(message(rtnl.RTM_DELLINK, b"\0")) == 0


@pytest.mark.parametrize("kind", [rtnl.RTM_NEWSTATS, rtnl.RTM_NEWLINK])
def test_parse_stats(kind: int) -> None:
    counters = struct.pack("=25Q", *range(1, 26))
    if kind == rtnl.RTM_NEWSTATS:
        head, attr = struct.pack("=BxxxII", 0, 7, 1), rtnl.IFLA_STATS_LINK_64
    else:
        head, attr = ifinfo(7), rtnl.IFLA_STATS64
    assert rtnl.parse_stats(message(kind, head + nla(attr, counters))) == (
        1, 2, 3, 4, 5, 6, 7, 8)
    assert rtnl.parse_stats(message(kind, head)) == (0,) * 8


def test_parse_nsid() -> None:
    answer = bytes(4) + nla_s32(rtnl.NETNSA_NSID, 3)
    assert rtnl.parse_nsid(message(88, answer)) == 3
    assert rtnl.parse_nsid(message(88, bytes(4))) == rtnl.NSID_NONE


def test_requests_are_messages() -> None:
    for data in (rtnl.get_link(1, 5), rtnl.get_link(2, name="v0"),
                 rtnl.get_link(3, 5, nsid=0, stats=True),
                 rtnl.dump_links(4), rtnl.get_stats(5, 7),
                 rtnl.get_nsid(6, 1)):
        (only,) = iter_messages(data)
        assert only.raw == data


def test_fakes_are_edges() -> None:
    ports: PortEdge = FakePorts()
    database: DbEdge = FakeDatabase()
    assert ports.run() == [] and database.bridges() == {}


def test_fake_ports_tell_what_happened() -> None:
    ports = FakePorts()
    ports.add_device("v0")
    link = ports.open_netdev("v0")
    ports.change("v0", mtu=1400)
    ports.change("v0", new_name="v1")
    (event,) = ports.run()
    assert event.change == LinkChange.MTU | LinkChange.NAME
    assert (event.link.name, event.link.mtu) == ("v1", 1400)
    ports.vanish("v1")
    (event,) = ports.run()
    assert event.change == LinkChange.GONE
    assert event.link.hook_ifindex == link.hook_ifindex
    with pytest.raises(RequestError) as caught:
        ports.open_netdev("v1")
    assert caught.value.errno == errno.ENODEV
