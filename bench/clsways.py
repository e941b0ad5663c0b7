# SPDX-License-Identifier: Apache-2.0
"""Ways to find a megaflow, each filled with a set of flows and timed."""

from __future__ import annotations

import mmap
import random
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.odpflows import FlowKey
from dpif_bpf import abi
from dpif_bpf.core.classifier.edge_table import (
    DESC_SHIFT,
    LEAF,
    NO_PLACE,
    SEED_SHIFT,
    EdgeTable,
    finish,
)
from dpif_bpf.core.classifier.flow_records import FlowRecords
from dpif_bpf.core.classifier.forest import Buffers, Classifier
from dpif_bpf.core.classifier.masks import MaskTable
from dpif_bpf.core.classifier.sizes import MAPPED, Sizes
from dpif_bpf.core.quarantine import Quarantine
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.libbpf import BpfObject

TOP = Path(__file__).resolve().parents[1]
KEYS = 65536
PACKET = bytes(64)
_KEY = abi.OVS_KEY_BASE * 8
_BATCH = 4096


def build(name: str = "classifier") -> Path:
    """Compiles bench/NAME.bpf.c."""
    source = TOP / "bench" / f"{name}.bpf.c"
    out = TOP / "build" / "bench" / f"{name}.bpf.o"
    needs = [source, *(TOP / "bpf" / "lib").glob("*.h")]
    if out.exists() and out.stat().st_mtime > max(
            path.stat().st_mtime for path in needs):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    multiarch = subprocess.run(
        ["gcc", "-print-multiarch"], capture_output=True, text=True,
        check=True).stdout.strip()
    subprocess.run(
        ["clang", "-g", "-O2", "-mcpu=v3", "-Wall", "-target", "bpf",
         f"-isystem/usr/include/{multiarch}", "-c", str(source), "-o",
         str(out)], check=True)
    return out


class Way:
    """One way, with maps of its own.

    :param program: that looks packets up
    :param flows: it must have room for
    """

    program = "bench_base"
    cache = 0

    def __init__(self, path: Path, flows: int) -> None:
        self.sizes = replace(Sizes.for_flows(flows), cache=self.cache)
        self._areas: list[mmap.mmap] = []
        self.obj = BpfObject(path)
        for name in self.obj.programs:
            self.obj.set_autoload(name, name in ("bench_base",
                                                 self.program))
        for name, value in self.sizes.constants().items():
            self.obj.set_rodata(name, value)
        for name, count in self.maps().items():
            self.obj.set_max_entries(name, count)
        self.obj.load()
        self.keys = self.mapped("bench_keys")
        self.state = self.mapped("bench_state").cast("Q")
        self._base = self.obj.prog_fd("bench_base")
        self._prog = self.obj.prog_fd(self.program)

    def maps(self) -> dict[str, int]:
        """Elements of maps, where not 1."""
        return self.sizes.entries()

    def mapped(self, name: str) -> memoryview:
        """A map's memory."""
        info = self.obj.map_info(name)
        size = info.slot_size * info.max_entries
        page = mmap.PAGESIZE
        area = mmap.mmap(self.obj.map_fd(name), -(-size // page) * page)
        self._areas.append(area)
        return memoryview(area)[:size]

    def buffers(self) -> Buffers:
        """The classifier's maps."""
        return Buffers(*map(self.mapped, MAPPED))

    def fill(self, flows: Sequence[FlowKey]) -> list[int]:
        """Installs flows, once.

        :returns: their ids
        """
        return list(range(len(flows)))

    def set_packets(self, image: bytes) -> None:
        """Keys of packets, as many as a power of two."""
        self.keys[:len(image)] = image
        self.state[1] = len(image) // _KEY
        self.state[0] = 0

    def passes(self, count: int) -> tuple[int, int, int]:
        """Looks `count` packets up: found, sum of ids, probes."""
        for i in (3, 4, 5):
            self.state[i] = 0
        self._run(self._prog, count)
        return self.state[3], self.state[4], self.state[5]

    def _run(self, fd: int, count: int) -> float:
        """CPU ns a packet: a busy machine disturbs them less."""
        began = time.thread_time_ns()
        bpfprog.test_run(fd, PACKET, repeat=count)
        return (time.thread_time_ns() - began) / count

    def base(self, count: int) -> float:
        """ns a packet of the program that only copies the key."""
        return self._run(self._base, count)

    def whole(self, count: int) -> float:
        """ns a packet of that, and the lookup."""
        return self._run(self._prog, count)

    def cost(self, count: int) -> float:
        """ns a lookup, once."""
        return self.whole(count) - self.base(count)

    def close(self) -> None:
        """Frees the maps."""
        self.obj.close()


class Forest(Way):
    """The classifier."""

    program = "bench_forest"

    def __init__(self, path: Path, flows: int) -> None:
        super().__init__(path, flows)
        self.cls = Classifier(self.buffers(), self.sizes)
        self.cls.add_root(0)

    def fill(self, flows: Sequence[FlowKey]) -> list[int]:
        found = []
        for i, (key, mask) in enumerate(flows):
            found.append(self.cls.insert(0, key, mask, i))
            if i % 1024 == 0:
                self.settle()
        self.settle()
        return found

    def settle(self) -> None:
        """Ends grace periods; no packet is looked up here."""
        while epoch := self.cls.seal():
            self.cls.advance(epoch)


class Cached(Forest):
    """The classifier with its cache, as it ships."""

    cache = Sizes.for_flows(1).cache


class TupleSpace(Way):
    """A probe of our hash table for each mask."""

    program = "bench_tss"

    def fill(self, flows: Sequence[FlowKey]) -> list[int]:
        buffers = self.buffers()
        table = EdgeTable(buffers.buckets, buffers.roots, self.sizes.buckets,
                          Quarantine())
        masks = MaskTable(buffers.descs, random.Random(1))
        records = FlowRecords(buffers.flows, buffers.values)
        order = self.mapped("bench_descs").cast("I")
        seen: dict[int, None] = {}
        found = []
        for i, (key, bits) in enumerate(flows):
            mask = masks.ref(bits)
            if mask.id not in seen:
                order[len(seen) * 2] = mask.id
                seen[mask.id] = None
            found.append(records.write(mask, key, i, 0))
            start = mask.id << DESC_SHIFT << SEED_SHIFT
            place = table.put(finish(mask.hash(key, start)),
                              LEAF | mask.id << DESC_SHIFT | found[-1])
            if place == NO_PLACE:
                raise ValueError("two flows collide; run it again")
        self.state[2] = len(seen)
        return found


class Rfc(Way):
    """The masked key into a hash map of the kernel, for each mask."""

    program = "bench_rfc"

    def maps(self) -> dict[str, int]:
        return {"bench_flows": self.sizes.flows}

    def fill(self, flows: Sequence[FlowKey]) -> list[int]:
        memory = self.mapped("bench_masks")
        order: dict[int, int] = {}
        keys, values = bytearray(), bytearray()
        fd = self.obj.map_fd("bench_flows")
        count = 0
        for i, (key, bits) in enumerate(flows):
            if bits not in order:
                at = len(order) * _KEY
                order[bits] = len(order)
                memory[at:at + _KEY] = bits.to_bytes(_KEY, "little")
            keys += key.to_bytes(_KEY, "little")
            keys += order[bits].to_bytes(8, "little")
            values += i.to_bytes(4, "little")
            count += 1
            if count == _BATCH or i == len(flows) - 1:
                bpfsys.map_update_batch(fd, bytes(keys), bytes(values),
                                        count)
                keys.clear()
                values.clear()
                count = 0
        self.state[2] = len(order)
        return list(range(len(flows)))


WAYS: dict[str, type[Way]] = {"forest": Forest, "with cache": Cached,
                              "tuple space": TupleSpace, "RFC": Rfc}
