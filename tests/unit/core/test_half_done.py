# SPDX-License-Identifier: Apache-2.0
"""Operations of which one step fails: all or nothing, and once more.

Each operation is carried out once for each of its steps, with this step
failing; then once more for each step, with all failing that come after, too.
What makes something leaves no trace when it fails, what ends something gets to
its end, and either way a second try does what the first should have done.

Steps are what can fail: calls that change the plane's programs and tables,
those that take room in a table, and those that change devices.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import pytest

from dpif_bpf.abi import Stage
from dpif_bpf.core import restore
from dpif_bpf.core.actions.programs import COPIES_LATE
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.devices import LinkChange, LinkEvent
from dpif_bpf.core.vport import LOCAL
from dpif_bpf.errors import BackendError, DpifError
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import (
    NLM_F_CREATE,
    nla,
    nla_flag,
    nla_string,
    nla_u32,
    nla_u32_array,
)
from tests.fake_plane import FakePlane, FakeProvider, Peer
from tests.faults import Faults

ENDS = ("clear_port", "remove_bridge", "detach")
"""What the plane does as far as it can, though it fails."""

DP, VPORT, FLOW, PACKET = (u.OVS_DATAPATH_ID, u.OVS_VPORT_ID, u.OVS_FLOW_ID,
                           u.OVS_PACKET_ID)
BRIDGES = {"br0": frozenset({"p1", "i3"}), "br1": frozenset({"p2", "p4"})}
"""Of p4, which is no port yet, there are flows."""
FLOWS = 5
MAC = bytes((2, 0, 0, 0, 0, 9))


def key(port: int, dst: bytes = MAC) -> bytes:
    return nla(u.OVS_FLOW_ATTR_KEY,
               nla_u32(u.OVS_KEY_ATTR_IN_PORT, port)
               + nla(u.OVS_KEY_ATTR_ETHERNET, bytes(6) + dst)
               + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\x88\xcc"))


def mask(port: int = 0xFFFFFFFF) -> bytes:
    return nla(u.OVS_FLOW_ATTR_MASK,
               nla_u32(u.OVS_KEY_ATTR_IN_PORT, port)
               + nla(u.OVS_KEY_ATTR_ETHERNET, bytes(6) + b"\xff" * 6)
               + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\xff\xff"))


def output(*ports: int) -> bytes:
    return nla(u.OVS_FLOW_ATTR_ACTIONS, b"".join(
        nla_u32(u.OVS_ACTION_ATTR_OUTPUT, port) for port in ports))


def userspace(pid: int) -> bytes:
    """Actions that take a descriptor."""
    return nla(u.OVS_FLOW_ATTR_ACTIONS, nla(
        u.OVS_ACTION_ATTR_USERSPACE,
        nla_u32(u.OVS_USERSPACE_ATTR_PID, pid)))


def ufid(number: int) -> bytes:
    return nla(u.OVS_FLOW_ATTR_UFID, number.to_bytes(16, "big"))


def request(peer: Peer, family: int, cmd: int, *attrs: bytes,
            flags: int = 0) -> int:
    return peer.do(family, cmd, *attrs, flags=flags)[0]


def add_port(peer: Peer, name: str, kind: int, *attrs: bytes) -> int:
    return request(peer, VPORT, u.OVS_VPORT_CMD_NEW,
                   nla_string(u.OVS_VPORT_ATTR_NAME, name),
                   nla_u32(u.OVS_VPORT_ATTR_TYPE, kind),
                   nla_u32_array(u.OVS_VPORT_ATTR_UPCALL_PID, (5,)), *attrs)


def put(peer: Peer, *attrs: bytes, flags: int = NLM_F_CREATE) -> int:
    return request(peer, FLOW, u.OVS_FLOW_CMD_NEW, *attrs, flags=flags)


class World:
    """A datapath with ports, bridges and flows, all steps watched."""

    def __init__(self) -> None:
        self.peer = Peer(FakeProvider())
        assert request(self.peer, DP, u.OVS_DP_CMD_NEW,
                       nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"),
                       nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0)) == 0
        self.ports = self.peer.provider.ports
        for name in ("p1", "p2", "p4"):
            self.ports.add_device(name)
        for name, kind in (("p1", u.OVS_VPORT_TYPE_NETDEV),
                           ("p2", u.OVS_VPORT_TYPE_NETDEV),
                           ("i3", u.OVS_VPORT_TYPE_INTERNAL)):
            assert add_port(self.peer, name, kind) == 0
        self.dp.bridges.set(BRIDGES)
        for attrs in ((key(1), mask(), output(2), ufid(1)),
                      (key(2), mask(), userspace(7)),
                      (key(1, bytes(6)), mask(0), output(1, 2), ufid(3)),
                      (key(4), mask(), output(2), ufid(4)),
                      (key(4, bytes(5) + b"\5"), mask(), output(1), ufid(5))):
            assert put(self.peer, *attrs) == 0
        assert len(self.dp.flows) == FLOWS
        self.faults = Faults()
        dp, plane = self.dp, self.plane
        self.faults.watch(plane, "write_port", "add_bridge", "attach",
                          "execute")
        self.faults.watch(plane, *ENDS, ends=True)
        self.faults.watch(plane.classifier, "add_root", "insert", "move")
        self.faults.watch(dp.records, "put")
        self.faults.watch(dp.programs._arena, "alloc")
        self.faults.watch(self.ports, "open_netdev", "create_internal",
                          "start")
        self.faults.watch(self.ports, "release", ends=True)

    @property
    def dp(self) -> Datapath:
        return self.peer.provider.dps[0]

    @property
    def plane(self) -> FakePlane:
        return self.peer.provider.planes[0]

    def state(self) -> dict[str, object]:
        """All that there is; devices, bridges and flows have no numbers
        here, as those may be others the second time."""
        dp, plane, ports = self.dp, self.plane, self.ports
        bridges = {0: "-", **dp.bridges.names()}
        device = {d.link.hook_ifindex: name
                  for name, d in ports.devices.items()}
        machine: dict[str, object] = {
            "plane": ({no: (device[entry.ifindex], bridges[entry.bridge],
                            entry.mtu, entry.flags)
                       for no, entry in plane.ports.items()},
                      {bridges[bridge] for bridge in plane.bridges},
                      {device[hook]: bridges[bridge]
                       for hook, bridge in plane.hooks.items()}),
            "devices": {name: d.link.flags
                        for name, d in ports.devices.items()},
            "claimed": set(ports.claimed.values()),
            "started": {device[hook] for hook in ports.started},
        }
        if LOCAL not in dp.vports.by_no:
            assert not dp.vports.by_no and not dp.flows.snapshot()
            return machine
        plane.settle()
        # Time flies, so that deferred copies come no more.
        dp.programs._clock = count(0, 2 * COPIES_LATE).__next__
        while dp.programs.advance(dp.programs.seal()):
            pass
        flows = dp.flows.snapshot()
        for flow in flows:
            for bridge, flow_id in flow.places.items():
                assert plane.classifier.acts(flow_id) == flow.program.pc
                found = plane.classifier.lookup(bridge, flow.match.key)
                assert found == flow_id
        there = {None, *dp.vports.by_no}
        kept = restore.read(plane.nlmem)
        assert {flow.body for flow in flows} == {
            found.message.raw[24:] for _, found in kept.flows}
        return {
            "settings": (dp.user_features, dp.per_cpu_pids,
                         dp.masks_cache_size),
            "ports": {no: (port.name, port.type, port.upcall_pids,
                           bridges[port.bridge], port.hooked)
                      for no, port in dp.vports.by_no.items()},
            "names": (dp.vports.by_name.keys(),
                      {device[hook] for hook in dp.vports.by_hook}),
            "bridges": dp.bridges.by_name.keys(),
            # No packet tells where the flows of a port are that has gone.
            "flows": {(flow.match.key, flow.match.mask):
                      (flow.body, sorted(bridges[bridge]
                                         for bridge in flow.places
                                         if flow.in_port in there))
                      for flow in flows},
            "indices": (dp.flows._by_ufid.keys(), dp.flows._by_key.keys(),
                        len(dp.flows._by_id),
                        {bridges[bridge] for bridge in dp.flows._bridges},
                        {no: bridges[bridge] for no, bridge
                         in dp.flows._bridge_of.items() if no in there}),
            "programs": (len(dp.programs), len(dp.descs),
                         dp.programs._arena.used),
            "kept": (kept.datapath.user_features, kept.datapath.per_cpu_pids,
                     kept.datapath.masks_cache_size,
                     [(port.name, port.port_no, port.type, port.upcall_pids,
                       device[port.ifindex or 0]) for port in kept.ports],
                     dp.records._arena.used),
            "classifier": (len(plane.classifier), plane.classifier.masks,
                           {bridges[bridge] for bridge
                            in plane.classifier._roots},
                           plane.classifier._ghosts),
            **machine,
        }


@dataclass(frozen=True, slots=True)
class Op:
    """An operation.

    :param act: carries it out; an errno
    :param ends: whether it goes on whatever fails
    :param partial: whether what it has done stays when it fails
    """

    act: Callable[[World], int]
    ends: bool = False
    partial: bool = False


def caught(call: Callable[[], object]) -> int:
    try:
        call()
    except DpifError as error:
        return error.errno
    return 0


def new_internal(world: World) -> int:
    return add_port(world.peer, "i5", u.OVS_VPORT_TYPE_INTERNAL)


def named(cmd: int, name: str, *attrs: bytes) -> Callable[[World], int]:
    return lambda world: request(
        world.peer, VPORT, cmd, nla_string(u.OVS_VPORT_ATTR_NAME, name),
        *attrs)


def gone(world: World) -> int:
    """A device vanishes: its port ends."""
    port = world.dp.vports.by_name.get("p1")
    if port is not None:
        world.dp.ports.link_changed(LinkEvent(LinkChange.GONE, port.link))
    return 0


def bigger(world: World) -> int:
    port = world.dp.vports.by_name["p1"]
    return caught(lambda: world.dp.ports.link_changed(LinkEvent(
        LinkChange.MTU, replace(port.link, mtu=9000))))


OPS = {
    "settings": Op(lambda world: request(
        world.peer, DP, u.OVS_DP_CMD_SET,
        nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"),
        nla_u32(u.OVS_DP_ATTR_USER_FEATURES,
                u.OVS_DP_F_DISPATCH_UPCALL_PER_CPU),
        nla_u32_array(u.OVS_DP_ATTR_PER_CPU_PIDS, (8, 9)),
        nla_u32(u.OVS_DP_ATTR_MASKS_CACHE_SIZE, 64))),
    "new netdev": Op(lambda world: add_port(
        world.peer, "p4", u.OVS_VPORT_TYPE_NETDEV)),
    "new internal": Op(new_internal),
    "port set": Op(named(u.OVS_VPORT_CMD_SET, "p1", nla_u32_array(
        u.OVS_VPORT_ATTR_UPCALL_PID, (1, 2, 3, 4, 5, 6)))),
    "port del": Op(named(u.OVS_VPORT_CMD_DEL, "p1"), ends=True),
    "internal del": Op(named(u.OVS_VPORT_CMD_DEL, "i3"), ends=True),
    "device gone": Op(gone, ends=True),
    "flow": Op(lambda world: put(
        world.peer, key(1, b"\2" + MAC[1:5] + b"\1"), mask(), userspace(8),
        ufid(9))),
    "flow of any port": Op(lambda world: put(
        world.peer, key(1, b"\2" + MAC[1:5] + b"\1"), mask(0), userspace(8),
        ufid(9))),
    "other actions": Op(lambda world: put(
        world.peer, key(1), mask(), userspace(9), ufid(1), flags=0)),
    "other actions of any port": Op(lambda world: put(
        world.peer, key(1, bytes(6)), mask(0), userspace(9), ufid(3),
        flags=0)),
    "flow set": Op(lambda world: request(
        world.peer, FLOW, u.OVS_FLOW_CMD_SET, ufid(3),
        key(1, bytes(6)), mask(0), userspace(9),
        nla_flag(u.OVS_FLOW_ATTR_CLEAR))),
    "flow del": Op(lambda world: request(
        world.peer, FLOW, u.OVS_FLOW_CMD_DEL, ufid(3)), ends=True),
    "flush": Op(lambda world: request(
        world.peer, FLOW, u.OVS_FLOW_CMD_DEL), ends=True),
    "execute": Op(lambda world: request(
        world.peer, PACKET, u.OVS_PACKET_CMD_EXECUTE,
        nla(u.OVS_PACKET_ATTR_PACKET, MAC + MAC + b"\x88\xcc" + bytes(50)),
        nla(u.OVS_PACKET_ATTR_KEY, nla_u32(u.OVS_KEY_ATTR_IN_PORT, 1)),
        nla(u.OVS_PACKET_ATTR_ACTIONS,
            nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2) * 3))),
    "new bridge": Op(lambda world: caught(lambda: world.dp.bridges.set(
        {**BRIDGES, "br2": frozenset()})), partial=True),
    "port to another bridge": Op(lambda world: caught(
        lambda: world.dp.bridges.set(
            {"br0": frozenset({"i3"}), "br1": frozenset({"p1", "p2"})})),
        partial=True),
    "bridges change": Op(lambda world: caught(
        lambda: world.dp.bridges.set(
            {"br2": frozenset({"p1"}), "br3": frozenset({"i3"})})),
        partial=True),
    "no bridges": Op(lambda world: caught(
        lambda: world.dp.bridges.set({})), partial=True),
    "mtu": Op(bigger, partial=True),
    "datapath del": Op(lambda world: caught(world.dp.close), ends=True),
}


def steps(name: str) -> list[tuple[str, int]]:
    """The operation and the number of each of its steps."""
    world = World()
    world.faults.arm(1 << 20, errno.EIO)
    assert OPS[name].act(world) == 0, name
    return [(name, step + 1)
            for step in range((1 << 20) - world.faults._left)]


STEPS = [step for name in OPS for step in steps(name)]


def test_there_are_steps() -> None:
    """And they are those that fail below."""
    assert {name for name, _ in STEPS} == OPS.keys() - {"flow del", "flush"}
    assert len(STEPS) > 80


@functools.cache
def expected(name: str) -> dict[str, object]:
    """What the operation makes of the world."""
    world = World()
    assert OPS[name].act(world) == 0
    return world.state()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(("name", "step"), STEPS)
def test_one_step_fails(name: str, step: int, error: int) -> None:
    op, world = OPS[name], World()
    before, wanted = world.state(), expected(name)
    world.faults.arm(step, error)
    result = op.act(world)
    struck = world.faults.struck
    world.faults.arm(0, 0)
    assert len(struck) == 1
    reports = world.peer.provider.reports
    if op.ends and struck == ["move"]:
        # The port goes all the same, with a flow that found no room.
        assert result == 0 and not reports
        consistent(world)
        return
    if op.ends or struck[0] in ENDS:
        assert result == 0 and world.state() == wanted
        assert len(reports) == 1 and struck[0] in reports[0]
        return
    if result == 0:  # there was room after all
        assert error == errno.ENOSPC and world.state() == wanted
        return
    assert result == error
    if op.partial:
        consistent(world)
    else:
        assert world.state() == before
    assert op.act(world) == 0
    assert world.state() == wanted


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_all_further_steps_fail(name: str, step: int) -> None:
    op, world = OPS[name], World()
    wanted = expected(name)
    world.faults.arm(step, errno.EIO, lasting=True)
    result = op.act(world)
    first = world.faults.struck[0]
    world.faults.arm(0, 0)
    consistent(world)
    if op.ends or first in ENDS:
        assert result == 0
        return
    assert result == errno.EIO
    assert op.act(world) == 0
    state = world.state()
    if len(world.dp.flows) < FLOWS:  # some could not return
        for table in ("flows", "indices", "programs", "kept", "classifier"):
            state[table] = wanted[table]
    assert state == wanted


def consistent(world: World) -> None:
    """Whatever was done, the tables agree with one another."""
    world.state()
    dp, plane = world.dp, world.plane
    if not dp.vports.by_no:
        assert not plane.hooks and not plane.ports
        return
    for port in dp.vports.by_no.values():
        assert dp.vports.by_name[port.name] is port
        assert port.bridge in plane.bridges
        assert dp.flows.bridge_of(port.port_no) == port.bridge
        hook = plane.hooks[port.link.hook_ifindex]
        assert hook in plane.bridges
    for flow in dp.flows.snapshot():
        assert flow.places and flow.places.keys() <= dp.flows._bridges
        if flow.in_port in dp.vports.by_no:
            bridge = dp.vports.by_no[flow.in_port].bridge
            assert list(flow.places) == [bridge]
    assert plane.classifier._roots.keys() == dp.flows._bridges
    assert set(dp.bridges.by_name.values()) | {0} == dp.flows._bridges


def test_hook_that_stays() -> None:
    """A port whose hook could not be taken off has ended, and the device
    can be one again."""
    world = World()
    hook = world.dp.vports.by_name["p1"].link.hook_ifindex

    def detach(_ifindex: int) -> None:
        raise BackendError(errno.EIO, "no")

    world.plane.detach = detach  # type: ignore[method-assign]
    assert OPS["port del"].act(world) == 0
    assert hook in world.plane.hooks
    assert "p1" in world.peer.provider.reports[0]
    assert add_port(world.peer, "p1", u.OVS_VPORT_TYPE_NETDEV) == 0
    assert world.dp.vports.by_name["p1"].link.hook_ifindex == hook


def test_bridge_that_a_port_cannot_leave() -> None:
    """It stays until the port has left; then its number is free."""
    world = World()
    number = world.dp.bridges.by_name["br0"]
    real = world.plane.attach

    def attach(ifindex: int, bridge: int, stage: Stage) -> None:
        if bridge == 0:
            raise BackendError(errno.EIO, "no")
        real(ifindex, bridge, stage)

    world.plane.attach = attach  # type: ignore[method-assign]
    only = {"br1": BRIDGES["br1"]}
    assert caught(lambda: world.dp.bridges.set(only)) == errno.EIO
    consistent(world)
    assert world.dp.bridges.by_name["br0"] == number
    assert world.dp.vports.by_name["p1"].bridge == number
    world.plane.attach = real  # type: ignore[method-assign]
    world.dp.bridges.set(only)
    assert "br0" not in world.dp.bridges.by_name
    world.dp.bridges.set({**only, "br9": frozenset({"p1"})})
    assert world.dp.bridges.by_name["br9"] == number
    consistent(world)


def test_port_without_a_hook_is_hooked_later() -> None:
    """As when a takeover could not: with the next look at the bridges."""
    world = World()
    port = world.dp.vports.by_name["p1"]
    port.hooked = False
    world.plane.detach(port.link.hook_ifindex)
    world.faults.arm(1, errno.ENOMEM)
    assert caught(lambda: world.dp.bridges.set(BRIDGES)) == errno.ENOMEM
    assert not port.hooked
    world.dp.bridges.set(BRIDGES)
    assert port.hooked
    assert world.plane.hooks[port.link.hook_ifindex] == port.bridge


def test_local_port_is_the_last_to_go() -> None:
    world = World()
    order: list[int] = []
    real = world.dp.ports.delete
    world.dp.ports.delete = lambda port: (  # type: ignore[method-assign]
        order.append(port.port_no), real(port))[1]
    world.dp.close()
    assert sorted(order) == [0, 1, 2, 3] and order[-1] == LOCAL
