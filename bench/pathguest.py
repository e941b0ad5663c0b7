# SPDX-License-Identifier: Apache-2.0
"""The guest's side of bench.path: sends the packets and writes what it took.

Runs as the only user of a machine that is thrown away afterwards, in whose
network namespace it has

    e0 -- p0 | port 1    datapath    port 2 | p1 -- e1   (and 3, 4)

The kernel's packet generator sends from e0, where a program makes of each
packet the next of a case's, unless packets are shared, which nobody can
change: then all are the same, and the generator's own.  e1 and its like drop
what arrives.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from socket import if_nametoindex
from typing import TextIO

from bench.pathcases import (
    CASES,
    DST_MAC,
    SRC_MAC,
    Case,
    Flow,
    Packet,
    Sent,
)
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.libbpf import BpfObject

PACKETS = 60000
WARM_UP = 20000
ROUNDS = 3
"""Times that each flow gets a packet in a warm-up, at least: caches are full
then, and the forest's has been judged."""
PAUSE, LONG_PAUSE = 0.2, 5.0
"""s after the warm-up.  The kernel module sorts its masks by use every 4 s,
so that the pause is longer where there are several."""
PORTS = 4
ETH_HLEN = 14
_PKTGEN = Path("/proc/net/pktgen")
_RUNDIR = Path("/run/openvswitch")
_STATE = struct.Struct("=IIIIII")
_PACKET = 64
"""Bytes of a struct bench_packet."""
_FIRST_PORTS = 1024 << 16
"""Source and destination port before those of the first packet of a case
whose packets differ in them."""
_CONNECTIONS = 1 << 18
"""Room for them, as ovs-bpfd has by itself."""


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE,
                          text=True).stdout


def _tell(path: Path, *commands: str) -> None:
    """Each to the packet generator."""
    for command in commands:
        path.write_text(command + "\n")


class Ends:
    """The devices, and the programs at both ends.

    :param obj: bench/path.bpf.c, compiled
    """

    def __init__(self, obj: Path) -> None:
        for n in range(PORTS):
            _run("ip", "link", "add", f"p{n}", "type", "veth", "peer", "name",
                 f"e{n}")
            for name in (f"p{n}", f"e{n}"):
                Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6"
                     ).write_text("1\n")
                _run("ip", "link", "set", name, "up", "arp", "off")
        self._programs = BpfObject(obj)
        self._programs.set_rodata("bench_target", if_nametoindex("p1"))
        self._programs.load()
        self._state = bpfsys.mmap_array(self._programs.map_fd("bench_state"))
        self._packets = bpfsys.mmap_array(
            self._programs.map_fd("bench_packets"))
        self._attach("e0", "bench_send", bpfprog.ATTACH_TCX_EGRESS)
        for n in range(1, PORTS):
            self._attach(f"e{n}", "bench_drop")
        _run("modprobe", "pktgen")
        self._device = _PKTGEN / "e0"
        _tell(_PKTGEN / "kpktgend_0", "rem_device_all", "add_device e0")
        _tell(self._device, "delay 0", "clone_skb 0",
              "xmit_mode queue_xmit", f"src_mac {SRC_MAC}",
              f"dst_mac {DST_MAC}")

    def _attach(self, name: str, program: str,
                where: int = bpfprog.ATTACH_TCX_INGRESS) -> int:
        return bpfprog.link_create(self._programs.prog_fd(program),
                                   if_nametoindex(name), where)

    @contextmanager
    def receiver(self, program: str) -> Iterator[None]:
        """With a program for what p0 receives."""
        link = self._attach("p0", program)
        try:
            yield
        finally:
            os.close(link)

    def set_packets(self, packets: Sequence[Sent], size: int,
                    hashed: bool = False, vary: int = 0) -> None:
        """What is sent from now on; see Case."""
        (length,) = {len(packet.headers()) for packet in packets}
        image = b"".join(packet.headers().ljust(_PACKET, b"\0")
                         for packet in packets)
        assert len(image) == len(packets) * _PACKET
        self._packets[:len(image)] = image
        _STATE.pack_into(self._state, 0, 0, len(packets), hashed, length,
                         vary, _FIRST_PORTS)
        _tell(self._device, "flag !SHARED", f"pkt_size {size}")

    def set_shared(self, packet: Packet, size: int) -> None:
        """All that are sent from now on are like this one, and shared."""
        _STATE.pack_into(self._state, 0, 0, 0, 0, 0, 0, 0)
        _tell(self._device, f"pkt_size {size}")
        src = IPv4Address(packet.src)
        _tell(self._device, "flag SHARED", f"src_min {src}", f"src_max {src}",
              f"dst_min {IPv4Address(packet.dst)}",
              f"dst_max {IPv4Address(packet.dst)}",
              f"udp_src_min {packet.sport}", f"udp_src_max {packet.sport}",
              f"udp_dst_min {packet.dport}", f"udp_dst_max {packet.dport}")

    def send(self, count: int) -> int:
        """Sends packets: the ns that it took."""
        _tell(self._device, f"count {count}")
        _tell(_PKTGEN / "pgctrl", "start")
        text = self._device.read_text()
        result = re.search(r"^Result: OK: (\d+)\(.*usec, (\d+) \(", text,
                           re.MULTILINE)
        if result is None or int(result[2]) != count:
            raise RuntimeError(f"pktgen: {text}")
        return int(result[1]) * 1000

    @staticmethod
    def passed() -> list[int]:
        """Packets so far, by port from 2 on."""
        return [int(Path(f"/sys/class/net/p{n}/statistics/tx_packets")
                    .read_text()) for n in range(1, PORTS)]


class Datapath:
    """A datapath on p0 and the others, asked by ovs-dpctl.

    :param kind: datapath_type
    """

    def __init__(self, bin_dir: Path, kind: str) -> None:
        self._dpctl = str(bin_dir / "ovs-dpctl")
        self._name = f"{kind}@bench"
        self._ask("add-dp")
        for n in range(PORTS):
            self._ask("add-if", f"p{n}")

    def _ask(self, command: str, *words: str) -> str:
        return _run(self._dpctl, "-vconsole:warn", command, self._name,
                    *words)

    def fill(self, case: Case, flows: list[Flow]) -> None:
        """Puts flows, in place of all others; ends all connections."""
        self._ask("del-flows")
        _run(self._dpctl, "-vconsole:warn", "flush-conntrack")
        path = Path("/run/flows")
        path.write_text("".join(
            f"{flow.match} {flow.actions or case.actions}\n"
            for flow in flows))
        # It goes on after a flow that is refused, and all seems to be well.
        self._ask("add-flows", str(path))
        count = self.counters()["flows"]
        if count != len(flows):
            raise RuntimeError(f"{self._name} has {count} flows")

    def counters(self) -> dict[str, int]:
        """flows, hit, missed; tried: masks or hash probes; cached."""
        text = self._ask("show")
        names = {"flows": r"flows: (\d+)", "hit": r"lookups: hit:(\d+)",
                 "missed": r"missed:(\d+)", "tried": r"masks: hit:(\d+)",
                 "cached": r"cache: hit:(\d+)"}
        found = {name: re.search(pattern, text)
                 for name, pattern in names.items()}
        return {name: int(match[1])
                for name, match in found.items() if match}

    def close(self) -> None:
        """Removes it."""
        self._ask("del-dp")


def _load_module() -> None:
    """The kernel module, and its tracker with as much room as the other one
    has.  That need not compute checksums, as no tracker does of packets from
    a NIC, which has."""
    _run("modprobe", "-a", "openvswitch", "nf_conntrack_netlink")
    for path, value in (
            ("/sys/module/nf_conntrack/parameters/hashsize", _CONNECTIONS),
            ("/proc/sys/net/netfilter/nf_conntrack_max", _CONNECTIONS),
            ("/proc/sys/net/netfilter/nf_conntrack_checksum", 0)):
        Path(path).write_text(f"{value}\n")


@contextmanager
def provider(bin_dir: Path) -> Iterator[None]:
    """With ovs-bpfd."""
    _run(str(bin_dir / "ovs-bpfd"), "--detach", "--no-chdir", "--pidfile",
         "-vconsole:off", "--log-file=/mnt/share/ovs-bpfd.log")
    pid = os.pidfd_open(int((_RUNDIR / "ovs-bpfd.pid").read_text()))
    try:
        yield
    finally:
        _run(str(bin_dir / "ovs-appctl"), "-t", "ovs-bpfd", "exit")
        select.select([pid], [], [])
        os.close(pid)


class Session:
    """All measurements of one run.

    :param out: gets a line of JSON for each
    :param total: how many there will be
    """

    def __init__(self, ends: Ends, out: TextIO, total: int) -> None:
        self._ends = ends
        self._out = out
        self._total = total
        self._done = 0
        self._warm_up = 0

    def prepare(self, case: Case, flows: list[Flow]) -> None:
        """Has the packets of a case sent, the first ones at once."""
        for packet in case.before:
            self._ends.set_packets([packet],
                                   ETH_HLEN + len(packet.headers()))
            self._ends.send(1)
        packets = case.sent(flows)
        if case.shared:
            (packet,) = packets
            assert isinstance(packet, Packet)
            self._ends.set_shared(packet, case.size)
        else:
            self._ends.set_packets(packets, case.size, case.hash, case.vary)
        self._warm_up = max(WARM_UP, ROUNDS * len(packets))

    def one(self, name: str, case: Case, who: str,
            datapath: Datapath | None = None) -> None:
        """One measurement.

        :param who: forwards the packets
        """
        self._done += 1
        print(f"path: {self._done} of {self._total}: {name}, {who}",
              flush=True)
        outputs = case.outputs if who != "drop" else ()
        self._ends.send(self._warm_up)
        time.sleep(LONG_PAUSE if case.masks > 1 else PAUSE)
        asked = datapath.counters() if datapath else {}
        before = self._ends.passed()
        spent = self._ends.send(PACKETS)
        after = self._ends.passed()
        for port, count in enumerate(map(int.__sub__, after, before), 2):
            if count != (PACKETS if port in outputs else 0):
                raise RuntimeError(f"port {port} sent {count} packets")
        counted = {counter: (number - asked[counter]) / PACKETS
                   for counter, number in datapath.counters().items()
                   } if datapath else {}
        json.dump({"case": name, "who": who, "ns": spent / PACKETS,
                   "kind": case.kind, **counted}, self._out)
        print(file=self._out, flush=True)

    def bare(self, name: str) -> None:
        """The programs that the others are compared with."""
        case = CASES[name]
        for who in ("drop", "redirect"):
            self.prepare(case, case.flows())
            with self._ends.receiver(f"bench_{who}"):
                self.one(name, case, who)

    def all(self, bin_dir: Path, kind: str, who: str,
            names: list[str]) -> None:
        """The cases on a datapath."""
        datapath = Datapath(bin_dir, kind)
        for name in names:
            case = CASES[name]
            flows = case.flows()
            datapath.fill(case, flows)
            self.prepare(case, flows)
            self.one(name, case, who, datapath)
        datapath.close()


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--obj", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bin", action="append", required=True,
                        help="NAME=DIRECTORY")
    parser.add_argument("cases", nargs="+")
    args = parser.parse_args(argv)
    bins = dict(word.split("=", 1) for word in args.bin)
    bare = {CASES[name].kind: name for name in args.cases}
    with args.out.open("w") as out:
        session = Session(Ends(args.obj), out, 2 * len(bare)
                          + len(args.cases) * (1 + len(bins)))
        for name in bare.values():
            session.bare(name)
        _load_module()
        session.all(Path(next(iter(bins.values()))), "system", "module",
                    args.cases)
        for who, bin_dir in bins.items():
            print(f"path: starting ovs-bpfd ({who})", flush=True)
            with provider(Path(bin_dir)):
                session.all(Path(bin_dir), "bpf", who, args.cases)


if __name__ == "__main__":
    main(sys.argv[1:])
