# SPDX-License-Identifier: Apache-2.0
"""dpif-bpf/ct-show."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ct_entries import entries, entry
from ct_memory import Tracker

from dpif_bpf import abi_ct
from dpif_bpf.core.conntrack.show import show, survey
from dpif_bpf.core.conntrack.tracker import Conntrack
from dpif_bpf.core.slices import whole
from dpif_bpf.wire.ct_entry import CtEntry
from dpif_bpf.wire.ct_limit import ZoneLimit


def complete(one: CtEntry) -> CtEntry:
    return replace(one, counters=((1, 2), (3, 4)), start=1 << 60)


@pytest.fixture
def tracker() -> Tracker:
    made = Tracker(100)
    for one in entries().values():
        made.add(complete(one))
    return made


def test_survey(tracker: Tracker) -> None:
    table = Conntrack(tracker.memory, tracker.clock).table
    seen = whole(survey(table))
    assert sum(seen.states.values()) == len(entries())
    assert seen.states["tcp established"] == 1
    assert seen.states["protocol 99"] == 2
    assert sum(seen.filled.values()) == 64
    edges = sum(edges * count for edges, count in seen.filled.items())
    assert edges == sum(seen.probes.values()) == len(entries())
    spilt = sum((probes - 1) * count
                for probes, count in seen.probes.items())
    assert spilt == sum(tracker.words["ovs_ct_tab"][7::8])
    tracker.end(1)
    assert whole(survey(table)).limbo == 1


def test_chains() -> None:
    """Where many are in few buckets."""
    tracker = Tracker(40)
    for port in range(40):
        tracker.add(complete(entry(17, port, 9)))
    tab = tracker.words["ovs_ct_tab"]
    seen = whole(survey(Conntrack(tracker.memory, tracker.clock).table))
    assert sum(seen.probes.values()) == 40
    assert sum((probes - 1) * count for probes, count in seen.probes.items()
               ) == sum(tab[7::8])


def test_text(tracker: Tracker) -> None:
    conntrack = Conntrack(tracker.memory, tracker.clock)
    conntrack.limits.set([ZoneLimit(7, 9)])
    for cpu in tracker.cpus:
        words = memoryview(cpu).cast("Q")
        words[2 + abi_ct.Stat.FULL] = 3
    tracker.words["ovs_ct_use"][1:3] = memoryview(
        (5).to_bytes(8, "little") + (2500000).to_bytes(8, "little")).cast("Q")
    text = "\n".join(show(conntrack))
    assert f"connections: {len(entries())} of 100, with room for 111" in text
    assert "  zone 7: 1 of 9\n" in text
    assert "  zone 3: 1\n" in text
    assert text.index("zone 0:") < text.index("zone 7:")
    assert "refused: no record is free 6, too many in all 0," in text
    assert "\nexpected: 0\n" in text
    assert "control connections: 0, expectations for which there was no" in (
        text)
    assert "sweep: 5 turns, the last one 2.500 ms, this one at 0 %" in text
