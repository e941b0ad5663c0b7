# SPDX-License-Identifier: Apache-2.0
"""What the programs cost the verifier of the running kernel.

``python tests/bpf/verifier.py`` prints it; with ``--update`` it becomes the
baseline in verifier.json, by kernel series, against which
``test_verifier.py`` holds every change.
"""

from __future__ import annotations

import argparse
import json
import platform
import struct
import sys
from bisect import bisect_right
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from dpif_bpf.edge.libbpf import BpfObject, VerifierStats
from dpif_bpf.edge.loader import choose_programs

HERE = Path(__file__).parent
BASELINE = HERE / "verifier.json"
OBJECT = HERE.parents[1] / "build" / "bpf" / "datapath.bpf.o"

Figures = dict[str, dict[str, int | str]]

_CALL, _LD_IMM64 = 0x85, 0x18
_PSEUDO_CALL, _PSEUDO_FUNC = 1, 4
_FRAME = 32
"""What the kernel rounds the stack of a frame up to, without a JIT and before
Linux 6.7."""


def series() -> str:
    """The kernel's version without the last number: '6.18'."""
    return ".".join(platform.release().split("-")[0].split(".")[:2])


def measure(path: Path = OBJECT) -> dict[str, tuple[VerifierStats, int]]:
    """Loads the object; what the verifier said of each program, and the
    bytes of stack of its deepest chain of calls."""
    with BpfObject(path, stats=True) as obj:
        choose_programs(obj)
        obj.load()
        found = {}
        for name in obj.loading:
            stats = obj.verifier_stats(name)
            found[name] = stats, deepest(obj.insns(name), stats.stack)
        return found


def deepest(insns: bytes, stack: str) -> int:
    """Bytes of stack of a program's deepest chain of calls.

    :param insns: the program with its subprograms
    :param stack: of each of them, in their order, joined by '+'
    """
    calls = []
    for at, (code, registers, _, imm) in enumerate(
            struct.iter_unpack("=BBhi", insns)):
        if (code, registers >> 4) in {(_CALL, _PSEUDO_CALL),
                                      (_LD_IMM64, _PSEUDO_FUNC)}:
            calls.append((at, at + 1 + imm))
    starts = sorted({0, *(target for _, target in calls)})
    own = [-(-max(int(size), 1) // _FRAME) * _FRAME
           for size in stack.split("+")]
    assert len(own) == len(starts)
    below: list[set[int]] = [set() for _ in starts]
    for at, target in calls:
        below[bisect_right(starts, at) - 1].add(starts.index(target))

    def depth(number: int) -> int:
        return own[number] + max(map(depth, below[number]), default=0)

    return depth(0)


def baseline() -> dict[str, Figures]:
    """Kernel series to program to insns, states, stack and its sum along the
    deepest calls."""
    if not BASELINE.exists():
        return {}
    loaded: dict[str, Figures] = json.loads(BASELINE.read_text("ascii"))
    return loaded


def table(found: dict[str, tuple[VerifierStats, int]]) -> str:
    """The figures beside those of the baseline."""
    known = baseline().get(series(), {})
    lines = [f"Linux {platform.release()}: instructions verified (baseline),"
             " states, stack of the deepest calls, of each"]
    for name, (stats, depth) in found.items():
        before = known.get(name, {}).get("insns", "-")
        lines.append(f"  {name:16}{stats.insns:>9} ({before:>7})"
                     f"{stats.states:>7}{depth:>5}  {stats.stack}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args()
    found = measure()
    print(table(found))
    if options.update:
        known = baseline()
        known[series()] = {
            name: {"insns": stats.insns, "states": stats.states,
                   "stack": stats.stack, "deepest": depth}
            for name, (stats, depth) in found.items()}
        BASELINE.write_text(json.dumps(known, indent=1, sort_keys=True)
                            + "\n", "ascii")


if __name__ == "__main__":
    main()
