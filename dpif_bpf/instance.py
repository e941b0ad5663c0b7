# SPDX-License-Identifier: Apache-2.0
"""A datapath with what serves it: built, and taken apart.

Building touches nothing that an earlier provider left, so that it can be
given up (``Maker.abandon``) while that goes on forwarding.  Whatever fails
when something is taken apart, the rest is taken apart, too.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ovs.vlog

from dpif_bpf import abi
from dpif_bpf.bpf_plane import BpfPlane, Room, load
from dpif_bpf.core.conntrack.table import Time
from dpif_bpf.core.conntrack.tracker import Conntrack
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.devices import InjectPair, PortEdge
from dpif_bpf.core.plane import ANY_BRIDGE
from dpif_bpf.core.samples import Samples
from dpif_bpf.core.upcall import Send, Upcalls
from dpif_bpf.edge.grace import Grace
from dpif_bpf.edge.loader import Loader
from dpif_bpf.edge.ring import BUDGET, UpcallRing
from dpif_bpf.errors import failures
from dpif_bpf.hooking import Hooking
from dpif_bpf.limited import msec

vlog = ovs.vlog.Vlog("provider")

_COARSE = 6
"""CLOCK_MONOTONIC_COARSE"""


@dataclass(slots=True)
class Instance:
    """A datapath with what serves it.

    :param fresh_pair: whether the inject pair was made for it
    :param unsettled: ms, when what a takeover could not hook, or remove, is
        tried again; 0: it is all done
    :param delay: ms until then
    :param anew: maps of the generation before that had another layout, so
        that what they had was not taken over
    """

    dp: Datapath
    plane: BpfPlane
    pair: InjectPair
    ring: UpcallRing
    upcalls: Upcalls
    fresh_pair: bool
    tidied: int = 0
    unsettled: int = 0
    delay: int = 0
    anew: tuple[str, ...] = ()

    def read(self) -> bool:
        """A turn's upcalls.  False when there may be more."""
        made = self.upcalls.go_on()
        if self.upcalls.busy:
            return False
        return made + self.ring.run() < BUDGET

    def counters(self) -> dict[str, int]:
        """Events since the start, by name (coverage/show)."""
        return {"upcall_sent": self.upcalls.sent,
                "upcall_lost": self.dp.lost,
                "upcall_malformed": self.upcalls.malformed,
                "upcall_too_big": self.upcalls.too_big,
                "upcall_failed": self.ring.failures,
                **{f"fragments_{why}": count for why, count
                   in self.dp.reassembly.fragments.failed.items()},
                "fragments_lost": self.dp.reassembly.lost,
                **self.plane.events()}

    def drops(self) -> dict[int, Counter[abi.DropReason]]:
        """Bridge → reason → packets; ANY_BRIDGE has those of bridges that
        are not there any more, and of earlier generations, too."""
        found = self.plane.drops()
        found[ANY_BRIDGE] += Counter({
            reason: self.dp.dropped[reason] for reason in abi.DropReason})
        return found


def ct_time() -> Time:
    """As the tracker's programs have it."""
    coarse = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return Time(time.clock_gettime_ns(_COARSE), time.time_ns() - coarse)


def attempt(*steps: Callable[[], object]) -> None:
    """Takes all steps, and tells of those that fail."""
    for error in failures(*steps):
        vlog.warn(str(error))


class Maker:
    """Builds instances, and takes them apart.

    :param send: see Upcalls
    :ivar garbage: whether something was taken apart, or could not be, since
        its owner set it to False: there are tables of cycles, as large as
        all of their maps, or pins or devices of nothing
    :ivar conntrack: of all datapaths; None when there is none
    """

    def __init__(self, loader: Loader, ports: PortEdge, room: Room,
                 send: Send, samples: Samples,
                 grace: Grace) -> None:
        self._loader = loader
        self._ports = ports
        self.room = room
        self._send = send
        self._samples = samples
        self._grace = grace
        self._planes: list[BpfPlane] = []
        self.conntrack: Conntrack | None = None
        self.garbage = False

    def common(self) -> dict[str, int]:
        """Maps that all datapaths have, by name; none without a datapath."""
        return {name: plane.gen.map_fd(name) for plane in self._planes[:1]
                for name, ours in abi.MAPS.items() if ours.common}

    def build(self, name: str, number: int, generation: int,
              shared: Mapping[str, int] | None = None) -> Instance:
        """
        :param generation: to be; two in a row have inject devices of their
            own, so that what is on its way through the old one's arrives
        :param shared: maps that it takes, by name; without them those that
            all datapaths have
        """
        turn = generation & 1
        sender = f"ovsx{number}s{turn}"
        fresh = sender not in self._ports.leftovers(sender)
        with contextlib.ExitStack() as undo:
            if fresh:
                undo.callback(attempt,
                              lambda: self._ports.delete_leftover(sender))
            pair = self._ports.open_inject(sender, f"ovsx{number}r{turn}")
            if fresh:
                undo.callback(attempt,
                              lambda: self._ports.delete_inject(pair))
            gen = load(self._loader, name, self.room, pair,
                       self.common() if shared is None else shared)
            undo.callback(attempt,
                          lambda: self._loader.remove_unfinished(name))
            with contextlib.ExitStack() as closing:
                closing.callback(gen.close)
                hooking = Hooking(self._loader, name)
                closing.callback(hooking.close)
                plane = BpfPlane(gen, hooking, pair, self.room,
                                 lambda program: dp.programs.release(program))
                closing.pop_all()
            undo.callback(plane.close)
            conntrack = self._enter(plane)
            undo.callback(self._leave, plane)
            dp: Datapath = Datapath(
                name, number, plane, self._ports, msec, self._samples,
                self._report, conntrack.policies, conntrack.controls)
            upcalls = Upcalls(dp, self._send, BUDGET)
            ring = UpcallRing(gen.map_fd("ovs_upcalls"), upcalls.handle)
            undo.pop_all()
        self._grace.watch(plane.classifier, dp.programs)
        return Instance(dp, plane, pair, ring, upcalls, fresh)

    def _enter(self, plane: BpfPlane) -> Conntrack:
        self._planes.append(plane)
        if self.conntrack is None:
            self.conntrack = Conntrack(plane.ct, ct_time)
        return self.conntrack

    def _leave(self, plane: BpfPlane) -> None:
        self._planes.remove(plane)
        if not self._planes:
            self.conntrack = None
        elif self.conntrack is not None:
            self.conntrack.use(self._planes[0].ct)

    def _report(self, text: str) -> None:
        vlog.warn(text)
        self.garbage = True

    def abandon(self, instance: Instance) -> None:
        """Takes apart what has not become valid, and nothing else: devices
        of ports stay as they are."""
        dp = instance.dp
        for port in dp.vports.by_no.values():
            self._ports.disown(port.link)
        self.close(instance)
        attempt(lambda: self._loader.remove_unfinished(dp.name))
        if instance.fresh_pair:
            attempt(lambda: self._ports.delete_inject(instance.pair))

    def destroy(self, instance: Instance) -> None:
        """Takes everything down, the pins and the devices."""
        dp = instance.dp
        attempt(dp.close,
                lambda: instance.plane.detach(instance.pair.receiver),
                lambda: self._ports.delete_inject(instance.pair))
        self.close(instance)
        attempt(lambda: self._loader.remove(dp.name))

    def close(self, instance: Instance) -> None:
        """Lets go of it; what is pinned goes on."""
        self._grace.forget(instance.plane.classifier, instance.dp.programs)
        instance.ring.close()
        instance.dp.timeouts.close()
        self._leave(instance.plane)
        instance.plane.close()
        self.garbage = True
