# SPDX-License-Identifier: Apache-2.0
"""A switch and hosts, each in namespaces of their own.

The switch's network namespace holds ovsdb-server, ovs-bpfd and ovs-vswitchd
with the plugin, their run directory is a temporary one and its BPF file
system is private, so that labs do not meet.

``OVS_LAB_PATIENCE`` multiplies all time limits, for emulated machines.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ovs.flow.odp
from netns import WITH_US, Namespace
from ovs_build import TOP, OvsBuild

PATIENCE = float(os.environ.get("OVS_LAB_PATIENCE", "1"))
PROVIDER = "ovs-bpfd"
SWITCH = "ovs-vswitchd"
SERVER = "ovsdb-server"

KEPT_BRIDGE = "kept"
"""Exists as long as a lab that tests share, and the datapath with it."""

_TROUBLE = re.compile(r"\|\s*(WARN|ERR|EMER)\s*\|")
_NO_TROUBLE = re.compile(
    # A machine that is busy with other things.
    r"timeval.*(Unreasonably long|faults:|disk:|context switches:)"
    r"|ovs_rcu.*waiting for .* to quiesce"
    # ovs-appctl and others that end without reading their last reply.
    r"|ovsdb-server.*(reset by peer|Broken pipe)"
    # No kernel module here: type "system" is not what is tested.
    r"|Generic Netlink family 'ovs_\w+' does not exist"
    r"|Dropped \d+ log messages"
    r"|fatal_signal.*terminating with signal 15")


@dataclass(slots=True)
class Host:
    """A host on a port of a bridge.

    :param port: name of the switch's port
    :param ip: its address
    """

    ns: Namespace
    port: str
    ip: str
    device: str = "eth0"

    @property
    def mac(self) -> str:
        words = self.ns.ip(f"link show dev {self.device}").split()
        return words[words.index("link/ether") + 1]

    def knows(self, ip: str, mac: str) -> None:
        """From now on it asks nobody for that neighbour's address."""
        self.ns.ip(f"neigh replace {ip} lladdr {mac} dev {self.device}"
                   " nud permanent")

    def ping(self, to: str, count: int = 3) -> None:
        """All of `count` pings are answered."""
        output = self.ns.run("ping", "-n", "-q", "-c", str(count), "-i",
                             "0.1", "-W", str(2 * PATIENCE), to, check=False)
        assert f" {count} received" in output, output

    def no_ping(self, to: str) -> None:
        output = self.ns.run("ping", "-n", "-q", "-c", "2", "-i", "0.1",
                             "-W", "0.5", to, check=False)
        assert " 0 received" in output, output


class Lab:
    """A running switch.

    :param rundir: for sockets, logs and the database; short, as the names
        of sockets are limited to 107 bytes
    """

    def __init__(self, build: OvsBuild, rundir: Path) -> None:
        self.build = build
        self.rundir = rundir
        self.ns = Namespace(bpffs=True)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.allowed: list[str] = []
        """Regular expressions of warnings that a test provokes."""
        self.program = ["-m", "dpif_bpf"]
        """The provider, to Python."""
        self._hosts: list[Namespace] = []
        self._reported: set[str] = set()
        self._env = {
            **os.environ, "OVS_RUNDIR": str(rundir),
            "OVS_LOGDIR": str(rundir), "OVS_DBDIR": str(rundir),
            "OVS_SYSCONFDIR": str(rundir),
            "DPIF_BPF_WAIT_MS": f"{1000 * PATIENCE:.0f}",
            "DPIF_BPF_REPLY_MS": f"{1000 * PATIENCE:.0f}"}

    # The daemons.

    def start(self) -> None:
        self.start_server()
        self.start_provider()
        self.start_switch()

    def start_server(self) -> None:
        conf = self.rundir / "conf.db"
        if not conf.exists():
            self.tool("ovsdb-tool", "create", str(conf), self.build.schema)
        self._spawn(SERVER, [
            self.build.binary("ovsdb-server"), str(conf),
            f"--remote=punix:{self.rundir}/db.sock", "--pidfile",
            "--log-file", "-vconsole:off"], self.build.environment)
        self.until(lambda: (self.rundir / "db.sock").exists())
        self.tool("ovs-vsctl", "--no-wait", "init")

    def start_provider(self, *options: str, ready: bool = True) -> None:
        """
        :param ready: whether to wait until it serves
        """
        (self.rundir / "ovs-bpfd.pid").unlink(missing_ok=True)
        self._spawn(PROVIDER, [
            sys.executable, "-P", *self.program, "--pidfile", "--log-file",
            "-vconsole:off", *options], {"PYTHONPATH": str(TOP)})
        if not ready:
            return
        self.until(lambda: (self.rundir / "ovs-bpfd.pid").exists()
                   and self._is_served())

    def start_switch(self, *options: str, ready: bool = True) -> None:
        """
        :param ready: whether to wait until the configuration is acted upon
        """
        self._spawn(SWITCH, [
            "env", f"LD_PRELOAD={self.build.plugin}",
            self.build.binary("ovs-vswitchd"),
            f"unix:{self.rundir}/db.sock", "--pidfile", "--log-file",
            "-vconsole:off", *options], self.build.environment)
        self.until(lambda: (self.rundir / "ovs-vswitchd.pid").exists())
        if ready:
            # Only a change is waited for.
            self.vsctl("set", "Open_vSwitch", ".",
                       f"external_ids:lab={time.monotonic()}")

    def _spawn(self, name: str, argv: list[str],
               env: dict[str, str]) -> None:
        with open(self.rundir / f"{name}.out", "ab") as output:
            self.processes[name] = subprocess.Popen(
                [*WITH_US, *self.ns.command(argv)], cwd="/",
                env={**self._env, **env},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def _is_served(self) -> bool:
        try:
            self.appctl("version", target=PROVIDER)
        except AssertionError:
            return False
        return True

    def kill(self, name: str, how: int = signal.SIGKILL) -> None:
        """Ends a daemon, which is not started again."""
        process = self.processes.pop(name)
        process.send_signal(how)
        process.wait(20 * PATIENCE)

    def stop(self) -> None:
        """Ends everything.

        :raises AssertionError: when a daemon had ended by itself, does not
            end now, or a log has a warning that was not allowed
        """
        trouble = []
        for name in (SWITCH, PROVIDER, SERVER):
            process = self.processes.pop(name, None)
            if process is None:
                continue
            if process.poll() is not None:
                trouble.append(f"{name} ended with {process.returncode}: "
                               + self.text(f"{name}.out")[-2000:])
                continue
            process.terminate()
            try:
                process.wait(20 * PATIENCE)
            except subprocess.TimeoutExpired:
                trouble.append(f"{name} did not end")
                process.kill()
                process.wait()
        trouble += self.complaints()
        for ns in [*self._hosts, self.ns]:
            ns.close()
        assert not trouble, "\n".join(trouble)

    def clean(self) -> None:
        """Takes away what a test made, for the next one.

        :raises AssertionError: as stop()
        """
        for ns in self._hosts:
            # What hosts still send would come from ports that have gone.
            ns.run("ip", "link", "set", "eth0", "down", check=False)
        for bridge in self.vsctl("list-br").split():
            if bridge != KEPT_BRIDGE:
                self.vsctl("del-br", bridge)
        for ns in self._hosts:
            ns.close()
        self._hosts.clear()
        for name in self._strangers():
            # It may have gone with its peer, or a host's namespace.
            self.ns.run("ip", "link", "del", name, check=False)
        assert not self._strangers()
        trouble = self.complaints()
        self.allowed.clear()
        assert not trouble, "\n".join(trouble)

    def _strangers(self) -> list[str]:
        """Devices that are not the datapath's own, nor those that the
        kernel's tunnels have in each namespace."""
        ours = ("lo", "ovs-", "ovsh0p", "ovsx", KEPT_BRIDGE, "gre0",
                "gretap0", "erspan0", "ip6gre0", "ip6tnl0", "sit0", "tunl0")
        names = [line.split()[1].split("@")[0].rstrip(":")
                 for line in self.ns.ip("-o link show").splitlines()]
        return [name for name in names if not name.startswith(ours)]

    @property
    def alive(self) -> bool:
        """Whether all daemons run."""
        return len(self.processes) == 3 and all(
            process.poll() is None for process in self.processes.values())

    def complaints(self) -> list[str]:
        """New lines of logs that say that something is wrong."""
        allowed = [re.compile(pattern) for pattern in self.allowed]
        lines = [f"{name}: {line}" for name in (SERVER, PROVIDER, SWITCH)
                 for line in self.text(f"{name}.log").splitlines()
                 if _TROUBLE.search(line)]
        found = [line for line in lines if line not in self._reported
                 and not _NO_TROUBLE.search(line)
                 and not any(one.search(line) for one in allowed)]
        self._reported.update(lines)
        return found

    def text(self, name: str) -> str:
        path = self.rundir / name
        return path.read_text() if path.exists() else ""

    # Tools.

    def tool(self, program: str, *args: str, plugin: bool = False,
             check: bool = True) -> str:
        """Runs a program of OVS in the switch's namespace."""
        argv = [self.build.binary(program), *args]
        if plugin:
            argv = ["env", f"LD_PRELOAD={self.build.plugin}", *argv]
        done = subprocess.run(
            self.ns.command(argv), check=False, timeout=60 * PATIENCE,
            env={**self._env, **self.build.environment},
            capture_output=True, text=True)
        assert not check or not done.returncode, (
            f"{program} {' '.join(args)}: exit {done.returncode}\n"
            f"{done.stdout}{done.stderr}")
        return done.stdout

    def vsctl(self, *args: str) -> str:
        return self.tool("ovs-vsctl", f"--timeout={30 * PATIENCE:.0f}",
                         *args).strip()

    def ofctl(self, *args: str) -> str:
        return self.tool("ovs-ofctl", *args)

    def appctl(self, *args: str, target: str = SWITCH) -> str:
        return self.tool("ovs-appctl", "-t", target, *args)

    def flush(self) -> None:
        """Deletes the datapath's flows.

        OVS 3.1's revalidator/purge does that too, but races with its
        revalidators and aborts when flows are added at the same time.
        """
        self.appctl("upcall/enable-megaflows")

    def dpctl(self, *args: str) -> str:
        return self.tool("ovs-dpctl", *args, plugin=True)

    def flows(self) -> list[ovs.flow.odp.ODPFlow]:
        """The installed flows, as ``ovs-dpctl dump-flows -m`` shows them,
        read by OVS's own parser."""
        return [ovs.flow.odp.ODPFlow(line) for line in self.dpctl(
            "dump-flows", "-m").splitlines() if line.strip()]

    def packets(self, in_port: str) -> int:
        """Packets of the installed IPv4 flows from a port."""
        return sum(int(flow.info["packets"]) for flow in self.flows()
                   if str(flow.match["in_port"]) == in_port
                   and flow.match.get("eth_type") == 0x0800)

    def lookups(self) -> tuple[int, int, int]:
        """Hits, misses and losses of the datapath."""
        hit, missed, lost = re.findall(
            r"\d+", self.dpctl("show").partition("lookups:")[2])[:3]
        return int(hit), int(missed), int(lost)

    # The network.

    def add_bridge(self, name: str, datapath_type: str = "bpf") -> None:
        self.vsctl("add-br", name, "--", "set", "bridge", name,
                   f"datapath_type={datapath_type}")

    def add_host(self, port: str, bridge: str, ip: str,
                 *settings: str) -> Host:
        """A host with a device eth0 whose other end is a port.

        :param ip: its address with the prefix length
        :param settings: more of the port's row: "tag=7"
        """
        ns = self.add_namespace()
        self.plug(port, ns, ip)
        more = ["--", "set", "port", port, *settings] if settings else []
        self.vsctl("add-port", bridge, port, *more)
        return Host(ns, port, ip.split("/")[0])

    def plug(self, port: str, ns: Namespace, ip: str) -> None:
        """Puts a veth pair between a port and eth0 of a host.  The address
        of eth0 goes with `ip`, so that neighbours need not forget it."""
        number = zlib.crc32(ip.encode())
        self.ns.ip(
            f"link add {port} type veth peer name eth0"
            f" address 02:00:{number.to_bytes(4, 'big').hex(':')}"
            f" netns {ns.pid}")
        self.ns.ip(f"link set {port} up")
        if ":" not in ip:
            ns.no_ipv6("eth0")
        ns.ip("link set eth0 up")
        ns.ip(f"addr add {ip} dev eth0" + (" nodad" if ":" in ip else ""))
        self.ns.wait_up(port)
        ns.wait_up("eth0")

    def add_namespace(self) -> Namespace:
        ns = Namespace()
        self._hosts.append(ns)
        return ns

    def address(self, device: str, ip: str) -> Host:
        """The switch itself as a host, on an internal port."""
        if ":" not in ip:
            self.ns.no_ipv6(device)
        self.ns.ip(f"link set {device} up")
        self.ns.ip(f"addr add {ip} dev {device}"
                   + (" nodad" if ":" in ip else ""))
        self.ns.wait_up(device)
        return Host(self.ns, device, ip.split("/")[0], device)

    # Traffic.

    def spawn(self, host: Host, *args: str) -> subprocess.Popen[str]:
        """Starts a part of traffic.py; one that lasts is ready then."""
        process = subprocess.Popen(
            [*WITH_US, *host.ns.command([
                sys.executable, str(Path(__file__).with_name("traffic.py")),
                *args])], stdout=subprocess.PIPE, text=True)
        if args[0] in ("tcp-sink", "udp-echo", "udp-count", "udp-gaps",
                       "udp-send", "udp-flood", "spray"):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        return process

    def tcp(self, source: Host, sink: Host, size: int = 1 << 20) -> float:
        """Bytes arrive as they were sent; returns Mbit/s."""
        server = self.spawn(sink, "tcp-sink", sink.ip, "5001")
        start = time.monotonic()
        client = self.spawn(source, "tcp-source", sink.ip, "5001", str(size))
        try:
            sent, _ = client.communicate(timeout=60 * PATIENCE)
            got, _ = server.communicate(timeout=20 * PATIENCE)
        finally:
            client.kill()
            server.kill()
        assert sent and got == sent
        return size * 8e-6 / (time.monotonic() - start)

    def udp(self, client: Host, server: Host, count: int = 20,
            size: int = 512) -> None:
        """Every datagram is echoed."""
        echo = self.spawn(server, "udp-echo", server.ip, "5002")
        try:
            asking = self.spawn(client, "udp-ask", server.ip, "5002",
                                str(count), str(size))
            got, _ = asking.communicate(timeout=60 * PATIENCE)
        finally:
            echo.kill()
            echo.wait()
        assert int(got) == count

    def until(self, done: Callable[[], bool], seconds: float = 20) -> None:
        """Waits until `done`, as long as the daemons run."""
        end = time.monotonic() + seconds * PATIENCE
        while not done():
            for name, process in self.processes.items():
                assert process.poll() is None, (
                    f"{name} ended with {process.returncode}: "
                    + self.text(f"{name}.out")[-3000:])
            assert time.monotonic() < end, (
                "waited for long\n" + self.text(f"{PROVIDER}.log")[-2000:]
                + self.text(f"{SWITCH}.log")[-2000:])
            time.sleep(0.05)
