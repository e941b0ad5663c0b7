# SPDX-License-Identifier: Apache-2.0
"""The plugin in a real ovs-vswitchd."""

from __future__ import annotations

import ast
import shutil
import subprocess
import time

import pytest
from lab import SWITCH, Lab

AWAY = r"ovs-bpf|b0|Connection refused"
"""What is said of bridges that wait for the provider."""


def statistics(lab: Lab, interface: str) -> dict[str, int]:
    """Of the database, after the next round of updates (5 s)."""
    time.sleep(6)
    text = lab.vsctl("get", "interface", interface, "statistics")
    pairs = (pair.split("=") for pair in text.strip("{}").split(", "))
    return {name: int(value) for name, value in pairs}


def test_without_a_provider(stopped_lab: Lab) -> None:
    """The type is known, and everything else works."""
    lab = stopped_lab
    lab.start_server()
    start = time.monotonic()
    lab.start_switch()
    assert time.monotonic() - start < 5
    types = lab.vsctl("get", "Open_vSwitch", ".", "datapath_types")
    assert set(types.strip("[]").split(", ")) == {"bpf", "netdev", "system"}
    assert not lab.complaints()
    said = [line for line in lab.text(f"{SWITCH}.out").splitlines()
            if "|vlog|" not in line and "etc/hosts" not in line]
    assert not said

    lab.add_bridge("n0", "netdev")
    one = lab.add_host("q1", "n0", "10.2.0.1/24")
    two = lab.add_host("q2", "n0", "10.2.0.2/24")
    one.ping(two.ip)

    lab.allowed.append(AWAY)
    lab.tool("ovs-vsctl", "--timeout=5", "add-br", "b0", "--", "set",
             "bridge", "b0", "datapath_type=bpf", check=False)
    lab.until(lambda: "failed to create bridge b0"
              in lab.text(f"{SWITCH}.log"))
    assert lab.text(f"{SWITCH}.log").count(
        f"ovs-bpfd does not answer at {lab.rundir}/ovs-bpfd.sock"
        " (Connection refused)") == 1
    # Nobody waits for the provider now.
    start = time.monotonic()
    lab.vsctl("set", "bridge", "n0", "external_ids:a=b")
    assert time.monotonic() - start < 3
    one.ping(two.ip)
    pid = lab.processes[SWITCH].pid
    before = cpu(pid)
    time.sleep(2)
    assert cpu(pid) - before < 100, "ticks of 10 ms: it does not spin"


def cpu(pid: int) -> int:
    """Ticks of processor time that a process has used."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_bridge_waits_for_the_provider(stopped_lab: Lab) -> None:
    """Without a change of the database, it is made when one comes."""
    lab = stopped_lab
    lab.allowed.append(AWAY)
    lab.start_server()
    lab.start_switch()
    lab.tool("ovs-vsctl", "--no-wait", "add-br", "b0", "--", "set", "bridge",
             "b0", "datapath_type=bpf")
    lab.until(lambda: "failed to create bridge b0"
              in lab.text(f"{SWITCH}.log"))
    lab.start_provider()
    lab.until(lambda: "b0" in lab.appctl("dpif/show"), 60)
    assert "bpf@ovs-bpf" in lab.appctl("dpif/show")


def test_types_side_by_side(lab: Lab) -> None:
    lab.add_bridge("b0")
    lab.add_bridge("n0", "netdev")
    hosts = [lab.add_host(port, bridge, ip) for port, bridge, ip in (
        ("p1", "b0", "10.1.0.1/24"), ("p2", "b0", "10.1.0.2/24"),
        ("q1", "n0", "10.2.0.1/24"), ("q2", "n0", "10.2.0.2/24"))]
    hosts[0].ping(hosts[1].ip)
    hosts[2].ping(hosts[3].ip)
    shown = lab.appctl("dpif/show")
    assert "bpf@ovs-bpf" in shown and "netdev@ovs-netdev" in shown
    names = lab.dpctl("dump-dps").split()
    assert "bpf@ovs-bpf" in names


def test_statistics_of_interfaces(lab: Lab) -> None:
    """As the kernel datapath counts: what the device received and sent,
    also that of an internal port."""
    lab.add_bridge("b0")
    one = lab.add_host("p1", "b0", "10.1.0.1/24")
    local = lab.address("b0", "10.1.0.254/24")
    one.ping(local.ip)
    before = {name: statistics(lab, name) for name in ("b0", "p1")}
    sink = lab.spawn(one, "udp-count", one.ip, "5003")
    source = lab.spawn(local, "udp-send", one.ip, "5003", "200", "1")
    sent = int(source.communicate(timeout=30)[0])
    sink.terminate()
    sink.communicate(timeout=10)
    after = {name: statistics(lab, name) for name in ("b0", "p1")}
    grown = {name: {field: after[name][field] - before[name][field]
                    for field in ("rx_packets", "tx_packets")}
             for name in after}
    for name in ("b0", "p1"):
        assert (grown[name]["tx_packets"] >= sent
                > grown[name]["rx_packets"])


def test_conntrack_goes_to_the_provider(lab: Lab) -> None:
    """Not to the kernel's."""
    lab.add_bridge("b0")
    lab.appctl("dpctl/ct-set-limits", "bpf@ovs-bpf", "zone=5,limit=7")
    assert lab.appctl("dpctl/dump-conntrack", "bpf@ovs-bpf") == ""
    assert "zone=5,limit=7,count=0" in lab.appctl(
        "dpctl/ct-get-limits", "bpf@ovs-bpf")


def test_version_and_dispatch(lab: Lab) -> None:
    lab.add_bridge("b0")
    assert "ovs-bpf: per-cpu dispatch mode" in lab.appctl(
        "dpif-bpf/dispatch-mode")
    version = lab.vsctl("get", "bridge", "b0", "datapath_version")
    assert ast.literal_eval(version).startswith("dpif-bpf ")


SPY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void if_notifier_manual_report(void);
void if_notifier_manual_report(void)
{
    void (*next)(void) = dlsym(RTLD_NEXT, "if_notifier_manual_report");
    FILE *file = fopen(getenv("SPY"), "a");

    fprintf(file, "%s\n", gettid() == getpid() ? "main" : "other");
    fclose(file);
    next();
}
"""


def test_main_thread_hears_of_the_provider(
        stopped_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """OVS's notifier is not called in the transport's thread."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, for a library that looks on")
    lab = stopped_lab
    lab.allowed.append(AWAY)
    spy, said = lab.rundir / "spy.so", lab.rundir / "said"
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-o", str(spy),
                    "-", "-ldl"], input=SPY, text=True, check=True)
    monkeypatch.setattr(type(lab.build), "plugin",
                        f"{spy}:{lab.build.plugin}")
    lab._env["SPY"] = str(said)
    lab.start_server()
    lab.vsctl("--no-wait", "add-br", "b0", "--", "set", "bridge", "b0",
              "datapath_type=bpf")
    lab.start_switch(ready=False)
    lab.until(lambda: "failed to create bridge b0"
              in lab.text(f"{SWITCH}.log"))
    lab.start_provider()
    lab.until(lambda: "b0" in lab.ns.ip("link show"))
    assert set(said.read_text().split()) == {"main"}
