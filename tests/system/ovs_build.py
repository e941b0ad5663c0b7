# SPDX-License-Identifier: Apache-2.0
"""Where the programs of Open vSwitch under test are.

``OVS_BUILD`` names a build directory; without it the newest ``build/ovs-*/
build`` of this tree is taken.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class OvsBuild:
    """An Open vSwitch that was built with shared libraries.

    :param build: build directory
    :param source: source directory
    """

    build: Path
    source: Path

    def program(self, name: str) -> str:
        """The path of a program of OVS."""
        for part in ("utilities", "ovsdb", "vswitchd"):
            path = self.build / part / name
            if path.exists():
                return str(path)
        raise FileNotFoundError(f"{name} is not in {self.build}")

    @property
    def schema(self) -> str:
        return str(self.source / "vswitchd" / "vswitch.ovsschema")


def find_build() -> OvsBuild:
    """The build to test, or the test is skipped."""
    named = os.environ.get("OVS_BUILD")
    found = ([Path(named)] if named else
             sorted(TOP.glob("build/ovs-*/build"),
                    key=lambda path: path.stat().st_mtime))
    if not found:
        pytest.skip("needs a build of Open vSwitch: ./run build, or name one"
                    " in OVS_BUILD")
    build = found[-1].resolve()
    match = re.search(r"^abs_top_srcdir = (.+)$",
                      (build / "Makefile").read_text(), re.MULTILINE)
    if match is None:
        raise ValueError(f"{build}/Makefile names no source directory")
    return OvsBuild(build, Path(match[1]))
