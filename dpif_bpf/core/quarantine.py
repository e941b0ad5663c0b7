# SPDX-License-Identifier: Apache-2.0
"""What running programs may still hold, until a grace period has passed.

Something that was unlinked is retired: put aside with what is to be done
with it later.  ``seal`` closes the present batch and gives it a number, the
epoch.  When every program that was running at that time has ended (see
dpif_bpf.edge.grace), ``advance`` finishes the batch, in order, a bounded part
at a time if its caller wants that.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import TypeVarTuple

_Args = TypeVarTuple("_Args")
_Call = tuple[Callable[..., object], tuple[object, ...]]


class Quarantine:
    """A queue of batches of deferred calls."""

    def __init__(self) -> None:
        self._epoch = 0
        self._open: deque[_Call] = deque()
        self._sealed: deque[tuple[int, deque[_Call]]] = deque()

    def __len__(self) -> int:
        """Calls that wait."""
        return len(self._open) + sum(len(b) for _, b in self._sealed)

    def retire(self, call: Callable[[*_Args], object],
               *args: *_Args) -> None:
        """Makes a call after a grace period that begins after now."""
        self._open.append((call, args))

    def seal(self) -> int:
        """Closes the batch.

        :returns: its epoch: what a grace period that begins now ends; 0
            when nothing was retired since the last one
        """
        if not self._open:
            return 0
        self._epoch += 1
        self._sealed.append((self._epoch, self._open))
        self._open = deque()
        return self._epoch

    def advance(self, epoch: int, most: int = sys.maxsize) -> int:
        """Finishes every batch up to `epoch`, whose grace period is over.

        :param most: calls to make at most
        :returns: how many calls were made; `most` means that there may be
            more
        """
        done = 0
        while self._sealed and self._sealed[0][0] <= epoch:
            batch = self._sealed[0][1]
            while batch:
                if done == most:
                    return done
                done += 1
                call, args = batch.popleft()
                call(*args)
            self._sealed.popleft()
        return done
