# SPDX-License-Identifier: Apache-2.0
"""The process in which bcc compiles."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpif_bpf.edge.loader import Files, start_compilation


def test_modules_are_not_those_of_the_directory(
        shipped_object: None, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may be in a directory of somebody else."""
    for name in ("bcc", "dpif_bpf", "subprocess"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    assert start_compilation(Files()).result()
