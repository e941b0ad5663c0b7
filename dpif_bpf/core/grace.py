# SPDX-License-Identifier: Apache-2.0
"""Things that must outlive the programs that may still be reading them.

What the provider takes out of a map is not free yet: a program that began
before may still use it.  It goes into a :class:`Quarantine`, and comes out
when a grace period that began after it has passed.  The owner of the clock
does, for all quarantines of a datapath::

    marks = [q.mark() for q in quarantines]
    # wait until every program that runs now has returned
    for q, mark in zip(quarantines, marks):
        q.reclaim(mark)

What is put in after mark() stays for the next round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Quarantine(Generic[T]):
    """A queue whose items come out only after a grace period."""

    def __init__(self) -> None:
        self._items: deque[tuple[int, T]] = deque()
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Puts `item` in: no program can begin to use it any more."""
        self._items.append((self._epoch, item))

    def mark(self) -> int:
        """Called when a grace period begins: stands for what is in now."""
        self._epoch += 1
        return self._epoch

    def take(self, mark: int) -> Iterator[T]:
        """Takes out what was in at `mark`, whose grace period has passed."""
        items = self._items
        while items and items[0][0] < mark:
            yield items.popleft()[1]
