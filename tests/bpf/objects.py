# SPDX-License-Identifier: Apache-2.0
"""Compiles the objects that only tests load."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
HEADERS = TOP / "build" / "shim"


def compile_object(source: Path, directory: Path) -> Path:
    """Compile BPF C; skips where there is no clang."""
    if shutil.which("clang") is None:
        pytest.skip("needs clang")
    out = directory / source.with_suffix(".o").name
    multiarch = subprocess.run(
        ["gcc", "-print-multiarch"], capture_output=True, text=True,
        check=True).stdout.strip()
    subprocess.run(
        ["clang", "-g", "-O2", "-mcpu=v3", "-Wall", "-Werror",
         "-target", "bpf", f"-I/usr/include/{multiarch}",
         f"-I{TOP / 'bpf' / 'lib'}",
         "-c", str(source), "-o", str(out)], check=True)
    return out
