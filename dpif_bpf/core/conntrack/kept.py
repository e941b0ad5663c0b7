# SPDX-License-Identifier: Apache-2.0
"""What the next provider has of limits and timeout policies: ovs_ct_kept.

Connections stay in the maps, with the number of their policy's row; this says
whose row that is, and which zones have a limit of their own.  Programs do not
read it.  A policy's first word is stored last, and taken away first.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from dpif_bpf.abi_ct import (
    OVS_CT_KEPT_POLICY,
    OVS_CT_KEPT_PROTOS,
    OVS_CT_KEPT_WORDS,
    OVS_CT_POLICIES,
    OVS_CT_ZONES,
)
from dpif_bpf.wire.cttimeout import STATES, TimeoutPolicy

_DEFAULT = 1
_ZONES = 2
_POLICIES = _ZONES + OVS_CT_ZONES
_OWN = 1 << 32
_HEAD = Struct("=HBB4x")
"""l3num, proto, 1."""
_NAME = 32
_PROTOS = tuple(sorted(STATES))
_MOST = max(STATES.values())
_PAD = 8 * OVS_CT_KEPT_POLICY - _HEAD.size - _NAME - 4 * _MOST
_BODY = Struct(f"={_NAME}s{_MOST}I{_PAD}x")

assert OVS_CT_KEPT_WORDS == _POLICIES + (
    OVS_CT_KEPT_PROTOS * OVS_CT_POLICIES * OVS_CT_KEPT_POLICY)
assert len(_PROTOS) == OVS_CT_KEPT_PROTOS


class Kept:
    """Reads and writes it.

    :param words: ovs_ct_kept, as a memoryview of format 'Q'
    """

    def __init__(self, words: memoryview) -> None:
        self._words = words

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
        for proto in _PROTOS:
            for row in range(OVS_CT_POLICIES):
                place = _place(row, proto)
                if self._words[place]:
                    yield row, self._read(place)

    def _read(self, place: int) -> TimeoutPolicy:
        data = self._words[place:place + OVS_CT_KEPT_POLICY].tobytes()
        l3num, proto, _ = _HEAD.unpack_from(data)
        name, *timeouts = _BODY.unpack_from(data, _HEAD.size)
        return TimeoutPolicy(
            name.rstrip(b"\0").decode(errors="surrogateescape"), l3num, proto,
            tuple(timeouts[:STATES[proto]]))

    def put_policy(self, row: int, policy: TimeoutPolicy) -> None:
        """Keeps one, in place of that of its row and protocol."""
        place = _place(row, policy.proto)
        data = memoryview(_BODY.pack(
            policy.name.encode(errors="surrogateescape"), *policy.timeouts,
            *(0,) * (_MOST - len(policy.timeouts)))).cast("Q")
        for index, word in enumerate(data, place + 1):
            self._words[index] = word
        (self._words[place],) = memoryview(_HEAD.pack(
            policy.l3num, policy.proto, 1)).cast("Q")

    def drop_policy(self, row: int, proto: int) -> None:
        self._words[_place(row, proto)] = 0


def _place(row: int, proto: int) -> int:
    return _POLICIES + OVS_CT_KEPT_POLICY * (
        _PROTOS.index(proto) * OVS_CT_POLICIES + row)
