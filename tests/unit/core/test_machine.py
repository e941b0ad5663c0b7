# SPDX-License-Identifier: Apache-2.0
"""core.machine, edge.sysinfo, and what the daemon makes of them."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dpif_bpf.core.machine import Machine, check_machine
from dpif_bpf.edge import sysinfo as machine
from dpif_bpf.errors import BackendError

TOP = Path(__file__).parents[3]
ALL = (1 << 41) - 1
GOOD = Machine("x86_64", "CPython", 64, "little", "6.1.0-25-amd64", False,
               True, True, ALL)
BPF, PERFMON, NET_ADMIN, NET_RAW, SYS_ADMIN = (
    1 << bit for bit in (39, 38, 12, 13, 21))


@pytest.mark.parametrize("good", [
    GOOD, replace(GOOD, kernel="10.0-rc1"),
    replace(GOOD, capabilities=BPF | PERFMON | NET_ADMIN | NET_RAW),
    replace(GOOD, capabilities=SYS_ADMIN | NET_ADMIN | NET_RAW),
    replace(GOOD, capabilities=-1)])
def test_good_machines(good: Machine) -> None:
    check_machine(good)


@pytest.mark.parametrize(("bad", "number", "text"), [
    (replace(GOOD, arch="aarch64"), errno.ENOTSUP, "order of stores"),
    (replace(GOOD, arch="riscv64"), errno.ENOTSUP, "on riscv64"),
    (replace(GOOD, arch="s390x", byteorder="big"), errno.ENOTSUP,
     "big-endian"),
    (replace(GOOD, bits=32), errno.ENOTSUP, "this is 32-bit"),
    (replace(GOOD, python="PyPy"), errno.ENOTSUP, "PyPy"),
    (replace(GOOD, kernel="6.0.9"), errno.ENOTSUP, "this is 6.0.9"),
    (replace(GOOD, kernel="5.19"), errno.ENOTSUP, "Linux 6.1 or newer"),
    (replace(GOOD, kernel="?"), errno.ENOTSUP, "Linux 6.1 or newer"),
    (replace(GOOD, realtime=True), errno.ENOTSUP, "PREEMPT_RT"),
    (replace(GOOD, btf=False), errno.ENOTSUP, "CONFIG_DEBUG_INFO_BTF"),
    (replace(GOOD, jit=False), errno.ENOTSUP, "bpf_jit_enable"),
    (replace(GOOD, capabilities=0), errno.EPERM,
     "no CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW:"),
    (replace(GOOD, capabilities=ALL & ~NET_RAW), errno.EPERM,
     "no CAP_NET_RAW:"),
    (replace(GOOD, capabilities=ALL & ~(SYS_ADMIN | PERFMON)), errno.EPERM,
     "no CAP_PERFMON:")])
def test_what_is_refused(bad: Machine, number: int, text: str) -> None:
    with pytest.raises(BackendError) as caught:
        check_machine(bad)
    assert caught.value.errno == number and text in caught.value.text


def tree(root: Path, **files: str) -> Path:
    for name, text in {"sys/kernel/btf/vmlinux": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_what_is_looked_at(tmp_path: Path,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "version", lambda: (
        "#1 SMP PREEMPT_DYNAMIC Debian 6.1.106-3 (2024-08-26)"))
    plain = machine.look(tree(tmp_path, **{
        "proc/self/status": "Name:\tx\nCapInh:\t0\nCapEff:\t000001ff\n"}))
    assert plain == replace(plain, realtime=False, btf=True, jit=True,
                            capabilities=0x1ff)
    assert plain.kernel == platform.release()
    assert machine.look(tree(tmp_path, **{
        "sys/kernel/realtime": "0\n",
        "proc/sys/net/core/bpf_jit_enable": "1\n"})) == plain
    changed = machine.look(tree(tmp_path, **{
        "sys/kernel/realtime": "1\n",
        "proc/sys/net/core/bpf_jit_enable": "0\n"}))
    assert changed == replace(plain, realtime=True, jit=False)
    nothing = machine.look(tmp_path / "none")
    assert nothing == replace(plain, btf=False, capabilities=-1)


@pytest.mark.parametrize("version", [
    "#1 SMP PREEMPT_RT Debian 6.1.106-3 (2024-08-26)",
    "#1 SMP PREEMPT RT Mon Jan 1 00:00:00 UTC 2024"])
def test_realtime_by_the_version(tmp_path: Path, version: str,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "version", lambda: version)
    assert machine.look(tmp_path).realtime


@pytest.mark.parametrize(("setting", "text"), [
    ("platform.version = lambda: '#1 SMP PREEMPT_RT Debian'",
     "this is a PREEMPT_RT kernel"),
    ("platform.machine = lambda: 'i686'", "CPython on i686"),
    ("platform.release = lambda: '5.10.0'", "this is 5.10.0")])
def test_daemon_ends_with_the_reason(tmp_path: Path, setting: str,
                                     text: str) -> None:
    """Status 1, the text on stderr, and nothing was touched."""
    done = subprocess.run(
        [sys.executable, "-c",
         f"import platform, sys\n{setting}\n"
         "from dpif_bpf import daemon\n"
         "sys.exit(daemon.main())",
         f"--pin-dir={tmp_path}/pins", f"--socket={tmp_path}/sock"],
        cwd=TOP, env={**os.environ, "OVS_RUNDIR": str(tmp_path)},
        capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert text in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
