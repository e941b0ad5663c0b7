# SPDX-License-Identifier: Apache-2.0
"""edge.ring: the consumer of the upcall ring."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from objects import compile_object

from dpif_bpf import abi
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.libbpf import BpfObject
from dpif_bpf.edge.ring import UpcallRing

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SOURCE = Path(__file__).parent / "stages.bpf.c"
RECORD = abi.UPCALL.size + 64
RING = 16384


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_object(SOURCE, tmp_path_factory.mktemp("ring"))


@pytest.fixture
def obj(path: Path) -> Iterator[BpfObject]:
    with BpfObject(path) as opened:
        opened.set_max_entries("ovs_upcalls", RING)
        opened.load()
        yield opened


def produce(obj: BpfObject, first: int, count: int) -> int:
    """Send packets that begin with a number; returns how many fitted."""
    fitted = 0
    for number in range(first, first + count):
        # The stage ends the packet's way, so it needs a level each time.
        bpfsys.map_update(
            obj.map_fd("ovs_cpu"), bytes(4), struct.pack("=I", 1).ljust(
                obj.map_info("ovs_cpu").slot_size, b"\0")
            * bpfsys.possible_cpus())
        packet = struct.pack("=Q", number).ljust(64, b"\x5a")
        fitted += bpfprog.test_run(obj.prog_fd("ovs_rx"),
                                   packet).retval == 100
    return fitted


def readable(ring: UpcallRing) -> bool:
    poll = select.poll()
    poll.register(ring.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def number_of(record: memoryview) -> int:
    assert len(record) == RECORD
    assert record[abi.UPCALL.size + 8:] == b"\x5a" * 56
    number: int = struct.unpack_from("=Q", record, abi.UPCALL.size)[0]
    return number


def keep(got: list[int], upcalls: int = 1) -> Callable[[memoryview], int]:
    """Appends to `got` and counts for so many."""
    def callback(record: memoryview) -> int:
        got.append(number_of(record))
        return upcalls

    return callback


def test_records_in_order_over_many_turns_of_the_ring(
        obj: BpfObject) -> None:
    got: list[int] = []
    ring = UpcallRing(obj.map_fd("ovs_upcalls"),
                      keep(got))
    assert ring.run() == 0
    for turn in range(20):
        assert produce(obj, turn * 17, 17) == 17
        while ring.run():
            pass
    assert got == list(range(340))
    assert 340 * RECORD > 5 * RING
    ring.close()


def test_full_ring_refuses_and_recovers(obj: BpfObject) -> None:
    got: list[int] = []
    ring = UpcallRing(obj.map_fd("ovs_upcalls"),
                      keep(got))
    fitted = produce(obj, 0, 60)
    assert 30 < fitted < 60
    assert ring.run() == fitted
    assert produce(obj, fitted, 1) == 1
    assert ring.run() == 1
    assert got == list(range(fitted + 1))
    ring.close()


def test_budget_bounds_a_turn(obj: BpfObject) -> None:
    got: list[int] = []
    ring = UpcallRing(obj.map_fd("ovs_upcalls"),
                      keep(got), budget=4)
    assert not readable(ring)
    produce(obj, 0, 10)
    for count in (4, 4, 2):
        assert readable(ring)
        assert ring.run() == count
    assert not readable(ring)
    assert ring.run() == 0
    assert got == list(range(10))
    ring.close()


def test_budget_is_of_what_records_become(obj: BpfObject) -> None:
    """A GSO packet of many segments counts for as many."""
    got: list[int] = []
    ring = UpcallRing(obj.map_fd("ovs_upcalls"), keep(got, 3), budget=7)
    produce(obj, 0, 8)
    for count in (9, 9, 6):
        assert readable(ring) and ring.run() == count
    assert not readable(ring) and got == list(range(8))
    ring.close()


def test_discarded_records_are_passed_over(obj: BpfObject) -> None:
    got: list[int] = []
    ring = UpcallRing(obj.map_fd("ovs_upcalls"),
                      keep(got))
    produce(obj, 0, 1)
    bpfsys.map_update(
        obj.map_fd("ovs_cpu"), bytes(4), struct.pack("=I", 1).ljust(
            obj.map_info("ovs_cpu").slot_size, b"\0")
        * bpfsys.possible_cpus())
    # Too short for what the stage copies: it discards its record.
    assert bpfprog.test_run(obj.prog_fd("ovs_rx"), bytes(40)).retval == 2
    produce(obj, 1, 1)
    assert ring.run() == 2
    assert got == [0, 1]
    assert not readable(ring)
    ring.close()


def test_a_record_whose_callback_raises_is_passed_over(
        obj: BpfObject) -> None:
    got: list[int] = []

    def callback(record: memoryview) -> int:
        got.append(number_of(record))
        if got[-1] == 1:
            raise ValueError("one")
        return 1

    ring = UpcallRing(obj.map_fd("ovs_upcalls"), callback)
    produce(obj, 0, 3)
    assert ring.run() == 3
    assert got == [0, 1, 2] and ring.failures == 1
    assert not readable(ring)
    ring.close()


def test_reader_goes_on_where_another_ended(obj: BpfObject) -> None:
    produce(obj, 0, 3)
    first = UpcallRing(obj.map_fd("ovs_upcalls"), lambda record: 1,
                       budget=2)
    first.run()
    first.close()
    got: list[int] = []
    second = UpcallRing(obj.map_fd("ovs_upcalls"),
                        keep(got))
    second.run()
    assert got == [2]
    second.close()
