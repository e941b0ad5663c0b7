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
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from dpif_bpf.edge.libbpf import BpfObject, VerifierStats

HERE = Path(__file__).parent
BASELINE = HERE / "verifier.json"
OBJECT = HERE.parents[1] / "build" / "bpf" / "datapath.bpf.o"

Figures = dict[str, dict[str, int | str]]


def series() -> str:
    """The kernel's version without the last number: '6.18'."""
    return ".".join(platform.release().split("-")[0].split(".")[:2])


def measure(path: Path = OBJECT) -> dict[str, VerifierStats]:
    """Loads the object and tells of each program."""
    with BpfObject(path, stats=True) as obj:
        obj.load()
        return {name: obj.verifier_stats(name) for name in obj.programs}


def baseline() -> dict[str, Figures]:
    """Kernel series to program to insns, states and stack."""
    if not BASELINE.exists():
        return {}
    loaded: dict[str, Figures] = json.loads(BASELINE.read_text("ascii"))
    return loaded


def table(found: dict[str, VerifierStats]) -> str:
    """The figures beside those of the baseline."""
    known = baseline().get(series(), {})
    lines = [f"Linux {platform.release()}: instructions verified (baseline),"
             " states, stack"]
    for name, stats in found.items():
        before = known.get(name, {}).get("insns", "-")
        lines.append(f"  {name:16}{stats.insns:>9} ({before:>7})"
                     f"{stats.states:>7}  {stats.stack}")
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
                   "stack": stats.stack} for name, stats in found.items()}
        BASELINE.write_text(json.dumps(known, indent=1, sort_keys=True)
                            + "\n", "ascii")


if __name__ == "__main__":
    main()
