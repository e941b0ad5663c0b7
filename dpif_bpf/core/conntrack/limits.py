# SPDX-License-Identifier: Apache-2.0
"""How many connections a zone may have.

As in Linux net/openvswitch/conntrack.c: a zone has a limit of its own, or the
default, which is that of **each** other zone; 0 stands for none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dpif_bpf.core.conntrack.interface import ZoneLimits
from dpif_bpf.wire.ct_limit import DEFAULT_ZONE, ZoneLimit


class Limits:
    """The limits of all zones; at first there are none."""

    def __init__(self, table: ZoneLimits) -> None:
        self._table = table
        self._default = 0
        self._own: dict[int, int] = {}
        table.fill_limits(0, ())

    def set(self, zones: Iterable[ZoneLimit]) -> None:
        """In their order, of which the last of a zone counts."""
        default = self._default
        for one in zones:
            if one.zone == DEFAULT_ZONE:
                default = one.limit
            else:
                self._own[one.zone] = one.limit
                self._table.set_limit(one.zone, one.limit)
        self._set_default(default)

    def delete(self, zones: Iterable[ZoneLimit]) -> None:
        """Of zones that have none of their own as well."""
        default = self._default
        for one in zones:
            if one.zone == DEFAULT_ZONE:
                default = 0
            elif one.zone in self._own:
                del self._own[one.zone]
                self._table.set_limit(one.zone, self._default)
        self._set_default(default)

    def get(self, zones: Iterable[ZoneLimit] | None) -> Iterator[ZoneLimit]:
        """What is asked for; of None the default and all zones with a limit
        of their own.  The default has no count."""
        asked = ((DEFAULT_ZONE, *sorted(self._own)) if zones is None
                 else (one.zone for one in zones))
        for zone in asked:
            if zone == DEFAULT_ZONE:
                yield ZoneLimit(DEFAULT_ZONE, self._default)
            else:
                yield ZoneLimit(zone, self._own.get(zone, self._default),
                                self._table.count(zone))

    def _set_default(self, limit: int) -> None:
        if limit != self._default:
            self._default = limit
            self._table.fill_limits(limit, self._own.keys())
