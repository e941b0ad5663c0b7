# SPDX-License-Identifier: Apache-2.0
"""Where the programs of Open vSwitch under test are.

``OVS_BUILD`` names a build directory and ``OVS_PLUGIN`` the plugin for it;
without them it is that of the version ``OVS_VERSION`` in this tree's
``build``, 3.1 unless said otherwise.
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

    def binary(self, name: str) -> str:
        """The program itself, which libtool's script of that name runs; it
        needs `environment`."""
        path = Path(self.program(name))
        real = path.parent / ".libs" / path.name
        return str(real if real.exists() else path)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": ":".join(
            str(self.build / part / ".libs")
            for part in ("lib", "ofproto", "ovsdb", "vtep"))}

    @property
    def plugin(self) -> str:
        """libdpif_bpf.so, or the test is skipped."""
        named = os.environ.get("OVS_PLUGIN")
        path = Path(named) if named else self.build.parent / "libdpif_bpf.so"
        if not path.exists():
            pytest.skip(f"needs the plugin: there is no {path}")
        return str(path)

    @property
    def schema(self) -> str:
        return str(self.source / "vswitchd" / "vswitch.ovsschema")


def find_build() -> OvsBuild:
    """The build to test, or the test is skipped."""
    named = os.environ.get("OVS_BUILD")
    version = os.environ.get("OVS_VERSION", "3.1")
    found = ([Path(named)] if named else
             [ok.with_name("build")
              for ok in sorted(TOP.glob(f"build/ovs-{version}.*/ok"))])
    if not found:
        pytest.skip(f"needs a build of Open vSwitch {version}: ./run setup,"
                    " or name one in OVS_BUILD")
    build = found[-1].resolve()
    match = re.search(r"^abs_top_srcdir = (.+)$",
                      (build / "Makefile").read_text(), re.MULTILINE)
    if match is None:
        raise ValueError(f"{build}/Makefile names no source directory")
    return OvsBuild(build, Path(match[1]))
