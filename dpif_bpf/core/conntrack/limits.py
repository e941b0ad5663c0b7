# SPDX-License-Identifier: Apache-2.0
"""How many connections a zone may have.

As in Linux net/openvswitch/conntrack.c: a zone has a limit of its own, or the
default, which is that of **each** other zone; 0 stands for none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dpif_bpf.core.conntrack.interface import KeptLimits, ZoneLimits
from dpif_bpf.wire.ct_limit import DEFAULT_ZONE, ZoneLimit


class Limits:
    """The limits of all zones.

    :param table: they are written there at once
    :param kept: what an earlier provider had is taken from it, and what
        changes put there
    """

    def __init__(self, table: ZoneLimits, kept: KeptLimits) -> None:
        self._table = table
        self._kept = kept
        self._default = kept.default_limit
        self._own = dict(kept.limits())
        table.fill_limits(self._default, self._own.keys())
        for zone, limit in self._own.items():
            table.set_limit(zone, limit)

    def set(self, zones: Iterable[ZoneLimit]) -> None:
        """In their order, of which the last of a zone counts."""
        default = self._default
        for one in zones:
            if one.zone == DEFAULT_ZONE:
                default = one.limit
            else:
                self._own[one.zone] = one.limit
                self._kept.set_limit(one.zone, one.limit)
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
                self._kept.set_limit(one.zone, None)
                self._table.set_limit(one.zone, self._default)
        self._set_default(default)

    def get(self, zones: Iterable[ZoneLimit] | None) -> Iterator[ZoneLimit]:
        """What is asked for; of None the default and all zones with a limit
        of their own.  The default has no count, and neither has a zone
        without a limit: the kernel counts what meets one."""
        asked = ((DEFAULT_ZONE, *sorted(self._own)) if zones is None
                 else (one.zone for one in zones))
        for zone in asked:
            if zone == DEFAULT_ZONE:
                yield ZoneLimit(DEFAULT_ZONE, self._default)
            else:
                limit = self._own.get(zone, self._default)
                yield ZoneLimit(zone, limit,
                                self._table.count(zone) if limit else 0)

    def _set_default(self, limit: int) -> None:
        if limit != self._default:
            self._default = limit
            self._kept.default_limit = limit
            self._table.fill_limits(limit, self._own.keys())
