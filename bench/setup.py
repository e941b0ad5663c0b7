# SPDX-License-Identifier: Apache-2.0
"""Flow set-ups a second through ovs-vswitchd, beside the netdev datapath.

A sender keeps a window of packets under way, each of a flow of its own: the
next one goes when one has come out at the other port, which it does after a
miss, an upcall and an execute.  The flows are put at the same time.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

from bench.rows import Row

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "system"))

from lab import Lab
from ovs_build import find_build

FLOWS = 6000
"""Fewer than ovs-vswitchd's limit after a slow start."""
WINDOW = 64
_ETH_P_IP = 0x0800
_HEADERS = struct.Struct("!6s6sHBBHHHBBH4s4sHHHH")
_AT_SPORT = 34


def _frame(number: int) -> bytes:
    """UDP from a source port and address that make a new flow."""
    return _HEADERS.pack(
        b"\2\0\0\0\0\2", b"\2\0\0\0\0\1", _ETH_P_IP, 0x45, 0, 46, 0, 0x4000,
        64, socket.IPPROTO_UDP, 0,
        struct.pack("!BBH", 10, 9, number >> 16), b"\x0a\x08\0\1",
        number & 0xFFFF, 7, 26, 0) + bytes(18)


def _rate(lab: Lab, bridge: str, datapath_type: str) -> tuple[float, float]:
    """Set-ups a second, and the median latency of one alone in µs."""
    lab.add_bridge(bridge, datapath_type)
    # A flow's every packet reads the fields that are moved.
    lab.ofctl("del-flows", bridge)
    lab.ofctl("add-flow", bridge,
              "in_port=1,udp,actions=move:NXM_OF_UDP_SRC[]->NXM_NX_REG0"
              "[0..15],move:NXM_OF_IP_SRC[]->NXM_NX_REG1[],output:2")
    hosts = [lab.add_host(f"{bridge}{n}", bridge, f"10.7.0.{n}/24")
             for n in (1, 2)]
    ends = []
    for host in hosts:
        with host.ns.entered():
            end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                socket.htons(_ETH_P_IP))
            end.bind((host.device, _ETH_P_IP))
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        end.setblocking(False)
        ends.append(end)
    source, sink = ends
    alone = []
    for number in range(200):
        start = time.perf_counter()
        source.send(_frame(number))
        if _take(sink, 1.0):
            alone.append(time.perf_counter() - start)
    count, sent = 0, 200
    under_way = 0
    start = time.perf_counter()
    while count < FLOWS:
        while under_way < WINDOW:
            source.send(_frame(sent))
            sent += 1
            under_way += 1
        got = _take(sink, 0.2)
        if not got:
            under_way = 0           # what is not here by now is lost
        count += got
        under_way = max(0, under_way - got)
    for end in ends:
        end.close()
    alone.sort()
    return count / (time.perf_counter() - start), alone[len(alone) // 2] * 1e6


def _take(sink: socket.socket, seconds: float) -> int:
    """How many frames of ours have come, after waiting for one."""
    if not select.select([sink], [], [], seconds)[0]:
        return 0
    count = 0
    while True:
        try:
            frame = sink.recv(2048)
        except BlockingIOError:
            return count
        count += frame[:6] == b"\2\0\0\0\0\2"


def measure() -> list[Row]:
    """Rates, and latencies of the first packet; ratios to netdev."""
    with tempfile.TemporaryDirectory(prefix="dpif-bpf-") as rundir:
        lab = Lab(find_build(), Path(rundir))
        try:
            lab.start()
            rate, alone = _rate(lab, "brb", "bpf")
            base_rate, base_alone = _rate(lab, "brn", "netdev")
        finally:
            lab.stop()
    return [
        Row("netdev: set-ups", base_rate, "1/s", 1.0),
        Row("bpf: set-ups", rate, "1/s", rate / base_rate),
        Row("netdev: first packet", base_alone, "us", 1.0),
        Row("bpf: first packet", alone, "us", alone / base_alone),
    ]
