# SPDX-License-Identifier: Apache-2.0
"""./run bench [NAME…] [--json] [--against=COMMIT]: measurements, as ratios
within one run.

Each module of NAMES has ``measure() -> list[Row]``; that of `path` takes its
cases, and other trees.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict

from bench.pathcases import CASES
from bench.rows import Row, table

NAMES = {
    "path": "a packet's way, beside the kernel module's, in a guest",
    "forward": "a packet from port to port, beside a bare tc redirect",
    "actions": "each action, over a plain output",
    "setup": "flow set-ups a second through ovs-vswitchd",
    "provider": "what the provider spends on what it is asked",
    "conntrack": "the connection tracker beside a kernel hash table",
    "classifier": "the forest beside other ways to find a megaflow",
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="./run bench", description="Measurements.", epilog="\n".join(
            f"{name}: {text}" for name, text in NAMES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME",
                        choices=[*NAMES, []],
                        help=f"one of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--json", action="store_true",
                        help="figures for a program")
    parser.add_argument("--against", metavar="COMMIT",
                        help="forward: compare with a commit, or with the"
                        " checkout in a directory, in turns")
    parser.add_argument("--cases", metavar="CASE[,CASE...]",
                        type=lambda text: text.split(","), default=[],
                        help=f"of path: {', '.join(CASES)} (default: all)")
    parser.add_argument("--tree", metavar="DIR", action="append", default=[],
                        help="path measures this clone, too (repeatable)")
    args = parser.parse_args(argv)
    if unknown := set(args.cases) - CASES.keys():
        parser.error(f"no case {', '.join(sorted(unknown))} of path")
    if args.against and args.names != ["forward"]:
        parser.error("--against is for forward alone")
    if (args.cases or args.tree) and args.names != ["path"]:
        parser.error("--cases and --tree are for path alone")
    more = {"forward": (args.against,), "path": (args.cases, args.tree)}
    results: dict[str, list[Row]] = {}
    for name in args.names or NAMES:
        module = importlib.import_module(f"bench.{name}")
        if not args.json:
            print(f"{name}: {NAMES[name]}", flush=True)
        results[name] = module.measure(*more.get(name, ()))
        if not args.json:
            print(table(results[name]), flush=True)
    if args.json:
        json.dump({name: [asdict(row) for row in rows]
                   for name, rows in results.items()}, sys.stdout, indent=1)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
