# SPDX-License-Identifier: Apache-2.0
"""The connection tracker, as tests/bpf/ct.bpf.c runs it."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dpif_bpf import abi_ct as a
from dpif_bpf.abi_record import Record
from dpif_bpf.core.conntrack.memory import MAPPED, CtMemory
from dpif_bpf.core.conntrack.table import Table, Time
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.libbpf import BpfObject

SOURCES = {hook: Path(__file__).parent / name for hook, name in (
    ("tc", "ct.bpf.c"), ("xdp", "ct_xdp.bpf.c"))}
COMMIT, DROP, STEAL = 1, 2, 4
NS = 10 ** 9
MAPS = ("ovs_ct", "ovs_ct_tab", "ovs_ct_exp", "ovs_ct_zones", "ovs_ct_policy",
        "ovs_ct_conf", "ovs_ct_use", "ovs_ct_cpu", "ovs_ct_timer")
"""That lead into each other."""

_ARG = struct.Struct("=QHHI4s2sxx")
_OUT_ST = 16
_COARSE = 6	# CLOCK_MONOTONIC_COARSE


def field(record: Record, memory: bytes | memoryview, name: str) -> int:
    """A number of a structure."""
    return int.from_bytes(memory[record[name].slice], "little")


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a packet."""

    verdict: a.Verdict
    state: int
    dir: int
    id: int
    gen: int
    timeout: int
    made: a.Made
    st: bytes

    def fresh(self, name: str) -> int:
        """A field of the connection that it begins."""
        return field(a.CT, self.st[a.PKT["fresh"].slice], name)


class CtObject:
    """An object, loaded, with its table.

    :param path: the compiled object
    :param size: records, a power of two
    :param maps: descriptors of maps that another one has, by name
    """

    def __init__(self, path: Path, size: int = 4096,
                 maps: Mapping[str, int] | None = None,
                 buckets: int | None = None) -> None:
        buckets = buckets or max(1, size // 2)
        self.obj = BpfObject(path)
        self.size = size
        try:
            self.obj.set_rodata("cfg_ct_max", size)
            self.obj.set_rodata("cfg_ct_bucket_mask", buckets - 1)
            for name, count in (("ovs_ct", size), ("ovs_ct_tab", buckets),
                                ("ovs_ct_exp", size // a.OVS_CT_EXP)):
                self.obj.set_max_entries(name, count)
            for name, fd in (maps or {}).items():
                self.obj.reuse_map(name, fd)
            self.obj.load()
            self.memory = {
                name: bpfsys.mmap_array(self.obj.map_fd(name),
                                        self.obj.map_info(name))
                for name in {*MAPPED, *MAPS[:7], "t_arg", "t_out"}}
        except BaseException:
            self.obj.close()
            raise
        self.fd = self.obj.prog_fd("t_ct")
        self.words = self.memory["ovs_ct_conf"].cast("Q")
        if maps is None:
            self.set_up()

    def set_up(self, flags: int = a.OVS_CT_F_LOOSE, most: int = 0) -> None:
        """Default timeouts and a seed."""
        rng = random.Random(7)
        conf = a.CONF.struct.pack(rng.randbytes(32), rng.randbytes(16),
                                  flags, most, 3, 0)
        self.memory["ovs_ct_conf"][:len(conf)] = conf
        for index, seconds in a.DEFAULT_TIMEOUTS.items():
            self.memory["ovs_ct_policy"].cast("I")[index] = seconds

    def close(self) -> None:
        self.memory.clear()
        self.obj.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def arg(self, now: int = 0, zone: int = 0, flags: int = COMMIT,
            dst: bytes = bytes(4), dport: bytes = bytes(2),
            policy: int = 0) -> None:
        """What the programs are told; `now` in ns, 0: the clock's."""
        arg = _ARG.pack(now, zone, policy, flags, dst, dport)
        self.memory["t_arg"][:len(arg)] = arg

    def run(self, frame: bytes, now: float | None = None, zone: int = 0,
            flags: int = COMMIT, dst: bytes = bytes(4),
            dport: bytes = bytes(2)) -> Found:
        """Find a frame's connection, and commit it.

        :param now: seconds
        """
        self.arg(0 if now is None else int(now * NS), zone, flags, dst,
                 dport)
        out = self.memory["t_out"]
        size = len(out) // 64
        before = [struct.unpack_from("=Q", out, cpu * size + 8)[0]
                  for cpu in range(8)]
        result = bpfprog.test_run(self.fd, frame).retval
        assert result >= 0, result
        for cpu in range(8):
            if struct.unpack_from("=Q", out, cpu * size + 8)[0] != before[
                    cpu]:
                break
        else:
            raise AssertionError("a CPU too many")
        made, = struct.unpack_from("=Q", out, cpu * size)
        st = bytes(out[cpu * size + _OUT_ST:][:a.PKT.size])
        values = a.PKT.struct.unpack(st)
        got = dict(zip(a.PKT.fields, values, strict=True))
        return Found(a.Verdict(result), got["ct_state"], got["dir"],
                     got["id"], got["gen"], got["timeout"], a.Made(made), st)

    def record(self, number: int) -> memoryview:
        """The bytes of a record."""
        return self.memory["ovs_ct"][number * a.CT.size:][:a.CT.size]

    def get(self, number: int, name: str) -> int:
        """A field of a record."""
        return field(a.CT, self.record(number), name)

    def expiry(self, number: int) -> int:
        """When a record ends, seconds."""
        return self.memory["ovs_ct_exp"].cast("I")[number]

    def live(self) -> Iterator[int]:
        """Ids of the records that are live, whether expired or not."""
        for number in range(self.size):
            if self.get(number, "word") & 0xffffffff in (a.OVS_CT_LIVE,
                                                         a.OVS_CT_LOCKED):
                yield number

    def edges(self) -> dict[int, int]:
        """How many edges lead to each id."""
        found: dict[int, int] = {}
        words = self.memory["ovs_ct_tab"].cast("Q")
        for index, word in enumerate(words):
            if word and index % 8 < a.OVS_CT_EDGES:
                number = word & ((1 << a.OVS_CT_ID_BITS) - 1)
                found[number] = found.get(number, 0) + 1
        return found

    def spills(self) -> int:
        """Sum of the buckets' counters."""
        return sum(self.memory["ovs_ct_tab"].cast("Q")[7::8])

    def zone(self, zone: int) -> tuple[int, int]:
        """Flushes and connections of a zone."""
        word = self.memory["ovs_ct_zones"].cast("Q")[2 * zone]
        return word >> 32, word & 0xffffffff

    def limit(self, zone: int, limit: int) -> None:
        self.memory["ovs_ct_zones"].cast("Q")[2 * zone + 1] = limit

    def flush(self, zone: int) -> None:
        """End all connections of a zone."""
        words = self.memory["ovs_ct_zones"].cast("Q")
        words[2 * zone] = ((words[2 * zone] >> 32) + 1) << 32
        self.set_use("flush", self.use("sweeps") + 2)

    def use(self, name: str) -> int:
        """A field of ovs_ct_use."""
        return field(a.USE, self.memory["ovs_ct_use"], name)

    def set_use(self, name: str, value: int) -> None:
        self.memory["ovs_ct_use"].cast("Q")[
            a.USE[name].offset // 8] = value

    def cpus(self) -> list[bytes]:
        """ovs_ct_cpu of each CPU."""
        return bpfsys.map_lookup_percpu(self.obj.map_fd("ovs_ct_cpu"), 0,
                                        self.obj.map_info("ovs_ct_cpu"))

    def stats(self) -> dict[a.Stat, int]:
        """Counters, summed over the CPUs."""
        values = self.cpus()
        total = {}
        for stat in a.Stat:
            total[stat] = sum(struct.unpack_from(
                "=Q", value, a.CPU["stat"].offset + 8 * stat)[0]
                              for value in values)
        return total

    def ask(self) -> None:
        """Has what is in ovs_ct_asked answered."""
        assert bpfprog.test_run(self.obj.prog_fd("t_ask"),
                                bytes(64)).retval == 0

    def table(self) -> Table:
        """As the provider sees it, by the clock."""
        return Table(
            CtMemory(self.cpus, self.ask, *(
                self.memory[name].cast("Q") for name in MAPPED)),
            lambda: Time(time.clock_gettime_ns(_COARSE), 0))

    def sweep(self, now: float) -> None:
        """Go over all records once."""
        self.arg(int(now * NS), flags=0)
        done = self.use("sweeps")
        while self.use("sweeps") == done:
            bpfprog.test_run(self.obj.prog_fd("t_sweep"), bytes(64))
            if (self.use("idle") and not self.use("count")
                    and not self.use("sweep_at")):
                break

    @staticmethod
    def clock() -> float:
        """CLOCK_MONOTONIC_COARSE, s."""
        return time.clock_gettime(_COARSE)
