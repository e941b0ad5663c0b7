# SPDX-License-Identifier: Apache-2.0
"""Packets go on, all of them, while flows, ports and bridges come and go.

``OVS_SOAK`` says how many changes are made (40), ``OVS_SOAK_SEED`` which (1).
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lab import PROVIDER, Host, Lab
from streams import Gap, Watched, carried
from test_restart import settle, two_hosts

CHANGES = int(os.environ.get("OVS_SOAK", "40"))
SEED = int(os.environ.get("OVS_SOAK_SEED", "1"))
RATE = 2000
"""Packets a second of each of the two streams."""
SOME = 6
"""Ports and bridges that there are at a time, at most, besides those of the
streams."""


class Changes:
    """Random changes, none of which is about the streams' packets.

    :param sources: ports by which the streams' packets come in
    :ivar made: from when to when (s, CLOCK_MONOTONIC), and what
    :ivar flushes: from when to when the datapath may have had no flows: Open
        vSwitch deletes all of them with each bridge
    """

    def __init__(self, lab: Lab, sources: set[str]) -> None:
        self._lab = lab
        self._sources = sources
        self._random = random.Random(SEED)
        self._bridges: list[str] = []
        self._ports: dict[str, str] = {}
        self._count = 0
        self.made: list[tuple[float, float, str]] = []
        self.flushes: list[tuple[float, float]] = []

    def one(self) -> None:
        change: Callable[[], None] = self._random.choice((
            self._add_port, self._add_port, self._del_port, self._add_bridge,
            self._del_bridge, self._flows, self._flows, self._mtu,
            self._provider))
        start = time.monotonic()
        change()
        self.made.append((start, time.monotonic(),
                          change.__name__.strip("_")))

    def amid(self, gap: Gap) -> list[str]:
        """What was done while packets were lost."""
        return [name for start, end, name in self.made
                if start < gap.end and end > gap.start]

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{what}{self._count}"

    def _add_port(self) -> None:
        if len(self._ports) == SOME:
            self._del_port()
        name, lab = self._name("s"), self._lab
        bridge = self._random.choice(["br0", *self._bridges])
        if self._random.random() < .5:
            lab.vsctl("add-port", bridge, name, "--", "set", "interface",
                      name, "type=internal")
        else:
            lab.ns.ip(f"link add {name} type veth peer name {name}-peer")
            lab.ns.ip(f"link set {name} up")
            lab.vsctl("add-port", bridge, name)
        self._ports[name] = bridge

    def _del_port(self) -> None:
        if self._ports:
            name = self._random.choice(sorted(self._ports))
            self._lab.vsctl("del-port", self._ports.pop(name), name)

    def _add_bridge(self) -> None:
        if len(self._bridges) == SOME:
            self._del_bridge()
        name = self._name("sb")
        self._lab.add_bridge(name)
        self._bridges.append(name)

    def _del_bridge(self) -> None:
        if self._bridges:
            name = self._bridges.pop(self._random.randrange(
                len(self._bridges)))
            start = time.monotonic()
            self._lab.vsctl("del-br", name)
            self._lab.until(
                lambda: self._sources <= carried(self._lab, RATE // 10))
            self.flushes.append((start, time.monotonic()))
            self._ports = {port: bridge for port, bridge
                           in self._ports.items() if bridge != name}

    def _flows(self) -> None:
        """Rules of many masks that no packet of the streams is held against:
        theirs come in elsewhere."""
        pick = self._random
        rules = self._lab.rundir / "rules"
        rules.write_text("".join(
            f"table=0,priority={pick.randrange(100, 200)},in_port=local,tcp,"
            f"nw_dst=10.{pick.randrange(9, 99)}.0.0/{pick.randrange(15, 25)},"
            f"tp_dst={pick.randrange(65536)},actions=drop\n"
            for _ in range(pick.choice((1, 10, 100)))))
        self._lab.ofctl("add-flows", "br0", str(rules))
        if pick.random() < .5:
            self._lab.ofctl("del-flows", "br0", "in_port=local")

    def _mtu(self) -> None:
        """Of a port of the streams' own, never below their packets' size."""
        self._lab.ns.ip(f"link set {self._random.choice(('p1', 'p2', 'p3'))}"
                        f" mtu {self._random.choice((1500, 2000, 9000))}")

    def _provider(self) -> None:
        self._lab.kill(PROVIDER)
        self._lab.start_provider()


def dropped_by_cpus() -> int:
    """Packets for which a CPU's queue between a device's two ends was full.
    It is one for all network namespaces, and what else floods it on this
    machine costs these streams some, too."""
    return sum(int(line.split()[1], 16) for line in
               Path("/proc/net/softnet_stat").read_text().splitlines())


def test_soak(own_lab: Lab) -> None:
    lab = own_lab
    # While the provider is away; the last is of a dump that it was amid.
    lab.allowed += ["Connection refused", "Broken pipe|Connection reset",
                    "flow_dump_destroy failed"]
    one, two = two_hosts(lab)
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    four = lab.add_host("p4", "br0", "10.1.1.4/24")
    pairs: tuple[tuple[Host, Host], ...] = ((one, two), (three, four))
    for source, sink in pairs:
        # Nobody asks for an address while there is no provider.
        source.knows(sink.ip, sink.mac)
        source.ping(sink.ip)
        settle(lab, source, sink)
    changes = Changes(lab, {one.port, three.port})
    before = dropped_by_cpus()
    streams = [Watched(lab, source, sink, RATE) for source, sink in pairs]
    try:
        for _ in range(CHANGES):
            changes.one()
    finally:
        ended = [stream.gaps() for stream in streams]
    done = Counter(name for _, _, name in changes.made)
    print(f"{dict(done)}; packets: {[sent for sent, _ in ended]}")
    assert min(sent for sent, _ in ended) > RATE
    found = [(gap, changes.amid(gap)) for _, gaps in ended for gap in gaps
             if not gap.is_within(changes.flushes)]
    assert (sum(gap.lost for gap, _ in found)
            <= dropped_by_cpus() - before), found
