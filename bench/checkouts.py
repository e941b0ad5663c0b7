# SPDX-License-Identifier: Apache-2.0
"""Packet paths of several checkouts, measured in turns in one run.

Each checkout has a process of its own, with its own Python and its own
programs: run_child(), which this file is as a program, with PYTHONPATH
leading to the checkout.  So only what bench.lab has had for long is used in
it.  One process at a time has something to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
PARTS = ("bench", "bpf", "dpif_bpf")
EMPTY, BARE = "empty program", "bare bpf_redirect"


@dataclass(frozen=True, slots=True)
class Case:
    """A packet and what it meets; bytes in hexadecimal.

    :param what: the case's name
    :param flows: key, mask and actions of each flow
    :param packet: comes in by the first port
    :param rests: the cache of exact matches does
    """

    what: str
    flows: tuple[tuple[str, str, str], ...]
    packet: str
    rests: bool = False


def checkout(commit: str) -> Path:
    """A directory with a commit's sources and programs.

    :param commit: git's name for it, or a directory that is one already
    """
    if (Path(commit) / "build" / "bpf").is_dir():
        return Path(commit).resolve()
    number = subprocess.run(
        ["git", "rev-parse", "--verify", f"{commit}^{{commit}}"], cwd=TOP,
        check=True, capture_output=True, text=True).stdout.strip()
    where = TOP / "build" / "bench" / number
    if not where.is_dir():
        new = where.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        (new / "build").mkdir(parents=True)
        with subprocess.Popen(["git", "archive", number, *PARTS], cwd=TOP,
                              stdout=subprocess.PIPE) as archive:
            subprocess.run(["tar", "-x", "-C", new], check=True,
                           stdin=archive.stdout)
        (new / "build" / "shim").symlink_to(TOP / "build" / "shim")
        subprocess.run(["make", "-s", "-C", new / "bpf"], check=True)
        new.rename(where)
    return where


class Child:
    """The process of a checkout."""

    def __init__(self, where: Path, cases: Sequence[Case]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], cwd=where, text=True,
            env=dict(os.environ, PYTHONPATH=str(where)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._ask([asdict(case) for case in cases])

    def _ask(self, what: object) -> object:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("a checkout's measurements failed")
        return json.loads(answer)

    def turn(self, repeat: int) -> dict[str, float]:
        """ns of each case, and of EMPTY and BARE."""
        answer = self._ask(repeat)
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        """Ends the process, which cleans up."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def children(places: Sequence[Path],
             cases: Sequence[Case]) -> Iterator[list[Child]]:
    """A Child for each place."""
    with contextlib.ExitStack() as stack:
        made = []
        for where in places:
            child = Child(where, cases)
            stack.callback(child.close)
            made.append(child)
        yield made


def set_rest(gen: Any, lookups: int) -> None:
    """Lets the cache of exact matches rest, where there is one."""
    from dpif_bpf import abi
    from dpif_bpf.edge import bpfsys

    field = abi.CPU.fields.get("exact_rest")
    if field is None:
        return
    fd, info = gen.map_fd("ovs_cpu"), gen.map_info("ovs_cpu")
    values = bpfsys.map_lookup_percpu(fd, 0, info)
    bpfsys.map_update(fd, bytes(4), b"".join(
        value[:field.offset] + struct.pack("=I", lookups)
        + value[field.end:] for value in values))


def run_child() -> None:
    """Serves a Child."""
    import dpif_bpf
    from bench import lab as labs
    from dpif_bpf.edge import bpfprog

    assert Path(dpif_bpf.__file__).is_relative_to(Path.cwd())
    labs.PIN_ROOT = Path(f"{labs.PIN_ROOT}-{os.getpid()}")
    cases = [Case(**case) for case in json.loads(sys.stdin.readline())]
    insn = struct.Struct("=BBhi").pack
    empty = bpfprog.prog_load(
        bpfprog.PROG_TYPE_SCHED_CLS,
        insn(0xb7, 0, 0, 0) + insn(0x95, 0, 0, 0), "bench_empty")
    with labs.lab(2) as made:
        bare = labs.redirect_prog(labs.socket.if_nametoindex("b2"))
        (instance,) = made.provider.instances()
        entry = instance.plane.gen.bridge(0).entry_fd
        for case in cases:
            for flow in case.flows:
                made.add(*map(bytes.fromhex, flow))
        print("{}", flush=True)
        for line in sys.stdin:
            repeat = json.loads(line)
            packet = bytes.fromhex(cases[0].packet)
            costs = {what: labs.run_ns(prog, packet, 1, repeat, 1)
                     for what, prog in ((EMPTY, empty), (BARE, bare))}
            for case in cases:
                set_rest(instance.plane.gen, 1 << 30 if case.rests else 0)
                costs[case.what] = labs.run_ns(
                    entry, bytes.fromhex(case.packet), 1, repeat, 1)
            print(json.dumps(costs), flush=True)
        counted = made.dp.counters()
        assert counted.hit and not counted.missed, counted


if __name__ == "__main__":
    run_child()
