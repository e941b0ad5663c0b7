# SPDX-License-Identifier: Apache-2.0
"""Flow records of the classifier, in ovs_flows and ovs_values
(bpf/lib/abi.h)."""

from __future__ import annotations

import struct

from dpif_bpf import abi
from dpif_bpf.core.cls_masks import WORDS, Mask

_SIZE = abi.FLOW.size
_HEAD_WORDS = _SIZE // 8
_FIRST = abi.OVS_CLS_FIRST
_PACK = tuple(struct.Struct(f"=II{n}Q{(_FIRST - n) * 8}x")
              for n in range(_FIRST + 1))
"""From `acts` on: acts, next, values, and zeros where the reader compares
in vain (OVS_CLS_DIFF of bpf/lib/lookup.h)."""

_GEN = 32
_GEN_UNIT = 1 << _GEN
"""`stamp`: the generation is above the bridge and the mask."""

_PACK_MORE = tuple(struct.Struct(f"={n}Q{(WORDS - _FIRST - n) * 8}x")
                   for n in range(WORDS - _FIRST + 1))
"""The same in ovs_values."""


class NoRecord(Exception):
    """Every flow record is in use."""


class FlowRecords:
    """Writer of both.

    :param flows, values: the mapped arrays, as bytes
    """

    def __init__(self, flows: memoryview, values: memoryview) -> None:
        self._raw = flows
        self._values = values
        self._heads = flows.cast("Q")
        self._fields = flows.cast("I")
        self._halves = flows.cast("H")
        self._count = len(flows) // _SIZE
        self._free: list[int] = []
        self._fresh = 0
        self._more: dict[int, tuple[int, ...]] = {}

    @property
    def free(self) -> int:
        """Records that are not in use."""
        return len(self._free) + self._count - self._fresh

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        if self._fresh == self._count:
            raise NoRecord
        self._fresh += 1
        return self._fresh - 1

    def write(self, mask: Mask, key: int, acts: int, bridge: int) -> int:
        """Makes a record that no edge names yet.

        :returns: the flow id
        :raises NoRecord:
        """
        values = mask.values(key)
        number = self._take()
        if len(values) <= _FIRST:
            _PACK[len(values)].pack_into(self._raw, number * _SIZE + 8,
                                         acts, 0, *values)
        else:
            self._write_wide(number, values, acts)
        self._heads[number * _HEAD_WORDS] = (
            self._next_gen(number) | bridge << 16 | mask.id)
        return number

    def _next_gen(self, number: int) -> int:
        """A stamp that no flow has had, of no mask and no bridge."""
        stamp = self._heads[number * _HEAD_WORDS]
        return ((stamp >> _GEN) + 1) % _GEN_UNIT << _GEN

    def _write_wide(self, number: int, values: tuple[int, ...],
                    acts: int) -> None:
        more: list[int] = []
        try:
            for _ in range(WORDS, len(values), WORDS):
                more.append(self._take())
        except NoRecord:
            self._free.extend((*more, number))
            raise
        ids = (number, *more, 0)
        for i, at in enumerate(ids[:-1]):
            part = values[i * WORDS:(i + 1) * WORDS]
            self._halves[at * (_SIZE // 2)] = 0
            first, rest = part[:_FIRST], part[_FIRST:]
            _PACK[len(first)].pack_into(self._raw, at * _SIZE + 8,
                                        acts, ids[i + 1], *first)
            _PACK_MORE[len(rest)].pack_into(
                self._values, at * abi.VALUES.size, *rest)
        if more:
            self._more[number] = tuple(more)

    def acts(self, number: int) -> int:
        """The instruction at which a flow's actions begin."""
        return self._fields[number * (_SIZE // 4) + 2]

    def set_acts(self, number: int, acts: int) -> None:
        """Changes it, by one 32-bit store."""
        self._fields[number * (_SIZE // 4) + 2] = acts

    def set_bridge(self, number: int, bridge: int) -> None:
        """Says whose flow it is, for the caches' readers."""
        self._halves[number * (_SIZE // 2) + 1] = bridge

    def kill(self, number: int) -> None:
        """Makes the record no flow's; `acts` stays for who reads it now."""
        self._halves[number * (_SIZE // 2)] = 0

    def release(self, number: int) -> None:
        """Frees a record that no reader can come to."""
        self._free.append(number)
        if self._more:
            self._free.extend(self._more.pop(number, ()))
