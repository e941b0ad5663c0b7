# SPDX-License-Identifier: Apache-2.0
"""The table of connections, as the provider sees it: the mapped arrays of
bpf/lib/abi_ct.h.

It is read where it lies.  Records are copied before they are looked at, and
what became another one's meanwhile is left out.  What programs change as well
is changed by a program (bpf/lib/ct_ask.h); the rest are stores of aligned
words.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import (
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpif_bpf import abi_ct
from dpif_bpf.abi_ct import Ask, Stat
from dpif_bpf.core.conntrack.dump import (
    RECORD,
    TUPLE,
    Batch,
    Records,
    dump,
    match,
    take,
)
from dpif_bpf.core.conntrack.entries import entry_of
from dpif_bpf.core.conntrack.hashing import Hash
from dpif_bpf.core.conntrack.memory import CtMemory
from dpif_bpf.core.conntrack.policy import tracked
from dpif_bpf.core.conntrack.tuples import pack_tuple
from dpif_bpf.errors import RequestError
from dpif_bpf.wire.ct_action import HELPERS
from dpif_bpf.wire.ct_entry import CtEntry, SeqAdj
from dpif_bpf.wire.ctnetlink import ALL, CtFilter, CtName

NS = 10 ** 9
SLICE = 4096
"""Connections that are shown, or ended, in one go: a few ms."""
SCAN = 65536
"""Records whose zone is looked at in one go."""
HELPER_NAMES = ("", *HELPERS)
"""By the number in a record."""
TRIES = 16
"""To change what other CPUs have locked, each for less than a µs."""

_ENDS = 1024
"""Connections that are ended in one go."""
_LOW = 0xffffffff
_ID = (1 << abi_ct.OVS_CT_ID_BITS) - 1
_ZONE_WORDS = abi_ct.ZONE.size // 8
_POLICY_WORDS = abi_ct.POLICY.size // 8
_BUCKET_WORDS = abi_ct.BUCKET.size // 8
_ASKED_WORDS = abi_ct.ASKED.size // 8
_FIRST_ASKED = abi_ct.ASKS["one"].offset // 8
_ASKED_PLACES = range(_FIRST_ASKED, abi_ct.ASKS.size // 8, _ASKED_WORDS)
_MOST = abi_ct.CONF["flags"].offset // 8
_USE = {name: place.offset // 8 for name, place in abi_ct.USE.fields.items()}

Ids = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Time:
    """Now.

    :param coarse: ns, CLOCK_MONOTONIC_COARSE
    :param epoch: ns since 1970 at which that was 0
    """

    coarse: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Found:
    """Connections, copied.

    :param ids: of the records
    :param records: RECORD
    :param ends: s, CLOCK_MONOTONIC_COARSE, when each ends
    """

    ids: Ids
    records: Records
    ends: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Found:
        return Found(self.ids[rows], take(self.records, rows),
                     self.ends[rows])


class Table:
    """Implements core.conntrack.interface.

    :param memory: the maps
    :param clock: what time it is
    :ivar hash: which leads to a connection
    """

    def __init__(self, memory: CtMemory, clock: Callable[[], Time]) -> None:
        self._clock = clock
        self.use(memory)

    def use(self, memory: CtMemory) -> None:
        """The same maps, as another datapath has them."""
        self.memory = memory
        conf = memory.conf.tobytes()
        self.hash = Hash(conf, len(memory.tab) // _BUCKET_WORDS)
        # Nobody is told anything of the hash's random words.
        self._salt = int.from_bytes(hashlib.blake2b(
            conf[:abi_ct.CONF["flags"].offset], digest_size=4).digest())

    # What there is

    def _expiries(self) -> NDArray[np.uint32]:
        return np.frombuffer(self.memory.expiry, np.uint32)

    def _all(self) -> Records:
        return np.frombuffer(self.memory.records, RECORD)

    def _running(self, now: Time) -> Ids:
        """Ids of the records whose end lies ahead."""
        ends = self._expiries()
        return np.flatnonzero((ends > np.uint32(now.coarse // NS))
                              & (ends != abi_ct.OVS_CT_EXP_TAKEN))

    def _copy(self, ids: Ids, now: Time) -> Found:
        """Those of the records that are connections now."""
        ends = self._expiries()[ids]
        every = self._all()
        records = take(every, ids)
        zones = np.frombuffer(self.memory.zones, np.uint64)[::_ZONE_WORDS]
        words, after = records["word"], every["word"][ids]
        low = words & np.uint64(_LOW)
        kept = (((low == abi_ct.OVS_CT_LIVE) | (low == abi_ct.OVS_CT_LOCKED))
                & (words >> np.uint64(32) == after >> np.uint64(32))
                & (zones[records["orig"]["zone"]] >> np.uint64(32)
                   == records["zone_gen"])
                & (ends > np.uint32(now.coarse // NS))
                & (ends != abi_ct.OVS_CT_EXP_TAKEN))
        return Found(ids, records, ends).take(kept)

    def slices(self, filter_: CtFilter = ALL) -> Iterator[Found]:
        """All connections that are meant and that there are over all the time
        of it, and some of the others.  Each slice is as it is when it is
        taken."""
        running = self._running(self._clock())
        zones = self._all()["orig"]["zone"]
        for first in range(0, len(running), SCAN):
            ids = running[first:first + SCAN]
            if filter_.zone is not None:
                ids = ids[zones[ids] == filter_.zone]
            for start in range(0, len(ids) or 1, SLICE):
                found = self._copy(ids[start:start + SLICE], self._clock())
                yield found.take(match(filter_, found.records))

    def _ct_ids(self, found: Found) -> NDArray[np.uint32]:
        return ((found.ids.astype(np.uint32) << np.uint32(8)
                 ^ (found.records["word"] >> np.uint64(32)).astype(np.uint32))
                + np.uint32(self._salt))

    def _batch(self, found: Found) -> Batch:
        now = self._clock()
        left = (found.ends.astype(np.int64) - now.coarse // NS - 1).clip(0)
        masters = found.records["master"] & np.uint32(_ID)
        records = self._all()
        every = records["orig"]
        masters[masters >= len(every)] = 0
        # One that has gone may be another connection by now.
        masters[(records["word"][masters] >> np.uint64(32)).astype(np.uint16)
                != found.records["master_gen"]] = 0
        return Batch(found.records, self._ct_ids(found),
                     left.astype(np.uint32),
                     found.records["start"] + np.uint64(now.epoch),
                     every[masters])

    # core.conntrack.interface.Connections

    def find(self, name: CtName) -> int | None:
        wanted = pack_tuple(name.tuple, name.zone)
        hashed = self.hash.one(wanted)
        tab = self.memory.tab
        for bucket in self.hash.buckets(hashed):
            *edges, spill = tab[bucket * _BUCKET_WORDS:
                                (bucket + 1) * _BUCKET_WORDS].tolist()
            for edge in edges:
                if (edge ^ hashed) >> abi_ct.OVS_CT_TAG_SHIFT:
                    continue
                found = self._one(edge & _ID)
                if len(found) and self._is(found.records[0], wanted,
                                           name.direction):
                    return edge & _ID
            if not spill:
                return None
        return None

    @staticmethod
    def _is(record: np.void, wanted: bytes, direction: int | None) -> bool:
        return wanted in [record[side].tobytes()
                          for number, side in enumerate(("orig", "reply"))
                          if direction in (None, number)]

    def _one(self, number: int) -> Found:
        """One connection, or none."""
        return self._copy(np.array([number], np.intp), self._clock())

    def lives(self, number: int, gen: int) -> bool:
        """Whether an incarnation of a record still is a connection."""
        found = self._one(number)
        return len(found) == 1 and int(
            found.records["word"][0]) >> abi_ct.OVS_CT_GEN_SHIFT == gen

    def incarnation(self, number: int) -> int:
        """Of a record."""
        return int(self._all()["word"][number]) >> abi_ct.OVS_CT_GEN_SHIFT

    def shift(self, number: int, gen: int,
              shifts: tuple[SeqAdj, SeqAdj]) -> bool:
        """Has the sequence numbers of a connection of TCP shifted; False: it
        is none any more."""
        one, other = shifts
        first = _ASKED_PLACES[0] + 2
        for _ in range(TRIES):
            for place, (low, high) in enumerate((
                    (one.pos, other.pos), (one.before, other.before),
                    (one.after, other.after)), first):
                self.memory.asked[place] = low & _LOW | (high & _LOW) << 32
            answer = int(self._run(
                Ask.SHIFT, [number | gen << abi_ct.OVS_CT_GEN_SHIFT],
                0)[0, 0])
            if answer != abi_ct.OVS_CT_ANSWER_BUSY:
                return answer == abi_ct.OVS_CT_ANSWER_DONE
        return False

    def entry(self, number: int, zero: bool = False) -> CtEntry | None:
        found = self._one(number)
        if zero:
            found = self._zeroed(found)
        return entry_of(self._batch(found), 0,
                        HELPER_NAMES) if len(found) else None

    def replies(self, filter_: CtFilter,
                header: Callable[[int, int], bytes],
                zero: bool = False) -> Iterator[bytes]:
        for found in self.slices(filter_):
            if zero:
                found = self._zeroed(found)
            yield from dump(self._batch(found), HELPER_NAMES, header)
            yield b""

    def _zeroed(self, found: Found) -> Found:
        """With what was counted up to now, which counts no more."""
        answers = self._ask(Ask.ZERO, found)
        records = found.records.copy()
        records["packets"], records["bytes"] = answers[:, 1:3], answers[:, 3:]
        return Found(found.ids, records, found.ends).take(
            answers[:, 0] == abi_ct.OVS_CT_ANSWER_DONE)

    def delete(self, number: int, ct_id: int) -> bool:
        found = self._one(number)
        if not len(found) or int(self._ct_ids(found)[0]) != ct_id:
            return False
        return bool(self._ask(Ask.END, found)[0, 0]
                    == abi_ct.OVS_CT_ANSWER_DONE)

    def end(self, filter_: CtFilter) -> Iterator[None]:
        for found in self.slices(filter_):
            for start in range(0, len(found) or 1, _ENDS):
                self._ask(Ask.END, found.take(np.arange(
                    start, min(start + _ENDS, len(found)))))
                yield

    def flush(self, zone: int | None) -> None:
        zones = self.memory.zones
        for one in (range(abi_ct.OVS_CT_ZONES) if zone is None else (zone,)):
            word = zones[one * _ZONE_WORDS]
            # Who comes to an empty one meanwhile comes after the flush.
            if word & _LOW:
                zones[one * _ZONE_WORDS] = (
                    (word >> 32) + 1 << 32 & (1 << 64) - 1)
        use = self.memory.use
        use[_USE["flush"]] = use[_USE["sweeps"]] + 2

    def total(self) -> int:
        return sum(self.zones().values())

    def most(self) -> int:
        most: int = self.memory.conf[_MOST] >> 32
        return most or self.room

    @property
    def room(self) -> int:
        """Records that there are, but for the first one, which is nobody's."""
        return len(self._all()) - 1

    def set_most(self, most: int) -> None:
        """How many there may be; 0: as many as there is room for.

        :raises RequestError: EINVAL when there is not that much
        """
        room = self.room
        if most > room:
            raise RequestError(
                errno.EINVAL, f"there is room for {room} connections: see"
                " ovs-bpfd --ct-max")
        conf = self.memory.conf
        conf[_MOST] = conf[_MOST] & _LOW | most << 32

    def cpu_stats(self) -> Sequence[Mapping[str, int]]:
        return [_shown(stats) for stats in self.stats()]

    def stats(self) -> list[dict[Stat, int]]:
        """What each CPU has counted."""
        start = abi_ct.CPU["stat"].offset // 8
        words = [memoryview(cpu).cast("Q") for cpu in self.memory.cpus()]
        return [{stat: cpu[start + stat] for stat in Stat} for cpu in words]

    def zones(self) -> dict[int, int]:
        """Connections of each zone that has some."""
        counts = (np.frombuffer(self.memory.zones, np.uint64)[::_ZONE_WORDS]
                  & np.uint64(_LOW))
        used = np.flatnonzero(counts)
        return dict(zip(used.tolist(), counts[used].tolist(), strict=True))

    # core.conntrack.interface.ZoneLimits

    def set_limit(self, zone: int, limit: int) -> None:
        self.memory.zones[zone * _ZONE_WORDS + 1] = limit

    def fill_limits(self, limit: int, but: Collection[int]) -> None:
        zones = self.memory.zones
        differing = np.flatnonzero(
            np.frombuffer(zones, np.uint64)[1::_ZONE_WORDS] != limit)
        for zone in differing.tolist():
            if zone not in but:
                zones[zone * _ZONE_WORDS + 1] = limit

    def count(self, zone: int) -> int:
        count: int = self.memory.zones[zone * _ZONE_WORDS] & _LOW
        return count

    # core.conntrack.interface.TimeoutRows

    @property
    def rows(self) -> int:
        return len(self.memory.policy) // _POLICY_WORDS

    def set_timeouts(self, row: int, first: int,
                     seconds: Sequence[int]) -> None:
        policy = self.memory.policy
        for slot, value in enumerate(seconds, first):
            index, high = divmod(slot, 2)
            index += row * _POLICY_WORDS
            word = policy[index]
            policy[index] = (word & _LOW | value << 32 if high
                             else word & ~_LOW | value)

    def untimeout(self, proto: int, row: int) -> None:
        having = np.flatnonzero(self._all()["policy"] == row)
        found = self._copy(having, self._clock())
        mine = [tracked(one) == proto
                for one in found.records["orig"]["proto"].tolist()]
        self._ask(Ask.UNTIMEOUT, found.take(np.array(mine, np.bool_)), row)

    # Programs

    def _ask(self, what: Ask, found: Found,
             policy: int = 0) -> NDArray[np.uint64]:
        """Has a program do something to connections.

        :returns: a row of each: struct ovs_ct_asked from `answer` on
        """
        names = (found.ids.astype(np.uint64)
                 | found.records["word"] & np.uint64(_LOW << 32))
        answers = np.full((len(found), _ASKED_WORDS - 1),
                          abi_ct.OVS_CT_ANSWER_BUSY, np.uint64)
        for start in range(0, len(found), abi_ct.OVS_CT_ASKS):
            some = answers[start:start + abi_ct.OVS_CT_ASKS]
            for _ in range(TRIES):
                busy = np.flatnonzero(
                    some[:, 0] == abi_ct.OVS_CT_ANSWER_BUSY)
                if not len(busy):
                    break
                some[busy] = self._run(what, names[start:][busy].tolist(),
                                       policy)
        return answers

    def _run(self, what: Ask, names: list[int],
             policy: int) -> NDArray[np.uint64]:
        """The answers to what is asked about some, by their names."""
        asked = self.memory.asked
        asked[0] = what | len(names) << 32
        asked[1] = policy
        for place, name in zip(_ASKED_PLACES, names, strict=False):
            asked[place] = name
        self.memory.ask()
        return np.frombuffer(asked, np.uint64)[
            _FIRST_ASKED:].reshape(-1, _ASKED_WORDS)[:len(names), 1:].copy()


def _shown(stats: Mapping[Stat, int]) -> dict[str, int]:
    """By the names of ctnetlink, where there is one that fits."""
    lost = stats[Stat.CLASH_LOST] + stats[Stat.BUCKETS]
    return {
        "invalid": stats[Stat.INVALID], "insert": stats[Stat.COMMIT],
        "insert_failed": lost,
        "drop": (lost + stats[Stat.FULL] + stats[Stat.MAX_CONNS]
                 + stats[Stat.LIMIT]),
        "clash_resolve": stats[Stat.CLASH],
        "chain_toolong": stats[Stat.BUCKETS]}


assert TUPLE.itemsize == abi_ct.TUPLE.size
assert RECORD.itemsize == abi_ct.CT.size
