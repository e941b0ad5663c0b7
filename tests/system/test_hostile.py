# SPDX-License-Identifier: Apache-2.0
"""Packets and requests of who means no good: the provider goes on."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from lab import PATIENCE, PROVIDER, Lab
from ovs_build import TOP
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from tuntap import TAP_VNET_HDR, open_tun

from dpif_bpf.wire.packet import VIRTIO_NET_HDR, VNET_HDR_NONE

NEEDS_CSUM, TCPV4, UDP_FRAGMENTS, UDP_L4 = 1, 1, 3, 5
FUZZ_SECONDS = 8

E = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")


@pytest.fixture
def write(lab: Lab) -> Iterator[Callable[[bytes, bytes], None]]:
    """Writes a frame to a tap that is a port, with a header for it."""
    lab.add_bridge("br0")
    with lab.ns.entered():
        tap = open_tun("t0", TAP_VNET_HDR)
    lab.ns.no_ipv6("t0")
    lab.ns.ip("link set t0 up")
    lab.vsctl("add-port", "br0", "t0")
    yield lambda header, frame: os.writev(tap, (header, frame)) and None
    # There are so many that some are read when their port has gone.
    lab.allowed.append(r"received packet on unknown port")
    lab.vsctl("del-port", "t0")
    os.close(tap)


def count(lab: Lab, name: str) -> int:
    """One of the provider's counters."""
    found = re.search(rf"^{name} +total: (\d+)",
                      lab.appctl("coverage/show", target=PROVIDER), re.M)
    assert found
    return int(found[1])


def other_type(size: int) -> bytes:
    return bytes(E)[:12] + b"\x88\xb5" + bytes(size)


def test_frame_that_no_attribute_holds(
        lab: Lab, write: Callable[[bytes, bytes], None]) -> None:
    """Longer than the MTU of the tap, as the kernel lets it be; it is lost
    and counted, and one that can be held is an upcall."""
    big, sent = count(lab, "upcall_too_big"), count(lab, "upcall_sent")
    for number, size in enumerate((65535, 65518), 1):
        write(VNET_HDR_NONE, other_type(size))
        lab.until(lambda number=number: count(  # type: ignore[misc]
            lab, "upcall_too_big") == big + number)
    write(VNET_HDR_NONE, other_type(65517))
    lab.until(lambda: count(lab, "upcall_sent") > sent)
    assert lab.alive


def test_sizes_and_offsets_that_a_guest_chose(
        lab: Lab, write: Callable[[bytes, bytes], None]) -> None:
    """Segments of a byte or of all there is, headers and checksums beyond
    the packet: what the kernel takes of them is sent, lost and counted."""
    tcp = bytes(E / IP(src="10.0.0.1", dst="10.0.0.2") / TCP()
                / Raw(bytes(64000)))
    udp = bytes(E / IP(src="10.0.0.1", dst="10.0.0.2") / UDP()
                / Raw(bytes(64000)))
    before = count(lab, "upcall_sent"), count(lab, "upcall_too_big")
    taken = 0
    for packet, kind, place in ((tcp, TCPV4, 16), (udp, UDP_FRAGMENTS, 6),
                                (udp, UDP_L4, 6)):
        for size in (1, 7, 8, 1400, 65535):
            for length in (0, 34, 54, 65535):
                for start, offset in ((34, place), (34, 8), (60, 65535),
                                      (65535, 0)):
                    with contextlib.suppress(OSError):
                        write(VIRTIO_NET_HDR.pack(
                            NEEDS_CSUM, kind, length, size, start, offset),
                            packet)
                        taken += 1
    assert taken

    def served() -> bool:
        """Until those that wait have been read, one more may find no room."""
        write(VNET_HDR_NONE, other_type(100))
        return "eth_type(0x88b5)" in lab.dpctl("dump-flows")

    lab.until(served, 60)
    assert count(lab, "upcall_sent") > before[0]
    assert count(lab, "upcall_too_big") > before[1]
    assert lab.alive


def test_random_requests(stopped_lab: Lab) -> None:
    """What tests/fuzz does without a machine, to a provider that runs."""
    lab = stopped_lab
    lab.start_server()
    lab.start_provider()
    lab.ns.ip("link add d1 type veth peer name d2")
    done = subprocess.run(
        lab.ns.command([
            sys.executable, "-m", "tests.fuzz.live",
            str(lab.rundir / "ovs-bpfd.sock"), f"--seconds={FUZZ_SECONDS}",
            "--seed=1", "--device=d1", "--device=d2"]),
        cwd=TOP, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False, capture_output=True, text=True,
        timeout=(FUZZ_SECONDS + 60) * PATIENCE)
    assert not done.returncode, done.stdout + done.stderr
    assert lab.processes[PROVIDER].poll() is None
    assert not count(lab, "netlink_malformed")
    assert not count(lab, "netlink_internal_error")
