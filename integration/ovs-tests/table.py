#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/ovs-tests.rst, made of the recorded results of OVS's system tests.

``table.py RESULTS OUTPUT``: RESULTS has a directory for each version of OVS,
and in it a table (see results.py) for each run, named DATAPATH-KERNEL.tsv.
Each version becomes a section, each run a column of its table; below it is
said where and why tests fail on ``bpf``.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from results import Row, read_table

DATAPATHS = {
    "kmod": "kernel module",
    "userspace": "netdev",
    "bpf": "bpf",
}

INTRODUCTION = """\
.. SPDX-License-Identifier: Apache-2.0
.. Made by integration/ovs-tests/table.py; ./run ovs-tests --record renews it.

======================
OVS's own system tests
======================

Open vSwitch's system tests as they come with its source, against
``datapath_type=bpf`` and against the datapaths that OVS brings.  The number
after a datapath's name is the kernel's: 6.1 and 6.12 are Debian's, run in a
guest that qemu emulates; others are the host's.  ``no X`` says that the test
makes a device that the kernel was built without; a test's own conditions
account for ``skipped``.
"""


def versions(results: Path) -> Iterator[Path]:
    """Directories of results, the oldest OVS first."""
    return iter(sorted(path for path in results.iterdir() if path.is_dir()))


def column_order(path: Path) -> tuple[int, list[int]]:
    """Other datapaths before ours, kernels upwards."""
    datapath, _, kernel = path.stem.partition("-")
    return list(DATAPATHS).index(datapath), [*map(int, kernel.split("."))]


def heading(path: Path) -> str:
    """"bpf 6.1", of bpf-6.1.tsv."""
    datapath, _, kernel = path.stem.partition("-")
    return f"{DATAPATHS[datapath]} {kernel}"


def cell(row: Row) -> str:
    """What a column says of a test."""
    if row.result == "not run":
        return ""
    missing = row.cause.removeprefix("kernel lacks ")
    if row.result == "failed" and missing != row.cause:
        return f"no {missing}"
    return row.result


def section(directory: Path) -> Iterator[str]:
    """Lines of one version's section."""
    paths = sorted(directory.glob("*.tsv"), key=column_order)
    tables = {heading(path): read_table(path) for path in paths}
    title = f"Open vSwitch {directory.name}"
    yield from ("", title, "=" * len(title), "")

    for name, rows in tables.items():
        cells = [cell(row) for row in rows.values()]
        counts = {word: cells.count(word) for word in dict.fromkeys(cells)}
        said = ", ".join(
            f"{number} {word or 'not run'}"
            for word, number in sorted(
                counts.items(), key=lambda c: (c[0] != "passed", -c[1])
            )
        )
        yield f"- {name}: {said}."

    yield from ("", ".. csv-table::", "   :header-rows: 1", "")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["", "test", *tables])
    first = next(iter(tables.values()))
    for number, row in sorted(first.items()):
        absent = Row(number, row.name)
        cells = [cell(t.get(number, absent)) for t in tables.values()]
        writer.writerow([number, row.name, *cells])
    yield from (f"   {line}" for line in out.getvalue().splitlines())

    for name, rows in tables.items():
        failures = [
            row for _, row in sorted(rows.items()) if cell(row) == "failed"
        ]
        if failures:
            yield from ("", f"Failures of {name}:", "")
        for row in failures:
            cause = row.cause.replace("`", "'")
            yield f"- {row.number} ({row.at}): ``{cause or '-'}``"


def main(arguments: list[str]) -> int:
    """Writes the document; the exit status."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    lines = [INTRODUCTION.rstrip("\n")]
    for directory in versions(Path(arguments[0])):
        lines += section(directory)
    Path(arguments[1]).write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
