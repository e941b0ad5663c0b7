# SPDX-License-Identifier: Apache-2.0
"""core: what becomes of ports whose devices are changed by others."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from dpif_bpf.core import restore
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.devices import Link, VportStats
from dpif_bpf.core.plane import ANY_BRIDGE
from dpif_bpf.core.services.ovs_vport import port_event
from dpif_bpf.core.vport import LOCAL, RETIRED, Vport, VportTable
from dpif_bpf.errors import BackendError, RequestError
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import (
    NLM_F_DUMP,
    NLM_F_ECHO,
    Message,
    iter_attrs,
    iter_messages,
    nla_string,
    nla_u32,
    nla_u32_array,
)
from tests.fake_plane import FakePlane, FakeProvider, Peer
from tests.fakes import IFF_PROMISC, FakePorts
from tests.faults import Faults

DP, VPORT = u.OVS_DATAPATH_ID, u.OVS_VPORT_ID
NETDEV, INTERNAL = u.OVS_VPORT_TYPE_NETDEV, u.OVS_VPORT_TYPE_INTERNAL
NEW, DEL, SET, GET = (u.OVS_VPORT_CMD_NEW, u.OVS_VPORT_CMD_DEL,
                      u.OVS_VPORT_CMD_SET, u.OVS_VPORT_CMD_GET)
HEADERS = 24
COMMAND = 16


def no_flows(_port_no: int) -> bool:
    return False


@pytest.fixture
def peer() -> Peer:
    """A peer of a provider with ports p1 (1), p2 (2) and i3 (3)."""
    peer = Peer(FakeProvider())
    assert peer.do(DP, u.OVS_DP_CMD_NEW,
                   nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"),
                   nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0))[0] == 0
    for name in ("p1", "p2"):
        peer.provider.ports.add_device(name)
        add(peer, name, NETDEV)
    add(peer, "i3", INTERNAL)
    peer.provider.events.clear()
    return peer


def add(peer: Peer, name: str, kind: int) -> int:
    """The number of a new port."""
    (reply,) = peer.ask(
        VPORT, NEW, nla_string(u.OVS_VPORT_ATTR_NAME, name),
        nla_u32(u.OVS_VPORT_ATTR_TYPE, kind),
        nla_u32_array(u.OVS_VPORT_ATTR_UPCALL_PID, (5,)), flags=NLM_F_ECHO)
    return number(attrs(reply)[u.OVS_VPORT_ATTR_PORT_NO])


def number(value: bytes) -> int:
    (found,) = struct.unpack("I", value)
    return int(found)


def attrs(message: Message) -> dict[int, bytes]:
    return {kind: message.raw[start:stop]
            for kind, start, stop in iter_attrs(message.raw, HEADERS)}


def get(peer: Peer, name: str) -> int:
    """The number of a port of that name; -1 when there is none."""
    (reply,) = peer.ask(VPORT, GET, nla_string(u.OVS_VPORT_ATTR_NAME, name),
                        dp=0)
    if reply.type != VPORT:
        assert peer.result([reply])[0] == errno.ENODEV
        return -1
    return number(attrs(reply)[u.OVS_VPORT_ATTR_PORT_NO])


def told(peer: Peer) -> list[tuple[int, str]]:
    """Commands and names of the notifications since the last call."""
    found = []
    for group, event in peer.provider.events:
        assert group == u.OVS_VPORT_MCGROUP_ID
        (message,) = iter_messages(event)
        found.append((message.raw[COMMAND], attrs(message)[
            u.OVS_VPORT_ATTR_NAME].rstrip(b"\0").decode()))
    peer.provider.events.clear()
    return found


def dp_of(peer: Peer) -> Datapath:
    return peer.provider.dps[0]


def plane_of(peer: Peer) -> FakePlane:
    return peer.provider.planes[0]


def ports_of(peer: Peer) -> FakePorts:
    return peer.provider.ports


def follow(peer: Peer) -> None:
    """Lets the datapath hear of its devices."""
    for dp, port, gone in peer.provider.changes():
        port_event(peer.provider, dp, port, gone)


# Devices of the machine.

def test_what_has_happened_is_answered_for(peer: Peer) -> None:
    """ovs-vswitchd hears of it, asks, and does not ask again."""
    ports_of(peer).vanish("p1")
    assert get(peer, "p1") == -1
    assert told(peer) == [(DEL, "p1")]
    assert 1 not in plane_of(peer).ports


def test_new_and_dump_come_after_what_has_happened(peer: Peer) -> None:
    ports_of(peer).vanish("p1")
    ports_of(peer).add_device("p1")
    assert add(peer, "p1", NETDEV) != 1
    assert told(peer) == [(DEL, "p1"), (NEW, "p1")]
    ports_of(peer).vanish("p2")
    *replies, _done = peer.ask(VPORT, GET, flags=NLM_F_DUMP)
    assert {attrs(reply)[u.OVS_VPORT_ATTR_NAME] for reply in replies} == {
        b"ovs-bpf\0", b"i3\0", b"p1\0"}


def test_renamed_device_is_no_port_any_more(peer: Peer) -> None:
    """A name finds no port until one is added under it: ovs-vswitchd takes
    what it finds after it did not find it for one without a number."""
    index = dp_of(peer).vports.by_name["p1"].link.hook_ifindex
    ports_of(peer).change("p1", new_name="q1")
    assert get(peer, "p1") == get(peer, "q1") == -1
    assert told(peer) == [(DEL, "p1")]
    assert index not in plane_of(peer).hooks
    assert not ports_of(peer).devices["q1"].link.flags & IFF_PROMISC
    ports_of(peer).change("q1", new_name="p1")
    assert get(peer, "p1") == -1
    assert add(peer, "p1", NETDEV) == get(peer, "p1") == 4


def test_devices_swap_their_names(peer: Peer) -> None:
    ports = ports_of(peer)
    for old, new in (("p1", "tmp"), ("p2", "p1"), ("tmp", "p2")):
        ports.change(old, new_name=new)
    assert get(peer, "p1") == get(peer, "p2") == -1
    assert sorted(told(peer)) == [(DEL, "p1"), (DEL, "p2")]
    assert add(peer, "p1", NETDEV) == 4
    assert add(peer, "p2", NETDEV) == 5
    for old, new in (("p1", "q1"), ("p2", "q2")):
        ports.change(old, new_name=new)
    follow(peer)
    assert set(dp_of(peer).vports.by_name) == {"ovs-bpf", "i3"}


def test_renamed_device_can_be_added_at_once(peer: Peer) -> None:
    ports_of(peer).change("p1", new_name="q1")
    assert add(peer, "q1", NETDEV) == 4
    assert told(peer) == [(DEL, "p1"), (NEW, "q1")]


def test_numbers_of_ended_ports_are_kept_back(peer: Peer) -> None:
    """Those of ports that were deleted are not."""
    ports = ports_of(peer)
    ports.vanish("p1")
    ports.add_device("p1")
    assert peer.do(VPORT, DEL, nla_u32(u.OVS_VPORT_ATTR_PORT_NO, 2))[0] == 0
    assert add(peer, "p1", NETDEV) == 2
    assert add(peer, "p2", NETDEV) == 4


def test_kept_back_numbers_are_given_in_the_end() -> None:
    table = VportTable()

    def enter(port_no: int) -> None:
        table.add(Vport(port_no, NETDEV, f"p{port_no}",
                        Link(f"p{port_no}", port_no, port_no, 1500), (0,)))

    for port_no in range(65535):
        enter(port_no)
    with pytest.raises(RequestError) as caught:
        table.pick_number(None, no_flows)
    assert caught.value.errno == errno.EFBIG
    for port_no in (7, 5, 9):
        table.remove(table.by_no[port_no])
        table.retire(port_no)
    assert table.pick_number(5, no_flows) == 5
    assert table.pick_number(None, no_flows) == 7
    enter(7)
    assert table.pick_number(None, no_flows) == 5
    enter(5)
    enter(9)
    for port_no in (20, 30):
        table.remove(table.by_no[port_no])
    assert table.pick_number(None, {20}.__contains__) == 30
    assert table.pick_number(None, {20, 30}.__contains__) == 20
    enter(20)
    enter(30)
    for port_no in (5, *range(100, 99 + RETIRED)):
        table.remove(table.by_no[port_no])
        table.retire(port_no)
    assert table.pick_number(None, no_flows) == 5
    assert len(table.retired) == RETIRED


def test_hook_is_put_on_again(peer: Peer) -> None:
    index = dp_of(peer).vports.by_name["p1"].link.hook_ifindex
    plane_of(peer).detach(index)
    ports_of(peer).return_("p1")
    assert get(peer, "p1") == 1
    assert plane_of(peer).hooks[index] == ANY_BRIDGE


@pytest.fixture
def faults(peer: Peer) -> Iterator[Faults]:
    made = Faults()
    made.watch(plane_of(peer), "write_port", "attach")
    made.watch(ports_of(peer), "create_internal", "start")
    yield made


@pytest.mark.parametrize("step", [1, 2])
def test_what_could_not_be_followed_is_mended(
        peer: Peer, faults: Faults, step: int) -> None:
    plane = plane_of(peer)
    index = dp_of(peer).vports.by_name["p1"].link.hook_ifindex
    plane.detach(index)
    ports_of(peer).change("p1", mtu=9000)
    faults.arm(step, errno.ENOMEM)
    with pytest.raises(BackendError):
        follow(peer)
    assert faults.struck
    dp_of(peer).ports.mend()
    assert plane.ports[1].mtu == 9000 and plane.hooks[index] == ANY_BRIDGE
    plane.detach(index)
    dp_of(peer).ports.mend()
    assert index not in plane.hooks, "once is enough"


def test_mending_goes_on_after_an_error(peer: Peer, faults: Faults) -> None:
    for name in ("p1", "p2"):
        ports_of(peer).change(name, mtu=9000)
        faults.arm(1, errno.ENOMEM)
        with pytest.raises(BackendError):
            follow(peer)
    faults.arm(1, errno.ENOMEM)
    with pytest.raises(BackendError):
        dp_of(peer).ports.mend()
    assert {no: plane_of(peer).ports[no].mtu for no in (1, 2)} == {
        1: 1500, 2: 9000}
    dp_of(peer).ports.mend()
    assert plane_of(peer).ports[1].mtu == 9000


def test_port_that_has_gone_is_not_mended(peer: Peer, faults: Faults) -> None:
    ports_of(peer).change("p1", mtu=9000)
    faults.arm(1, errno.ENODEV)
    with pytest.raises(BackendError):
        follow(peer)
    ports_of(peer).vanish("p1")
    follow(peer)
    dp_of(peer).ports.mend()
    assert 1 not in plane_of(peer).ports


# Internal ports.

def test_internal_port_has_its_own_name(peer: Peer) -> None:
    dp = dp_of(peer)
    dp.bridges.set({"br0": frozenset({"i3"})})
    ports_of(peer).change("i3", new_name="eth0", netnsid=7)
    ports_of(peer).set_stats("eth0", VportStats(tx_packets=3))
    (reply,) = peer.ask(VPORT, GET, nla_string(u.OVS_VPORT_ATTR_NAME, "i3"))
    got = attrs(reply)
    assert number(got[u.OVS_VPORT_ATTR_PORT_NO]) == 3
    assert number(got[u.OVS_VPORT_ATTR_NETNSID]) == 7
    assert struct.unpack("8Q", got[u.OVS_VPORT_ATTR_STATS])[1] == 3
    assert told(peer) == [(SET, "i3")]
    assert dp.vports.by_name["i3"].bridge == dp.bridges.by_name["br0"]
    dp.bridges.set({"br1": frozenset({"i3"}), "br0": frozenset({"eth0"})})
    assert dp.vports.by_name["i3"].bridge == dp.bridges.by_name["br1"]
    assert get(peer, "eth0") == -1
    ports_of(peer).change("eth0", new_name="lan")
    follow(peer)
    assert told(peer) == []
    kept = restore.read(plane_of(peer).nlmem)
    assert "i3" in {port.name for port in kept.ports}


def test_internal_port_is_made_anew(peer: Peer) -> None:
    """It is the same port, at home and under its name."""
    dp = dp_of(peer)
    dp.bridges.set({"br0": frozenset({"i3"})})
    before = dp.vports.by_name["i3"].link
    ports_of(peer).change("i3", new_name="eth0", netnsid=7)
    follow(peer)
    told(peer)
    ports_of(peer).vanish("eth0")
    plane_of(peer).detach(before.hook_ifindex)
    assert get(peer, "i3") == 3
    assert told(peer) == []
    now = dp.vports.by_name["i3"].link
    assert (now.name, now.netnsid) == ("i3", None)
    assert now.hook_ifindex == before.hook_ifindex
    assert now.hook_ifindex in ports_of(peer).started
    assert plane_of(peer).hooks[now.hook_ifindex] == dp.bridges.by_name["br0"]
    assert set(ports_of(peer).devices) >= {"i3", "ovsh0p3"}


def test_local_port_is_made_anew(peer: Peer) -> None:
    """Its device is the name by which all requests call the datapath."""
    before = dp_of(peer).dp_ifindex
    ports_of(peer).vanish("ovs-bpf")
    follow(peer)
    assert dp_of(peer).dp_ifindex == before
    assert before in plane_of(peer).hooks
    assert get(peer, "ovs-bpf") == LOCAL


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_internal_port_that_cannot_be_made_anew_ends(
        peer: Peer, faults: Faults, step: int) -> None:
    """ovs-vswitchd hears of it, and tells why it cannot have it."""
    ports_of(peer).vanish("i3")
    faults.arm(step, errno.ENOMEM)
    events = ports_of(peer).run()
    assert events
    with pytest.raises(BackendError):
        dp_of(peer).ports.link_changed(events[0])
    assert faults.struck
    assert get(peer, "i3") == -1
    assert "i3" not in ports_of(peer).devices
    assert "ovsh0p3" not in ports_of(peer).devices
    dp_of(peer).ports.mend()
    assert add(peer, "i3", INTERNAL) == 4


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_local_port_is_made_anew_in_the_end(
        peer: Peer, faults: Faults, step: int) -> None:
    before = dp_of(peer).dp_ifindex
    ports_of(peer).vanish("ovs-bpf")
    faults.arm(step, errno.ENOMEM)
    with pytest.raises(BackendError):
        follow(peer)
    assert get(peer, "p1") == 1
    dp_of(peer).ports.mend()
    assert dp_of(peer).dp_ifindex == before
    assert before in plane_of(peer).hooks
    assert "ovs-bpf" in ports_of(peer).devices


def test_dump_goes_on_when_its_datapath_has_gone(peer: Peer) -> None:
    """A peer takes the parts of a dump when it likes to."""
    many = 400
    for i in range(many):
        add(peer, f"n{i}", INTERNAL)
    replies = peer.router.serve(peer.message(
        VPORT, GET, flags=NLM_F_DUMP))
    next(replies)
    peer.provider.remove(dp_of(peer))
    assert len(list(replies)) > 1


# Takeover.

def again(peer: Peer) -> tuple[Datapath, list[str]]:
    """The datapath as the next provider has it, and ports it refuses."""
    kept = restore.read(plane_of(peer).nlmem)
    dp = Datapath("ovs-bpf", kept.number, FakePlane(),
                  ports_of(peer).restarted(), lambda: 0, dp_of(peer).samples)
    dp.change(kept.datapath)
    refused = []
    for request in kept.ports:
        try:
            dp.ports.hook(dp.ports.adopt(request))
        except RequestError as error:
            assert error.errno == errno.ENODEV
            assert request.name is not None
            refused.append(request.name)
    return dp, refused


def test_takeover_of_renamed_devices(peer: Peer) -> None:
    ports = ports_of(peer)
    ports.change("p1", new_name="q1")
    ports.change("i3", new_name="eth0")
    dp, refused = again(peer)
    assert refused == ["p1"]
    assert dp.vports.by_name.keys() == {"ovs-bpf", "p2", "i3"}
    assert dp.vports.by_name["i3"].link.name == "eth0"


def test_takeover_when_names_were_swapped(peer: Peer) -> None:
    for old, new in (("p1", "tmp"), ("p2", "p1"), ("tmp", "p2")):
        ports_of(peer).change(old, new_name=new)
    dp, refused = again(peer)
    assert refused == ["p1", "p2"]
    assert set(dp.vports.by_name) == {"ovs-bpf", "i3"}
    # ovs-vswitchd takes them for those ports until it hears of it.
    assert dp.vports.pick_number(None, no_flows) == 4


def test_takeover_makes_internal_ports_anew(peer: Peer) -> None:
    before = dp_of(peer)
    for name in ("ovs-bpf", "i3", "p2"):
        ports_of(peer).vanish(name)
    dp, refused = again(peer)
    assert refused == ["p2"]
    assert dp.dp_ifindex == before.dp_ifindex
    assert (dp.vports.by_name["i3"].link.hook_ifindex
            == before.vports.by_name["i3"].link.hook_ifindex)


def test_takeover_of_a_renamed_hidden_end(peer: Peer) -> None:
    ports = ports_of(peer)
    ports.devices["x"] = ports.devices.pop("ovsh0p3")
    dp, refused = again(peer)
    assert not refused
    assert "ovsh0p3" not in ports.devices
    assert dp.vports.by_name["i3"].link.name == "i3"
