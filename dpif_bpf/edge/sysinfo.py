# SPDX-License-Identifier: Apache-2.0
"""Looks at the machine, for dpif_bpf.core.machine to judge."""

from __future__ import annotations

import platform
import re
import struct
import sys
from pathlib import Path

from dpif_bpf.core.machine import Machine


def look(root: Path = Path("/")) -> Machine:
    """The machine that this process runs on.

    :param root: where proc(5) and sysfs(5) are
    """
    # The sysctl is known in the first network namespace alone; where it is
    # not, the kernel is believed to compile.
    jit = _read(root / "proc/sys/net/core/bpf_jit_enable")
    return Machine(
        platform.machine(), platform.python_implementation(),
        8 * struct.calcsize("P"), sys.byteorder, platform.release(),
        _read(root / "sys/kernel/realtime") == "1"
        or re.search(r"\bPREEMPT[_ ]RT\b", platform.version()) is not None,
        (root / "sys/kernel/btf/vmlinux").exists(), jit != "0",
        _effective(_read(root / "proc/self/status")))


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _effective(status: str) -> int:
    """Effective capabilities, from proc_pid_status(5); all of them where
    they are not told."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    return -1 if found is None else int(found[1], 16)
