# SPDX-License-Identifier: Apache-2.0
"""ovs-bpfd: the provider of the datapath type "bpf".

Wires the parts together: one thread, one poll loop.  Each edge has run(),
wait(poller) and close(); a turn of the loop runs all of them, each for a
bounded amount of work, and then waits for whichever is first.

What a part did not expect ends at its boundary.  Where the state of a
datapath may be half changed by then, the provider ends with RESTART, for
which ovs.daemon's --monitor and other supervisors start it again; the next
one takes over what is pinned, which is whole.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import mmap
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import netaddr
import ovs.daemon
import ovs.dirs
import ovs.util
import ovs.vlog

from dpif_bpf import __version__
from dpif_bpf.boundary import Boundary
from dpif_bpf.core.classifier.show import show
from dpif_bpf.core.classifier.sizes import MAX_FLOWS
from dpif_bpf.core.conntrack.memory import (
    DEFAULT_CONNECTIONS,
    MAX_CONNECTIONS,
)
from dpif_bpf.core.conntrack.show import show as show_conntrack
from dpif_bpf.core.devices import LinkEvent
from dpif_bpf.core.machine import check_machine
from dpif_bpf.core.services.families import make_router
from dpif_bpf.core.services.ovs_vport import port_event
from dpif_bpf.edge.ctl import Ctl, no_such
from dpif_bpf.edge.db import Database
from dpif_bpf.edge.loader import Files, Loader
from dpif_bpf.edge.pins import PIN_ROOT
from dpif_bpf.edge.poller import Poller
from dpif_bpf.edge.ports import Ports
from dpif_bpf.edge.server import Client, Server
from dpif_bpf.edge.sole import Sole
from dpif_bpf.edge.sysinfo import look
from dpif_bpf.errors import DpifError
from dpif_bpf.limited import Limited, msec
from dpif_bpf.loop import Loop, Part
from dpif_bpf.provider import Instance, Provider

vlog = ovs.vlog.Vlog("ovs-bpfd")

DEFAULT_MAX_FLOWS = 200000
"""OVS's default flow-limit."""
GC_THRESHOLD = (2000, 3)
"""New objects after which the collector looks them over for cycles, and how
often it does until it looks at all of these once more: some ms."""
LOG_TIMES = {"console": "%D{%Y-%m-%dT%H:%M:%SZ}",
             "file": "%D{%Y-%m-%dT%H:%M:%S.###Z}"}
LOG_PATTERN = "|%0N|%0c%0T|%0p|%0m"
"""As OVS's daemons write them: ovs.vlog puts spaces around a field whose
width does not begin with a zero."""
DATABASE_WAIT = 500
"""ms that the database has to answer before pinned datapaths are taken over
without it: their ports are then in no bridge until it does."""


UMASK = 0o027
"""Of the log file, which OVS's daemons make with mode 0640, of the pidfile,
the pins and the control socket, to which its owner alone can connect then."""
RESTART: int = ovs.daemon.RESTART_EXIT_CODE
"""The exit status on which ovs.daemon's monitor starts a daemon again."""


class Daemon:
    """All edges, and the turn of the loop."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._exiting = False
        self._sole = Sole()  # before anything is touched
        self._status = 0
        self._poller = Poller()
        self._poller.wake_on_signals()
        self._warn = Limited(vlog.warn)
        self._request = Boundary("request", self._doubt)
        self._link = Boundary("link", self._doubt)
        self._bridge = Boundary("bridge", self._doubt)
        self._database = Boundary("database")
        self._loader = Loader(Path(args.pin_dir), Files(
            obj=Path(args.bpf_dir) / "datapath.bpf.o",
            headers=Path(args.bpf_dir).parent / "shim"))
        self._ports = Ports()
        self._db = Database(args.db)
        self._db.set_status({"version": __version__})
        self._db_seqno = self._db.seqno
        self._ctl = Ctl(args.unixctl, __version__)
        self.provider = Provider(self._loader, self._ports, args.max_flows,
                                 self._upcall, self._multicast,
                                 args.ct_max)
        self.router = make_router(self.provider, msec, vlog.exception)
        self._loader.template()
        self._take_over()
        self._server = Server(args.socket, self)
        self._loop = Loop((
            Part(self._request, self._run_server, self._server.wait),
            Part(Boundary("datapath", self._doubt), self.provider.run,
                 self.provider.wait),
            Part(self._link, self._run_ports, self._ports.wait),
            Part(self._database, self._run_database, self._db.wait),
            Part(Boundary("control"), self._ctl.run, self._ctl.wait)))
        self._register()

    # What the server calls

    def message(self, client: Client, data: bytes) -> Iterator[bytes]:
        """A datagram of a peer → its replies."""
        return self.router.serve(data, client.protocol)

    def closed(self, client: Client) -> None:
        """A peer has gone; nothing was kept for it."""

    def failed(self, client: Client) -> None:
        """A request failed in a way that was not expected."""
        self._request.failed()

    def _upcall(self, pid: int, message: bytes) -> bool | None:
        return self._server.upcall(pid, message)

    def _multicast(self, group: int, message: bytes) -> None:
        self._server.multicast(group, message)

    # The loop

    def run(self) -> int:
        """Until told to exit; the exit status."""
        while not self._exiting:
            self.turn()
        self.close()
        return self._status

    def turn(self) -> None:
        """One turn: all that is there to do, then a wait for more."""
        self._loop.run()
        if self._exiting:
            return
        self._loop.wait(self._poller)
        self._poller.block()

    def _doubt(self, what: str) -> None:
        """The state may be half changed; ends after this turn."""
        if not self._exiting:
            vlog.err(f"restarting: a {what} may be half done")
        self._exiting = True
        self._status = RESTART

    def _run_server(self) -> None:
        self._server.run()
        if self.router.broken is not None:
            self._doubt("request")

    def _run_ports(self) -> None:
        for event in self._ports.run():
            self._link.attempt(self._link_event, event)

    def _link_event(self, event: LinkEvent) -> None:
        try:
            for dp, port, gone in self.provider.link_events([event]):
                port_event(self.provider, dp, port, gone)
        except DpifError as error:
            self._warn(f"cannot follow {event.link.name}: {error}")

    def _run_database(self) -> None:
        self._db.run()
        if self._db.seqno != self._db_seqno:
            self._db_seqno = self._db.seqno
            self._bridge.attempt(self.provider.set_bridges,
                                 self._db.bridges())

    def close(self) -> None:
        """Ends; what is pinned goes on forwarding."""
        for edge in (self._server, self._ctl, self._db, self.provider,
                     self._ports, self._loader, self._poller, self._sole):
            try:
                edge.close()
            except Exception:
                vlog.exception("while ending")
                self._status = self._status or 1

    # Start

    def _take_over(self) -> None:
        """Datapaths of earlier providers, in the bridges that the database
        has: it is given a moment to answer, and not waited for longer."""
        end = msec() + DATABASE_WAIT
        self._database.run(self._db.run)
        while not self._db.synced and msec() < end:
            self._database.wait(self._poller, self._db.wait)
            self._poller.timer_wait(end - msec())
            self._poller.block()
            self._database.run(self._db.run)
        self._db_seqno = self._db.seqno
        self.provider.set_bridges(self._db.bridges())
        self.provider.take_over()

    # Commands

    def _register(self) -> None:
        register = self._ctl.register
        register("exit", "", 0, 0, self._exit)
        register("coverage/show", "", 0, 0, self._coverage)
        register("memory/show", "", 0, 0, self._memory)
        register("dpif-bpf/show", "", 0, 0, self._show)
        register("dpif-bpf/discard", "DP", 1, 1, self._discard)
        register("dpif-bpf/drops", "[DP]", 0, 1, self._drops)
        register("dpif-bpf/classifier-show", "[DP]", 0, 1, self._classifier)
        register("dpif-bpf/ct-show", "", 0, 0, self._conntrack)
        register("dpif-bpf/loop-show", "", 0, 0,
                 lambda _argv: self._loop.show())

    def _exit(self, _argv: list[str]) -> str:
        self._exiting = True
        return ""

    def _coverage(self, _argv: list[str]) -> str:
        counts = dict(self.router.counters)
        counts.update(self._server.counters())
        counts.update(self.provider.counters())
        counts.update(
            (f"{boundary.name}_failed", boundary.failures)
            for boundary in (*(part.boundary for part in self._loop.parts),
                             self._bridge))
        counts["control_failed"] += self._ctl.failures
        counts["loop_turn"] = self._loop.turns
        counts["loop_long_turn"] = self._loop.long
        for instance in self.provider.instances():
            for name, count in instance.counters().items():
                counts[name] = counts.get(name, 0) + count
        return "\n".join(f"{name:<28} total: {count}"
                         for name, count in sorted(counts.items()))

    def _memory(self, _argv: list[str]) -> str:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        parts = [f"peak-resident:{peak}kB",
                 f"clients:{len(self._server.clients())}"]
        for instance in self.provider.instances():
            dp = instance.dp
            parts += [f"{dp.name}-ports:{len(dp.vports.by_no)}",
                      f"{dp.name}-flows:{len(dp.flows)}",
                      f"{dp.name}-programs:{len(dp.programs)}"]
        return " ".join(parts)

    def _show(self, _argv: list[str]) -> str:
        lines = []
        for instance in self.provider.instances():
            dp = instance.dp
            lines.append(f"{dp.name}: generation"
                         f" {instance.plane.gen.number}")
            if instance.anew:
                lines.append("  begun anew, as they had another layout: "
                             + ", ".join(instance.anew))
            names = dp.bridges.names()
            for port in sorted(dp.vports.by_no.values(),
                               key=lambda port: port.port_no):
                link = port.link
                lines.append(
                    f"  port {port.port_no}: {port.name} ifindex"
                    f" {link.hook_ifindex} mtu {link.mtu} mac"
                    f" {_mac(link.address)} bridge"
                    f" {names.get(port.bridge, '-')}")
        now = msec()
        lines += [f"{left.name}: not taken over: {left.reason}; trying again"
                  f" in {max(0, left.again - now) / 1000:.0f} s"
                  for left in self.provider.left()]
        return "\n".join(lines)

    def _discard(self, argv: list[str]) -> str:
        """What cannot be taken over is given up, packets and all."""
        if not self.provider.discard(argv[0]):
            raise no_such("datapath that is not taken over", argv[0])
        return ""

    def _chosen(self, argv: list[str]) -> list[Instance]:
        """The datapath that is named, or all."""
        chosen = [instance for instance in self.provider.instances()
                  if not argv or instance.dp.name == argv[0]]
        if argv and not chosen:
            raise no_such("datapath", argv[0])
        return chosen

    def _drops(self, argv: list[str]) -> str:
        return "\n".join(
            f"{instance.dp.name} {names.get(bridge, '-')}"
            f" {reason.name.lower()}: {count}"
            for instance in self._chosen(argv)
            for names in (instance.dp.bridges.names(),)
            for bridge, drops in instance.drops().items()
            for reason, count in drops.items())

    def _classifier(self, argv: list[str]) -> Iterator[str]:
        for instance in self._chosen(argv):
            dp = instance.dp
            if dp not in self.provider.datapaths():
                continue  # it has gone meanwhile
            yield f"{dp.name}:"
            counters, names = dp.counters(), dp.bridges.names()
            steps = instance.plane.steps()
            stats = yield from instance.plane.classifier.survey()
            yield from show(stats, counters, names, steps)

    def _conntrack(self, _argv: list[str]) -> Iterator[str]:
        conntrack = self.provider.conntrack()
        return iter(()) if conntrack is None else show_conntrack(conntrack)


def _mac(address: bytes) -> str:
    if len(address) != 6:
        return "-"
    return str(netaddr.EUI(int.from_bytes(address, "big"), 48,
                           netaddr.mac_unix_expanded))


def parse_args(argv: list[str]) -> argparse.Namespace:
    """The command line; ovs.daemon and ovs.vlog have options of their own."""
    parser = argparse.ArgumentParser(
        prog="ovs-bpfd", description="Open vSwitch BPF datapath provider")
    build = Path(__file__).resolve().parents[1] / "build" / "bpf"
    parser.add_argument("--db", default=None, metavar="REMOTE",
                        help="OVSDB (default: unix:RUNDIR/db.sock)")
    parser.add_argument("--socket", default=None, metavar="PATH",
                        help="where OVS connects"
                        " (default: RUNDIR/ovs-bpfd.sock)")
    parser.add_argument("--unixctl", default=None, metavar="PATH",
                        help="control socket")
    parser.add_argument("--max-flows", type=int, default=DEFAULT_MAX_FLOWS,
                        help="flows that a datapath has room for"
                        f" (default: {DEFAULT_MAX_FLOWS})")
    parser.add_argument("--ct-max", type=int, default=DEFAULT_CONNECTIONS,
                        help="connections that a datapath has room for"
                        f" (default: {DEFAULT_CONNECTIONS})")
    parser.add_argument("--pin-dir", default=str(PIN_ROOT), metavar="DIR",
                        help=f"where to pin (default: {PIN_ROOT})")
    parser.add_argument("--bpf-dir", default=str(build), metavar="DIR",
                        help="where the BPF objects are")
    ovs.vlog.add_args(parser)
    ovs.daemon.add_args(parser)
    parser.add_argument("-V", "--version", action="version",
                        version=f"ovs-bpfd {__version__}")
    args = parser.parse_args(argv)
    if not 0 < args.max_flows <= MAX_FLOWS:
        parser.error(f"--max-flows must be from 1 to {MAX_FLOWS}")
    if not 0 < args.ct_max <= MAX_CONNECTIONS:
        parser.error(f"--ct-max must be from 1 to {MAX_CONNECTIONS}")
    rundir = ovs.dirs.RUNDIR
    args.db = args.db or f"unix:{rundir}/db.sock"
    args.socket = args.socket or f"{rundir}/ovs-bpfd.sock"
    ovs.vlog.handle_args(args)
    ovs.daemon.handle_args(args)
    return args


def collect_young_ones() -> None:
    """Has the collector look at what is new, twice, and never again.

    Flows are many objects that stay: to look all over took a third of the
    time of a flow dump, and half a second in one go.  What is a cycle, and
    large, is thawed and collected by Provider when it is taken apart.
    """

    def freeze(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"]:
            gc.freeze()

    gc.set_threshold(*GC_THRESHOLD)
    gc.callbacks.append(freeze)


def _raise_descriptor_limit() -> None:
    """A port takes a descriptor, a bridge four, and a client one: as many
    as may be had, which are more with CAP_SYS_RESOURCE."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = int(Path("/proc/sys/fs/nr_open").read_text("ascii"))
    for limit in (max(hard, most), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except (OSError, ValueError):
            continue
        break


def _reopen_log() -> None:
    """The monitor's log file may have been rotated since it was opened."""
    with contextlib.suppress(OSError):
        ovs.vlog.Vlog.reopen_log_file()
    vlog.info("started again by the monitor")


def _start(args: argparse.Namespace) -> Daemon | None:
    """A daemon that serves; None when it cannot, which has been logged."""
    try:
        check_machine(look())
        return Daemon(args)
    except DpifError as error:
        vlog.emer(str(error))
        print(f"ovs-bpfd: {error}", file=sys.stderr)
    except Exception as error:
        vlog.exception("cannot start")
        print(f"ovs-bpfd: {error!r}", file=sys.stderr)
    return None


def main() -> int:
    """The program ovs-bpfd; its exit status."""
    os.umask(UMASK)
    ovs.util.PROGRAM_NAME = "ovs-bpfd"
    collect_young_ones()
    for destination, time in LOG_TIMES.items():
        ovs.vlog.Vlog.set_pattern(destination, time + LOG_PATTERN)
    args = parse_args(sys.argv[1:])
    _raise_descriptor_limit()
    served = mmap.mmap(-1, 1)  # by a process that the monitor started
    ovs.daemon.daemonize_start()
    again = bool(served[0])
    if again:
        # The monitor would end with a start that fails; what prevents it may
        # pass.
        ovs.daemon.daemonize_complete()
        _reopen_log()
    daemon = _start(args)
    if daemon is None:
        return RESTART if again else 1
    if not again:
        served[0] = 1
        ovs.daemon.daemonize_complete()
    vlog.info(f"ovs-bpfd {__version__} serves {args.socket}")
    try:
        return daemon.run()
    except Exception:
        vlog.exception("ended by what it did not expect")
        return RESTART
