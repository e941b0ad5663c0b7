# SPDX-License-Identifier: Apache-2.0
"""Tables of connections in plain Python: core.conntrack.interface."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from dpif_bpf.abi_ct import OVS_CT_KEPT_WORDS
from dpif_bpf.core.conntrack.kept import Kept
from dpif_bpf.wire.ct_entry import CtEntry, encode_entry
from dpif_bpf.wire.ctnetlink import CtFilter, CtName


def kept() -> Kept:
    """Memory for the next provider, empty."""
    return Kept(memoryview(bytearray(8 * OVS_CT_KEPT_WORDS)).cast("Q"))


class Rows:
    """TimeoutRows."""

    def __init__(self, rows: int = 4096) -> None:
        self.rows = rows
        self.slots: dict[tuple[int, int], int] = {}
        self.untimed: list[tuple[int, int]] = []

    def set_timeouts(self, row: int, first: int,
                     seconds: Sequence[int]) -> None:
        assert 0 <= row < self.rows
        for slot, value in enumerate(seconds, first):
            assert slot < 64
            self.slots[row, slot] = value

    def untimeout(self, proto: int, row: int) -> None:
        assert row
        self.untimed.append((proto, row))


class Zones:
    """ZoneLimits."""

    def __init__(self) -> None:
        self.limits = [7] * 65536
        self.counts: dict[int, int] = {}
        self.fills = 0

    def set_limit(self, zone: int, limit: int) -> None:
        self.limits[zone] = limit

    def fill_limits(self, limit: int, but: Collection[int]) -> None:
        self.fills += 1
        self.limits = [kept if zone in but else limit
                       for zone, kept in enumerate(self.limits)]

    def count(self, zone: int) -> int:
        return self.counts.get(zone, 0)


class Table:
    """Connections."""

    def __init__(self, entries: Sequence[CtEntry] = ()) -> None:
        self.entries: dict[int, CtEntry] = dict(enumerate(entries, 1))
        self.flushed: list[int | None] = []

    def find(self, name: CtName) -> int | None:
        for number, one in self.entries.items():
            for side, tuple_ in enumerate((one.orig, one.reply)):
                if (name.direction in (None, side) and name.tuple == tuple_
                        and name.zone == one.zone):
                    return number
        return None

    def entry(self, number: int, zero: bool = False) -> CtEntry | None:
        found = self.entries.get(number)
        if found is not None and zero:
            self.entries[number] = replace(found, counters=((0, 0), (0, 0)))
        return found

    def replies(self, filter_: CtFilter,
                header: Callable[[int, int], bytes],
                zero: bool = False) -> Iterator[bytes]:
        for number in self._select(filter_):
            found = self.entry(number, zero)
            if found is not None:
                data = encode_entry(found)
                yield header(found.orig.family, len(data)) + data

    def delete(self, number: int, ct_id: int) -> bool:
        found = self.entries.get(number)
        if found is None or found.id != ct_id:
            return False
        del self.entries[number]
        return True

    def flush(self, zone: int | None) -> None:
        self.flushed.append(zone)
        for number in self._select(CtFilter(zone=zone)):
            del self.entries[number]

    def end(self, filter_: CtFilter) -> Iterator[None]:
        for number in self._select(filter_):
            yield
            del self.entries[number]

    def _select(self, filter_: CtFilter) -> list[int]:
        return [number for number, one in self.entries.items()
                if filter_.matches(one)]

    def total(self) -> int:
        return len(self.entries)

    def most(self) -> int:
        return 262144

    def cpu_stats(self) -> Sequence[Mapping[str, int]]:
        return [{"insert": 5}, {"drop": 6}]
