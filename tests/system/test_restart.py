# SPDX-License-Identifier: Apache-2.0
"""Daemons that go and come back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import PROVIDER, SERVER, SWITCH, Host, Lab
from ovs_build import TOP
from streams import Stream

import dpif_bpf

ABSENT = r"Connection refused"
"""What ovs-vswitchd says when it starts and there is no provider yet; one
that goes and comes back is no cause for a warning."""


def two_hosts(lab: Lab) -> tuple[Host, Host]:
    """Two hosts whose flows stay, however slow the machine is."""
    lab.vsctl("set", "Open_vSwitch", ".", "other_config:max-idle=300000")
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    for host, other in ((one, two), (two, one)):
        host.knows(other.ip, other.mac)
    one.ping(two.ip)
    return one, two


def settle(lab: Lab, source: Host, sink: Host) -> None:
    """Makes sure that the flow of a stream is installed."""
    for _ in range(2):
        before = lab.packets(source.port)
        stream = Stream(lab, source, sink, 200)
        time.sleep(1)
        lost = stream.lost()
    assert lost == 0 and lab.packets(source.port) - before >= 100


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_packet_is_lost_while_the_provider_restarts(
        own_lab: Lab, how: signal.Signals) -> None:
    lab = own_lab
    one, two = two_hosts(lab)
    settle(lab, one, two)
    stream = Stream(lab, one, two, 2000)
    time.sleep(1)
    lab.kill(PROVIDER, how)
    time.sleep(1.5)
    lab.start_provider()
    time.sleep(3)
    assert stream.lost() == 0
    # Taken over: the flow is known, with its statistics, and new ones come.
    assert lab.packets("p1") > 4000
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    one.ping(three.ip)
    three.ping(two.ip)
    lab.tcp(two, three)


def test_provider_restarts_twice(own_lab: Lab) -> None:
    lab = own_lab
    one, two = two_hosts(lab)
    switch = lab.address("br0", "10.1.1.9/24")
    for _ in range(2):
        lab.kill(PROVIDER)
        one.ping(two.ip)
        lab.start_provider()
        one.ping(two.ip)
        one.ping(switch.ip)
    lab.vsctl("del-br", "br0")
    lab.until(lambda: "ovsx" not in lab.ns.ip("link show"))
    assert not pinned(lab)


def without_object(lab: Lab) -> Path:
    """A --bpf-dir in which the object is missing."""
    directory = lab.rundir / "build" / "bpf"
    directory.mkdir(parents=True)
    (directory.parent / "shim").symlink_to(TOP / "build" / "shim")
    return directory


def test_takeover_that_fails(own_lab: Lab) -> None:
    """Packets go on, ports and addresses stay; when the cause has gone it is
    taken over, and ovs-vswitchd goes on with it."""
    lab = own_lab
    one, two = two_hosts(lab)
    switch = lab.address("br0", "10.1.1.9/24")
    one.ping(switch.ip)
    settle(lab, one, two)
    stream = Stream(lab, one, two, 1000)
    lab.kill(PROVIDER)
    # What ovs-vswitchd says of a datapath that is not there.
    lab.allowed.append("ovs-vswitchd")
    lab.allowed.append("cannot take over datapath ovs-bpf, which goes on")
    directory = without_object(lab)
    lab.start_provider(f"--bpf-dir={directory}")
    shown = lab.appctl("dpif-bpf/show", target=PROVIDER)
    assert shown.startswith("ovs-bpf: not taken over: cannot open")
    assert "datapath.bpf.o" in shown and "trying again in" in shown
    time.sleep(3)
    assert "10.1.1.9/24" in lab.ns.ip("addr show dev br0")
    shutil.copy(TOP / "build" / "bpf" / "datapath.bpf.o", directory)
    lab.until(lambda: lab.appctl("dpif-bpf/show", target=PROVIDER)
              .startswith("ovs-bpf: generation 2"))
    assert stream.lost() == 0
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    one.ping(three.ip)
    two.ping(switch.ip)
    lab.tcp(three, two)


def test_operator_gives_a_datapath_up(own_lab: Lab) -> None:
    lab = own_lab
    lab.allowed += ["ovs-vswitchd", "cannot take over datapath"]
    two_hosts(lab)
    lab.kill(SWITCH)
    lab.kill(PROVIDER)
    lab.start_provider(f"--bpf-dir={without_object(lab)}")
    assert pinned(lab)
    lab.appctl("dpif-bpf/discard", "ovs-bpf", target=PROVIDER)
    assert not pinned(lab)
    left = lab.ns.ip("-o link show")
    assert "ovs" not in left and "br0" not in left
    assert not lab.appctl("dpif-bpf/show", target=PROVIDER)


def test_second_provider(own_lab: Lab) -> None:
    """It ends before it touches anything, wherever it would pin."""
    lab = own_lab
    one, two = two_hosts(lab)
    settle(lab, one, two)
    stream = Stream(lab, one, two, 1000)
    before = lab.ns.ip("-o link show"), pinned(lab)
    for options, text in (
            ([], "another ovs-bpfd serves this network namespace"),
            (["--pin-dir=/sys/fs/bpf/other"], "another ovs-bpfd")):
        done = subprocess.run(
            lab.ns.command([sys.executable, "-m", "dpif_bpf", *options,
                            f"--socket={lab.rundir}/other.sock"]),
            env={**os.environ, "OVS_RUNDIR": str(lab.rundir),
                 "PYTHONPATH": str(TOP)},
            cwd="/", capture_output=True, text=True, check=False,
            timeout=60)
        assert done.returncode == 1 and text in done.stderr
        assert "Traceback" not in done.stderr
    assert (lab.ns.ip("-o link show"), pinned(lab)) == before
    assert stream.lost() == 0
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    one.ping(three.ip)


def pinned(lab: Lab) -> list[str]:
    return lab.ns.run("find", "/sys/fs/bpf", "-mindepth", "2").split()


def test_changes_while_the_provider_is_away(own_lab: Lab) -> None:
    """Devices that vanished or were renamed meanwhile do not prevent it."""
    lab = own_lab
    lab.allowed += ["p2", "p3"]
    one, _two = two_hosts(lab)
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    four = lab.add_host("p4", "br0", "10.1.1.4/24")
    one.ping(three.ip)
    lab.kill(PROVIDER)
    lab.ns.ip("link del p2")
    lab.ns.rename("p3", "p3b")
    lab.start_provider()
    one.ping(four.ip)
    lab.vsctl("del-port", "p2", "--", "del-port", "p3", "--", "add-port",
              "br0", "p3b")
    one.ping(three.ip)


def test_switch_waits_for_the_provider(stopped_lab: Lab) -> None:
    lab = stopped_lab
    lab.allowed.append(ABSENT)
    lab.allowed.append("br0|p1|p2")
    lab.start_server()
    lab.vsctl("--no-wait", "add-br", "br0", "--", "set", "bridge", "br0",
              "datapath_type=bpf")
    lab.start_switch(ready=False)
    time.sleep(2)
    assert lab.processes[SWITCH].poll() is None
    lab.start_provider()
    lab.until(lambda: "br0" in lab.ns.ip("link show"))
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    two = lab.add_host("p2", "br0", "10.1.1.2/24")
    one.ping(two.ip)


def test_switch_restarts(own_lab: Lab) -> None:
    lab = own_lab
    one, two = two_hosts(lab)
    lab.kill(SWITCH)
    one.ping(two.ip)
    lab.start_switch()
    one.ping(two.ip)
    lab.kill(SWITCH, signal.SIGTERM)
    lab.start_switch()
    one.ping(two.ip)


def test_version_is_in_the_database(lab: Lab) -> None:
    shown = lab.vsctl("get", "Open_vSwitch", ".",
                      r"external_ids:ovs-bpfd\:version")
    assert shown.strip('"') == dpif_bpf.__version__


def test_database_restarts(own_lab: Lab) -> None:
    lab = own_lab
    lab.allowed.append("db.sock|reconnect|database|unix:")
    one, two = two_hosts(lab)
    lab.kill(SERVER)
    (lab.rundir / "db.sock").unlink(missing_ok=True)
    one.ping(two.ip)
    lab.start_server()
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    one.ping(three.ip)


def test_exit_leaves_the_network(own_lab: Lab) -> None:
    """ovs-appctl exit ends the provider; what is installed goes on."""
    lab = own_lab
    one, two = two_hosts(lab)
    lab.appctl("exit", target=PROVIDER)
    assert lab.processes.pop(PROVIDER).wait(20) == 0
    one.ping(two.ip)
    lab.start_provider()
    one.ping(two.ip)
