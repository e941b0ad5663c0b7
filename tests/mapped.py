# SPDX-License-Identifier: Apache-2.0
"""Memory of a map that programs read, as the provider has it mapped.

Only what a program can never see half of may be stored there: an aligned
word, by an assignment to an element of a memoryview of format "Q".  All else
fails: smaller elements, slices, struct.pack_into(), numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Stored = Callable[[int], None]


class Mapped(np.ndarray[Any, Any]):
    """As a memoryview; an array for those who read its buffer.

    :ivar words: indices of the words that were stored, in order
    :ivar stored: called with the index after each store
    :ivar private: whether nobody but the provider sees words that begin at an
        index: then they may be stored in any way
    """

    view: memoryview
    words: list[int]
    stored: list[Stored]
    private: Callable[[int], bool]

    def cast(self, kind: str) -> Mapped:
        """As memoryview.cast()."""
        made = _over(self.view.cast("B").cast(kind))
        made.words, made.stored = self.words, self.stored
        made.private = self.private
        return made

    @property
    def format(self) -> str:
        return self.view.format

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, at: Any) -> Any:
        return self.view[at]

    def __setitem__(self, at: Any, value: Any) -> None:
        place = at.start if isinstance(at, slice) else at
        index = place * self.view.itemsize // 8
        if not self.private(index):
            assert self.view.itemsize == 8, f"half of word {index} is stored"
            assert not isinstance(at, slice), f"a copy to word {index}"
        self.view[at] = value
        self.words.append(index)
        for told in self.stored:
            told(index)


def _over(view: memoryview) -> Mapped:
    made: Mapped = np.frombuffer(
        view.cast("B").toreadonly(), np.uint8).view(Mapped)
    made.view = view
    return made


def mapped(size: int, private: Callable[[int], bool] = lambda _index: False,
           ) -> Any:
    """Zeroed memory of a map, as bytes.  It is no memoryview, but passes for
    one."""
    made = _over(memoryview(bytearray(size)))
    made.words, made.stored, made.private = [], [], private
    return made
