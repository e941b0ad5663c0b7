# SPDX-License-Identifier: Apache-2.0
"""What the services of conntrack ask of the table of connections.

Small protocols, each of which one of the services needs; the mapped table is
all of them.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Protocol

from dpif_bpf.wire.ct_entry import CtEntry
from dpif_bpf.wire.ctnetlink import CtFilter, CtName
from dpif_bpf.wire.cttimeout import TimeoutPolicy


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

    def untimeout(self, proto: int, row: int) -> None:
        """Makes all connections of a protocol, or all whose protocol has no
        timeouts of its own, that refer to the row refer to row 0."""


class KeptPolicies(Protocol):
    """Policies for the next provider.

    Row 0 stands for the default of a protocol.
    """

    def policies(self) -> Iterator[tuple[int, TimeoutPolicy]]:
        """(row, policy), in any order."""

    def put_policy(self, row: int, policy: TimeoutPolicy) -> None:
        """Keeps one, in place of that of its row and protocol."""

    def drop_policy(self, row: int, proto: int) -> None:
        """Forgets one."""


class KeptLimits(Protocol):
    """Limits for the next provider."""

    default_limit: int
    """Of zones that have none of their own; 0: none."""

    def limits(self) -> Iterator[tuple[int, int]]:
        """(zone, limit) of those that have one of their own."""

    def set_limit(self, zone: int, limit: int | None) -> None:
        """:param limit: None: it has none of its own"""


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
        """A message of each connection that is meant; empty ones between
        these divide what takes long.

        :param header: what comes before the attributes, of (family, their
            size in bytes); these are as of ct_entry.encode_entry()
        :param zero: as of entry()
        """

    def delete(self, number: int, ct_id: int) -> bool:
        """Ends a connection, if that is still its CTA_ID; whether it was."""

    def flush(self, zone: int | None) -> None:
        """Ends all, or all of a zone, without a walk over them."""

    def end(self, filter_: CtFilter) -> Iterator[None]:
        """Ends each connection that is meant, some at a step."""

    def total(self) -> int:
        """How many there are."""

    def most(self) -> int:
        """How many there may be."""

    def cpu_stats(self) -> Sequence[Mapping[str, int]]:
        """Counters of each CPU, by the names of ctnetlink.CPU_STATS."""
