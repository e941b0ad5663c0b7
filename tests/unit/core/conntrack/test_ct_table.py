# SPDX-License-Identifier: Apache-2.0
"""The mapped table: what is found in it, shown, ended and written."""

from __future__ import annotations

import errno
from dataclasses import replace
from functools import partial

import ct_requests as r
import numpy as np
import pytest
from ct_entries import entries, entry
from ct_memory import NS, Tracker

from dpif_bpf import abi_ct
from dpif_bpf.abi_ct import Ask
from dpif_bpf.core.conntrack import table as module
from dpif_bpf.core.conntrack.dump import RECORD
from dpif_bpf.core.conntrack.table import Table
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_entry import CtEntry, encode_entry
from dpif_bpf.wire.ctnetlink import (
    ALL,
    CtFilter,
    CtName,
    decode_ct_request,
)
from dpif_bpf.wire.netlink import NLM_F_DUMP

START = (1 << 60) + 5


def whole(one: CtEntry, number: int = 3) -> CtEntry:
    """With what a record always has."""
    return replace(one, counters=((number, 2), (1 << 40, 4)),
                   start=START + number, timeout=number,
                   helper=("", "ftp", "tftp")[number % 3])


def shown(table: Table, zero: bool = False) -> list[bytes]:
    """A message of each connection, without its header."""
    return [message for message in table.replies(ALL, lambda *_: b"", zero)
            if message]


class Site:
    """A table with a connection of each kind."""

    def __init__(self) -> None:
        self.tracker = Tracker()
        self.table = Table(self.tracker.memory, self.tracker.clock)
        self.numbers: dict[str, int] = {}
        self.wanted: dict[str, CtEntry] = {}
        for number, (name, one) in enumerate(entries().items()):
            self.add(name, whole(one, number))

    def add(self, name: str, one: CtEntry) -> None:
        master = next((self.numbers[other] for other, its in
                       self.wanted.items() if its.orig == one.master), 0)
        self.numbers[name] = self.tracker.add(one, master)
        self.wanted[name] = one

    def shown(self, filter_: CtFilter = ALL) -> list[CtEntry]:
        """By way of the dump; their ids are those of entry()."""
        found = [message for message in self.table.replies(
            filter_, lambda *_: b"") if message]
        entries_ = [one for number in self.numbers.values()
                    if (one := self.table.entry(number)) is not None]
        by_bytes = {encode_entry(one): one for one in entries_}
        return [by_bytes[message] for message in found]


@pytest.fixture
def site() -> Site:
    return Site()


def same(one: CtEntry, other: CtEntry) -> bool:
    return replace(one, id=0) == replace(other, id=0)


def test_entries(site: Site) -> None:
    """What a record says, alone and in a dump."""
    for name, number in site.numbers.items():
        found = site.table.entry(number)
        assert found is not None
        assert same(found, site.wanted[name]), name
    assert len(site.shown()) == len(site.wanted)
    assert site.table.total() == len(site.wanted)
    assert site.table.most() == 1000


def test_names(site: Site) -> None:
    """By each of both tuples, in its zone alone."""
    for name, number in site.numbers.items():
        one = site.wanted[name]
        for direction, side in enumerate((one.orig, one.reply)):
            find = partial(CtName, side, one.zone)
            for wanted in (None, direction):
                assert site.table.find(find(wanted)) == number, name
            if one.orig != one.reply:
                assert site.table.find(find(1 - direction)) is None
            assert site.table.find(CtName(side, one.zone ^ 1)) is None
    assert site.table.find(CtName(r.TCP6.reversed(), 9)) is None


def test_many_in_a_bucket() -> None:
    """Further on, where their own bucket has no place left."""
    tracker = Tracker(40)
    table = Table(tracker.memory, tracker.clock)
    assert len(tracker.memory.tab) == 32 * 8
    numbers = [tracker.add(whole(entry(17, 1, port))) for port in range(40)]
    for port, number in enumerate(numbers):
        assert table.find(CtName(entry(17, 1, port).orig)) == number
    assert len(shown(table)) == 40


def test_what_is_none_any_more(site: Site) -> None:
    """Expired, flushed with its zone, ended, or free."""
    table, tracker = site.table, site.tracker
    one = site.wanted["udp"]
    name = CtName(one.orig, one.zone)
    tracker.ends[site.numbers["udp"]] = tracker.now // NS
    tracker.end(site.numbers["icmp"])
    tracker.ends[site.numbers["gre"]] = abi_ct.OVS_CT_EXP_TAKEN
    table.flush(7)
    for number in ("udp", "icmp", "gre", "tcp, zone and mark"):
        assert table.entry(site.numbers[number]) is None, number
        assert not table.delete(site.numbers[number], 1)
    assert table.find(name) is None
    assert len(site.shown()) == len(site.wanted) - 4
    assert table.entry(900) is None
    assert not tracker.asked


def test_a_record_that_changes_while_it_is_read(
        site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    number = site.numbers["udp"]
    taken = module.take

    def take(records: object, rows: object) -> object:
        found = taken(records, rows)
        monkeypatch.undo()
        site.tracker.end(number)
        site.tracker.add(site.wanted["tcp"], number=number)
        return found

    monkeypatch.setattr(module, "take", take)
    assert site.table.entry(number) is None
    found = site.table.entry(number)
    assert found is not None
    assert found.orig == site.wanted["tcp"].orig


def test_ids_change_with_the_incarnation(site: Site) -> None:
    """Of a connection, of the next one in its record, and of the same in
    another table."""
    seen = set()
    for number in site.numbers.values():
        first = site.table.entry(number)
        assert first is not None
        seen.add(first.id)
    assert len(seen) == len(site.numbers)
    number, one = site.numbers["udp"], site.wanted["udp"]
    for _ in range(300):
        before = site.table.entry(number)
        assert before is not None
        site.tracker.end(number)
        site.tracker.add(one, number=number)
        assert not site.table.delete(number, before.id)
        found = site.table.entry(number)
        assert found is not None
        assert found.id != before.id
    other = Tracker()
    other.memory.conf[0] += 1
    other.add(one, number=number)
    found = Table(other.memory, other.clock).entry(number)
    assert found is not None
    assert found.id not in seen


def test_delete(site: Site) -> None:
    for name, number in site.numbers.items():
        found = site.table.entry(number)
        assert found is not None
        assert not site.table.delete(number, found.id ^ 1)
        site.tracker.busy.add(number)
        assert site.table.delete(number, found.id), name
        assert not site.table.delete(number, found.id)
        assert site.table.find(CtName(found.orig, found.zone)) is None
    assert site.table.total() == 0


@pytest.mark.parametrize("name", r.filters())
def test_filters(site: Site, name: str) -> None:
    """What is shown is what would be ended."""
    family, payload = r.filters()[name]
    request = decode_ct_request(r.message(
        nf.IPCTNL_MSG_CT_GET, family, payload, NLM_F_DUMP))
    assert request.filter is not None
    wanted = {name for name, one in site.wanted.items()
              if request.filter.matches(one)}
    assert len(site.shown(request.filter)) == len(wanted)
    steps = len(list(site.table.end(request.filter)))
    assert steps == 1
    left = {name for name, number in site.numbers.items()
            if site.table.entry(number) is not None}
    assert left == site.wanted.keys() - wanted


def test_flush(site: Site) -> None:
    """One store for a zone, whatever is in it, and one for the sweep."""
    zones = site.tracker.maps["ovs_ct_zones"]
    site.tracker.words["ovs_ct_use"][1] = 40
    site.table.flush(7)
    assert zones.words == [14]
    assert site.tracker.words["ovs_ct_zones"][14] == 1 << 32
    assert site.tracker.words["ovs_ct_use"][7] == 42
    assert site.table.count(7) == 0 and site.table.count(65535) == 1
    site.add("again", whole(entries()["tcp, zone and mark"]))
    assert site.table.entry(site.numbers["again"]) is not None
    zones.words.clear()
    site.table.flush(None)
    assert sorted(zones.words) == [0, 6, 14, 131070]
    assert site.table.total() == 0
    assert site.shown() == []
    site.tracker.words["ovs_ct_zones"][0] = 0xffffffff << 32 | 1
    site.table.flush(0)
    assert site.tracker.words["ovs_ct_zones"][0] == 0


def test_zero(site: Site) -> None:
    """What was counted is shown once; who has just gone is not."""
    number = site.numbers["udp"]
    found = site.table.entry(number, zero=True)
    assert found is not None
    assert found.counters == site.wanted["udp"].counters
    found = site.table.entry(number)
    assert found is not None
    assert found.counters == ((0, 0), (0, 0))
    before = [site.table.entry(number) for number in site.numbers.values()]
    assert sorted(shown(site.table, True)) == sorted(
        encode_entry(one) for one in before if one is not None)
    assert {one.counters for one in site.shown()} == {((0, 0), (0, 0))}
    site.tracker.busy = set(site.numbers.values()) - {number}
    assert len(shown(site.table, True)) == len(before)


def test_locked_for_good(site: Site, monkeypatch: pytest.MonkeyPatch,
                         ) -> None:
    """It is given up, and told as one that is not there."""
    number = site.numbers["udp"]
    found = site.table.entry(number)
    assert found is not None
    monkeypatch.setattr(
        site.tracker, "_answer",
        lambda *_: abi_ct.OVS_CT_ANSWER_BUSY)
    assert not site.table.delete(number, found.id)
    assert site.tracker.asked == [(Ask.END, 1)] * module.TRIES


def test_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it is when it is taken; none that there was all the time is
    missing, whatever comes and goes."""
    monkeypatch.setattr(module, "SLICE", 7)
    tracker = Tracker(400)
    table = Table(tracker.memory, tracker.clock)
    numbers = [tracker.add(whole(entry(17, 1, port))) for port in range(200)]
    replies = table.replies(ALL, lambda *_: b"")
    found = [next(replies)]
    for number in numbers[100::2]:
        tracker.end(number)
    for port in range(200, 250):
        tracker.add(whole(entry(17, 1, port)))
    found += filter(None, replies)
    assert len(found) == len(set(found)) == 150
    steps = 0
    for _ in table.end(ALL):
        steps += 1
        assert sum(count for _, count in tracker.asked) <= 7 * steps
    assert steps > 20 and table.total() == 0


def test_a_thousand_are_asked_about_in_parts() -> None:
    tracker = Tracker(400)
    table = Table(tracker.memory, tracker.clock)
    for port in range(300):
        tracker.add(whole(entry(17, 1, port)))
    assert len(list(table.end(ALL))) == 1
    assert tracker.asked == [(Ask.END, 128), (Ask.END, 128), (Ask.END, 44)]


def test_limits(site: Site) -> None:
    table, zones = site.table, site.tracker.words["ovs_ct_zones"]
    table.set_limit(7, 9)
    table.fill_limits(5, {7, 8})
    assert zones[1:2 * 65536:2].tolist() == [
        0 if zone == 8 else 9 if zone == 7 else 5 for zone in range(65536)]
    assert table.count(7) == 1
    assert table.zones()[7] == 1


def test_timeouts(site: Site) -> None:
    """Two timeouts are one word."""
    table, memory = site.table, site.tracker.maps["ovs_ct_policy"]
    assert table.rows == abi_ct.OVS_CT_POLICIES
    defaults = memory.view.cast("B").cast("I")[:64].tolist()
    for row in (0, 3):
        table.set_timeouts(row, 1, range(11, 20))
    seconds = memory.view.cast("B").cast("I")
    assert seconds[:64].tolist() == [
        defaults[0], *range(11, 20), *defaults[10:]]
    assert seconds[3 * 64:3 * 64 + 12].tolist() == [0, *range(11, 20), 0, 0]
    assert not any(seconds[64:3 * 64])


def test_untimeout(site: Site) -> None:
    """Of one protocol, or of all that have none of their own."""
    ids = {proto: site.tracker.add(whole(entry(proto, 5, 6)), policy=3)
           for proto in (6, 17, 99, 100, 1)}
    other = site.tracker.add(whole(entry(17, 5, 7)), policy=4)

    def policies() -> list[int]:
        records = np.frombuffer(site.tracker.maps["ovs_ct"], RECORD)
        found: list[int] = records["policy"][
            [*ids.values(), other]].tolist()
        return found

    site.table.untimeout(17, 3)
    assert policies() == [3, 0, 3, 3, 3, 4]
    site.table.untimeout(255, 3)
    assert policies() == [3, 0, 0, 0, 3, 4]
    site.table.untimeout(1, 5)
    assert policies() == [3, 0, 0, 0, 3, 4]


def test_most(site: Site) -> None:
    flags = site.tracker.memory.conf[6] & 0xffffffff
    site.table.set_most(77)
    assert site.table.most() == 77
    site.table.set_most(0)
    room = len(site.tracker.words["ovs_ct"]) // 32 - 1
    assert site.table.most() == room
    site.table.set_most(room)
    with pytest.raises(RequestError) as caught:
        site.table.set_most(room + 1)
    assert caught.value.errno == errno.EINVAL
    assert site.table.most() == room
    assert site.tracker.memory.conf[6] == flags | room << 32


def test_stats(site: Site) -> None:
    for cpu, counters in enumerate(site.tracker.cpus):
        words = memoryview(counters).cast("Q")
        for stat in abi_ct.Stat:
            words[2 + stat] = 100 * cpu + stat
    first, second = site.table.cpu_stats()
    assert first == {
        "invalid": 0, "insert": 1, "insert_failed": 3 + 7,
        "drop": 3 + 7 + 4 + 5 + 6, "clash_resolve": 2, "chain_toolong": 7}
    assert second["clash_resolve"] == 102


def test_hashes_of_many(site: Site) -> None:
    records = np.frombuffer(site.tracker.maps["ovs_ct"], RECORD)
    for side in ("orig", "reply"):
        tuples = records[side][:len(site.numbers) + 1]
        hashes = site.tracker.hash.many(tuples)
        assert hashes.tolist() == [site.tracker.hash.one(one.tobytes())
                                   for one in tuples]
        for n in range(abi_ct.OVS_CT_PROBES):
            assert site.tracker.hash.bucket(hashes, n).tolist() == [
                list(site.tracker.hash.buckets(one))[n]
                for one in hashes.tolist()]
