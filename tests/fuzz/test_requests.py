# SPDX-License-Identifier: Apache-2.0
"""Random requests, right and wrong: each has its answer, and tables agree.

--fuzz-seed and --fuzz-seconds have it take other ones, and more of them.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from dpif_bpf.core.conntrack.tracker import Conntrack
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.samples import Samples
from dpif_bpf.core.services.families import make_router
from dpif_bpf.core.services.ovs_vport import port_event
from dpif_bpf.core.services.service import LATER
from dpif_bpf.core.vport import LOCAL
from dpif_bpf.errors import BackendError, DpifError, RequestError
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.messages import DatapathRequest
from tests.fake_plane import FakePlane, FakeProvider
from tests.fuzz.answers import Answers
from tests.fuzz.conftest import Rounds
from tests.fuzz.damage import Damage
from tests.fuzz.requests import Maker, World
from tests.invariants import check, check_meters

DEVICES = ("p1", "p2", "p3", "p4", "gone")
RENAMED = ("q1", "q2")
REQUESTS = 5000
"""Datagrams of a run that is not told how long to take."""


@dataclass(slots=True)
class FuzzProvider(FakeProvider):
    """Datapaths that come and go; a few at a time."""

    made: dict[str, FakePlane] = field(default_factory=dict)

    def make(self, request: DatapathRequest) -> Datapath:
        name = request.name
        assert name is not None
        Datapath.check(request)
        if name in self.made or any(
                name in dp.vports.by_name for dp in self.dps):
            raise RequestError(errno.EEXIST, "exists")
        if len(self.dps) == 2:
            raise BackendError(errno.ENOMEM, "too many")
        plane = FakePlane()
        number = next(n for n in range(3)
                      if n not in {dp.number for dp in self.dps})
        if self.tracker is None:
            self.tracker = Conntrack(plane.ct, plane.tracker.clock)
        dp = Datapath(name, number, plane, self.ports, lambda: 0,
                      Samples(self.psample), policies=self.tracker.policies)
        try:
            dp.change(request)
            dp.ports.make(name, u.OVS_VPORT_TYPE_INTERNAL, LOCAL,
                         (request.upcall_pid or 0,))
        except DpifError:
            dp.close()
            raise
        self.dps.append(dp)
        self.made[name] = plane
        return dp

    def remove(self, dp: Datapath) -> None:
        self.dps.remove(dp)
        del self.made[dp.name]
        dp.close()
        dp.timeouts.close()
        if not self.dps:
            self.tracker = None

    def reclaim(self) -> bool:
        waiting = False
        for dp in self.dps:
            plane = self.made[dp.name]
            waiting |= plane.classifier.quarantine_size > 0
            plane.settle()
            dp.programs.advance(dp.programs.seal())
        return waiting


class Fuzz:
    """A provider, what it is asked, and what happens beside."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.provider = FuzzProvider()
        self.provider.psample.id = 30
        for name in DEVICES[:-1]:
            self.provider.ports.add_device(name)
        self.told: list[str] = []
        self.now = 0
        self.router = make_router(self.provider, lambda: self.now,
                                     self.told.append)
        self.world = World(("dp1", "dp2", "dp3"), DEVICES + RENAMED)
        self.maker = Maker(rng, self.world)
        self.damage = Damage(rng, self.maker)
        self.answers: Counter[int] = Counter()
        self.seq = 1

    def turn(self) -> None:
        """One datagram, its answers, and what a provider sees to."""
        if not self.provider.dps:
            self.begin()
        self.world.indexes[:] = [dp.dp_ifindex for dp in self.provider.dps]
        datagram = self.damage.datagram(self.seq)
        self.seq += 8
        before = self.state() if self.rng.random() < .1 else None
        answers = Answers(self.serve(datagram)).check(datagram)
        self.answers.update(answers)
        assert self.router.broken is None
        assert not self.told
        if before is not None and all(answers):
            assert self.state() == before
        self.beside()

    def serve(self, datagram: bytes) -> Iterator[bytes]:
        """The replies; what takes some turns goes on to its end, or not."""
        for reply in self.router.serve(datagram):
            if reply == LATER:
                for dp in self.provider.dps:
                    dp.flows.flushes.run(self.rng.randrange(100))
            yield reply

    def begin(self) -> None:
        """A datapath with two ports, if their devices are there."""
        list(self.router.serve(self.maker.new_datapath().encode(1)))
        (dp,) = self.provider.dps
        self.world.indexes[:] = [dp.dp_ifindex]
        for device in DEVICES[:2]:
            list(self.router.serve(
                self.maker.new_port(device).encode(1)))

    def beside(self) -> None:
        """What else happens to a provider, now and then."""
        rng, ports = self.rng, self.provider.ports
        self.now += rng.randrange(100)
        if rng.random() < .05:
            self.provider.reclaim()
        if rng.random() < .02:
            self.reap()
        if rng.random() < .02:
            bridges = {f"br{n}": frozenset(rng.sample(DEVICES + RENAMED, 3))
                       for n in rng.sample(range(3), rng.randrange(4))}
            for dp in self.provider.dps:
                dp.bridges.set(bridges)
        if rng.random() < .03:
            name = rng.choice(sorted(ports.devices))
            new = rng.choice((*DEVICES, *RENAMED, None))
            if not ports.devices[name].ours and new not in ports.devices:
                ports.change(name, new_name=new, mtu=rng.choice((68, 1500)))
            for event in ports.run():
                for dp in list(self.provider.dps):
                    port = dp.ports.link_changed(event)
                    if port is not None:
                        port_event(self.provider, dp, port, False)

    def reap(self) -> None:
        """The executes have passed."""
        for dp in self.provider.dps:
            plane = self.provider.made[dp.name]
            for program, *_ in plane.executed:
                dp.programs.release(program)
            plane.executed.clear()

    def state(self) -> object:
        """What a request that is refused must not change."""
        return [(dp.name, dp.user_features, dp.per_cpu_pids,
                 dp.masks_cache_size, len(dp.meters), len(dp.programs),
                 sorted((port.port_no, port.name, port.upcall_pids)
                        for port in dp.vports.by_no.values()),
                 [(id(flow), flow.body) for flow in dp.flows.snapshot()])
                for dp in self.provider.dps]

    def check(self, meters: bool = False) -> None:
        for dp in self.provider.dps:
            plane = self.provider.made[dp.name]
            check(dp, plane, self.provider.ports)
            if meters:
                check_meters(dp, plane)


def test_requests(rounds: Rounds) -> None:
    for rng, go_on in rounds(REQUESTS, 400):
        fuzz = Fuzz(rng)
        turns = 0
        while go_on():
            fuzz.turn()
            turns += 1
            if turns % 10 == 0:
                fuzz.check(turns % 500 == 0)
        fuzz.check(True)


def test_most_of_it_is_met() -> None:
    """The generator gets somewhere: much is accepted and much refused."""
    fuzz = Fuzz(random.Random(5))
    for _ in range(1500):
        fuzz.turn()
    assert fuzz.answers[0] > 400
    assert {errno.EINVAL, errno.ERANGE, errno.EEXIST, errno.ENOENT,
            errno.ENODEV, errno.EOPNOTSUPP} <= set(fuzz.answers)
    most = max(len(dp.flows) for dp in fuzz.provider.dps)
    assert most > 3, fuzz.answers


@pytest.mark.parametrize("number", range(2))
def test_seeds_give_the_same(number: int) -> None:
    one, other = (Fuzz(random.Random(number)) for _ in range(2))
    for seq in range(0, 400, 8):
        assert one.damage.datagram(seq) == other.damage.datagram(seq)
