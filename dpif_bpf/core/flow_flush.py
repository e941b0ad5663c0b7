# SPDX-License-Identifier: Apache-2.0
"""A flow table that was emptied at once, and is freed in slices.

OVS_FLOW_CMD_DEL without a key takes some ten microseconds a flow, and other
peers and upcalls are not to wait for all of that: when the table has been
emptied they are served on, in turns, and find none of its flows.  What is
left to do to the flows is done between, in two parts:

1. Caches of flows that CPUs found of late still have some.  They are made
   nobody's before a request can make others in their place
   (:attr:`Flushes.shown`).
2. They are taken apart, and what they took can be had again.

What else would keep others waiting comes into the same queue: the flows that
are left in a bridge that has gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

STEPS = 1024
"""Steps of a turn: flows that are made nobody's, or flows and nodes that are
taken apart, some microseconds each."""


@dataclass(slots=True)
class Flush:
    """What was taken out of a table, and is to be done with it.

    :param kill: makes a flow nobody's with each step
    :param free: takes some of it apart with each step
    """

    kill: Iterator[object]
    free: Iterator[object]


class Flushes:
    """Those that are under way, in order.

    :ivar begun: how many there have been
    :ivar ended: how many of these are over
    """

    def __init__(self) -> None:
        self._killing: deque[Flush] = deque()
        self._freeing: deque[Flush] = deque()
        self.begun = 0
        self.ended = 0

    @property
    def shown(self) -> bool:
        """Whether packets may still meet some of the flows."""
        return bool(self._killing)

    @property
    def busy(self) -> bool:
        """Whether run() has something to do."""
        return self.ended < self.begun

    def add(self, flush: Flush) -> int:
        """Begins one; it is over when as many have ended."""
        self._killing.append(flush)
        self._freeing.append(flush)
        self.begun += 1
        return self.begun

    def run(self, steps: int = STEPS) -> int:
        """Takes so many steps at most; how many."""
        left = steps
        while self._killing and left:
            left -= _take(self._killing[0].kill, left)
            if left:
                self._killing.popleft()
        while self._freeing and left:
            left -= _take(self._freeing[0].free, left)
            if left:
                self._freeing.popleft()
                self.ended += 1
        return steps - left

    def forget(self) -> None:
        """All of them are over: what they free goes in another way."""
        self._killing.clear()
        self._freeing.clear()
        self.ended = self.begun


def _take(steps: Iterator[object], most: int) -> int:
    """How many were taken."""
    return sum(1 for _ in islice(steps, most))
