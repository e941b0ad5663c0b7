# SPDX-License-Identifier: Apache-2.0
"""edge.inject: packets of the provider, seen by a program."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import Namespace

from dpif_bpf import abi
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.inject import VNET_HDR_LEN, ExecSlots, Injector
from dpif_bpf.edge.libbpf import BpfObject
from dpif_bpf.edge.pins import ensure_bpffs
from dpif_bpf.errors import BackendError

TOP = Path(__file__).resolve().parents[2]
sys.path.append(str(TOP / "tests" / "bpf"))
from objects import compile_object  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SOURCE = TOP / "tests" / "bpf" / "stages.bpf.c"
PIN = Path(f"/sys/fs/bpf/ovs-test-inject-{os.getpid()}")
KEY = struct.pack("=II", 4, 0).ljust(abi.OVS_KEY_BASE * 8, b"\0")
UDP = bytes.fromhex(
    "020000000001" "020000000002" "0800"
    "450000560000000040110000" "0a000001" "0a000002"
    "00090009004200000000") + bytes(54)
VNET_HDR_GSO_TCPV4 = 1
VNET_HDR_NEEDS_CSUM = 1


class Far:
    """The program at the other end: what it saw is in ovs_ports[0]."""

    def __init__(self, obj: BpfObject) -> None:
        self.slots = bpfsys.mmap_array(obj.map_fd("ovs_slots"))
        self._ports = bpfsys.mmap_array(obj.map_fd("ovs_ports"))
        self._drops = obj.map_fd("ovs_drops")
        self._drops_info = obj.map_info("ovs_drops")

    def saw(self) -> tuple[int, int, int, int]:
        """pc, bridge, length and gso_size of the last packet; forgets it."""
        length = abi.PORT["mtu"]
        deadline = time.monotonic() + 1
        while (not any(self._ports[length.slice])
               and time.monotonic() < deadline):
            time.sleep(0.001)
        pc, size, bridge, _, _, gso, _ = abi.PORT.struct.unpack(
            self._ports[:abi.PORT.size])
        self._ports[:abi.PORT.size] = bytes(abi.PORT.size)
        return pc, bridge, size, int.from_bytes(gso, sys.byteorder)

    def refused(self) -> int:
        time.sleep(0.05)
        values = bpfsys.map_lookup_percpu(
            self._drops, abi.DropReason.SLOT, self._drops_info)
        return sum(int.from_bytes(v, sys.byteorder) for v in values)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_object(SOURCE, tmp_path_factory.mktemp("stages"))


@pytest.fixture
def far(path: Path, namespace: Namespace) -> Iterator[Far]:
    """veth pair: the provider writes to va, the program is at vb."""
    namespace.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    namespace.ip("link add va mtu 65535 type veth peer name vb mtu 65535")
    namespace.ip("link set va up")
    namespace.ip("link set vb up")
    with BpfObject(path) as obj:
        obj.load()
        if bpfprog.has_tcx():
            link = bpfprog.link_create(
                obj.prog_fd("ovs_inject"), socket.if_nametoindex("vb"),
                bpfprog.ATTACH_TCX_INGRESS)
            yield Far(obj)
            os.close(link)
        else:
            ensure_bpffs(PIN.parent)
            bpfsys.obj_pin(obj.prog_fd("ovs_inject"), PIN)
            try:
                namespace.run("tc", "qdisc", "add", "dev", "vb", "clsact")
                namespace.run("tc", "filter", "add", "dev", "vb", "ingress",
                              "bpf", "da", "pinned", str(PIN))
                yield Far(obj)
            finally:
                PIN.unlink()


@pytest.fixture
def injector(far: Far) -> Iterator[Injector]:
    made = Injector(socket.if_nametoindex("va"))
    yield made
    made.close()


def wait_for(slots: ExecSlots, count: int) -> list[object]:
    tokens: list[object] = []
    deadline = time.monotonic() + 1
    while len(tokens) < count and time.monotonic() < deadline:
        tokens += slots.reap(0)
    return tokens


def test_packet_finds_its_slot(far: Far, injector: Injector) -> None:
    slots = ExecSlots(far.slots)
    for turn in range(3 * abi.OVS_EXEC_SLOTS):
        mark = slots.arm(1000 + turn, 7, 0, KEY, turn, 0)
        assert mark is not None
        assert injector.send(mark, UDP)
        assert wait_for(slots, 1) == [turn]
        assert far.saw() == (1000 + turn, 7, len(UDP), 0)
    assert far.refused() == 0 and injector.refused == 0


def test_burst(far: Far, injector: Injector) -> None:
    slots = ExecSlots(far.slots)
    for number in range(200):
        mark = slots.arm(1, 0, 0, KEY, number, 0)
        assert mark is not None and injector.send(mark, UDP)
    assert sorted(map(int, map(str, wait_for(slots, 200)))) == list(
        range(200))


@pytest.mark.parametrize("size", [3000, 60000])
def test_gso_packet_stays_whole(far: Far, injector: Injector,
                                size: int) -> None:
    slots = ExecSlots(far.slots)
    mark = slots.arm(5, 1, 0, KEY, None, 0)
    assert mark is not None
    header = struct.pack("=BBHHHH", VNET_HDR_NEEDS_CSUM, VNET_HDR_GSO_TCPV4,
                         54, 1448, 34, 16)
    assert len(header) == VNET_HDR_LEN
    ip = bytearray(UDP[:34])
    struct.pack_into("!H", ip, 16, size - 14)
    ip[23] = socket.IPPROTO_TCP
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 0, 0, 0x50, 0x10, 99, 0, 0)
    packet = (bytes(ip) + tcp).ljust(size, b"\0")
    assert injector.send(mark, packet, header)
    assert far.saw() == (5, 1, size, 1448)
    assert wait_for(slots, 1) == [None]


def test_jumbo_packet_without_gso(far: Far, injector: Injector) -> None:
    slots = ExecSlots(far.slots)
    mark = slots.arm(5, 1, 0, KEY, None, 0)
    assert mark is not None
    assert injector.send(mark, UDP.ljust(40000, b"\0"))
    assert far.saw() == (5, 1, 40000, 0)


def test_late_packet_is_refused(far: Far, injector: Injector) -> None:
    """One of an earlier use of its slot."""
    slots = ExecSlots(far.slots)
    late = slots.arm(1, 0, 0, KEY, None, 0)
    assert late is not None
    slots.cancel(late)
    assert injector.send(late, UDP)
    assert far.refused() == 1
    marks = [slots.arm(2, 0, 0, KEY, None, 0)
             for _ in range(abi.OVS_EXEC_SLOTS)]
    mask = (1 << abi.OVS_SLOT_BITS) - 1
    assert late & mask in [mark & mask for mark in marks if mark]
    assert injector.send(late, UDP)
    assert far.refused() == 2
    assert len(slots) == abi.OVS_EXEC_SLOTS and slots.reap(0) == []


def test_device_is_down_or_gone(far: Far, injector: Injector,
                                namespace: Namespace) -> None:
    slots = ExecSlots(far.slots)
    mark = slots.arm(1, 0, 0, KEY, "token", 0)
    assert mark is not None
    namespace.ip("link set va down")
    assert not injector.send(mark, UDP)
    namespace.ip("link set va up")
    namespace.ip("link del va")
    assert not injector.send(mark, UDP)
    assert injector.refused == 2
    assert slots.reset() == ["token"]
    with pytest.raises(BackendError):
        Injector(9999)
