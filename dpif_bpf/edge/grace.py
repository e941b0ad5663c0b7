# SPDX-License-Identifier: Apache-2.0
"""Grace periods: when no running program can hold what was unlinked.

MEMBARRIER_CMD_GLOBAL of membarrier(2) returns when every RCU read-side
section that was under way has ended; programs at tc and XDP hooks run within
one.  It takes some milliseconds, so that a thread of its own calls it, for
all that was retired meanwhile.

An example.  The main loop runs in turns, the thread waits beside it::

    turn   main loop                            thread
    1      deletes flow A: unlinks it, and
           its record is put in quarantine
           run(): seals the batch {A}           begins to wait
    2      deletes flow B: into a new batch       |  a program that had
    3      uses no record of A or B               |  found A runs on
           run(): nothing has ended               v  and ends
    4      wakes up by the descriptor           has waited
           run(): frees A; seals {B}            begins to wait
    …

B has to wait for a period of its own: a program that found B in turn 2 may
have begun after the first period did.  So no more than two batches exist, one
sealed and one open, and a removal is freed after two periods at most.  Of a
large batch a turn frees FREED things.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Protocol

from dpif_bpf.core.devices import Poller
from dpif_bpf.edge import bpfsys
from dpif_bpf.errors import BackendError

FREED = 1024
"""Things that a turn frees at most: some ms."""


class Quarantined(Protocol):
    """Something whose removals wait: core.quarantine, Classifier, …"""

    def seal(self) -> int:
        """Closes a batch; its epoch, or 0 when it is empty."""

    def advance(self, epoch: int, most: int) -> int:
        """Frees what was retired up to `epoch`, or the first `most` of it;
        how many things."""


class Grace:
    """Ends the grace periods of the quarantines that it watches.

    run() belongs into every turn of the main loop; the thread sleeps while
    nothing is in quarantine.

    :ivar periods: grace periods so far
    :raises BackendError: where the kernel cannot wait for all CPUs: EINVAL
        when some are nohz_full
    """

    def __init__(self) -> None:
        bpfsys.wait_for_programs()
        self.periods = 0
        self._watched: list[Quarantined] = []
        self._batches: list[tuple[Quarantined, int]] = []
        self._busy = False
        self._ended = False
        self._freeing = False
        self._stop = False
        self._wake = threading.Event()
        self._error: BackendError | None = None
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._thread = threading.Thread(target=self._loop, daemon=True,
                                        name="grace")
        self._thread.start()

    def watch(self, *quarantined: Quarantined) -> None:
        """Looks after these, too; in this order in every period."""
        self._watched.extend(quarantined)

    def forget(self, *quarantined: Quarantined) -> None:
        """Leaves these alone: what is in quarantine stays there."""
        self._watched = [item for item in self._watched
                         if item not in quarantined]
        self._batches = [(item, epoch) for item, epoch in self._batches
                         if item not in quarantined]

    def _loop(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stop:
                return
            try:
                bpfsys.wait_for_programs()
            except BackendError as error:
                self._error = error
            self._ended = True
            os.eventfd_write(self._fd, 1)

    def _seal(self) -> bool:
        """Close the open batches; whether there is anything in them."""
        self._batches = [(item, epoch) for item in self._watched
                         if (epoch := item.seal())]
        return bool(self._batches)

    def _advance(self, most: int) -> int:
        """Free of the closed batches, whose grace period is over."""
        freed = 0
        while self._batches:
            item, epoch = self._batches[0]
            freed += item.advance(epoch, most - freed)
            if freed == most:
                return freed
            del self._batches[0]
        self._freeing = False
        return freed

    @property
    def over(self) -> bool:
        """Whether a period has ended whose things are not freed yet."""
        return self._ended

    def run(self, free: bool = True) -> int:
        """Frees what has become free, or FREED things of it, and has the
        thread wait for what was retired meanwhile.

        :param free: False when what has become free may still be named by
            something that was not read before the period was over
        :returns: how many things were freed
        :raises BackendError: when waiting failed
        """
        freed = 0
        if free and self.over:
            self._finish()
        if self._freeing:
            freed = self._advance(FREED)
        if not self._busy and not self._freeing and self._seal():
            self._busy = True
            self._wake.set()
        return freed

    def _finish(self) -> None:
        """The thread's period is over, or will be."""
        self._poll.poll()  # what the thread does last
        os.eventfd_read(self._fd)
        self._busy = self._ended = False
        if self._error is not None:
            raise self._error
        self._begin_freeing()

    def _begin_freeing(self) -> None:
        self.periods += 1
        self._freeing = True

    def wait(self, poller: Poller) -> None:
        """Makes `poller` wake up when run() has something to do."""
        if self._freeing:
            poller.immediate_wake()
        elif self._busy:
            poller.fd_wait(self._fd, select.POLLIN)

    def reclaim(self, before: Callable[[], object] = int) -> int:
        """Waits for the grace period of what is retired by now, some 10 ms:
        when room is needed at once.

        :param before: called after it, before anything is freed
        :returns: how many things were freed, up to FREED at a time; 0 when
            there are none
        :raises BackendError: when waiting failed
        """
        freed = 0
        if self._busy:
            self._poll.poll()
            before()
            self._finish()
        if self._freeing:
            freed = self._advance(FREED)
        if not self._freeing and self._seal():
            bpfsys.wait_for_programs()
            before()
            self._begin_freeing()
            freed += self._advance(FREED - freed)
        return freed

    def close(self) -> None:
        """Ends the thread; what is in quarantine stays there."""
        if self._fd >= 0:
            self._stop = True
            self._wake.set()
            self._thread.join()
            os.close(self._fd)
            self._fd = -1
