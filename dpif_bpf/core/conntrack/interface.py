# SPDX-License-Identifier: Apache-2.0
"""What the services of conntrack ask of the table of connections.

Small protocols, each of which one of the services needs; the mapped table is
all of them.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Protocol

from dpif_bpf.wire.ct_entry import CtEntry
from dpif_bpf.wire.ctnetlink import CtFilter, CtName


class TimeoutRows(Protocol):
    """The rows of timeouts that connections refer to; row 0 is the default.

    Rows are as many as `rows` says, and slots of each are as
    ``core.conntrack.policy`` lays them out.
    """

    @property
    def rows(self) -> int: ...

    def set_timeouts(self, row: int, first: int,
                     seconds: Sequence[int]) -> None:
        """Writes slots `first` and following of a row."""

    def untimeout(self, row: int) -> None:
        """Makes all connections that refer to the row refer to row 0."""


class ZoneLimits(Protocol):
    """How many connections each zone has and may have."""

    def set_limit(self, zone: int, limit: int) -> None:
        """Of one zone; 0: none."""

    def fill_limits(self, limit: int, but: Collection[int]) -> None:
        """Of all zones but those."""

    def count(self, zone: int) -> int:
        """Connections of a zone."""


class Connections(Protocol):
    """The connections."""

    def find(self, name: CtName) -> int | None:
        """Id of a connection; of `name`, its CTA_ID is left alone."""

    def entry(self, number: int, zero: bool = False) -> CtEntry | None:
        """A connection as it is now; None when it is no more.

        :param zero: packets and bytes are counted anew from then on
        """

    def replies(self, filter_: CtFilter,
                header: Callable[[int, int], bytes],
                zero: bool = False) -> Iterator[bytes]:
        """A message of each connection that is meant.

        :param header: what comes before the attributes, of (family, their
            size in bytes); these are as of ct_entry.encode_entry()
        :param zero: as of entry()
        """

    def delete(self, number: int, ct_id: int) -> bool:
        """Ends a connection, if that is still its CTA_ID; whether it was."""

    def flush(self, zone: int | None) -> None:
        """Ends all, or all of a zone, without a walk over them."""

    def select(self, filter_: CtFilter) -> Iterable[tuple[int, int]]:
        """(id, CTA_ID) of each connection that is meant."""

    def total(self) -> int:
        """How many there are."""

    def most(self) -> int:
        """How many there may be."""

    def cpu_stats(self) -> Sequence[Mapping[str, int]]:
        """Counters of each CPU, by the names of ctnetlink.CPU_STATS."""
