# SPDX-License-Identifier: Apache-2.0
"""The classifier's writer against a plain list of masked flows."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time

import pytest
from forests import KEY_BITS, Forest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpif_bpf import abi
from dpif_bpf.core.classifier.edge_table import finish
from dpif_bpf.core.classifier.sizes import MAX_FLOWS, Sizes
from dpif_bpf.core.quarantine import Quarantine
from dpif_bpf.core.slices import whole
from dpif_bpf.errors import BackendError, RequestError

SMALL = Sizes.for_flows(64, 512)


def forest(sizes: Sizes = SMALL, roots: int = 1) -> Forest:
    made = Forest(sizes)
    for root in range(roots):
        made.add_root(root)
    return made


def bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


# Random sequences

positions = st.lists(st.integers(0, KEY_BITS - 1), min_size=2, max_size=12,
                     unique=True)


class Sequence:
    """Random operations on flows over a few bits of the key, so that they
    meet, overlap and repeat."""

    def __init__(self, rng: random.Random, bits_of: list[int],
                 roots: int = 2) -> None:
        self.rng = rng
        self.bits = bits_of
        self.roots = roots
        self.forest = forest(roots=roots)
        self.acts: dict[int, int] = {}

    def some(self, share: float) -> int:
        return sum(1 << bit for bit in self.bits
                   if self.rng.random() < share)

    def step(self) -> None:
        one = self.rng.random()
        root = self.rng.randrange(self.roots)
        flows = self.forest.flows[root]
        if one < .5 or not flows:
            self.insert(root)
            return
        number = self.rng.choice(list(flows))
        if one < .75:
            self.forest.delete(root, number)
            del self.acts[number]
        elif one < .8:
            self.acts[number] = self.rng.getrandbits(32)
            self.forest.cls.set_acts(number, self.acts[number])
        elif one < .88:
            self.move(number, root, self.rng.randrange(self.roots))
        elif one < .94:
            self.forest.cls.advance(self.forest.cls.seal())
        else:
            self.forest.cls.tidy(self.rng.randrange(1, 20))

    def insert(self, root: int) -> None:
        mask = self.some(self.rng.choice((.3, .6, .9)))
        key = self.some(.5) & mask
        exists = (key, mask) in self.forest.flows[root].values()
        acts = self.rng.getrandbits(32)
        try:
            self.acts[self.forest.insert(root, key, mask, acts)] = acts
        except RequestError as error:
            assert error.errno == errno.EEXIST and exists
        except BackendError as error:
            assert error.errno == errno.ENOSPC and not exists
        else:
            assert not exists

    def move(self, number: int, old: int, new: int) -> None:
        flow = self.forest.flows[old][number]
        try:
            self.forest.cls.move(number, new)
        except RequestError as error:
            assert error.errno == errno.EEXIST
            assert flow in self.forest.flows[new].values()
            return
        except BackendError as error:
            assert error.errno == errno.ENOSPC
            return
        del self.forest.flows[old][number]
        self.forest.flows[new][number] = flow
        self.ended(old)

    def ended(self, root: int) -> None:
        """Moved flows are found in the old root until the period ends, so
        that the plain list must forget them then."""
        self.forest.settle()

    def check(self) -> None:
        for root in range(self.roots):
            for _ in range(3):
                self.forest.check_key(root, self.some(.5))
        for number, acts in self.acts.items():
            assert self.forest.cls.acts(number) == acts

    def finish(self) -> None:
        self.forest.check_flows(self.rng)
        for root in range(self.roots):
            for number in list(self.forest.flows[root]):
                self.forest.delete(root, number)
        self.forest.settle()
        for root in range(self.roots):
            self.forest.cls.remove_root(root)
        self.forest.check_empty()


@settings(max_examples=40)
@given(positions, st.integers(0, 2**32), st.integers(20, 100))
def test_random_sequences(bits_of: list[int], seed: int,
                          steps: int) -> None:
    sequence = Sequence(random.Random(seed), bits_of)
    for step in range(steps):
        sequence.step()
        sequence.check()
        if step % 8 == 0:
            sequence.forest.check_shape()
    sequence.finish()


def test_long_sequence() -> None:
    """FOREST_SOAK=seconds makes it as long as one likes."""
    soak = float(os.environ.get("FOREST_SOAK", "0"))
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    end = time.monotonic() + max(soak, 3)
    while time.monotonic() < end:
        spread = rng.choice((6, 10, 30, 200))
        sequence = Sequence(rng, rng.sample(range(KEY_BITS), spread))
        for _ in range(200):
            sequence.step()
            sequence.check()
        sequence.forest.check_shape()
        sequence.finish()


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)),
                min_size=1, max_size=60))
def test_disjoint_prefixes_make_one_tree(
        prefixes: list[tuple[int, int]]) -> None:
    """Leaves of a trie, as ovs-vswitchd's prefix tracking makes them."""
    made = forest()
    chosen: list[tuple[int, int]] = []
    for value, length in prefixes:
        mask = (1 << length) - 1
        key = value & mask
        if all((key ^ k) & mask & m for k, m in chosen):
            chosen.append((key, mask))
            made.insert(0, key, mask)
    made.check_shape()
    made.check_flows(random.Random(1))
    assert len(whole(made.cls.survey()).roots[0].trees) == 1


# What the random sequences meet rarely or never

def test_every_word_of_the_key() -> None:
    """Flows that match all 67 words, and all but one bit of them."""
    made = forest()
    full = (1 << KEY_BITS) - 1
    rng = random.Random(3)
    first = rng.getrandbits(KEY_BITS)
    wide = made.insert(0, first, full)
    others = [made.insert(0, first ^ 1 << bit, full)
              for bit in range(0, KEY_BITS, 321)]
    narrow = made.insert(0, (first ^ 3) & ~(1 << 999), full & ~(1 << 999))
    made.check_shape()
    assert made.reader.find(0, first) == wide
    for bit, number in zip(range(0, KEY_BITS, 321), others, strict=True):
        assert made.reader.find(0, first ^ 1 << bit) == number
    for bit in range(KEY_BITS):
        if bit % 321 and bit != 1:
            assert made.reader.find(0, first ^ 1 << bit) is None
    assert made.reader.find(0, first ^ 3) == narrow
    assert made.reader.find(0, first ^ 3 ^ 1 << 999) == narrow
    for number in list(made.flows[0]):
        made.delete(0, number)
    made.settle()
    made.check_empty()


@pytest.mark.parametrize("words", range(1, abi.OVS_KEY_USED + 1))
def test_record_boundaries(words: int) -> None:
    """A bit in each of the first so many words."""
    made = forest()
    mask = sum(1 << 64 * word + word % 64 for word in range(words))
    number = made.insert(0, mask, mask)
    assert made.reader.find(0, mask) == number
    for word in range(words):
        assert made.reader.find(0, mask ^ 1 << 64 * word + word % 64) is None


def test_match_all() -> None:
    """A flow with an empty mask is a tree of its own, behind the others."""
    made = forest()
    one = made.insert(0, 1, 3)
    anything = made.insert(0, 0, 0)
    assert made.reader.find(0, 1) == one
    assert made.reader.find(0, 2) == anything
    made.delete(0, anything)
    assert made.reader.find(0, 2) is None


def test_overlap_first_one_wins() -> None:
    made = forest()
    first = made.insert(0, 0b01, 0b11)
    second = made.insert(0, 0b100, 0b100)
    assert made.reader.find(0, 0b101) == first
    made.delete(0, first)
    assert made.reader.find(0, 0b101) == second
    assert whole(made.cls.survey()).roots[0].trees == (0, 1)


def test_limit_of_trees() -> None:
    """Flows that all overlap with one another."""
    made = forest()
    for bit in range(abi.OVS_CLS_TREES):
        made.insert(0, 1 << bit, 1 << bit)
    with pytest.raises(BackendError) as caught:
        made.insert(0, 1 << 40, 1 << 40)
    assert caught.value.errno == errno.ENOSPC
    made.check_flows(random.Random(1))
    assert len(made.cls) == abi.OVS_CLS_TREES
    made.delete(0, next(iter(made.flows[0])))
    made.insert(0, 1 << 40, 1 << 40)


def test_same_flow_exists() -> None:
    made = forest()
    made.insert(0, 1, 3)
    made.insert(0, 4, 4)			# in a second tree
    for key, mask in ((1, 3), (4, 4)):
        with pytest.raises(RequestError) as caught:
            made.insert(0, key, mask)
        assert caught.value.errno == errno.EEXIST
    made.check_flows(random.Random(1))


def test_depth_is_bounded() -> None:
    """A chain of flows, each of which tests one bit more, ends in a tree of
    its own before a reader would give up."""
    made = forest(Sizes.for_flows(256, 1024))
    for bit in range(200):
        mask = (1 << bit + 1) - 1
        made.insert(0, 1 << bit, mask)
    made.check_shape()
    made.check_flows(random.Random(1))
    told = whole(made.cls.survey()).roots[0]
    assert max(told.depth) <= abi.OVS_CLS_DEPTH


def test_move_is_seen_in_both_until_the_period_ends() -> None:
    made = forest(roots=2)
    number = made.insert(0, 5, 7)
    made.cls.move(number, 1)
    assert made.reader.find(0, 5) == made.reader.find(1, 5) == number
    made.settle()
    assert made.reader.find(0, 5) is None
    assert made.reader.find(1, 5) == number


def test_delete_after_move_is_seen_at_once() -> None:
    made = forest(roots=2)
    number = made.insert(0, 5, 7)
    made.cls.move(number, 1)
    made.cls.delete(number)
    assert made.reader.find(0, 5) is made.reader.find(1, 5) is None
    made.flows[0].clear()
    made.settle()
    made.check_empty()


def test_back_and_forth_in_one_period() -> None:
    made = forest(roots=2)
    number = made.insert(0, 5, 7)
    made.cls.move(number, 1)
    made.cls.move(number, 0)
    assert made.reader.find(0, 5) == made.reader.find(1, 5) == number
    made.settle()
    assert made.reader.find(0, 5) == number
    assert made.reader.find(1, 5) is None


def test_ids_wait_for_the_grace_period() -> None:
    made = forest()
    number = made.insert(0, 1, 1)
    made.delete(0, number)
    epoch = made.cls.seal()
    others = {made.insert(0, value, 255) for value in range(40)}
    assert number not in others and made.freed == []
    made.cls.advance(epoch)
    assert made.freed == [number]
    assert number == made.insert(0, 100, 255)


def test_what_is_retired_after_seal_waits() -> None:
    queue = Quarantine()
    done: list[int] = []
    queue.retire(done.append, 1)
    first = queue.seal()
    queue.retire(done.append, 2)
    assert queue.seal() == first + 1 and len(queue) == 2
    queue.retire(done.append, 3)
    assert queue.advance(first) == 1 and done == [1]
    assert queue.advance(first) == 0
    assert queue.advance(first + 1) == 1 and done == [1, 2]
    assert queue.seal() == first + 2
    assert queue.seal() == 0


def test_full_and_free_again() -> None:
    """What does not fit is refused and leaves no trace."""
    sizes = Sizes(flows=32, descs=64, buckets=8, overflow=2)
    made = forest(sizes)
    refused = 0
    rng = random.Random(9)
    for round_ in range(90):
        mask = rng.getrandbits(14) | 1 << 14
        try:
            made.insert(0, rng.getrandbits(15) & mask, mask)
        except BackendError as error:
            assert error.errno == errno.ENOSPC
            refused += 1
        except RequestError:
            pass
        if round_ % 3 == 0 and made.flows[0]:
            made.delete(0, rng.choice(list(made.flows[0])))
            made.settle()
        if round_ % 5 == 0:
            made.check_shape()
            made.check_flows(rng)
    assert refused
    for number in list(made.flows[0]):
        made.delete(0, number)
    made.settle()
    made.check_empty()



def test_colliding_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """With four buckets and tags of two bits, edges collide all the time:
    nodes get other numbers, flows other trees, and no reader is misled."""
    def coarse(h: int) -> int:
        h = finish(h)
        return (h >> 62) + 1 << abi.OVS_EDGE_TAG_SHIFT | h & 3

    for user in ("tree", "nodes", "read"):
        monkeypatch.setattr(f"dpif_bpf.core.classifier.{user}.finish", coarse)
    made = forest()
    rng = random.Random(4)
    for _ in range(150):
        mask = rng.getrandbits(7)
        with contextlib.suppress(BackendError, RequestError):
            made.insert(0, rng.getrandbits(7) & mask, mask)
        if rng.random() < .4 and made.flows[0]:
            made.delete(0, rng.choice(list(made.flows[0])))
        if rng.random() < .2:
            made.settle()
        made.check_shape()
        for key in range(128):
            # Of two that overlap, a false step may find the later one.
            expected = made.matching(0, key)
            found = made.reader.find(0, key)
            assert found in expected if expected else found is None
    told = whole(made.cls.survey())
    assert told.collisions and told.reseeds


def test_tidy_merges_trees() -> None:
    made = forest()
    blocker = made.insert(0, 0, 0b1)
    later = [made.insert(0, value, 0b110) for value in (0, 2, 4, 6)]
    assert whole(made.cls.survey()).roots[0].trees == (1, 4)
    made.delete(0, blocker)
    while made.cls.tidy(3):
        made.check_flows(random.Random(1))
    made.settle()
    assert whole(made.cls.survey()).roots[0].trees == (4,)
    for value, number in zip((0, 2, 4, 6), later, strict=True):
        assert made.reader.find(0, value) == number


def test_roots() -> None:
    made = forest(roots=2)
    number = made.insert(1, 1, 1)
    assert made.reader.find(0, 1) is None
    assert made.reader.find(1, 1) == number
    with pytest.raises(BackendError):
        made.cls.remove_root(1)
    with pytest.raises(BackendError):
        made.cls.add_root(1)
    with pytest.raises(BackendError):
        made.cls.add_root(abi.OVS_MAX_BRIDGES)
    with pytest.raises(BackendError):
        made.cls.insert(7, 1, 1, 0)
    made.delete(1, number)
    made.cls.remove_root(1)
    made.cls.add_root(1)


def test_sizes() -> None:
    assert Sizes.for_flows(200000).flows >= 200000
    assert Sizes.for_flows(MAX_FLOWS).flows == MAX_FLOWS
    for bad in (0, MAX_FLOWS + 1):
        with pytest.raises(ValueError):
            Sizes.for_flows(bad)
    with pytest.raises(ValueError):
        Sizes.for_flows(1000, 0)


def test_statistics() -> None:
    made = forest()
    for value in range(8):
        made.insert(0, value, 7)
    made.insert(0, 8, 8 | 1 << 70)
    told = whole(made.cls.survey())
    assert told.flows == 9 and told.masks == made.cls.masks == 2
    assert sum(told.roots[0].trees) == 9
    assert sum(told.roots[0].depth.values()) == 9
    assert told.map_bytes == SMALL.bytes()
