# SPDX-License-Identifier: Apache-2.0
"""The datapaths of a provider: made, taken over, watched, removed."""

from __future__ import annotations

import errno
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import ovs.vlog

from dpif_bpf.bpf_plane import Room
from dpif_bpf.core.conntrack.memory import DEFAULT_CONNECTIONS
from dpif_bpf.core.conntrack.tracker import Conntrack
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.devices import InjectPair, LinkEvent, Poller, PortEdge
from dpif_bpf.core.samples import Samples
from dpif_bpf.core.upcall import Send
from dpif_bpf.core.vport import LOCAL, Vport
from dpif_bpf.edge.grace import Grace
from dpif_bpf.edge.loader import Loader
from dpif_bpf.edge.psample_group import Psample
from dpif_bpf.errors import DpifError, RequestError
from dpif_bpf.instance import Instance, Maker, attempt
from dpif_bpf.limited import Limited, msec
from dpif_bpf.takeover import RETRY_MIN, Left, Takeovers
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import DatapathRequest

__all__ = ["Instance", "Provider", "msec"]

vlog = ovs.vlog.Vlog("provider")


TIDY_INTERVAL = 1000
"""ms between looks at flows that are not in the first trees."""
TIDY_FLOWS = 256
"""Flows that one look moves at most: a few ms."""
_RECLAIM_TURNS = 64
"""Of BUDGET upcalls: they take a tenth of a second."""
RETRY_INTERVAL = 1000
"""ms until what devices and the database want is tried again that failed."""
REAP_INTERVAL = 100
"""ms after which executes are looked after when nothing else happens."""


class Provider:
    """All datapaths; implements core.services.service.Registry.

    :param send: for upcalls
    :param multicast: group, message
    :param ct_max: connections that a datapath has room for
    """

    def __init__(self, loader: Loader, ports: PortEdge, max_flows: int,
                 send: Send, multicast: Callable[[int, bytes], None],
                 ct_max: int = DEFAULT_CONNECTIONS) -> None:
        self._ports = ports
        self._multicast = multicast
        self._instances: dict[str, Instance] = {}
        self._bridges: Mapping[str, frozenset[str]] = {}
        self._behind: dict[str, int] = {}
        """Names of datapaths that do not follow devices or bridges to when
        (ms) that is tried again."""
        self._warn = Limited(vlog.warn)
        self._warn_no_room = Limited(vlog.warn, msec, burst=1, per_minute=1)
        self._no_room = 0
        self._grace = Grace()
        self._psample = Psample()
        self._samples = Samples(self._psample)
        self._kept_up = 0
        """ms, when control connections were looked through."""
        self._maker = Maker(loader, ports, Room(max_flows, ct_max), send,
                            self._samples, self._grace)
        self._takeovers = Takeovers(loader, ports, self._maker, self._follow)

    def counters(self) -> dict[str, int]:
        """Events of all datapaths since the start, by name."""
        return {"flow_no_room": self._no_room,
                "psample_sent": self._samples.sent,
                "psample_lost": self._samples.lost}

    # core.services.service.Registry

    def datapaths(self) -> list[Datapath]:
        return [instance.dp for instance in self._instances.values()]

    def instances(self) -> Iterator[Instance]:
        """The datapaths with what serves them."""
        return iter(list(self._instances.values()))

    def make(self, request: DatapathRequest) -> Datapath:
        name = request.name
        assert name is not None
        Datapath.check(request)
        self._retake(name)
        if name in self._instances:
            raise RequestError(errno.EEXIST, f"datapath {name} exists")
        for other in self.datapaths():
            if name in other.vports.by_name:
                raise RequestError(errno.EEXIST,
                                   f"{name} is a port of {other.name}")
        instance = self._maker.build(name, self._free_number(), 1)
        dp = instance.dp
        try:
            dp.change(request)
            instance.plane.gen.commit()
            instance.plane.hook_inject()
            instance.plane.start_sweep()
            dp.ports.make(name, uapi.OVS_VPORT_TYPE_INTERNAL, LOCAL,
                          (request.upcall_pid or 0,))
        except DpifError:
            self._maker.destroy(instance)
            raise
        self._instances[name] = instance
        self._follow(dp)
        vlog.info(f"made datapath {name}")
        return dp

    def remove(self, dp: Datapath) -> None:
        self._behind.pop(dp.name, None)
        self._maker.destroy(self._instances.pop(dp.name))
        vlog.info(f"removed datapath {dp.name}")

    def discard(self, name: str) -> bool:
        if not self._takeovers.discard(name):
            return False
        self._clear()
        return True

    def absent(self, name: str) -> str | None:
        left = self._takeovers.left.get(name)
        return None if left is None else left.refusal().text

    def notify(self, group: int, message: bytes) -> None:
        self._multicast(group, message)

    def conntrack(self) -> Conntrack | None:
        return self._maker.conntrack

    def reclaim(self) -> bool:
        for instance in self._instances.values():
            instance.dp.flows.flushes.run()
        return self._grace.reclaim(self._read_upcalls) > 0

    def refused(self, dp: Datapath, error: DpifError) -> None:
        self._no_room += 1
        self._warn_no_room(f"{dp.name} refuses flows, whose packets all go to"
                           f" ovs-vswitchd: {error}")

    def _read_upcalls(self) -> None:
        """What is queued by now, or most of it."""
        for instance in self._instances.values():
            for _ in range(_RECLAIM_TURNS):
                if instance.read():
                    break

    # Life of a datapath

    def _free_number(self) -> int:
        taken = self._numbers() | self._takeovers.numbers()
        return next(n for n in range(len(taken) + 1) if n not in taken)

    def _numbers(self) -> set[int]:
        return {dp.number for dp in self.datapaths()}

    # Those of earlier providers

    def take_over(self) -> None:
        """Takes the datapaths over that earlier providers left pinned.

        Those that cannot be stay as they are, and are tried again.
        """
        self._takeovers.find()
        for left in list(self._takeovers.left.values()):
            self._try(left)
        self._clear()

    def left(self) -> list[Left]:
        """Those that are not taken over."""
        return list(self._takeovers.left.values())

    def _try(self, left: Left) -> None:
        instance = self._takeovers.try_(left, self._numbers())
        if instance is not None:
            self._instances[left.name] = instance

    def _retake(self, name: str) -> None:
        """Somebody asks for a datapath that may not be taken over.

        :raises BackendError: why it is not
        """
        left = self._takeovers.left.get(name)
        if left is None:
            return
        if msec() >= left.tried + RETRY_MIN:
            self._try(left)
            self._clear()
        if name in self._takeovers.left:
            raise left.refusal()

    def _clear(self) -> None:
        attempt(lambda: self._takeovers.clear(self._instances))

    # The loop

    def run(self) -> None:
        """Upcalls, and what waits for the programs."""
        self._catch_up(msec())
        self._renew(self._ports.renewed())
        over = self._grace.over  # upcalls that name what it frees are queued
        drained = True
        for instance in self._instances.values():
            drained &= instance.read()
            instance.upcalls.flush()
            if instance.plane.executing:
                instance.plane.reap(msec())
            instance.dp.flows.flushes.run()
            instance.dp.reassembly.fragments.expire(msec())
            self._tidy(instance)
        self._keep_up()
        self._grace.run(over and drained)

    def _catch_up(self, now: int) -> None:
        """What could not be done, by a takeover for one, is tried again."""
        for dp in self.datapaths():
            if self._behind.get(dp.name, sys.maxsize) <= now:
                self._follow(dp)
        for left in self._takeovers.due(now):
            self._try(left)
            self._clear()
        for instance in self._instances.values():
            if 0 < instance.unsettled <= now:
                self._takeovers.settle(instance)
                self._clear()
        if self._maker.garbage:
            # The collector would not get that far, or not for days.
            self._maker.garbage = False
            self._clear()
            gc.unfreeze()
            gc.collect()

    def _renew(self, pairs: list[InjectPair]) -> None:
        """Lets datapaths use inject pairs that were made anew."""
        for instance in self._instances.values():
            if instance.pair not in pairs:
                continue
            try:
                instance.plane.renew_inject()
            except DpifError as error:
                # It has gone once more, and will be made again.
                vlog.info(f"{instance.dp.name} cannot be sent to: {error}")

    def _tidy(self, instance: Instance) -> None:
        """Lets flows return to the first trees of their forests."""
        now = msec()
        if now - instance.tidied >= TIDY_INTERVAL:
            tried = instance.plane.classifier.tidy(TIDY_FLOWS)
            # Without work it is looked for when there is other work.
            instance.tidied = now if tried else 0

    def _keep_up(self) -> None:
        """Looks through control connections, while there are any."""
        now = msec()
        conntrack = self._maker.conntrack
        if conntrack is not None and conntrack.busy and (
                now - self._kept_up >= TIDY_INTERVAL):
            conntrack.upkeep()
            self._kept_up = now

    def wait(self, poller: Poller) -> None:
        """Makes `poller` wake up when run() has something to do."""
        now = msec()
        for left in self._takeovers.left.values():
            poller.timer_wait(left.again - now)
        for when in self._behind.values():
            poller.timer_wait(when - now)
        for instance in self._instances.values():
            if instance.unsettled:
                poller.timer_wait(instance.unsettled - now)
            instance.ring.wait(poller)
            if instance.dp.flows.flushes.busy or instance.upcalls.busy:
                poller.immediate_wake()
            if instance.plane.executing:
                poller.timer_wait(REAP_INTERVAL)
            deadline = instance.dp.reassembly.fragments.deadline
            if deadline is not None:
                poller.timer_wait(deadline - now)
            if instance.tidied:
                poller.timer_wait(
                    instance.tidied + TIDY_INTERVAL - msec())
        conntrack = self._maker.conntrack
        if conntrack is not None and conntrack.busy:
            poller.timer_wait(self._kept_up + TIDY_INTERVAL - now)
        self._grace.wait(poller)

    # Devices and bridges

    def changes(self) -> Iterator[tuple[Datapath, Vport, bool]]:
        return self.link_events(self._ports.run())

    def link_events(
            self, events: list[LinkEvent]
            ) -> Iterator[tuple[Datapath, Vport, bool]]:
        """Ports that changed or ended (True), for peers to hear of."""
        for event in events:
            for dp in self.datapaths():
                known = dp.vports.by_hook.get(event.link.hook_ifindex)
                try:
                    port = dp.ports.link_changed(event)
                except DpifError as error:
                    self._fell_behind(dp, f"port {event.link.name}", error)
                    port = known
                    if port is not None and not _ended(dp, port):
                        continue
                if port is not None:
                    yield dp, port, _ended(dp, port)

    def set_bridges(self, bridges: Mapping[str, frozenset[str]]) -> None:
        """What the database says now."""
        self._bridges = bridges
        for dp in self.datapaths():
            self._follow(dp)

    def _follow(self, dp: Datapath) -> None:
        """Has a datapath follow the bridges, and the devices that it did not
        follow yet."""
        behind = self._behind.pop(dp.name, None)
        for what, call in (
                ("the bridges", partial(dp.bridges.set, self._bridges)),
                ("its ports", dp.ports.mend)):
            try:
                call()
            except DpifError as error:
                self._fell_behind(dp, what, error, behind is not None)
        if behind is not None and dp.name not in self._behind:
            vlog.info(f"{dp.name} follows its bridges and ports again")

    def _fell_behind(self, dp: Datapath, what: str, error: DpifError,
                     known: bool = False) -> None:
        """It is tried again later.

        :param known: whether that was known, and logged, before
        """
        self._behind[dp.name] = msec() + RETRY_INTERVAL
        if not known:
            # A device that vanishes meanwhile is nothing to act upon.
            say = vlog.info if error.errno == errno.ENODEV else self._warn
            say(f"{dp.name} cannot follow {what}: {error}")

    def close(self) -> None:
        """Lets go of everything; what is pinned goes on forwarding."""
        for instance in self._instances.values():
            self._maker.close(instance)
        self._instances.clear()
        self._grace.close()
        self._psample.close()


def _ended(dp: Datapath, port: Vport) -> bool:
    return dp.vports.by_no.get(port.port_no) is not port
