# SPDX-License-Identifier: Apache-2.0
"""Flow records of the classifier, in ovs_flows and ovs_values
(bpf/lib/abi.h)."""

from __future__ import annotations

from collections.abc import Sequence

from dpif_bpf import abi
from dpif_bpf.core.classifier.masks import WORDS, Mask

_SIZE = abi.FLOW.size // 8
_MORE_SIZE = abi.VALUES.size // 8
_FIRST = abi.OVS_CLS_FIRST
"""Of the words of struct ovs_flow the first is `stamp`, the second `acts` with
`next` above it; then come values."""

_DESC = 0xffff
_BRIDGE = 0xffff0000
_GEN = 32
_GEN_UNIT = 1 << _GEN
"""`stamp`: the generation is above the bridge and the mask."""

_ACTS = 0xffffffff


class NoRecord(Exception):
    """Every flow record is in use."""


class _Numbers:
    """Numbers of a range, each used by one at a time."""

    __slots__ = ("_free", "_fresh", "end")

    def __init__(self, start: int, end: int) -> None:
        self._fresh = start
        self._free: list[int] = []
        self.end = end

    @property
    def free(self) -> int:
        """How many are not in use."""
        return len(self._free) + self.end - self._fresh

    def take(self) -> int:
        """One that is not in use.

        :raises NoRecord:
        """
        if self._free:
            return self._free.pop()
        if self._fresh == self.end:
            raise NoRecord
        self._fresh += 1
        return self._fresh - 1

    def give(self, number: int) -> None:
        """It is not in use any more."""
        self._free.append(number)


class FlowRecords:
    """Writer of both.

    :param flows, values: the mapped arrays, as bytes
    :param ids: flow ids are below this; records from there on are the second
        and later ones of flows
    """

    def __init__(self, flows: memoryview, values: memoryview,
                 ids: int) -> None:
        self._words = flows.cast("Q")
        self._values = values.cast("Q")
        self._first = _Numbers(0, ids)
        self._later = _Numbers(ids, len(self._words) // _SIZE)
        self._more: dict[int, tuple[int, ...]] = {}

    @property
    def free(self) -> int:
        """Records that are not in use."""
        return self._first.free + self._later.free

    def _take_later(self) -> int:
        try:
            return self._later.take()
        except NoRecord:
            return self._first.take()

    def _give(self, number: int) -> None:
        (self._first if number < self._first.end
         else self._later).give(number)

    def write(self, mask: Mask, key: int, acts: int, bridge: int) -> int:
        """Makes a record that no edge names yet.

        :returns: the flow id
        :raises NoRecord:
        """
        values = mask.values(key)
        number = self._first.take()
        if len(values) <= _FIRST:
            self._write(number, acts, 0, values)
        else:
            self._write_wide(number, values, acts)
        self._words[number * _SIZE] = (
            self._next_gen(number) | bridge << 16 | mask.id)
        return number

    def _next_gen(self, number: int) -> int:
        """A stamp that the record has not had, of no mask and no bridge."""
        stamp = self._words[number * _SIZE]
        return (((stamp >> _GEN) + 1) % _GEN_UNIT or 1) << _GEN

    def _write(self, number: int, acts: int, following: int,
               values: Sequence[int]) -> None:
        """All but the stamp; zeros where the reader compares in vain
        (OVS_CLS_DIFF of bpf/lib/lookup.h)."""
        words, at = self._words, number * _SIZE + 1
        words[at] = acts | following << 32
        for value in values:
            at += 1
            words[at] = value
        for place in range(at + 1, (number + 1) * _SIZE):
            words[place] = 0

    def _write_wide(self, number: int, values: tuple[int, ...],
                    acts: int) -> None:
        more: list[int] = []
        try:
            for _ in range(WORDS, len(values), WORDS):
                more.append(self._take_later())
        except NoRecord:
            for taken in (*more, number):
                self._give(taken)
            raise
        ids = (number, *more, 0)
        for i, at in enumerate(ids[:-1]):
            part = values[i * WORDS:(i + 1) * WORDS]
            self.kill(at)
            self._write(at, acts, ids[i + 1], part[:_FIRST])
            rest = part[_FIRST:] + (0,) * (WORDS - len(part))
            for place, value in enumerate(rest[:WORDS - _FIRST],
                                          at * _MORE_SIZE):
                self._values[place] = value
        if more:
            self._more[number] = tuple(more)

    def acts(self, number: int) -> int:
        """The instruction at which a flow's actions begin."""
        return self._words[number * _SIZE + 1] & _ACTS

    def set_acts(self, number: int, acts: int) -> None:
        """Changes it, by one store, and then the generation: what a cache
        keeps of the actions ends with that."""
        at = number * _SIZE
        self._words[at + 1] = self._words[at + 1] & ~_ACTS | acts
        self._words[at] = (self._next_gen(number)
                           | self._words[at] & (_BRIDGE | _DESC))

    def set_bridge(self, number: int, bridge: int) -> None:
        """Says whose flow it is, for the caches' readers."""
        at = number * _SIZE
        self._words[at] = (self._next_gen(number) | bridge << 16
                           | self._words[at] & _DESC)

    def kill(self, number: int) -> None:
        """Makes the record no flow's; `acts` stays for who reads it now."""
        at = number * _SIZE
        self._words[at] = self._next_gen(number) | self._words[at] & _BRIDGE

    def release(self, number: int) -> None:
        """Frees a record that no reader can come to."""
        self._give(number)
        if self._more:
            for later in self._more.pop(number, ()):
                self._give(later)
