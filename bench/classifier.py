# SPDX-License-Identifier: Apache-2.0
"""The classifier beside tuple space search and the RFC's way.

All ways look the same packets up in the same flows, in turns; the time of a
program that only copies the key is taken off.  A cost is the lower quartile
of its turns, in CPU time, since the machine may do other things meanwhile.
Ratios are to the forest without its cache.  The plot is
build/bench/classifier.svg.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from bench import clsupdates, flowsets, odpflows, svg
from bench.clsways import TOP, WAYS, Forest, Way, build
from bench.odpflows import FlowKey
from bench.rows import Row
from dpif_bpf import abi
from dpif_bpf.bpf_plane import flow_rows
from dpif_bpf.core.flow_stats import FlowStats
from dpif_bpf.core.services.ovs_flow import dump_flows

SEED = 20180919
PLOT = TOP / "build" / "bench" / "classifier.svg"
FEW, MANY = 1024, 65536
"""Packets: they fit into the caches of a CPU, or do not."""

_PLOTTED = ("random", "miss")
_TURNS = 9
_TURN_NS = 12e6
_BYTES = abi.OVS_KEY_BASE * 8
_KEEP = (1 << _BYTES * 8) - 1


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement.

    :param kind: of packets: bench.flowsets.packets()
    :param cost: ns by way
    :param probes: of the forest, by packet
    """

    set: str
    masks: int
    flows: int
    kind: str
    packets: int
    cost: dict[str, float]
    probes: float


def _quartile(costs: Sequence[float]) -> float:
    return sorted(costs)[len(costs) // 4]


def _image(packets: Sequence[tuple[int, int]]) -> bytes:
    return b"".join((key & _KEEP).to_bytes(_BYTES, "little")
                    for key, _ in packets)


def _measure(name: str, flows: list[FlowKey], loads: list[tuple[str, int]],
             ways: Sequence[str] = tuple(WAYS), victims: int = 0,
             disjoint: bool = True) -> Iterator[Cell]:
    """All ways on one set.

    :param loads: kind and number of packets
    :param victims: packets are those of the first so many flows alone
    :param disjoint: no packet matches two flows
    """
    masks = len({mask for _, mask in flows})
    made: dict[str, Way] = {}
    ids: dict[str, list[int]] = {}
    try:
        for way in ways:
            made[way] = WAYS[way](build(), max(1000, len(flows)))
            ids[way] = made[way].fill(flows)
        for kind, count in loads:
            packets = flowsets.packets(flows[:victims or None], kind, count,
                                       random.Random(SEED))
            image = _image(packets)
            probes = 0.0
            turns: dict[str, int] = {}
            for way, one in made.items():
                one.set_packets(image)
                if kind != "miss":
                    some = min(count, 2048)
                    found, total, _ = one.passes(some)
                    assert found == some, way
                    assert not disjoint or total == sum(
                        ids[way][i] for _, i in packets[:some]), way
                for _ in range(5):	# until the cache has been judged
                    _, _, seen = one.passes(
                        max(8192, count) if isinstance(one, Forest)
                        else 256)
                if way == "forest":
                    probes = seen / max(8192, count)
                turns[way] = max(200, min(MANY, int(
                    _TURN_NS / max(20., one.cost(200)))))
            costs: dict[str, list[float]] = {way: [] for way in made}
            bases: dict[str, list[float]] = {way: [] for way in made}
            for _ in range(_TURNS):
                for way, one in made.items():
                    bases[way].append(one.base(turns[way]))
                    costs[way].append(one.whole(turns[way]))
            yield Cell(name, masks, len(flows), kind, count,
                       {way: max(1., _quartile(costs[way])
                                 - _quartile(bases[way])) for way in made},
                       probes)
    finally:
        for one in made.values():
            one.close()


def _rows(cell: Cell) -> list[Row]:
    where = (f"{cell.set}, {cell.flows} flows, {cell.masks} masks,"
             f" {cell.packets} packets, {cell.kind}")
    forest = cell.cost["forest"]
    return [Row(f"{where}: {way}", cost, "ns",
                None if way == "forest" else cost / forest,
                f"{cell.probes:.1f} probes" if way == "forest" else "")
            for way, cost in cell.cost.items()]


def _scaling() -> list[Cell]:
    """1 to 2,048 masks, as many flows."""
    cells: list[Cell] = []
    for masks in (1, 4, 16, 64, 256, 1024, 2048):
        flows = flowsets.pipeline(masks, 4096, random.Random(SEED))
        cells += _measure("pipeline", flows, [("random", FEW), ("miss", FEW)])
    return cells


def _sizes() -> list[Cell]:
    """1k to 200k flows."""
    cells: list[Cell] = []
    for count in (1000, 20000, 200000):
        flows = flowsets.pipeline(256, count, random.Random(SEED))
        cells += _measure("pipeline", flows, [
            ("hit", FEW), ("random", FEW), ("random", MANY), ("miss", FEW)])
    return cells


def _million() -> list[Cell]:
    """More than a million flows."""
    flows = flowsets.pipeline(256, 1 << 20, random.Random(SEED))
    return list(_measure("pipeline", flows, [("random", FEW),
                                             ("random", MANY)],
                         ("forest", "with cache")))


def _attacks() -> list[Cell]:
    """A tuple space explosion: its own packets, and those of a victim."""
    cells: list[Cell] = []
    for masks in (16, 256, 2048):
        flows = flowsets.explosion(masks, max(1000, masks),
                                   random.Random(SEED))
        cells += _measure("attack", flows, [("random", FEW), ("miss", FEW)])
    victims = flowsets.pipeline(16, 256, random.Random(SEED))
    cells += _measure("victims of an attack", victims + flowsets.explosion(
        2048, 2048, random.Random(SEED)), [("random", FEW)], victims=256)
    return cells


def _real() -> list[Cell]:
    """Sets of bench/data."""
    cells: list[Cell] = []
    for name in odpflows.names():
        cells += _measure(name, odpflows.read(name), [
            ("hit", FEW), ("random", FEW), ("random", MANY), ("miss", FEW)],
            disjoint=name != "churn")
    return cells


def _plot(cells: list[Cell]) -> None:
    scaling = [c for c in cells if c.set == "pipeline" and c.flows == 4096]
    real = [c for c in cells if c.set in odpflows.names()
            and c.packets == FEW]
    names = sorted({c.set for c in real})
    svg.write(PLOT, [
        svg.Plot("4,096 flows, 1,024 packets", "masks", "ns per lookup", [
            svg.Line(f"{way}, {kind}", [
                (c.masks, c.cost[way]) for c in scaling if c.kind == kind],
                colour, kind == "miss")
            for colour, way in enumerate(WAYS) for kind in _PLOTTED]),
        svg.Plot("flow sets of a real ovs-vswitchd", "", "ns per lookup", [
            svg.Line(f"{way}, {kind}", [
                (names.index(c.set), c.cost[way]) for c in real
                if c.kind == kind], colour, kind == "miss")
            for colour, way in enumerate(WAYS) for kind in _PLOTTED],
            names)])


def _statistics() -> list[Row]:
    """Reading the statistics of 100,000 flows of two stripes."""
    count, stripes = 100000, 2
    stats = FlowStats(memoryview(bytearray(
        count * stripes * abi.FLOW_STATS.size)), stripes, count)
    ids = np.random.default_rng(SEED).permutation(count)
    rows = []
    which: tuple[tuple[str, Callable[[], object]], ...] = (
        ("all", lambda: stats.read(slice(0, count))),
        ("by id", lambda: stats.read(ids)))
    for what, read in which:
        spent = []
        for _ in range(_TURNS):
            began = time.thread_time()
            read()
            spent.append((time.thread_time() - began) * 1e3)
        rows.append(Row(f"statistics of 100,000 flows, {what}",
                        _quartile(spent), "ms"))
    return rows


class _Flow(NamedTuple):
    """What a dump needs of a flow."""

    number: int
    body: bytes


class _Table:
    """What a dump needs of a datapath: flows that have been used, whose
    attributes take 240 bytes."""

    dp_ifindex = 1

    def __init__(self, count: int) -> None:
        self.flows = self
        memory = memoryview(bytearray(3 * count * abi.FLOW_STATS.size))
        np.frombuffer(memory, np.uint64)[:] = np.random.default_rng(
            SEED).integers(1, 1 << 40, len(memory) // 8, np.uint64)
        self.stats_of = FlowStats(memory, 3, count)
        self.all = [_Flow(i, bytes(240)) for i in range(count)]

    def snapshot(self) -> list[_Flow]:
        """All of them."""
        return self.all

    def alive(self, _flow: _Flow) -> bool:
        """None is removed meanwhile."""
        return True

    def stats(self, flows: list[_Flow]) -> list[tuple[int, int, int, int]]:
        """As FlowTable's."""
        return list(flow_rows(self.stats_of, [flow.number for flow in flows]))


def _dump() -> Row:
    """The datagrams of OVS_FLOW_CMD_GET for 100,000 flows."""
    table: Any = _Table(100000)
    request: Any = SimpleNamespace(
        message=SimpleNamespace(seq=1, pid=1), ufid_flags=0)
    spent = []
    for _ in range(_TURNS):
        began = time.thread_time()
        size = sum(map(len, dump_flows(table, request)))
        spent.append((time.thread_time() - began) * 1e3)
    return Row("dump of 100,000 flows as datagrams", _quartile(spent), "ms",
               None, f"{size / 2**20:.0f} MiB")


def measure() -> list[Row]:
    """All of it; some minutes."""
    cpus = os.sched_getaffinity(0)
    cells: list[Cell] = []
    try:
        os.sched_setaffinity(0, {max(cpus)})
        for part in (_scaling, _sizes, _million, _attacks, _real):
            print(f"  {part.__doc__}", file=sys.stderr, flush=True)
            cells += part()
    finally:
        os.sched_setaffinity(0, cpus)
    _plot(cells)
    return [row for cell in cells for row in _rows(cell)] + [
        *_statistics(), _dump(), *clsupdates.measure()]
