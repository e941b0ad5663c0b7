# SPDX-License-Identifier: Apache-2.0
"""provider: what cannot be followed now is followed later."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest
from test_services import numbered

from dpif_bpf import provider
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.plane import ANY_BRIDGE
from dpif_bpf.edge.loader import Loader
from dpif_bpf.errors import BackendError
from dpif_bpf.provider import RETRY_INTERVAL, Instance, Provider
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import nla_string, nla_u32, nla_u32_array
from tests.fake_plane import FakePlane, FakeProvider, Peer
from tests.faults import Faults


@dataclass
class Timer:
    """A poller that keeps the shortest time."""

    msec: int | None = None

    def fd_wait(self, fd: int, events: int) -> None:
        pass

    def timer_wait(self, msec: int) -> None:
        self.msec = msec if self.msec is None else min(self.msec, msec)

    def immediate_wake(self) -> None:
        self.msec = 0


@dataclass
class World:
    """A provider of one datapath with ports p1 to p4, and its clock."""

    provider: Provider
    dp: Datapath
    plane: FakePlane
    peer: Peer
    now: int = 5000
    logged: list[tuple[str, str]] = field(default_factory=list)

    @property
    def waits(self) -> int | None:
        """For how many ms."""
        timer = Timer()
        self.provider.wait(timer)
        return timer.msec

    def owners(self) -> dict[str, str]:
        """Name of each port to that of its bridge."""
        names = {ANY_BRIDGE: "-", **self.dp.bridges.names()}
        return {port.name: names[port.bridge]
                for port in self.dp.vports.by_no.values() if port.port_no}

    def follow(self) -> list[tuple[str, bool]]:
        """Names of ports that peers hear of, and whether they ended."""
        return [(port.name, gone)
                for _dp, port, gone in self.provider.changes()]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    peer = Peer(FakeProvider())
    peer.do(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_NEW,
            nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"),
            nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0))
    for name in ("p1", "p2", "p3", "p4"):
        peer.provider.ports.add_device(name)
        assert peer.do(
            u.OVS_VPORT_ID, u.OVS_VPORT_CMD_NEW,
            nla_string(u.OVS_VPORT_ATTR_NAME, name),
            nla_u32(u.OVS_VPORT_ATTR_TYPE, u.OVS_VPORT_TYPE_NETDEV),
            nla_u32_array(u.OVS_VPORT_ATTR_UPCALL_PID, (5,)))[0] == 0
    dp, plane = peer.provider.dps[0], peer.provider.planes[0]
    logged: list[tuple[str, str]] = []
    for level in ("info", "warn"):
        monkeypatch.setattr(
            provider.vlog, level,
            lambda text, level=level: logged.append((level, text)))
    world = World(cast(Provider, None), dp, plane, peer, logged=logged)
    monkeypatch.setattr(provider, "msec", lambda: world.now)
    world.provider = made = Provider(
        cast(Loader, None), peer.provider.ports, 4096,
        lambda pid, message: True, lambda group, message: None)
    idle = SimpleNamespace(
        dp=dp, plane=SimpleNamespace(
            executing=0, classifier=plane.classifier),
        upcalls=SimpleNamespace(flush=lambda: None, busy=False),
        read=lambda: True,
        ring=SimpleNamespace(wait=lambda poller: None,
                             close=lambda: None),
        pair=None, tidied=0, unsettled=0)
    made._instances[dp.name] = cast(Instance, idle)
    yield world
    made._instances.clear()
    made.close()


@pytest.fixture
def faults(world: World) -> Faults:
    made = Faults()
    made.watch(world.plane, "attach", "write_port", "add_bridge")
    made.watch(world.peer.provider.ports, "create_internal")
    return made


BRIDGES: Mapping[str, frozenset[str]] = {
    "br0": frozenset({"p1", "p2"}), "br1": frozenset({"p3", "p4"})}
WANTED = {"p1": "br0", "p2": "br0", "p3": "br1", "p4": "br1"}


@pytest.mark.parametrize("step", range(1, 11))
def test_bridges_are_followed_but_for_what_fails(
        world: World, faults: Faults, step: int) -> None:
    """Steps: each bridge's pipeline, then each port's entry and hook."""
    faults.arm(step, errno.ENOMEM)
    world.provider.set_bridges(BRIDGES)
    assert faults.struck
    behind = {name for name, bridge in world.owners().items()
              if bridge != WANTED[name]}
    if step <= 2:
        assert len(behind) == 2 and len(world.dp.bridges.by_name) == 1
    else:
        assert len(behind) == 1
    assert [level for level, _ in world.logged] == ["warn"]
    # It is tried again by itself, and then not any more.
    assert world.waits == RETRY_INTERVAL
    world.now += RETRY_INTERVAL - 1
    world.provider.run()
    assert world.owners() != WANTED and world.waits == 1
    world.now += 1
    world.provider.run()
    assert world.owners() == WANTED
    assert {port.bridge: world.plane.hooks[port.link.hook_ifindex]
            for port in world.dp.vports.by_no.values()} == {
                number: number for number in (0, 1, 2)}
    assert world.waits is None
    assert [level for level, _ in world.logged] == ["warn", "info"]


def test_trouble_that_lasts_is_logged_once(world: World,
                                           faults: Faults) -> None:
    faults.arm(3, errno.ENOMEM, lasting=True)
    world.provider.set_bridges(BRIDGES)
    for _ in range(10):
        world.now += RETRY_INTERVAL
        world.provider.run()
        assert world.waits == RETRY_INTERVAL
    assert [level for level, _ in world.logged] == ["warn"]


def test_bridge_that_has_gone_while_it_failed(world: World,
                                              faults: Faults) -> None:
    """What the database says now counts."""
    faults.arm(1, errno.ENOMEM)
    world.provider.set_bridges(BRIDGES)
    world.provider.set_bridges({"br1": BRIDGES["br1"]})
    assert world.owners() == {**WANTED, "p1": "-", "p2": "-"}
    assert world.waits is None


def test_all_events_are_followed(world: World, faults: Faults) -> None:
    """One that fails is told of when its port has ended, and tried again
    when it has not."""
    ports = world.peer.provider.ports
    ports.change("p1", mtu=9000)
    ports.change("p2", mtu=9000)
    ports.vanish("p3")
    ports.change("p4", new_name="q4")
    faults.arm(1, errno.ENOMEM)
    assert world.follow() == [("p3", True), ("p4", True)]
    assert {no: world.plane.ports[no].mtu for no in (1, 2)} == {
        1: 1500, 2: 9000}
    assert world.waits == RETRY_INTERVAL
    world.now += RETRY_INTERVAL
    world.provider.run()
    assert world.plane.ports[1].mtu == 9000
    assert world.waits is None


def test_device_that_vanishes_is_no_warning(world: World,
                                            faults: Faults) -> None:
    world.peer.provider.ports.return_("p1")
    faults.arm(2, errno.ENODEV)
    assert world.follow() == []
    assert [level for level, _ in world.logged] == ["info"]


def test_internal_port_that_ends(world: World, faults: Faults) -> None:
    """ovs-vswitchd hears of it."""
    assert world.peer.do(
        u.OVS_VPORT_ID, u.OVS_VPORT_CMD_NEW,
        nla_string(u.OVS_VPORT_ATTR_NAME, "i5"),
        nla_u32(u.OVS_VPORT_ATTR_TYPE, u.OVS_VPORT_TYPE_INTERNAL),
        nla_u32_array(u.OVS_VPORT_ATTR_UPCALL_PID, (5,)))[0] == 0
    world.peer.provider.ports.vanish("i5")
    faults.arm(1, errno.EEXIST)
    assert world.follow() == [("i5", True)]
    assert "i5" not in world.dp.vports.by_name


def test_local_port_is_made_when_it_can_be(world: World,
                                           faults: Faults) -> None:
    number = world.dp.dp_ifindex
    world.peer.provider.ports.vanish("ovs-bpf")
    faults.arm(1, errno.EEXIST)
    assert world.follow() == []
    world.now += RETRY_INTERVAL
    world.provider.run()
    assert world.dp.dp_ifindex == number
    assert "ovs-bpf" in world.peer.provider.ports.devices
    assert world.waits is None


def test_datapath_that_has_gone_is_not_waited_for(world: World,
                                                  faults: Faults) -> None:
    faults.arm(1, errno.ENOMEM)
    world.provider.set_bridges(BRIDGES)
    assert world.waits is not None
    destroyed: list[object] = []
    maker = world.provider._maker
    maker.destroy = destroyed.append  # type: ignore[method-assign]
    world.provider.remove(world.dp)
    assert len(destroyed) == 1
    assert world.waits is None


def test_flows_that_find_no_room(world: World) -> None:
    """All are counted, and the operator is told once a minute."""
    error = BackendError(errno.ENOSPC, "no room")
    for _ in range(3):
        world.provider.refused(world.dp, error)
    assert [level for level, _ in world.logged] == ["warn"]
    assert "ovs-bpf refuses flows" in world.logged[0][1]
    assert world.provider.counters()["flow_no_room"] == 3
    world.now += 60000
    world.provider.refused(world.dp, error)
    assert len(world.logged) == 2


def test_flush_goes_on_turn_by_turn(world: World,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked for it, and whether that one is still there."""
    monkeypatch.setattr(
        world.dp.flows.flushes, "run",
        lambda steps=7, run=world.dp.flows.flushes.run: run(steps))
    for number in range(20):
        assert numbered(world.peer, number) == 0
    next(world.peer.router.serve(world.peer.message(
        u.OVS_FLOW_ID, u.OVS_FLOW_CMD_DEL)))
    turns = 0
    while world.dp.flows.flushes.busy:
        assert world.waits == 0
        world.provider.run()
        turns += 1
    assert turns > 10
