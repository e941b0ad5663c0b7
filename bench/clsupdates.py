# SPDX-License-Identifier: Apache-2.0
"""Inserts and deletes a second while packets are looked up, memory, and keys
that were made to collide."""

from __future__ import annotations

import os
import random
import threading
import time

from bench import flowsets, odpflows
from bench.clsways import Cached, Forest, build
from bench.odpflows import FlowKey
from bench.rows import Row
from dpif_bpf import abi
from dpif_bpf.core.classifier.forest import Buffers, Classifier
from dpif_bpf.core.classifier.sizes import MAPPED, Sizes
from dpif_bpf.daemon import DEFAULT_MAX_FLOWS
from dpif_bpf.edge.grace import Grace

SEED = 20190926
_SECONDS = 4.0
_PACKETS = 4096
_BURST = 1 << 16
"""Lookups between two that need the interpreter, which the writer runs in."""
_BYTES = abi.OVS_KEY_BASE * 8
_KEEP = (1 << _BYTES * 8) - 1


class _Reader:
    """Looks packets of stable flows up on the last CPU."""

    def __init__(self, way: Forest, flows: list[FlowKey]) -> None:
        rng = random.Random(SEED)
        way.set_packets(b"".join(
            (key & _KEEP).to_bytes(_BYTES, "little") for key, _ in
            flowsets.packets(flows, "random", _PACKETS, rng)))
        self._way = way
        self._stop = False
        self.runs = self.lost = 0
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def _loop(self) -> None:
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(threading.get_native_id(), {max(cpus)})
        while not self._stop:
            found, _, _ = self._way.passes(_BURST)
            self.runs += _BURST
            self.lost += _BURST - found

    def stop(self) -> None:
        """Ends it."""
        self._stop = True
        self._thread.join()


def _updates(name: str, flows: list[FlowKey]) -> list[Row]:
    """Half of the flows stay and are looked up; of the others, half are
    there at any time."""
    rng = random.Random(SEED)
    flows = list(flows)
    rng.shuffle(flows)
    half = len(flows) // 2
    way = Cached(build(), DEFAULT_MAX_FLOWS)
    cls = way.cls
    grace = Grace()
    try:
        way.fill(flows[:half])
        out = flows[half:]
        live = [(cls.insert(0, *out.pop(), 1)) for _ in range(half // 2)]
        kept = dict(zip(live, flows[-1:half - 1:-1], strict=False))
        grace.watch(cls)
        reader = _Reader(way, flows[:half])
        try:
            count = 0
            end = time.monotonic() + _SECONDS
            began = time.thread_time()
            while time.monotonic() < end:
                for _ in range(64):
                    at = rng.randrange(len(live))
                    number = live[at]
                    flow = kept.pop(number)
                    cls.delete(number)
                    other = rng.randrange(len(out))
                    out[other], flow = flow, out[other]
                    live[at] = cls.insert(0, *flow, 1)
                    kept[live[at]] = flow
                count += 128
                grace.run()
            spent = time.thread_time() - began
        finally:
            reader.stop()
    finally:
        grace.close()
        way.close()
    return [Row(f"{name}: inserts and deletes, of a CPU's second",
                count / spent, "/s", None,
                f"{count / _SECONDS:.0f}/s of the clock, {reader.runs}"
                f" lookups meanwhile, {reader.lost} failed")]


def _to(address: int) -> FlowKey:
    """A flow to an IPv4 address."""
    return flowsets.join(flowsets.base(1, 0, 0x0800),
                         flowsets.field("ipv4_dst", address & 0xffffffff))


_FIRST = [_to(1), _to(2)]
"""They make the node that tests the address."""


def _classifier(sizes: Sizes, seed: int | None) -> tuple[Classifier,
                                                          Buffers]:
    size = sizes.bytes()
    buffers = Buffers(*(memoryview(bytearray(size[name]))
                        for name in MAPPED))
    made = Classifier(buffers, sizes, seed)
    made.add_root(0)
    return made, buffers


def _fullest(sizes: Sizes, seed: int | None, flows: list[FlowKey]) -> int:
    """Edges in the fullest chain of buckets."""
    made, buffers = _classifier(sizes, seed)
    for flow in [*_FIRST, *flows]:
        made.insert(0, *flow, 1)
    words = buffers.buckets.cast("Q")
    most = 0
    for bucket in range(sizes.buckets):
        edges = 0
        while True:
            row = words[bucket * 8:bucket * 8 + 8].tolist()
            edges += sum(map(bool, row[:7]))
            bucket = row[7]
            if not bucket:
                break
        most = max(most, edges)
    return most


def _collisions() -> list[Row]:
    """Addresses chosen for one bucket by one who knows the random words, in
    a classifier that has others; and addresses in rows."""
    sizes = Sizes.for_flows(512)
    rng = random.Random(SEED)
    made, _ = _classifier(sizes, 1)
    for flow in _FIRST:
        made.insert(0, *flow, 1)
    places: dict[int, list[FlowKey]] = {}
    for _ in range(30 * sizes.buckets):
        flow = _to(rng.getrandbits(32))
        number = made.insert(0, *flow, 1)
        places.setdefault(made._leaves[number].place >> 3, []).append(flow)
        made.delete(number)
        while epoch := made.seal():
            made.advance(epoch)
    crafted = max(places.values(), key=len)
    rows = [Row(f"{len(crafted)} flows crafted to collide: edges in the"
                " fullest bucket, random words known",
                _fullest(sizes, 1, crafted), ""),
            Row("the same, random words secret",
                _fullest(sizes, None, crafted), "")]
    for stride in (1, 256, 65536):
        rowed = [_to((i + 1) * stride + 2) for i in range(512)]
        rows.append(Row(f"512 addresses {stride} apart: edges in the"
                        f" fullest of {sizes.buckets} buckets",
                        _fullest(sizes, None, rowed), ""))
    return rows


def _memory() -> list[Row]:
    rows = []
    for count in (200000, 1000000):
        size = Sizes.for_flows(count).bytes()
        rows.append(Row(f"maps for {count} flows, by flow",
                        sum(size.values()) / count, "bytes", None, ", ".join(
                            f"{name} {value / 2**20:.1f} MiB"
                            for name, value in size.items())
                        + f"; statistics {abi.FLOW_STATS.size} by CPU"))
    return rows


def measure() -> list[Row]:
    """Rows of bench.classifier."""
    rows = []
    rng = random.Random(SEED)
    for name in odpflows.names():
        rows += _updates(name, odpflows.read(name))
    rows += _updates("pipeline, 100,000 flows, 256 masks",
                     flowsets.pipeline(256, 100000, rng))
    rows += _updates("attack, 2,048 masks",
                     flowsets.explosion(2048, 2048, rng))
    return rows + _collisions() + _memory()
