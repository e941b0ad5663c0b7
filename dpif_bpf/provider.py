# SPDX-License-Identifier: Apache-2.0
"""The datapaths of a provider: made, taken over, watched, removed."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import ovs.poller
import ovs.vlog

from dpif_bpf import abi
from dpif_bpf.core import restore
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.edges import InjectPair, LinkEvent, PortEdge
from dpif_bpf.core.samples import Samples
from dpif_bpf.core.upcall import Upcalls
from dpif_bpf.core.vport import LOCAL, Vport
from dpif_bpf.edge.generation import Generation
from dpif_bpf.edge.grace import Grace
from dpif_bpf.edge.loader import Loader
from dpif_bpf.edge.psample import Psample
from dpif_bpf.edge.ring import BUDGET, UpcallRing
from dpif_bpf.errors import BackendError, DpifError, RequestError
from dpif_bpf.plane import (
    BpfPlane,
    Hooking,
    counters_of,
    earlier_flow_stats,
    load,
)
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import DatapathRequest

vlog = ovs.vlog.Vlog("provider")


TIDY_INTERVAL = 1000
"""ms between looks at flows that are not in the first trees."""
TIDY_FLOWS = 256
"""Flows that one look moves at most: a few ms."""
_RECLAIM_TURNS = 64
"""Of BUDGET upcalls: they take a tenth of a second."""
REAP_INTERVAL = 100
"""ms after which executes are looked after when nothing else happens."""


def msec() -> int:
    """CLOCK_MONOTONIC in ms."""
    return time.monotonic_ns() // 1000000


@dataclass(slots=True)
class Instance:
    """A datapath with what serves it."""

    dp: Datapath
    plane: BpfPlane
    pair: InjectPair
    ring: UpcallRing
    upcalls: Upcalls
    tidied: int = 0

    def counters(self) -> dict[str, int]:
        """Events since the start, by name (coverage/show)."""
        return {"upcall_sent": self.upcalls.sent,
                "upcall_lost": self.dp.lost,
                "upcall_malformed": self.upcalls.malformed,
                "upcall_too_big": self.upcalls.too_big,
                **self.plane.events()}


class Provider:
    """All datapaths; implements core.dispatch.Registry.

    :param send: port id, message → False when the peer does not take it
    :param multicast: group, message
    """

    def __init__(self, loader: Loader, ports: PortEdge, max_flows: int,
                 send: Callable[[int, bytes], bool],
                 multicast: Callable[[int, bytes], None]) -> None:
        self._loader = loader
        self._ports = ports
        self._max_flows = max_flows
        self._send = send
        self._multicast = multicast
        self._instances: dict[str, Instance] = {}
        self._bridges: Mapping[str, frozenset[str]] = {}
        self._grace = Grace()
        self._psample = Psample()
        self._samples = Samples(self._psample)

    def counters(self) -> dict[str, int]:
        """Events of all datapaths since the start, by name."""
        return {"psample_sent": self._samples.sent,
                "psample_lost": self._samples.lost}

    # core.dispatch.Registry

    def datapaths(self) -> list[Datapath]:
        return [instance.dp for instance in self._instances.values()]

    def instances(self) -> Iterator[Instance]:
        """The datapaths with what serves them."""
        return iter(list(self._instances.values()))

    def make(self, request: DatapathRequest) -> Datapath:
        name = request.name
        assert name is not None
        Datapath.check(request)
        if name in self._instances:
            raise RequestError(errno.EEXIST, f"datapath {name} exists")
        for other in self.datapaths():
            if name in other.vports.by_name:
                raise RequestError(errno.EEXIST,
                                   f"{name} is a port of {other.name}")
        instance = self._build(name, self._free_number(), 1)
        dp = instance.dp
        try:
            dp.change(request)
            instance.plane.gen.commit()
            instance.plane.hook_inject()
            dp.make_port(name, uapi.OVS_VPORT_TYPE_INTERNAL, LOCAL,
                         (request.upcall_pid or 0,))
            dp.set_bridges(self._bridges)
        except DpifError:
            self._destroy(instance)
            raise
        self._instances[name] = instance
        vlog.info(f"made datapath {name}")
        return dp

    def remove(self, dp: Datapath) -> None:
        self._destroy(self._instances.pop(dp.name))
        vlog.info(f"removed datapath {dp.name}")

    def notify(self, group: int, message: bytes) -> None:
        self._multicast(group, message)

    def reclaim(self) -> bool:
        return self._grace.reclaim(self._read_upcalls) > 0

    def _read_upcalls(self) -> None:
        """What is queued by now, or most of it."""
        for instance in self._instances.values():
            for _ in range(_RECLAIM_TURNS):
                if instance.ring.run() < BUDGET:
                    break

    # Life of a datapath

    def _free_number(self) -> int:
        taken = {dp.number for dp in self.datapaths()}
        return next(n for n in range(len(taken) + 1) if n not in taken)

    def _build(self, name: str, number: int, generation: int,
               old: Generation | None = None) -> Instance:
        """
        :param generation: to be; two in a row have inject devices of their
            own, so that what is on its way through the old one's arrives
        :param old: the one before, if there is one
        """
        turn = generation & 1
        pair = self._ports.open_inject(f"ovsx{number}s{turn}",
                                       f"ovsx{number}r{turn}")
        gen: Generation | None = None
        try:
            gen = load(self._loader, name, self._max_flows, pair, old)
            dp: Datapath
            plane = BpfPlane(gen, Hooking(self._loader, name), pair,
                             self._max_flows,
                             lambda program: dp.programs.release(program))
            dp = Datapath(name, number, plane, self._ports, msec,
                          self._samples)
            upcalls = Upcalls(dp, self._send)
            ring = UpcallRing(gen.map_fd("ovs_upcalls"), upcalls.handle)
        except DpifError:
            if gen is not None:
                gen.close()
                self._loader.remove(name)
            self._ports.delete_inject(pair)
            raise
        self._grace.watch(plane.classifier, dp.programs)
        return Instance(dp, plane, pair, ring, upcalls)

    def _destroy(self, instance: Instance) -> None:
        dp, plane = instance.dp, instance.plane
        self._grace.forget(plane.classifier, dp.programs)
        dp.close()
        plane.detach(instance.pair.receiver)
        self._ports.delete_inject(instance.pair)
        instance.ring.close()
        plane.close()
        self._loader.remove(dp.name)

    def take_over(self) -> None:
        """Rebuilds the datapaths that earlier providers left pinned.

        Each gets a new generation, into which what was kept is replayed;
        then the hooks are moved over, each without a gap.  A datapath that
        cannot be rebuilt is removed: ovs-vswitchd makes it again.
        """
        for name in self._loader.pins.datapaths():
            try:
                old = self._loader.open_pinned(name)
                if old is None:
                    self._loader.remove(name)
                    continue
                with old:
                    self._take_over(name, old)
            except DpifError as error:
                vlog.warn(f"cannot take over datapath {name}: {error}")
                self._loader.remove(name)
        for prefix in ("ovsh", "ovsx"):
            for device in self._ports.leftovers(prefix):
                self._ports.delete_leftover(device)

    def _take_over(self, name: str, old: Generation) -> None:
        started = msec()
        kept = restore.read(old.mapped("ovs_nlmem").cast("Q"))
        instance = self._build(name, kept.number, old.number + 1, old)
        dp, plane = instance.dp, instance.plane
        try:
            moved = self._replay(dp, kept)
            plane.gen.commit()
            plane.hook_inject()
            for port in dp.vports.by_no.values():
                dp.hook_port(port)
        except DpifError:
            self._destroy(instance)
            raise
        counted = earlier_flow_stats(old, list(moved))
        for now, before in zip(moved.values(), counted, strict=True):
            plane.set_flow_stats(now, before)
        dp.base = kept.base + counters_of(old, range(abi.OVS_MAX_BRIDGES))
        dp.keep()
        self._loader.remove_others(plane.gen)
        plane.prune_hooks()
        self._instances[name] = instance
        vlog.info(f"took over datapath {name}: {len(dp.vports.by_no)} ports,"
                  f" {len(dp.flows)} flows, {len(dp.meters)} meters,"
                  f" {msec() - started} ms")

    def _replay(self, dp: Datapath, kept: restore.Kept) -> dict[int, int]:
        """Fills a new datapath; flow ids then → now."""
        dp.change(kept.datapath)
        dp.set_bridges(self._bridges)
        dp.meters.adopt()
        for request in kept.ports:
            try:
                dp.adopt_port(request)
            except DpifError as error:
                vlog.info(f"port {request.name} is not there any more:"
                          f" {error}")
        if LOCAL not in dp.vports.by_no:
            raise BackendError(errno.ENODEV, "its local port has gone")
        moved = {}
        for then, flow_request in kept.flows:
            flow = dp.flows.restore(flow_request)
            for now in flow.places.values():
                moved[then] = now
        return moved

    # The loop

    def run(self) -> None:
        """Upcalls, and what waits for the programs."""
        over = self._grace.over  # upcalls that name what it frees are queued
        drained = True
        for instance in self._instances.values():
            drained &= instance.ring.run() < BUDGET
            if instance.plane.executing:
                instance.plane.reap(msec())
            self._tidy(instance)
        if drained:
            self._grace.run(over)

    def _tidy(self, instance: Instance) -> None:
        """Lets flows return to the first trees of their forests."""
        now = msec()
        if now - instance.tidied >= TIDY_INTERVAL:
            tried = instance.plane.classifier.tidy(TIDY_FLOWS)
            # Without work it is looked for when there is other work.
            instance.tidied = now if tried else 0

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Makes `poller` wake up when run() has something to do."""
        for instance in self._instances.values():
            instance.ring.wait(poller)
            if instance.plane.executing:
                poller.timer_wait(REAP_INTERVAL)
            if instance.tidied:
                poller.timer_wait(
                    instance.tidied + TIDY_INTERVAL - msec())
        self._grace.wait(poller)

    def link_events(
            self, events: list[LinkEvent]
            ) -> Iterator[tuple[Datapath, Vport, bool]]:
        """Ports that changed or ended (True), for peers to hear of."""
        for event in events:
            for dp in self.datapaths():
                port = dp.link_changed(event)
                if port is not None:
                    gone = port.port_no not in dp.vports.by_no
                    yield dp, port, gone

    def set_bridges(self, bridges: Mapping[str, frozenset[str]]) -> None:
        """What the database says now."""
        self._bridges = bridges
        for dp in self.datapaths():
            try:
                dp.set_bridges(bridges)
            except DpifError as error:
                vlog.warn(f"cannot follow the bridges of {dp.name}: {error}")

    def close(self) -> None:
        """Lets go of everything; what is pinned goes on forwarding."""
        for instance in self._instances.values():
            instance.ring.close()
            instance.plane.close()
        self._instances.clear()
        self._grace.close()
        self._psample.close()
