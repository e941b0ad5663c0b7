# SPDX-License-Identifier: Apache-2.0
"""The connection tracker beside a kernel hash table with a spin lock in each
element.

All in one run, in turns, by BPF_PROG_TEST_RUN; what the programs do besides
is taken off.  New connections a second are on one CPU and on two at once.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.clsways import build
from bench.rows import Row
from dpif_bpf import abi_ct as a
from dpif_bpf.core.conntrack.memory import MAPPED, CtMemory
from dpif_bpf.core.conntrack.show import show
from dpif_bpf.core.conntrack.table import Table, Time
from dpif_bpf.core.conntrack.tracker import Conntrack
from dpif_bpf.core.services.service import gather
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.libbpf import BpfObject
from dpif_bpf.wire.ctnetlink import ALL, CtFilter

_DEFAULT, _LARGE = 1 << 18, 1 << 20
"""Records of a table."""
_MANY = 40000
_RUNS = 50000
_TURNS = 21
_NEW = 100000
_DUMPED = 100000
_HEADER = bytes(20)
_COARSE = 6
"""CLOCK_MONOTONIC_COARSE"""
_SYN, _ACK = 2, 16


def _segment(flags: int, seq: int, ack: int, back: bool = False,
             port: int = 1024) -> bytes:
    """A frame whose checksums nobody looks at."""
    ends = (bytes((10, 1, 0, 1)), bytes((10, 2, 0, 1)))
    ports = port, 80
    if back:
        ends, ports = ends[::-1], ports[::-1]
    head = struct.pack(">BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0)
    return (bytes(12) + b"\x08\x00" + head + ends[0] + ends[1]
            + struct.pack(">HHIIBBHHH", *ports, seq, ack, 5 << 4, flags,
                          8192, 0, 0))


@contextmanager
def _object(size: int, vary: int = 1) -> Iterator[BpfObject]:
    with BpfObject(build("conntrack")) as obj:
        obj.set_rodata("cfg_ct_max", size)
        obj.set_rodata("cfg_ct_bucket_mask", size // 2 - 1)
        obj.set_rodata("cfg_vary", vary)
        for name, count in (("ovs_ct", size), ("ovs_ct_tab", size // 2),
                            ("ovs_ct_exp", size // a.OVS_CT_EXP)):
            obj.set_max_entries(name, count)
        obj.load()
        conf = bpfsys.mmap_array(obj.map_fd("ovs_ct_conf"),
                                 obj.map_info("ovs_ct_conf"))
        conf[:a.CONF.size] = a.CONF.struct.pack(
            os.urandom(32), os.urandom(16), a.OVS_CT_F_LOOSE, 0, 3, 0)
        policy = bpfsys.mmap_array(obj.map_fd("ovs_ct_policy"),
                                   obj.map_info("ovs_ct_policy")).cast("I")
        for index, seconds in a.DEFAULT_TIMEOUTS.items():
            policy[index] = seconds
        yield obj


def _median(values: list[int]) -> float:
    return sorted(values)[len(values) // 2]


def _established(vary: int) -> list[Row]:
    """ns for a packet of one of so many connections."""
    with _object(_DEFAULT, vary) as obj:
        make = obj.prog_fd("b_make")
        for port in range(1024, 1024 + vary):
            for frame in (_segment(_SYN, 1, 0, port=port),
                          _segment(_SYN | _ACK, 9, 2, True, port),
                          _segment(_ACK, 2, 10, port=port)):
                assert bpfprog.test_run(make, frame).retval == 0
        packet = _segment(_ACK, 2, 10)
        names = ("b_base", "b_ct", "b_kernel")
        times: dict[str, list[int]] = {name: [] for name in names}
        for _ in range(_TURNS):
            for name in names:
                run = bpfprog.test_run(obj.prog_fd(name), packet, b"", _RUNS)
                assert name == "b_base" or run.retval == a.Verdict.FOUND
                times[name].append(run.duration)
        base = _median(times["b_base"])
        ours, theirs = (_median(times[name]) - base for name in names[1:])
    what = f"established TCP, {vary} connection{'s' * (vary > 1)}"
    return [Row(f"{what}: kernel hash, spin lock", theirs, "ns", 1.),
            Row(f"{what}: tracker", ours, "ns", ours / theirs)]


def _rate(obj: BpfObject, cpus: list[int]) -> float:
    """New connections a second of CPU time, on these CPUs together: the
    machine may do other things meanwhile."""
    spent: list[float] = []
    start = threading.Barrier(len(cpus))
    packet = _segment(_SYN, 1, 0)

    def work(cpu: int) -> None:
        os.sched_setaffinity(threading.get_native_id(), {cpu})
        start.wait()
        began = time.thread_time()
        bpfprog.test_run(obj.prog_fd("b_new"), packet, b"", _NEW)
        spent.append(time.thread_time() - began)

    threads = [threading.Thread(target=work, args=(cpu,)) for cpu in cpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(_NEW / one for one in spent)


def _new() -> list[Row]:
    """New connections, until the table is half full."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    one: list[float] = []
    two: list[float] = []
    for _ in range(3):
        with _object(_LARGE) as obj:
            one.append(_rate(obj, cpus[:1]))
            if len(cpus) > 1:
                two.append(_rate(obj, cpus))
            one.append(_rate(obj, cpus[-1:]))
            if len(cpus) > 1:
                two.append(_rate(obj, cpus))
            counted = bpfsys.map_lookup(obj.map_fd("ovs_ct_use"), bytes(4),
                                        a.USE.size)
            assert counted is not None
            made, = struct.unpack_from("=Q", counted)
            assert made == _NEW * (6 if len(cpus) > 1 else 2)
    single = sorted(one)[len(one) // 2]
    rows = [Row("new connections, one CPU", single / 1e6, "M/s", 1.)]
    if two:
        both = sorted(two)[len(two) // 2]
        rows.append(Row("new connections, two CPUs", both / 1e6, "M/s",
                        both / single))
    return rows


def _table(obj: BpfObject) -> Table:
    """As the provider has it."""
    def ask() -> None:
        assert bpfprog.test_run(obj.prog_fd("b_ask"), bytes(64)).retval == 0

    return Table(
        CtMemory(list, ask, *(
            bpfsys.mmap_array(obj.map_fd(name), obj.map_info(name)).cast("Q")
            for name in MAPPED)),
        lambda: Time(time.clock_gettime_ns(_COARSE), 0))


def _provider() -> list[Row]:
    """What clients ask of it: CPU time in all, and how long others wait for
    it."""
    rows = []
    packet = _segment(_SYN, 1, 0)
    for size, made in ((_DEFAULT, _DUMPED), (_LARGE, _LARGE * 9 // 10)):
        with _object(size) as obj:
            for number in range(0, made, _NEW):
                bpfprog.test_run(obj.prog_fd("b_new"), packet, b"",
                                 min(_NEW, made - number))
            table = _table(obj)
            assert table.total() == made
            if size == _DEFAULT:
                rows += _timed(f"dump of {made} connections", gather(
                    table.replies(ALL, lambda *_: _HEADER)))
            name = f"of {made} connections"
            rows += _timed(f"dump of an empty zone {name}", gather(
                table.replies(CtFilter(zone=9), lambda *_: _HEADER)))
            began = time.thread_time()
            table.flush(9)
            rows.append(Row(f"flush of a zone {name}", 1e3 * (
                time.thread_time() - began), "ms"))
            began = time.thread_time()
            assert "states:" in "".join(show(Conntrack(
                table.memory, lambda: Time(time.clock_gettime_ns(_COARSE),
                                           0))))
            rows.append(Row(f"dpif-bpf/ct-show {name}", 1e3 * (
                time.thread_time() - began), "ms"))
            if size == _DEFAULT:
                rows += _timed(f"deletion by status {name}", table.end(
                    CtFilter(status=(0, 1))))
                assert table.total() == 0
    return rows


def _timed(what: str, steps: Iterator[object]) -> list[Row]:
    longest, began = 0., time.thread_time()
    before = began
    for _ in steps:
        now = time.thread_time()
        longest = max(longest, now - before)
        before = now
    return [Row(what, 1e3 * (time.thread_time() - began), "ms", None,
                f"in steps of {1e3 * longest:.1f} ms at most")]


def _memory() -> list[Row]:
    """What the maps take, of the default table."""
    size = _DEFAULT
    each = a.CT.size + a.BUCKET.size // 2 + a.EXP.size // a.OVS_CT_EXP
    fixed = (a.ZONE.size * a.OVS_CT_ZONES + a.POLICY.size
             * a.OVS_CT_POLICIES + 8 * a.OVS_CT_KEPT_WORDS)
    return [Row("memory of a connection", each, "bytes"),
            Row(f"memory of {size} connections", (size * each + fixed) / 2**20,
                "MiB", None, f"{fixed / 2**20:.1f} of them whatever the size")]


def measure() -> list[Row]:
    """All of it; half a minute."""
    cpus = os.sched_getaffinity(0)
    rows: list[Row] = []
    try:
        os.sched_setaffinity(0, {max(cpus)})
        for vary in (1, _MANY):
            rows += _established(vary)
    finally:
        os.sched_setaffinity(0, cpus)
    return [*rows, *_new(), *_provider(), *_memory()]
