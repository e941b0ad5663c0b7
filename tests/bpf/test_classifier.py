# SPDX-License-Identifier: Apache-2.0
"""The classifier's BPF reader: alone, and racing with its writer.

CLASSIFIER_SOAK=seconds lets each race last that long.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from clsobject import ClsObject, Key, Lookups
from objects import compile_object

from bench import flowsets
from dpif_bpf import abi
from dpif_bpf.core.classifier.edge_table import (
    DESC_SHIFT,
    NO_PLACE,
    SEED_SHIFT,
    finish,
)
from dpif_bpf.core.classifier.sizes import Sizes
from dpif_bpf.core.slices import whole
from dpif_bpf.edge.grace import Grace
from dpif_bpf.errors import BackendError, RequestError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SECONDS = float(os.environ.get("CLASSIFIER_SOAK", "3"))
NEVER = 0xfffffffe
KEY_BITS = abi.OVS_KEY_USED * 64


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The source includes headers by its own place in the tree.
    return compile_object(Path(__file__).parent / "classifier.bpf.c",
                          tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def obj(path: Path) -> Iterator[ClsObject]:
    with ClsObject(path, Sizes.for_flows(20000)) as loaded:
        loaded.cls.add_root(0)
        yield loaded


@pytest.fixture
def rng() -> random.Random:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    return random.Random(seed)


def noisy(rng: random.Random, flow: tuple[int, int]) -> int:
    """A packet of a flow."""
    key, mask = flow
    return key | rng.getrandbits(KEY_BITS) & ~mask


def check(obj: ClsObject, keys: list[Key]) -> None:
    """Every packet meets its flow, or none when its acts are NEVER."""
    count = obj.set_keys(keys)
    state = obj.run(count)
    assert state.runs == count
    assert (state.lost, state.wrong) == (0, 0)
    hits = sum(keys[i % len(keys)].stable for i in range(count))
    assert state.found == hits


def expect(obj: ClsObject, key: int) -> Key:
    """What the writer's own objects say about a packet."""
    found = obj.cls.lookup(0, key)
    if found is None:
        return Key(key, NEVER, False)
    return Key(key, obj.cls.acts(found), True)


@pytest.mark.parametrize("spread", [4, 8, 20, 400])
def test_any_flows(obj: ClsObject, rng: random.Random, spread: int) -> None:
    """Flows over a few bits anywhere in the key, overlapping ones, too."""
    bits = rng.sample(range(KEY_BITS), spread)

    def some(share: float) -> int:
        return sum(1 << bit for bit in bits if rng.random() < share)

    keys: list[Key] = []
    for _ in range(300):
        mask = some(rng.choice((.3, .6, .95)))
        with contextlib.suppress(BackendError, RequestError):
            obj.cls.insert(0, some(.5) & mask, mask,
                           rng.getrandbits(20) * 2)
    for _ in range(2000):
        keys.append(expect(obj, some(.5)))
    check(obj, keys)
    assert obj.bound() == 0


@pytest.mark.parametrize("words", [1, 3, 4, 6, 7, 13, 14, 26, 27, 52, 53, 67])
def test_wide_flows(obj: ClsObject, rng: random.Random, words: int) -> None:
    """A flow that matches so many words, and packets that differ from it in
    one bit of each."""
    mask = sum(rng.getrandbits(64) << 64 * word
               for word in range(words)) | 1
    mask |= sum(1 << 64 * word for word in range(words))
    key = rng.getrandbits(words * 64) & mask
    obj.cls.insert(0, key, mask, 2)
    other = key ^ 1
    obj.cls.insert(0, other, mask, 4)
    keys = [Key(noisy(rng, (key, mask)), 2, True),
            Key(noisy(rng, (other, mask)), 4, True)]
    for bit in range(64, words * 64):
        if mask >> bit & 1:
            keys.append(Key(key ^ 1 << bit, NEVER, False))
        else:
            keys.append(Key(key ^ 1 << bit, 2, True))
    check(obj, keys)


def test_bridges(obj: ClsObject) -> None:
    """Flows of one bridge are not those of another; one that is none has
    none."""
    last = abi.OVS_MAX_BRIDGES - 1
    obj.cls.add_root(last)
    obj.cls.insert(0, 1, 1, 2)
    obj.cls.insert(last, 1, 1, 4)
    obj.cls.insert(last, 0, 1, 6)
    check(obj, [Key(1, 2, True), Key(0, NEVER, False),
                Key(1, 4, True, last), Key(0, 6, True, last),
                Key(1, NEVER, False, 5),
                Key(1, NEVER, False, abi.OVS_MAX_BRIDGES)])


@pytest.mark.parametrize("masks", [1, 16, 256, 2048])
def test_made_up_sets(obj: ClsObject, rng: random.Random,
                      masks: int) -> None:
    """Disjoint flows as ovs-vswitchd makes them: hits and misses."""
    for make in (flowsets.pipeline, flowsets.explosion):
        flows = make(masks, 3000, rng)
        ids = [obj.cls.insert(0, key, mask, 2 * i + 2)
               for i, (key, mask) in enumerate(flows)]
        hits = flowsets.packets(flows, "random", 4096, rng)
        check(obj, [Key(key, 2 * i + 2, True) for key, i in hits])
        misses = flowsets.packets(flows, "miss", 4096, rng)
        check(obj, [expect(obj, key) for key, _ in misses])
        for number in ids:
            obj.cls.delete(number)
        while epoch := obj.cls.seal():		# no lookup is under way
            obj.cls.advance(epoch)


def test_probes_are_counted(obj: ClsObject, rng: random.Random) -> None:
    flows = flowsets.explosion(64, 64, rng)
    for key, mask in flows:
        obj.cls.insert(0, key, mask, 2)
    told = whole(obj.cls.survey()).roots[0]
    assert told.trees == (64,)
    count = obj.set_keys([Key(noisy(rng, flow), 2, True) for flow in flows])
    assert obj.run(count).probes == sum(
        probes * number for probes, number in told.depth.items())


def test_deepest_tree(obj: ClsObject) -> None:
    """Every depth that the writer makes is walked to its end."""
    count = 2 * abi.OVS_CLS_DEPTH
    flows = [(1 << bit, (1 << bit + 1) - 1) for bit in range(count)]
    for i, (key, mask) in enumerate(flows):
        obj.cls.insert(0, key, mask, 2 * i)
    told = whole(obj.cls.survey()).roots[0]
    assert max(told.depth) == abi.OVS_CLS_DEPTH and len(told.trees) > 1
    check(obj, [Key(key, 2 * i, True) for i, (key, _) in enumerate(flows)]
          + [Key(0, NEVER, False)])
    assert obj.bound() == 0


def test_bound(obj: ClsObject) -> None:
    """An edge that leads to its own node: the reader gives up, counts it,
    and finds what is in the next tree."""
    cls = obj.cls
    cls.insert(0, 0, 1, 2)
    cls.insert(0, 2, 2, 4)			# overlaps: tree 1
    mask = cls._masks.ref(3)
    ref = mask.id << DESC_SHIFT | 12345
    place = cls._table.put(finish(mask.hash(2, ref << SEED_SHIFT)), ref)
    assert place != NO_PLACE
    cls._table.swing(~1, ref)			# the first root
    check(obj, [Key(2, 4, True), Key(0, NEVER, False)])
    assert obj.bound() == 1


PERIOD = 8192
"""OVS_CACHE_PERIOD of bpf/lib/lookup.h"""


@pytest.mark.usefixtures("one_cpu")
def test_cache_pays_for_few_packets(obj: ClsObject,
                                    rng: random.Random) -> None:
    """Deep flows, few in use: after a trial one probe each; what changes
    meanwhile is seen at once."""
    flows = flowsets.explosion(256, 256, rng)
    ids = [obj.cls.insert(0, *flow, 2 * i) for i, flow in enumerate(flows)]
    keys = [Key(noisy(rng, flow), 2 * i, True)
            for i, flow in enumerate(flows)]
    obj.set_keys(keys)
    obj.run(4 * PERIOD)
    obj.reset()
    state = obj.run(PERIOD)
    assert state.probes < 1.2 * PERIOD
    assert (state.lost, state.wrong) == (0, 0)

    for number in ids[:128]:
        obj.cls.delete(number)
    check(obj, [Key(key.key, NEVER, False) for key in keys[:128]]
          + keys[128:])
    while epoch := obj.cls.seal():
        obj.cls.advance(epoch)
    for i in range(128):		# ids of others, used again
        obj.cls.insert(0, *flows[i], 2 * i)
    check(obj, keys)
    obj.cls.add_root(1)
    for number in range(128, 256):
        obj.cls.move(ids[number], 1)
    while epoch := obj.cls.seal():
        obj.cls.advance(epoch)
    check(obj, [Key(key.key, NEVER, False) for key in keys[128:]]
          + [Key(key.key, key.acts, True, 1) for key in keys[128:]])


@pytest.mark.usefixtures("one_cpu")
def test_size_of_the_cache(obj: ClsObject, rng: random.Random) -> None:
    """It can be none, small or large at any time, also of a bridge that was
    there before or comes after."""
    flows = flowsets.explosion(256, 256, rng)
    for flow in flows:
        obj.cls.insert(0, *flow, 2)
    count = obj.set_keys([Key(noisy(rng, flow), 2, True) for flow in flows])

    def probes() -> float:
        """A packet's."""
        obj.run(4 * PERIOD)
        obj.reset()
        state = obj.run(count)
        assert (state.lost, state.wrong) == (0, 0)
        return state.probes / count

    deep = 4
    assert probes() < 1.2
    obj.cls.cache = 0
    assert probes() > deep
    obj.cls.cache = 1		# eight flows of 256
    assert probes() > deep
    obj.cls.cache = abi.OVS_CACHE_LINES
    obj.run(64 * PERIOD)	# it has rested meanwhile
    assert probes() < 1.2
    obj.cls.cache = 0
    obj.cls.add_root(1)
    for flow in flows:
        obj.cls.insert(1, *flow, 2)
    obj.set_keys([Key(noisy(rng, flow), 2, True, 1) for flow in flows])
    assert probes() > deep


@pytest.mark.usefixtures("one_cpu")
def test_cache_of_two_bridges(obj: ClsObject, rng: random.Random) -> None:
    """Flows that do not match the port are one bridge's all the same."""
    flows = flowsets.explosion(256, 256, rng)
    port = (1 << 64) - 1
    flows = [(key & ~port, mask & ~port) for key, mask in flows]
    obj.cls.add_root(1)
    for i, (key, mask) in enumerate(flows):
        for bridge in (0, 1):
            obj.cls.insert(bridge, key, mask, 4 * i + 2 * bridge)
    keys = [Key(noisy(rng, flow), 4 * i + 2 * bridge, True, bridge)
            for i, flow in enumerate(flows) for bridge in (0, 1)]
    obj.set_keys(keys)
    state = obj.run(6 * PERIOD)
    assert (state.lost, state.wrong) == (0, 0)
    obj.reset()
    assert obj.run(PERIOD).probes < 1.5 * PERIOD


@pytest.mark.usefixtures("one_cpu")
def test_cache_rests(path: Path, rng: random.Random) -> None:
    """Packets that never come again: it is tried, ever more rarely."""
    sizes = replace(Sizes.for_flows(2000), cache=2)
    with ClsObject(path, sizes) as small:
        small.cls.add_root(0)
        flows = flowsets.explosion(256, 256, rng)
        for flow in flows:
            small.cls.insert(0, *flow, 2)
        count = small.set_keys([Key(noisy(rng, flows[i % 256]), 2, True)
                                for i in range(8192)])
        small.run(200 * PERIOD)
        on = 0
        for _ in range(40):
            small.run(PERIOD)
            on += small.cache_on()
        assert count == PERIOD and on <= 4


def test_verifier_cost(path: Path) -> None:
    """Kernels differ in what they spend; the limit is a million."""
    with ClsObject(path, Sizes.for_flows(1000), stats=True) as loaded:
        cost = loaded.verifier()
        print(cost)
        assert cost.insns < 400000


# Races

class Updates:
    """Changes flows while packets are looked up on the other CPU."""

    def __init__(self, obj: ClsObject, rng: random.Random) -> None:
        self.obj = obj
        self.rng = rng
        self.count = 0

    def turn(self) -> None:
        """Some changes."""

    def run(self) -> None:
        if os.cpu_count() == 1:
            pytest.skip("needs two CPUs")
        cpus = sorted(os.sched_getaffinity(0))
        grace = Grace()
        grace.watch(self.obj.cls)
        end = time.monotonic() + SECONDS
        began = time.thread_time()
        try:
            with Lookups(self.obj, cpus[-1]) as lookups:
                while time.monotonic() < end:
                    for _ in range(16):
                        self.turn()
                    grace.run()
                    state = lookups.state
                    assert (state.lost, state.wrong) == (0, 0), state
        finally:
            grace.close()
        spent = time.thread_time() - began
        state = lookups.state
        assert (state.lost, state.wrong) == (0, 0), state
        assert state.runs > 1000 and self.count > 100
        assert self.obj.bound() == 0
        print(f"{self.count} changes in {SECONDS} s,"
              f" {spent / self.count * 1e6:.1f} us each;"
              f" {state.runs} lookups, {grace.periods} grace periods")


class Churn(Updates):
    """Half of the flows stay (but for their actions), the others come and
    go."""

    def __init__(self, obj: ClsObject, rng: random.Random,
                 flows: list[tuple[int, int]]) -> None:
        super().__init__(obj, rng)
        flows = list(flows)
        rng.shuffle(flows)
        self.flows = flows
        half = len(flows) // 2
        self.stable = [obj.cls.insert(0, *flow, self.acts(i))
                       for i, flow in enumerate(flows[:half])]
        self.present: list[tuple[int, int]] = []
        self.absent = list(range(half, len(flows)))
        keys = []
        for _ in range(8192):
            i = rng.randrange(half if rng.random() < .8 else len(flows))
            keys.append(Key(noisy(rng, flows[i]), self.acts(i), i < half))
        obj.set_keys(keys)

    @staticmethod
    def acts(i: int) -> int:
        return 2 * i + 2

    def turn(self) -> None:
        cls, rng = self.obj.cls, self.rng
        self.count += 1
        if rng.random() < .1:
            i = rng.randrange(len(self.stable))
            cls.set_acts(self.stable[i], self.acts(i) | rng.getrandbits(1))
        elif len(self.present) * 2 < len(self.absent) or (
                rng.random() < .5 and self.absent):
            at = rng.randrange(len(self.absent))
            self.absent[at], self.absent[-1] = (self.absent[-1],
                                                self.absent[at])
            i = self.absent.pop()
            number = cls.insert(0, *self.flows[i], self.acts(i))
            self.present.append((number, i))
        else:
            at = rng.randrange(len(self.present))
            self.present[at], self.present[-1] = (self.present[-1],
                                                  self.present[at])
            number, i = self.present.pop()
            cls.delete(number)
            self.absent.append(i)
        if self.count % 1024 == 0:
            cls.tidy(64)


@pytest.mark.parametrize("kind", ["pipeline", "explosion", "random", "wide"])
def test_race(obj: ClsObject, rng: random.Random, kind: str) -> None:
    if kind == "pipeline":
        flows = flowsets.pipeline(64, 4000, rng)
    elif kind == "explosion":
        flows = flowsets.explosion(1024, 3000, rng)
    else:
        flows = _disjoint(rng, 67 if kind == "wide" else 3)
    Churn(obj, rng, flows).run()


def _disjoint(rng: random.Random, words: int) -> list[tuple[int, int]]:
    """Flows as leaves of random binary decision trees over random bits."""
    flows: list[tuple[int, int]] = []
    todo = [(0, 0)]
    spread = rng.sample(range(words * 64), min(words * 64, 40))
    while todo and len(flows) < 2000:
        key, mask = todo.pop(rng.randrange(len(todo)))
        left = [bit for bit in spread if not mask >> bit & 1]
        if not left or (len(todo) > 100 and rng.random() < .5):
            flows.append((key, mask))
            continue
        more = rng.sample(left, min(len(left), rng.choice((1, 1, 2, 3))))
        wide = sum(1 << bit for bit in more)
        for value in range(1 << len(more)):
            bits = sum((value >> i & 1) << bit
                       for i, bit in enumerate(more))
            todo.append((key | bits, mask | wide))
    return flows


class Moves(Updates):
    """Flows that move between bridges, and packets that follow."""

    def __init__(self, obj: ClsObject, rng: random.Random) -> None:
        super().__init__(obj, rng)
        obj.cls.add_root(1)
        flows = flowsets.explosion(256, 256, rng)
        self.at = [0] * len(flows)
        self.ids = [obj.cls.insert(0, *flow, 2 * i)
                    for i, flow in enumerate(flows)]
        obj.set_keys([Key(noisy(rng, flow), 2 * i, True)
                      for i, flow in enumerate(flows)])

    def turn(self) -> None:
        self.count += 1
        i = self.rng.randrange(len(self.ids))
        self.at[i] ^= 1
        self.obj.cls.move(self.ids[i], self.at[i])
        self.obj.set_bridge(i, self.at[i])


def test_race_of_moves(obj: ClsObject, rng: random.Random) -> None:
    Moves(obj, rng).run()


class Tidying(Updates):
    """A flow that overlaps with others takes turns with them; between, they
    move from tree to tree.  A packet always finds one or the other.

    Before the others go, a grace period passes: a reader may have been in a
    tree too early to find the one.
    """

    def __init__(self, obj: ClsObject, rng: random.Random) -> None:
        super().__init__(obj, rng)
        self.over = (5, 0xff)
        self.under = [(5 | i << 20, 0xff | 0xff << 20) for i in range(64)]
        self.going: list[int] = []
        self.here = [obj.cls.insert(0, *flow, 2) for flow in self.under]
        self.waiting = False
        self.trees: set[tuple[bool, ...]] = set()
        obj.set_keys([Key(noisy(rng, flow), 2, True) for flow in self.under])

    def ready(self) -> None:
        self.waiting = False

    def turn(self) -> None:
        cls = self.obj.cls
        self.trees.add(tuple(
            map(bool, whole(cls.survey()).roots[0].trees)))
        if self.rng.random() < .3:
            cls.tidy(self.rng.randrange(100))
        if self.waiting:
            return
        if self.going:
            for number in self.going:
                cls.delete(number)
            self.count += len(self.going)
            self.going = []
        else:
            self.going = self.here
            flows = [self.over] if len(self.here) > 1 else self.under
            self.here = [cls.insert(0, *flow, 2) for flow in flows]
            self.count += len(flows)
        self.waiting = True
        cls.retire(self.ready)


def test_race_of_tidying(obj: ClsObject, rng: random.Random) -> None:
    updates = Tidying(obj, rng)
    updates.run()
    print(updates.trees)
    assert len(updates.trees) > 2
