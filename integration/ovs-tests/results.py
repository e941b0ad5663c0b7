#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tables of results of OVS's system tests.

A table is a TSV file with a heading and one line a test: ``number``,
``name``, ``result`` (``passed``, ``failed``, ``skipped`` or ``not run``),
``at`` (file and line of the check that failed or skipped) and ``cause``.

Commands::

    collect SUITE RUN SOURCE TABLE
                                after a run of the autotest script SUITE,
                                made of the files in the directory SOURCE,
                                whose logs are in RUN
    count TABLE                 the count; status 1 when a test failed
    numbers EXPECTED            the tests' numbers, one a line
    check EXPECTED TABLE        status 1 unless each test of EXPECTED passed
    missing EXPECTED TABLE      the numbers of those that did not, one a line
    learn EXPECTED TABLE        add TABLE's passed tests to EXPECTED
    merge RECORD TABLE          take into RECORD the tests of TABLE that ran

EXPECTED has lines of ``number`` and ``name``: tests that have passed before.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import astuple, dataclass, replace
from pathlib import Path

HEADING = ("number", "name", "result", "at", "cause")

#: Device types of "ip link add ... type X": the kernel's option for each.
DEVICE_OPTIONS = {
    "vlan": "VLAN_8021Q",
    "bond": "BONDING",
    "geneve": "GENEVE",
    "gre": "NET_IPGRE",
    "gretap": "NET_IPGRE",
    "erspan": "NET_IPGRE",
    "ip6gre": "IPV6_GRE",
    "ip6gretap": "IPV6_GRE",
    "ip6erspan": "IPV6_GRE",
    "vxlan": "VXLAN",
    "bareudp": "BAREUDP",
    "dummy": "DUMMY",
}

#: "12. name (system-traffic.at:3): ok     (0m1.2s 0m0.3s)"
SUMMARY = re.compile(
    r"^(\d+)\. .* \([\w.-]+:\d+\): "
    r"(ok|FAILED|skipped|expected failure|UNEXPECTED PASS)"
    r"(?: \(([^)]*)\))?"
)
RESULTS = {
    "ok": "passed",
    "FAILED": "failed",
    "skipped": "skipped",
    "expected failure": "failed",
    "UNEXPECTED PASS": "passed",
}
#: " 12: system-traffic.at:3   name", of the script's --list.
LISTED = re.compile(r"^ *(\d+): \S+:\d+ +(.*?) *$")
#: "/dir/system-traffic.at:56: command", heading of a check in a test's log.
CHECK = re.compile(r"^\S*?([\w-]+\.at:\d+): (.*)$")
#: Time and number of a line of a log.
LOG_TIME = re.compile(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z\|\d+\|")
DEVICE = re.compile(r"\blink add .*\btype (\w+)")
#: Warnings of ovs-vswitchd: the kernel has no such filter of tc, and what the
#: datapath refused.
NO_FILTER = re.compile(r"adding cls_(\w+) policing .*failed: No such file")
REFUSED = re.compile(
    r"\|(?:ofproto_)?dpif(?:\(\w+\))?\|WARN\|(.* failed .*|Rejecting .*)"
)
#: Failed executes of rules from the command line are not always logged.
NO_CT = "Datapath does not support ct_state"


@dataclass(frozen=True, slots=True)
class Row:
    """One test's result."""

    number: int
    name: str
    result: str = "not run"
    at: str = ""
    cause: str = ""


def read_table(path: Path) -> dict[int, Row]:
    """Rows of a table by test number."""
    rows = {}
    with path.open() as lines:
        if tuple(next(lines).rstrip("\n").split("\t")) != HEADING:
            raise SystemExit(f"{path}: not a table of results")
        for line in lines:
            number, name, result, at, cause = line.rstrip("\n").split("\t")
            rows[int(number)] = Row(int(number), name, result, at, cause)
    return rows


def write_table(path: Path, rows: dict[int, Row]) -> None:
    """Writes a table in the order of numbers."""
    with path.open("w") as out:
        print(*HEADING, sep="\t", file=out)
        for _, row in sorted(rows.items()):
            print(*astuple(row), sep="\t", file=out)


def read_expected(path: Path) -> dict[int, str]:
    """Names by number of the tests that have passed before."""
    expected = {}
    if path.exists():
        for line in path.read_text().splitlines():
            number, name = line.split("\t")
            expected[int(number)] = name
    return expected


def parse_list(text: str) -> dict[int, Row]:
    """The tests that a script's --list names."""
    matches = map(LISTED.match, text.splitlines())
    return {int(m[1]): Row(int(m[1]), m[2]) for m in matches if m}


def parse_log(text: str) -> dict[int, tuple[str, str]]:
    """Result and place of each test, of a suite's log."""
    found: dict[int, tuple[str, str]] = {}
    for match in map(SUMMARY.match, text.splitlines()):
        if match:
            found.setdefault(
                int(match[1]), (RESULTS[match[2]], match[3] or "")
            )
    return found


def find_cause(log: str, switch: str = "") -> str:
    """What a failed test's own log says of it, in one short line.

    ``switch`` is the log of its ovs-vswitchd.
    """
    lines = log.splitlines()
    device = ""
    for line in lines:
        if match := DEVICE.search(line):
            device = match[1]
        elif "Unknown device type" in line:
            option = DEVICE_OPTIONS.get(device, device)
            return f"kernel lacks {option}"
    if match := NO_FILTER.search(switch):
        return f"kernel lacks NET_CLS_{match[1].upper()}"

    # The last check's command and what it printed.
    command = ""
    output: list[str] = []
    for line in lines:
        match = CHECK.match(line)
        if match and match[2].startswith("exit code was"):
            break
        if match and match[2].startswith("wait failed"):
            command, output = f"{match[2]}: {command}", []
            break
        if match and " waiting " in line:
            command, output = match[2].removeprefix("waiting "), []
        elif match and not match[2].startswith("wait succeeded"):
            command, output = match[2], []
        elif line.startswith(("+", "-")) and line[:4] not in ("+++ ", "--- "):
            output.append(line)
    if not output:
        shown = command
    elif output[0].startswith("+Traceback"):
        shown = output[-1]
    else:
        shown = output[0]
    if shown == command or shown.startswith("-"):
        # What is missing tells less than why it could not come.
        if match := REFUSED.search(switch):
            shown = match[1]
        elif "testing conntrack" in log and NO_CT in switch:
            shown = f"{NO_CT}: {shown}"
    shown = LOG_TIME.sub("", re.sub(r"\s+", " ", shown).strip())
    return shown[:160]


def find_condition(source: Path, at: str) -> str:
    """The line of the tests' source that a test skipped at.

    Its own log is gone by then.
    """
    file, _, number = at.partition(":")
    lines = (source / file).read_text().splitlines()
    return lines[int(number) - 1].strip()


def collect(suite: Path, run: Path, source: Path, table: Path) -> None:
    """Makes a table of what a run of ``suite`` left behind in ``run``.

    ``source`` is the directory of the tests' own files.

    A test that began and has no result is "failed": the run's time limit
    came, or the suite died in it.
    """
    listed = subprocess.run(
        ["bash", suite, "--list"], cwd=suite.parent, check=True,
        capture_output=True, text=True,
    )
    rows = parse_list(listed.stdout)
    logs = run / f"{suite.name}.dir"
    log = (run / f"{suite.name}.log").read_text(errors="replace")
    for number, (result, at) in parse_log(log).items():
        cause = find_condition(source, at) if result == "skipped" else ""
        rows[number] = replace(
            rows[number], result=result, at=at, cause=cause
        )
    for directory in sorted(logs.glob("[0-9]*")):
        number = int(directory.name)
        own = directory / f"{suite.name}.log"
        if number not in rows or not own.exists():
            continue
        row = rows[number]
        text = own.read_text(errors="replace")
        if row.result == "not run":
            rows[number] = replace(
                row, result="failed", cause="did not end in time"
            )
        elif row.result == "failed":
            switch = directory / "ovs-vswitchd.log"
            warnings = (
                switch.read_text(errors="replace") if switch.exists() else ""
            )
            rows[number] = replace(row, cause=find_cause(text, warnings))
    write_table(table, rows)


def count(rows: dict[int, Row]) -> bool:
    """Prints the count; has every test that ran passed?"""
    results = [row.result for row in rows.values()]
    failed = results.count("failed")
    print(
        f"{results.count('passed')} passed, {failed} failed, "
        f"{results.count('skipped')} skipped"
    )
    return failed == 0


def check(expected: dict[int, str], rows: dict[int, Row]) -> bool:
    """Prints each test of ``expected`` that did not pass; are there none?"""
    worse = 0
    for number, name in sorted(expected.items()):
        row = rows.get(number, Row(number, name))
        if row.name != name:
            print(f"{number}: is {row.name!r} now, was {name!r}")
        elif row.result != "passed":
            print(
                f"{number}: {name}: passed before, {row.result} now",
                f"({row.at}) {row.cause}",
            )
        else:
            continue
        worse += 1
    count(rows)
    return worse == 0


def learn(path: Path, rows: dict[int, Row]) -> None:
    """Adds the tests that passed to the file of those expected to."""
    expected = read_expected(path)
    expected |= {
        row.number: row.name
        for row in rows.values()
        if row.result == "passed"
    }
    path.write_text(
        "".join(f"{n}\t{name}\n" for n, name in sorted(expected.items()))
    )


def merge(record: Path, rows: dict[int, Row]) -> None:
    """Takes the tests that ran into the table ``record``."""
    ran = {n: row for n, row in rows.items() if row.result != "not run"}
    old = read_table(record) if record.exists() else {}
    write_table(record, rows | old | ran)


def main(arguments: list[str]) -> int:
    """Runs one command; the exit status."""
    match arguments:
        case ["collect", suite, run, source, table]:
            collect(Path(suite), Path(run), Path(source), Path(table))
        case ["count", table]:
            return 0 if count(read_table(Path(table))) else 1
        case ["numbers", expected]:
            print(*read_expected(Path(expected)), sep="\n")
        case ["missing", expected, table]:
            passed = {n for n, row in read_table(Path(table)).items()
                      if row.result == "passed"}
            print(*sorted(read_expected(Path(expected)).keys() - passed),
                  sep="\n")
        case ["check", expected, table]:
            good = check(
                read_expected(Path(expected)), read_table(Path(table))
            )
            return 0 if good else 1
        case ["learn", expected, table]:
            learn(Path(expected), read_table(Path(table)))
        case ["merge", record, table]:
            merge(Path(record), read_table(Path(table)))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
