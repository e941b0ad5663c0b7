# SPDX-License-Identifier: Apache-2.0
"""What the next provider has of limits and timeout policies: ovs_ct_kept.

Connections stay in the maps, with the number of their policy's row; this says
whose row that is, and which zones have a limit of their own.  Programs do not
read it.  A policy's first word is stored last, and taken away first.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from struct import Struct

from dpif_bpf.abi_ct import (
    OVS_CT_KEPT_POLICIES,
    OVS_CT_KEPT_POLICY,
    OVS_CT_KEPT_WORDS,
    OVS_CT_ZONES,
)
from dpif_bpf.errors import BackendError
from dpif_bpf.wire.cttimeout import STATES, TimeoutPolicy

_DEFAULT = 1
_ZONES = 2
_POLICIES = _ZONES + OVS_CT_ZONES
_OWN = 1 << 32
_HEAD = Struct("=HBBH2x")
"""l3num, proto, 1, row."""
_NAME = 32
_MOST = max(STATES.values())
_PAD = 8 * OVS_CT_KEPT_POLICY - _HEAD.size - _NAME - 4 * _MOST
_BODY = Struct(f"={_NAME}s{_MOST}I{_PAD}x")

assert OVS_CT_KEPT_WORDS == (
    _POLICIES + OVS_CT_KEPT_POLICIES * OVS_CT_KEPT_POLICY)


class Kept:
    """Reads and writes it.

    :param words: ovs_ct_kept, as a memoryview of format 'Q'
    """

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._places: dict[tuple[int, int], int] = {}
        """By row and protocol."""
        self._free: list[int] = []
        for place in range(_POLICIES, OVS_CT_KEPT_WORDS, OVS_CT_KEPT_POLICY):
            if words[place]:
                row, policy = self._read(place)
                self._places[row, policy.proto] = place
            else:
                self._free.append(place)
        self._free.reverse()

    @property
    def default_limit(self) -> int:
        """Of zones that have no limit of their own; 0: none."""
        return self._words[_DEFAULT]

    @default_limit.setter
    def default_limit(self, limit: int) -> None:
        self._words[_DEFAULT] = limit

    def limits(self) -> Iterator[tuple[int, int]]:
        """(zone, limit) of those that have one of their own."""
        for zone, word in enumerate(
                self._words[_ZONES:_POLICIES].tolist()):
            if word:
                yield zone, word & ~_OWN

    def set_limit(self, zone: int, limit: int | None) -> None:
        """:param limit: None: it has none of its own"""
        self._words[_ZONES + zone] = 0 if limit is None else _OWN | limit

    def policies(self) -> Iterator[tuple[int, TimeoutPolicy]]:
        """(row, policy); of row 0 the default of a protocol."""
        return map(self._read, self._places.values())

    def _read(self, place: int) -> tuple[int, TimeoutPolicy]:
        data = self._words[place:place + OVS_CT_KEPT_POLICY].tobytes()
        l3num, proto, _, row = _HEAD.unpack_from(data)
        name, *timeouts = _BODY.unpack_from(data, _HEAD.size)
        return row, TimeoutPolicy(
            name.rstrip(b"\0").decode(errors="surrogateescape"), l3num, proto,
            tuple(timeouts[:STATES[proto]]))

    def put_policy(self, row: int, policy: TimeoutPolicy) -> None:
        """Keeps one, in place of that of its row and protocol.

        :raises BackendError: ENOMEM when there is no room
        """
        place = self._places.get((row, policy.proto))
        if place is None:
            if not self._free:
                raise BackendError(
                    errno.ENOMEM, f"there are {OVS_CT_KEPT_POLICIES} timeout"
                    " policies already")
            place = self._places[row, policy.proto] = self._free.pop()
        data = memoryview(_BODY.pack(
            policy.name.encode(errors="surrogateescape"), *policy.timeouts,
            *(0,) * (_MOST - len(policy.timeouts)))).cast("Q")
        for index, word in enumerate(data, place + 1):
            self._words[index] = word
        (self._words[place],) = memoryview(_HEAD.pack(
            policy.l3num, policy.proto, 1, row)).cast("Q")

    def drop_policy(self, row: int, proto: int) -> None:
        place = self._places.pop((row, proto))
        self._words[place] = 0
        self._free.append(place)
