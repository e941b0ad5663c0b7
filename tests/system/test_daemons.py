# SPDX-License-Identifier: Apache-2.0
"""How the daemon starts, ends, and is started again."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import PATIENCE, PROVIDER, Lab
from netns import WITH_US
from ovs_build import TOP
from test_descriptors import counters
from test_restart import two_hosts

_SYS_TGKILL = 234
_POLL = ("7 ", "271 ")	# poll(2), ppoll(2) of x86-64


def pid_of(lab: Lab) -> int:
    """The provider that has the pidfile."""
    return int(lab.text("ovs-bpfd.pid") or 0)


def runs(pid: int) -> bool:
    """Whether there is such a process, and no mere zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def until_it_sleeps(lab: Lab, pid: int) -> None:
    lab.until(lambda: Path(f"/proc/{pid}/task/{pid}/syscall").read_text()
              .startswith(_POLL))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT,
                                    signal.SIGHUP])
def test_signal_just_before_it_sleeps(own_lab: Lab, number: int) -> None:
    """One that another thread takes does not interrupt the main thread's
    sleep, and so is as one that comes after the last look for signals."""
    lab = own_lab
    process = lab.processes.pop(PROVIDER)
    other = next(int(task) for task in os.listdir(
        f"/proc/{process.pid}/task") if int(task) != process.pid)
    until_it_sleeps(lab, process.pid)
    libc = ctypes.CDLL(None, use_errno=True)
    assert not libc.syscall(_SYS_TGKILL, process.pid, other, number)
    try:
        assert process.wait(20 * PATIENCE) == -number
    finally:
        process.kill()
    assert not list(lab.rundir.glob("ovs-bpfd.*pid*"))
    assert not list(lab.rundir.glob("ovs-bpfd.*.ctl"))
    lab.start_provider()


STOPPED = """
import os, signal, sys
from dpif_bpf import daemon
from dpif_bpf.provider import Provider

def take_over(self, *args):
    os.kill(os.getpid(), signal.SIGTERM)
    return real(self, *args)

real = Provider.take_over
Provider.take_over = take_over
sys.exit(daemon.main())
"""


def test_signal_while_it_takes_over(own_lab: Lab) -> None:
    lab = own_lab
    one, two = two_hosts(lab)
    lab.kill(PROVIDER)
    lab.program = ["-c", STOPPED]
    with pytest.raises(AssertionError, match="ended with -15"):
        lab.start_provider()
    del lab.processes[PROVIDER]
    assert not list(lab.rundir.glob("ovs-bpfd.*pid*"))
    one.ping(two.ip)
    lab.program = ["-m", "dpif_bpf"]
    lab.start_provider()
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    one.ping(three.ip)


def test_nobody_else_may_write(stopped_lab: Lab) -> None:
    """Whatever umask it is started with; the log is that of OVS's daemons."""
    lab = stopped_lab
    lab.start_server()
    before = os.umask(0)
    try:
        lab.start_provider()
    finally:
        os.umask(before)
    modes = {re.sub(r"\d+", "PID", path.name): stat.S_IMODE(
        path.stat().st_mode) for path in lab.rundir.glob("ovs-bpfd.*")
        if path.suffix != ".out"}
    assert modes == {"ovs-bpfd.log": 0o640, "ovs-bpfd.pid": 0o640,
                     "ovs-bpfd.PID.ctl": 0o750, "ovs-bpfd.sock": 0o600}


def test_no_room_for_the_log(stopped_lab: Lab) -> None:
    lab = stopped_lab
    lab.start_server()
    lab.start_provider("--log-file=/dev/full")
    lab.start_switch()
    one, two = two_hosts(lab)
    lab.appctl("vlog/set", "dbg", target=PROVIDER)
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    one.ping(three.ip)
    two.ping(three.ip)


def test_modules_are_not_those_of_the_directory(tmp_path: Path) -> None:
    """Root may be in a directory of somebody else."""
    program = TOP / "build" / "bin" / "ovs-bpfd"
    if not program.exists():
        pytest.skip(f"needs {program}, which ./run makes")
    for name in ("argparse", "dpif_bpf", "netaddr", "ovs"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    shown = subprocess.run([program, "--version"], cwd=tmp_path, check=True,
                           capture_output=True, text=True).stdout
    assert shown.startswith("ovs-bpfd ")


# The monitor.

FAULTY = """
import sys
from dpif_bpf import daemon
from dpif_bpf.core.devices import LinkChange
from dpif_bpf.core.ports import Ports

def link_changed(self, event):
    if event.link.name == "boom":
        raise ZeroDivisionError("a fault")
    return real(self, event)

real = Ports.link_changed
Ports.link_changed = link_changed
sys.exit(daemon.main())
"""
FAULT = ["boom", "not expected", "restarting", "ovs_vport has failed",
         "Input/output error"]
"""What is said of it: by the loop, or by who answers a request of ovs-vswitchd
for ports, whichever hears of the device first, and by ovs-vswitchd."""


@pytest.fixture
def monitored(stopped_lab: Lab) -> Iterator[Lab]:
    """A lab whose provider has a fault, and a monitor."""
    lab = stopped_lab
    lab.program = ["-c", FAULTY]
    lab.start_server()
    lab.start_provider("--monitor")
    lab.start_switch()
    yield lab
    monitor = lab.processes.pop(PROVIDER)
    pid = pid_of(lab)
    lab.appctl("exit", target=PROVIDER)
    try:
        assert monitor.wait(20 * PATIENCE) == 0
    finally:
        monitor.kill()
        if runs(pid):
            os.kill(pid, signal.SIGKILL)


def test_it_is_started_again_after_a_fault(monitored: Lab) -> None:
    lab = monitored
    lab.allowed += ["p3", *FAULT]
    one, two = two_hosts(lab)
    lab.add_host("p3", "br0", "10.1.1.3/24")
    before = pid_of(lab)
    # As logrotate does.
    (lab.rundir / "ovs-bpfd.log").rename(lab.rundir / "ovs-bpfd.log.1")
    lab.appctl("vlog/reopen", target=PROVIDER)
    lab.ns.rename("p3", "boom")
    lab.until(lambda: pid_of(lab) not in (0, before)
              and "serves" in lab.text("ovs-bpfd.log"))
    assert "ZeroDivisionError: a fault" in lab.text("ovs-bpfd.log")
    assert "started again by the monitor" in lab.text("ovs-bpfd.log")
    one.ping(two.ip)
    four = lab.add_host("p4", "br0", "10.1.1.4/24")
    one.ping(four.ip)
    four.ping(two.ip)
    assert counters(lab)["upcall_sent"] > 0


def test_status_after_a_fault(own_lab: Lab) -> None:
    """That on which supervisors start it again."""
    lab = own_lab
    two_hosts(lab)
    lab.kill(PROVIDER)
    lab.program = ["-c", FAULTY]
    lab.start_provider()
    lab.allowed += ["p1", *FAULT]
    lab.ns.rename("p1", "boom")
    assert lab.processes.pop(PROVIDER).wait(20 * PATIENCE) == 5
    assert not list(lab.rundir.glob("ovs-bpfd.*pid*"))
    lab.program = ["-m", "dpif_bpf"]
    lab.start_provider()


# integration/daemons.sh

class Scripts:
    """The shell functions, in a switch's namespaces."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._env = {**os.environ, "OVS_BIN": str(TOP / "build" / "bin"),
                     "OVS_RUNDIR": str(lab.rundir),
                     "OVS_LOGDIR": str(lab.rundir),
                     "OVS_DBDIR": str(lab.rundir)}

    def run(self, command: str) -> tuple[int, str]:
        """Status and output."""
        done = subprocess.run(
            self._lab.ns.command([
                "bash", "-euc",
                f". {TOP}/integration/daemons.sh; {command}"]),
            env=self._env, text=True, stdout=subprocess.PIPE, check=False,
            stdin=subprocess.DEVNULL, timeout=60 * PATIENCE)
        return done.returncode, done.stdout


@pytest.fixture
def scripts(stopped_lab: Lab) -> Scripts:
    if not (TOP / "build" / "bin" / "ovs-bpfd").exists():
        pytest.skip("needs build/bin, which ./run makes")
    return Scripts(stopped_lab)


def test_a_stale_pidfile_names_nobody(stopped_lab: Lab,
                                      scripts: Scripts) -> None:
    """Another process can have the number by now."""
    other = subprocess.Popen([*WITH_US, "sleep", "infinity"])
    try:
        (stopped_lab.rundir / "d.pid").write_text(f"{other.pid}\n")
        assert scripts.run("running d") == (1, "")
        assert scripts.run("stop d exit") == (0, "")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


LOCKER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


def test_who_has_a_pidfile_locked_runs(stopped_lab: Lab,
                                       scripts: Scripts) -> None:
    path = stopped_lab.rundir / "d.pid"
    daemon = subprocess.Popen(
        [*WITH_US, sys.executable, "-c", LOCKER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert daemon.stdin and daemon.stdout
    try:
        daemon.stdout.readline()
        assert scripts.run("running d") == (0, f"{daemon.pid}\n")
        daemon.stdin.close()
        daemon.wait()
        assert scripts.run("running d") == (1, "")
    finally:
        daemon.kill()
        daemon.wait()


def test_a_provider_that_its_monitor_is_to_start_is_stopped(
        stopped_lab: Lab, scripts: Scripts) -> None:
    """After a second fault within ten seconds, it is not started again at
    once; it is not started at all when it has been stopped meanwhile."""
    lab = stopped_lab
    lab.allowed += ["died, killed by signal"]
    lab.start_server()
    assert scripts.run("start_bpfd")[0] == 0
    first = pid_of(lab)
    session = os.getsid(first)
    try:
        os.kill(first, signal.SIGSEGV)
        lab.until(lambda: pid_of(lab) not in (0, first))
        os.kill(pid_of(lab), signal.SIGSEGV)    # while it starts
        lab.until(lambda: "waiting until" in lab.text("ovs-bpfd.log"))
        assert scripts.run("running ovs-bpfd")[0] == 1
        assert scripts.run("stop ovs-bpfd exit && stop_monitor")[0] == 0
        assert not runs(session)
    finally:
        if runs(session):
            os.kill(session, signal.SIGKILL)
        pid = scripts.run("running ovs-bpfd")[1]
        if pid:
            os.kill(int(pid), signal.SIGKILL)
    assert not list(lab.rundir.glob("ovs-bpfd.*.ctl"))
