# SPDX-License-Identifier: Apache-2.0
"""The packet path beside the kernel module's, in instructions a packet.

A guest (integration/guest) runs Debian's kernel, whose module the host need
not have, and its clock counts instructions.  The kernel's packet generator
sends the same packets through both datapaths, between the same devices;
bench.pathguest does it, bench.pathcases says what.  docs/performance.rst
tells what the figures mean.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.clsways import TOP, build
from bench.pathcases import CASES
from bench.rows import Row

KERNEL = "6.12"
"""Before Linux 6.7 the generator cannot but share its packets."""
SHIFT = 1
"""An instruction takes 2^SHIFT ns of the guest's clock."""
LIMIT = 1800
"""s until the guest is given up."""
UNIT = "instr."

Record = Mapping[str, str | float | bool]
"""A line of bench.pathguest's: case, who, ns, Case.kind, and counters a
packet."""


def measure(cases: Sequence[str] = (), trees: Sequence[str] = ()) -> list[Row]:
    """Instructions above those of a packet that the receiving device drops.

    :param cases: of bench.pathcases.CASES; all when empty
    :param trees: further clones of this repository, set up, to be measured
        beside this one
    """
    if os.geteuid():
        raise SystemExit("bench: path starts a guest, which only root can")
    bin_name = Path(os.environ.get("OVS_BIN", "bin")).name
    bins = {"bpf": TOP / "build" / bin_name}
    for tree in trees:
        path = Path(tree).resolve()
        bins[path.name] = path / "build" / bin_name
        if not (bins[path.name] / "ovs-bpfd").exists():
            raise SystemExit(f"bench: {tree} has not been set up")
    if len(bins) != 1 + len(trees):
        raise SystemExit("bench: trees must have different names")
    names = list(cases or CASES)
    share = TOP / "build" / "bench" / "path"
    results = share / "results"
    results.unlink(missing_ok=True)
    _guest(share, [
        str(TOP / "build" / "venv" / "bin" / "python"), "-m",
        "bench.pathguest", f"--obj={build('path')}",
        "--out=/mnt/share/results",
        *(f"--bin={who}={path}" for who, path in bins.items()), *names])
    return rows([json.loads(line)
                 for line in results.read_text().splitlines()])


def _guest(share: Path, command: list[str]) -> None:
    """Runs a command in the guest and passes on what it says."""
    start = time.monotonic()
    with subprocess.Popen(
            [str(TOP / "integration" / "guest" / "guest.sh"), "-k", KERNEL,
             "-i", str(SHIFT), "-t", str(LIMIT), "-o", str(share), *command],
            stdout=subprocess.PIPE, text=True, cwd=TOP) as guest:
        assert guest.stdout is not None
        for line in guest.stdout:
            spent = int(time.monotonic() - start)
            print(f"  {spent // 60}:{spent % 60:02} {line}", end="",
                  file=sys.stderr, flush=True)
    if guest.returncode:
        raise SystemExit(f"bench: the guest ended with status "
                         f"{guest.returncode}; see {share}")


def rows(records: Sequence[Record]) -> list[Row]:
    """The figures; ratios are to the module's of the same case."""
    drops = {record["kind"]: _instructions(record) for record in records
             if record["who"] == "drop"}
    module = {record["case"]: _instructions(record) - drops[record["kind"]]
              for record in records if record["who"] == "module"}
    found = []
    for record in records:
        value = _instructions(record)
        if record["who"] in ("drop", "redirect"):
            what = f"{record['kind']}: {record['who']}"
            if record["who"] == "drop":
                found.append(Row(what, value, UNIT, None, "in all"))
            else:
                found.append(Row(what, value - drops[record["kind"]], UNIT))
    for name, base in module.items():
        found += [Row(f"{CASES[str(name)].what}: {record['who']}",
                      _instructions(record) - drops[record["kind"]], UNIT,
                      (_instructions(record) - drops[record["kind"]]) / base,
                      _note(record))
                  for record in records
                  if record["case"] == name
                  and record["who"] not in ("drop", "redirect")]
    return found


def _instructions(record: Record) -> float:
    return float(record["ns"]) / (1 << SHIFT)


def _note(record: Record) -> str:
    """What a lookup took, where it took more than one step."""
    lookups = max(1., float(record.get("hit", 1)))
    tried, cached = (float(record.get(name, 0)) / lookups
                     for name in ("tried", "cached"))
    note = f"{tried:.1f} {'masks' if record['who'] == 'module' else 'probes'}"
    if cached:
        note += f", {cached:.0%} by the cache"
    return note if tried > 1.005 or 0 < cached < 0.995 else ""
