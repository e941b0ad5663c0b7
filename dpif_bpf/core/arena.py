# SPDX-License-Identifier: Apache-2.0
"""An allocator of 64-bit words in a mapped array map.

Free blocks are kept in lists by size class, two levels deep as in TLSF
(Masmano et al., "TLSF: a New Dynamic Memory Allocator for Real-Time Systems",
2004): the highest bit of the size, and the three bits below it.  Neighbours
that are both free are joined, so that any mix of sizes can follow any other.
The books are Python's; nothing but the user's data is stored in the map.
"""

from __future__ import annotations

import errno

from dpif_bpf.core.quarantine import Quarantine
from dpif_bpf.errors import BackendError

_SPLIT = 3
"""Size classes are 2**_SPLIT to the octave."""


def _class_of(words: int) -> int:
    """The size class to which a free block of `words` words belongs."""
    shift = words.bit_length() - 1 - _SPLIT
    return words if shift <= 0 else (shift << _SPLIT) + (words >> shift)


def _class_for(words: int) -> int:
    """The lowest class all of whose blocks have at least `words` words."""
    shift = words.bit_length() - 1 - _SPLIT
    if shift > 0:
        words += (1 << shift) - 1
    return _class_of(words)


class Arena:
    """Hands out runs of words of `words`.

    :param words: the map, as a memoryview of format 'Q'
    :param start: first word that may be handed out.  Offset 0 stands for
        "nothing" everywhere, so this is at least 1.
    :param name: for the text of ENOSPC
    :ivar quarantine: of words that programs may still be reading; its owner
        closes and finishes the batches
    """

    def __init__(self, words: memoryview, start: int = 1,
                 name: str = "ovs_acts") -> None:
        if words.format != "Q" or not 1 <= start <= len(words):
            raise ValueError("an arena needs a memoryview of 'Q', and word 0")
        self._words = words
        self._name = name
        self._start = start
        self._used = 0
        self._size_at: dict[int, int] = {}
        self._start_of: dict[int, int] = {}
        self._lists: list[dict[int, None]] = [
            {} for _ in range(_class_of(len(words)) + 2)]
        self._nonempty = 0
        self.quarantine = Quarantine()
        if start < len(words):
            self._insert(start, len(words) - start)

    @property
    def capacity(self) -> int:
        """Words that can be handed out."""
        return len(self._words) - self._start

    @property
    def used(self) -> int:
        """Words that are handed out, quarantined ones included."""
        return self._used

    def alloc(self, words: int) -> int:
        """The offset of `words` words that are the caller's from now on.

        Their content is undefined.

        :raises BackendError: ENOSPC
        """
        if words < 1:
            raise ValueError("no words")
        ready = self._nonempty >> (first := _class_for(words))
        if ready:
            offset, _ = self._lists[
                first + (ready & -ready).bit_length() - 1].popitem()
        else:
            offset = self._search(words)
        size = self._size_at[offset]
        self._remove(offset, size)
        if size > words:
            self._insert(offset + words, size - words)
        self._used += words
        return offset

    def store(self, data: bytes) -> tuple[int, int]:
        """Puts a copy of `data` into the map, padded with zeros.

        :returns: offset and number of words, to be given to :meth:`free`
        :raises BackendError: ENOSPC
        """
        words = max((len(data) + 7) // 8, 1)
        offset = self.alloc(words)
        for at, word in enumerate(memoryview(
                data.ljust(words * 8, b"\0")).cast("Q"), offset):
            self._words[at] = word
        return offset, words

    def free(self, offset: int, words: int) -> None:
        """Gives words back that programs may still be reading.

        They can be handed out again after a grace period.
        """
        self.quarantine.retire(self.free_now, offset, words)

    def free_now(self, offset: int, words: int) -> None:
        """Gives words back that no program reads."""
        if words < 1 or not self._start <= offset <= len(
                self._words) - words:
            raise ValueError(f"{words} words at {offset} were never given")
        self._used -= words
        after = offset + words
        if (size := self._size_at.get(after)) is not None:
            self._remove(after, size)
            words += size
        if (before := self._start_of.get(offset)) is not None:
            self._remove(before, offset - before)
            words += offset - before
            offset = before
        self._insert(offset, words)

    def _search(self, words: int) -> int:
        """A block among those of which only some are large enough."""
        number = _class_of(words)
        if number < len(self._lists):
            for offset in self._lists[number]:
                if self._size_at[offset] >= words:
                    return offset
        raise BackendError(
            errno.ENOSPC, f"no {words} consecutive words are free in"
            f" {self._name}: {self._used} of {self.capacity} are in use")

    def _insert(self, offset: int, size: int) -> None:
        self._size_at[offset] = size
        self._start_of[offset + size] = offset
        number = _class_of(size)
        self._lists[number][offset] = None
        self._nonempty |= 1 << number

    def _remove(self, offset: int, size: int) -> None:
        del self._size_at[offset]
        del self._start_of[offset + size]
        number = _class_of(size)
        blocks = self._lists[number]
        blocks.pop(offset, None)
        if not blocks:
            self._nonempty &= ~(1 << number)
