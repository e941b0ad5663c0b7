# SPDX-License-Identifier: Apache-2.0
"""edge.inject.ExecSlots over plain memory."""

from __future__ import annotations

import pytest

from dpif_bpf import abi
from dpif_bpf.edge.inject import LOST_AFTER, ExecSlots

KEY = bytes(range(256)) + bytes(24)


@pytest.fixture
def memory() -> memoryview:
    return memoryview(bytearray(abi.SLOT.size * abi.OVS_SLOTS))


@pytest.fixture
def slots(memory: memoryview) -> ExecSlots:
    return ExecSlots(memory)


def index_of(mark: int) -> int:
    return (mark & (1 << abi.OVS_SLOT_BITS) - 1) - 1


def generation_of(mark: int) -> int:
    return mark >> abi.OVS_SLOT_BITS


def field(memory: memoryview, mark: int, name: str) -> int:
    place = abi.SLOT[name]
    at = index_of(mark) * abi.SLOT.size + place.offset
    return int.from_bytes(memory[at:at + place.size], "little")


def program_is_done(memory: memoryview, mark: int) -> None:
    at = index_of(mark) * abi.SLOT.size
    memory[at] &= ~abi.OVS_SLOT_ARMED


def arm(slots: ExecSlots, token: object = None, now: int = 0) -> int:
    mark = slots.arm(11, 22, 3, KEY, token, now)
    assert mark is not None
    return mark


def test_slot_says_what_is_to_be_done(memory: memoryview,
                                      slots: ExecSlots) -> None:
    mark = arm(slots)
    assert 0 <= index_of(mark) < abi.OVS_EXEC_SLOTS
    assert field(memory, mark, "pc") == 11
    assert field(memory, mark, "bridge") == 22
    assert field(memory, mark, "recirc_depth") == 3
    at = index_of(mark) * abi.SLOT.size + abi.SLOT["key"].offset
    assert memory[at:at + len(KEY)] == KEY
    assert field(memory, mark, "state") == (
        generation_of(mark) << abi.OVS_SLOT_GEN_SHIFT
        | abi.OVS_SLOT_ARMED)


def test_slot_comes_back_when_the_program_is_done(
        memory: memoryview, slots: ExecSlots) -> None:
    one, two = arm(slots, "one"), arm(slots, "two")
    assert slots.reap(0) == []
    program_is_done(memory, two)
    assert slots.reap(0) == ["two"]
    program_is_done(memory, one)
    assert slots.reap(0) == ["one"]
    assert (len(slots), slots.lost, slots.full) == (0, 0, 0)


def test_all_taken(memory: memoryview, slots: ExecSlots) -> None:
    marks = [arm(slots, n) for n in range(abi.OVS_EXEC_SLOTS)]
    assert len({index_of(mark) for mark in marks}) == len(marks)
    assert slots.arm(1, 1, 0, KEY, None, 0) is None
    assert slots.full == 1
    program_is_done(memory, marks[500])
    assert index_of(arm(slots, "new")) == index_of(marks[500])
    # The token whose slot was taken anew is not forgotten.
    assert len(slots) == abi.OVS_EXEC_SLOTS + 1
    assert slots.reap(0) == [500]
    assert len(slots) == abi.OVS_EXEC_SLOTS


def test_new_use_is_another_generation(memory: memoryview,
                                       slots: ExecSlots) -> None:
    first = arm(slots)
    seen = {generation_of(first)}
    for _ in range(3 * abi.OVS_EXEC_SLOTS):
        mark = arm(slots)
        program_is_done(memory, mark)
        slots.reap(0)
        if index_of(mark) == 5:
            seen.add(generation_of(mark))
    assert len(seen) >= 3


def test_generation_wraps(memory: memoryview, slots: ExecSlots) -> None:
    memory.cast("Q")[0] = (abi.OVS_SLOT_GEN_MASK << abi.OVS_SLOT_GEN_SHIFT
                           | 1 << abi.OVS_SLOT_TIME_SHIFT)
    mark = arm(slots)
    assert index_of(mark) == 0 and generation_of(mark) == 0
    assert field(memory, mark, "state") == abi.OVS_SLOT_ARMED
    assert mark < 1 << 32


def test_lost_packet(memory: memoryview, slots: ExecSlots) -> None:
    mark = arm(slots, "lost", now=5000)
    assert slots.reap(5000 + LOST_AFTER - 1) == []
    assert slots.reap(5000 + LOST_AFTER) == ["lost"]
    assert slots.lost == 1
    # What comes late finds the slot not armed.
    assert not field(memory, mark, "state") & abi.OVS_SLOT_ARMED


def test_cancel_and_reset(memory: memoryview, slots: ExecSlots) -> None:
    mark = arm(slots, "cancelled")
    slots.cancel(mark)
    slots.cancel(mark)
    assert len(slots) == 0
    assert not field(memory, mark, "state") & abi.OVS_SLOT_ARMED
    marks = [arm(slots, n) for n in range(3)]
    assert slots.reset() == [0, 1, 2]
    assert not any(field(memory, m, "state") & abi.OVS_SLOT_ARMED
                   for m in marks)
    free = {index_of(arm(slots)) for _ in range(abi.OVS_EXEC_SLOTS)}
    assert len(free) == abi.OVS_EXEC_SLOTS
