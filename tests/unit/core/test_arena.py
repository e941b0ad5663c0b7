# SPDX-License-Identifier: Apache-2.0
"""The arena never hands a word out twice, and finds all room that there is."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from dpif_bpf.core import arena as arena_module
from dpif_bpf.core.arena import Arena
from dpif_bpf.errors import BackendError


def memory(words: int) -> memoryview:
    return memoryview(bytearray(words * 8)).cast("Q")


@given(st.integers(1, 1 << 40))
def test_classes(words: int) -> None:
    """Classes are in order, and class_for() rounds up by an eighth."""
    of, wanted = arena_module._class_of, arena_module._class_for
    assert of(words) <= of(words + 1) <= of(words) + 1
    assert of(words) <= wanted(words) <= of(words) + 1
    smallest = words
    while of(smallest) < wanted(words):
        smallest += max(words // 16, 1)
    assert smallest >= words


def test_store_pads_with_zeros() -> None:
    words = memory(8)
    words[1] = words[2] = 2 ** 64 - 1
    arena = Arena(words)
    offset, length = arena.store(b"123456789")
    assert (offset, length) == (1, 2)
    assert words.cast("B")[8:24].tobytes() == b"123456789" + bytes(7)
    assert words[0] == 0
    assert arena.store(b"") == (3, 1)
    assert (arena.used, arena.capacity) == (3, 7)


def test_all_words_can_be_had() -> None:
    for size in (1, 16, 17, 33, 1000, 1001):
        arena = Arena(memory(size + 5), start=5)
        offset = arena.alloc(size)
        assert offset == 5
        with pytest.raises(BackendError) as error:
            arena.alloc(1)
        assert error.value.errno == errno.ENOSPC
        arena.free_now(offset, size)
        assert {arena.alloc(1) for _ in range(size)} == set(
            range(5, 5 + size))


def test_enospc_tells_how_much() -> None:
    arena = Arena(memory(100), name="ovs_nlmem")
    arena.alloc(60)
    with pytest.raises(BackendError, match=r"no 40 .* ovs_nlmem: 60 of 99"):
        arena.alloc(40)
    with pytest.raises(BackendError):
        arena.alloc(1 << 50)
    assert arena.alloc(39)


def test_grace() -> None:
    arena = Arena(memory(4))
    first, second = arena.alloc(1), arena.alloc(1)
    third = arena.alloc(1)
    arena.free(first, 1)
    epoch = arena.quarantine.seal()
    arena.free(second, 1)
    assert arena.used == 3
    arena.quarantine.advance(epoch)
    assert arena.used == 2
    assert arena.alloc(1) == first
    with pytest.raises(BackendError):
        arena.alloc(1)
    arena.quarantine.advance(epoch)
    assert arena.used == 3, "an old epoch brings nothing back"
    arena.quarantine.advance(arena.quarantine.seal())
    assert arena.alloc(1) == second
    assert third not in {first, second}


@pytest.mark.parametrize(("offset", "words"), [
    (0, 1), (4, 1), (-1, 1), (5, 0), (9, 2), (10, 1)])
def test_bad_free(offset: int, words: int) -> None:
    arena = Arena(memory(10), start=5)
    with pytest.raises(ValueError, match="never given"):
        arena.free_now(offset, words)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="memoryview"):
        Arena(memory(4), start=0)
    with pytest.raises(ValueError, match="memoryview"):
        Arena(memory(4).cast("B"))
    with pytest.raises(ValueError, match="no words"):
        Arena(memory(4)).alloc(0)
    assert Arena(memory(4), start=4).capacity == 0


SIZE = 300


class Model(RuleBasedStateMachine):
    """Against a list of who owns each word."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(memory(SIZE))
        self.owned: dict[int, int] = {}
        self.dead: list[tuple[int, int]] = []

    def busy(self) -> list[tuple[int, int]]:
        return sorted([*self.owned.items(), *self.dead])

    @rule(words=st.one_of(st.integers(1, 20), st.integers(1, 200)))
    def alloc(self, words: int) -> None:
        edges = [(0, 1), *self.busy(), (SIZE, 1)]
        room = max(second[0] - sum(first)
                   for first, second in pairwise(edges))
        try:
            offset = self.arena.alloc(words)
        except BackendError as error:
            assert error.errno == errno.ENOSPC
            assert room < words
        else:
            assert room >= words
            self.owned[offset] = words

    @precondition(lambda self: self.owned)
    @rule(data=st.data(), now=st.booleans())
    def free(self, data: st.DataObject, now: bool) -> None:
        offset = data.draw(st.sampled_from(sorted(self.owned)))
        words = self.owned.pop(offset)
        if now:
            self.arena.free_now(offset, words)
        else:
            self.arena.free(offset, words)
            self.dead.append((offset, words))

    @rule()
    def grace(self) -> None:
        self.arena.quarantine.advance(self.arena.quarantine.seal())
        self.dead.clear()

    @invariant()
    def no_overlap(self) -> None:
        end = 1
        for offset, words in self.busy():
            assert offset >= end
            end = offset + words
        assert end <= SIZE
        assert self.arena.used == sum(words for _, words in self.busy())


Model.TestCase.settings = settings(max_examples=60,
                                   stateful_step_count=60)
TestModel = Model.TestCase
