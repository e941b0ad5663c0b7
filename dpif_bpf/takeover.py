# SPDX-License-Identifier: Apache-2.0
"""Datapaths that earlier providers left pinned: taken over, or left alone.

Each gets a new generation, into which what was kept is replayed; then the
hooks are moved over, each without a gap.  Until the new generation is whole
nothing of the old one is touched: when it cannot be made, packets go on as
they did, and it is tried again.  What alone cannot be taken over, a flow or a
port, is left out.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from operator import add

import ovs.vlog

from dpif_bpf.core import restore
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.devices import PortEdge
from dpif_bpf.core.flow_stats import FlowCounts
from dpif_bpf.core.flow_table import Flow
from dpif_bpf.core.port_types import PORT_TYPES
from dpif_bpf.core.vport import LOCAL
from dpif_bpf.earlier import RECORDS, Earlier, fits
from dpif_bpf.edge.generation import Generation
from dpif_bpf.edge.loader import Loader
from dpif_bpf.errors import (
    BackendError,
    DpifError,
    RequestError,
    failures,
)
from dpif_bpf.hooking import Hooking
from dpif_bpf.instance import Instance, Maker, attempt
from dpif_bpf.limited import msec
from dpif_bpf.wire.messages import VportRequest

vlog = ovs.vlog.Vlog("provider")

RETRY_MIN, RETRY_MAX = 1000, 60000
"""ms from one try to take a datapath over to the next: twice as many each
time.  When somebody asks for it it is tried at once, but for the first."""

_OUR_DEVICE = re.compile(r"ovs[hx](\d+)[psr]\d+")
"""A device of a datapath, with the datapath's number."""


@dataclass(slots=True)
class Left:
    """A datapath of an earlier provider that is not taken over.

    :param number: of its devices; None when it is not known
    :param error: why
    :param tried: ms, when
    :param delay: ms until it is tried again
    """

    name: str
    number: int | None = None
    error: DpifError | None = None
    tried: int = 0
    delay: int = 0

    @property
    def again(self) -> int:
        """ms, when it is tried again."""
        return self.tried + self.delay

    @property
    def reason(self) -> str:
        """What has failed, in one line."""
        return str(self.error).partition("\n")[0]

    def refusal(self) -> BackendError:
        """What somebody is told who asks for it."""
        number = errno.EIO if self.error is None else self.error.errno
        return BackendError(number, f"datapath {self.name} is not taken"
                            f" over: {self.reason}")


class Takeovers:
    """The datapaths that earlier providers left.

    :param follow: sorts a datapath's ports into its bridges
    :ivar left: those that are not taken over, by name
    """

    def __init__(self, loader: Loader, ports: PortEdge, maker: Maker,
                 follow: Callable[[Datapath], None]) -> None:
        self._loader = loader
        self._ports = ports
        self._maker = maker
        self._follow = follow
        self.left: dict[str, Left] = {}

    def find(self) -> None:
        """Looks which ones there are."""
        self.left = {name: Left(name) for name in self._loader.datapaths()}

    def due(self, now: int) -> list[Left]:
        """Those whose time to be tried again has come."""
        return [left for left in self.left.values() if left.again <= now]

    def try_(self, left: Left, taken: Iterable[int]) -> Instance | None:
        """Takes a datapath over, or tells why not.

        :param taken: numbers of other datapaths
        :returns: None when there is none now, or none any more
        """
        left.tried = msec()
        try:
            instance = self._take_over(left, taken)
        except DpifError as error:
            self._failed(left, error)
            return None
        except Exception as error:
            # What was kept is not of this provider's making: whatever it
            # is, the next start would meet it again.
            vlog.exception(f"cannot take over datapath {left.name}")
            self._failed(left, BackendError(
                errno.EIO, f"{type(error).__name__}: {error}"))
            return None
        del self.left[left.name]
        return instance

    def _failed(self, left: Left, error: DpifError) -> None:
        known = left.error is not None and str(left.error) == str(error)
        left.error = error
        left.delay = min(max(2 * left.delay, RETRY_MIN), RETRY_MAX)
        say = vlog.dbg if known else vlog.warn
        say(f"cannot take over datapath {left.name}, which goes on without"
            f" a provider: {error}; trying again in {left.delay // 1000} s")

    def _take_over(self, left: Left,
                   taken: Iterable[int]) -> Instance | None:
        name = left.name
        self._loader.remove_unfinished(name)
        old = self._loader.open_pinned(name)
        if old is None:
            # One that was being made or removed.
            self._loader.remove(name)
            return None
        with old:
            kept = _kept(old)
            left.number = kept.number
            if kept.number in taken:
                raise BackendError(errno.EEXIST, "its number is another's")
            if not kept.unreadable and all(port.port_no != LOCAL
                                           for port in kept.ports):
                self._loader.remove(name)
                vlog.info(f"removed what was left of datapath {name}")
                return None
            return self._replace(old, kept)

    def _replace(self, old: Generation, kept: restore.Kept) -> Instance:
        started = msec()
        earlier = Earlier(old, kept.version, self._maker.room.entries(),
                          self._maker.common())
        instance = self._maker.build(old.dp, kept.number, old.number + 1,
                                     earlier.shared())
        dp = instance.dp
        replay = _Replay(instance, kept, earlier)
        try:
            replay.settings()
            self._follow(dp)
            replay.ports()
            replay.counters()
            dp.keep()
            replay.flows()
            replay.flow_counters()
            instance.anew = tuple(earlier.differing)
            instance.plane.gen.commit()
        except BaseException:
            self._maker.abandon(instance)
            raise
        instance.unsettled = started
        ended = replay.ended()
        self.settle(instance, [port.ifindex for port in ended
                               if port.ifindex])
        attempt(replay.counters, replay.flow_counters,
                *(partial(self._free, port) for port in ended))
        with contextlib.suppress(DpifError):  # flows may have all the room
            dp.keep()
        vlog.info(f"took over datapath {dp.name}:"
                  f" {len(dp.vports.by_no)} ports, {len(dp.flows)} flows,"
                  f" {len(dp.meters)} meters, {msec() - started} ms")
        for what in replay.told:
            vlog.info(f"{dp.name}: {what}")
        return instance

    def settle(self, instance: Instance, stale: Iterable[int] = ()) -> None:
        """Hooks what is not hooked yet; then what is left of earlier
        generations goes.

        :param stale: further devices that an earlier provider may have
            hooked
        """
        plane, dp = instance.plane, instance.dp
        failed = failures(plane.hook_inject, plane.start_sweep, *_hooks(dp))
        if not failed:
            failed = failures(partial(self._loader.remove_others, plane.gen),
                              partial(plane.prune_hooks, stale))
        if not failed:
            instance.unsettled = 0
            return
        say = vlog.dbg if instance.delay else vlog.warn
        for error in failed:
            say(f"{dp.name}: {error}; trying again")
        instance.delay = min(max(2 * instance.delay, RETRY_MIN), RETRY_MAX)
        instance.unsettled = msec() + instance.delay

    # What is not taken over

    def discard(self, name: str) -> bool:
        """Removes one that is not taken over, and stops its packets.

        :returns: False when there is none of that name
        """
        left = self.left.pop(name, None)
        if left is None:
            return False
        ports: list[VportRequest] = []
        attempt(lambda: ports.extend(self._ports_of(name)),
                lambda: self._unhook(name, ports))
        attempt(*(partial(self._free, port) for port in ports),
                lambda: self._loader.remove(name))
        vlog.info(f"removed datapath {name}, which was not taken over")
        return True

    def _ports_of(self, name: str) -> list[VportRequest]:
        old = self._loader.open_pinned(name)
        if old is None:
            return []
        with old:
            return _kept(old).ports

    def _unhook(self, name: str, ports: list[VportRequest]) -> None:
        hooking = Hooking(self._loader, name)
        try:
            hooking.prune(port.ifindex or 0 for port in ports)
        finally:
            hooking.close()

    def _free(self, port: VportRequest) -> None:
        """Gives a device back what becoming a port has changed."""
        kind = PORT_TYPES.get(port.type or 0)
        if kind is not None:
            kind.give_back(self._ports, port.name or "", port.ifindex or 0)

    def numbers(self) -> set[int]:
        """Numbers of datapaths that there are devices of, but for those that
        are in use."""
        return {int(found[1]) for found in self._devices()}

    def _devices(self) -> Iterator[re.Match[str]]:
        for prefix in ("ovsh", "ovsx"):
            for name in self._ports.leftovers(prefix):
                found = _OUR_DEVICE.fullmatch(name)
                if found:
                    yield found

    def clear(self, instances: Mapping[str, Instance]) -> None:
        """Removes pins and devices that belong to no datapath.

        :param instances: by name
        """
        for name in self._loader.datapaths():
            if name not in instances and name not in self.left:
                attempt(partial(self._loader.remove, name))
        keep = {left.number for left in self.left.values()}
        if None in keep:
            return
        # Of these earlier generations are in use.
        keep.update(instance.dp.number for instance in instances.values()
                    if instance.unsettled)
        for found in list(self._devices()):
            if int(found[1]) not in keep:
                attempt(partial(self._ports.delete_leftover, found[0]))


def _kept(old: Generation) -> restore.Kept:
    if not fits(old, RECORDS):
        raise BackendError(errno.EPROTO,
                           "the pinned records have another layout")
    return restore.read(old.mapped(RECORDS).cast("Q"))


def _hooks(dp: Datapath) -> list[Callable[[], None]]:
    """What hooks each port that is not hooked."""
    return [partial(dp.ports.hook, port) for port in dp.vports.by_no.values()
            if not port.hooked]


class _Replay:
    """Fills a new datapath with what was kept of an old one.

    :ivar told: what is not as it was
    """

    def __init__(self, instance: Instance, kept: restore.Kept,
                 earlier: Earlier) -> None:
        self._dp = instance.dp
        self._plane = instance.plane
        self._kept = kept
        self._earlier = earlier
        self._moved: dict[Flow, list[int]] = {}
        """Flows, and the ids that each one had."""
        self._counted: list[FlowCounts] = []
        self.told: list[str] = []

    def settings(self) -> None:
        """Of the datapath, and its meters."""
        self._dp.base = self._kept.base
        self._dp.dropped = self._kept.dropped
        self._dp.change(self._kept.datapath)
        if self._earlier.differing:
            self.told.append("of another layout, and so begun anew: "
                             + ", ".join(self._earlier.differing))
        self._refuse("meters", ["not whole"] * self._dp.meters.adopt())

    def ports(self) -> None:
        """Those whose devices are there; they are not hooked yet.

        :raises BackendError: the local port is not among them, or a device
            could not be looked at
        """
        for request in self._kept.ports:
            try:
                self._dp.ports.adopt(request)
            except RequestError as error:
                self.told.append(f"port {request.name} is not there any"
                                 f" more: {error}")
        if LOCAL not in self._dp.vports.by_no:
            raise BackendError(errno.ENODEV, "its local port has gone")

    def flows(self) -> None:
        """Those for which there is room, and that this version accepts."""
        refused = []
        for flow_id, request in self._kept.flows:
            try:
                flow = self._dp.flows.restore(request)
            except DpifError as error:
                refused.append(str(error))
            else:
                self._moved.setdefault(flow, []).append(flow_id)
        self._counted = [FlowCounts(0, 0, 0, 0)] * len(self._moved)
        self._refuse("flows", refused)
        self._refuse("records", self._kept.unreadable)

    def _refuse(self, what: str, reasons: list[str]) -> None:
        if reasons:
            self.told.append(f"{len(reasons)} {what} were not taken over;"
                             f" the first: {reasons[0]}")

    def counters(self) -> None:
        """What the old one has counted by now; to be called again when it
        counts no more."""
        dp, kept, earlier = self._dp, self._kept, self._earlier
        dp.base = kept.base + earlier.counters()
        dp.dropped = tuple(map(add, kept.dropped, earlier.drops()))

    def flow_counters(self) -> None:
        """The same of flows: the second time, what came since is added."""
        counted = self._earlier.flows(self._moved.values())
        for flow, now, before in zip(self._moved, counted, self._counted,
                                     strict=True):
            if now != before:
                self._plane.add_flow_stats(
                    next(iter(flow.places.values())), FlowCounts(
                        now.packets - before.packets,
                        now.bytes - before.bytes, now.used, now.tcp_flags))
        self._counted = counted

    def ended(self) -> list[VportRequest]:
        """Ports that were not taken over."""
        return [port for port in self._kept.ports
                if port.port_no not in self._dp.vports.by_no]
