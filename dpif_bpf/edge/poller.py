# SPDX-License-Identifier: Apache-2.0
"""What the main loop sleeps in: poll(2).

In the place of ovs.poller.Poller, and with its methods as far as the ovs
package's wait() functions call them: that one is built on select(2), which
takes no descriptor beyond 1023, and so no more than some 950 ports.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from typing import Protocol


class HasFileno(Protocol):
    """A socket, for instance."""

    def fileno(self) -> int:
        """Its descriptor."""


class Poller:
    """Registrations hold for one block(), as those of ovs.poller.Poller."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}
        self._timeout: int | None = None
        self._signals: tuple[int, int] | None = None

    def fd_wait(self, fd: int | HasFileno, events: int) -> None:
        """Wakes up on `events` (POLLIN, …) of a descriptor, beside those
        that are registered for it already."""
        number = fd if isinstance(fd, int) else fd.fileno()
        self._events[number] = self._events.get(number, 0) | events

    def timer_wait(self, msec: int) -> None:
        """Wakes up after `msec`; at once when that is not positive."""
        if self._timeout is None or msec < self._timeout:
            self._timeout = max(0, msec)

    def immediate_wake(self) -> None:
        """Wakes up at once."""
        self._timeout = 0

    def wake_on_signals(self) -> None:
        """From now on signals with a handler end block().

        A handler of Python's runs when the interpreter looks for signals.
        For one that comes between its last look and poll(2) it would look
        again only after the next event, perhaps in hours.

        To be called by the main thread, of one poller in a process.
        """
        self._signals = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)

    def block(self) -> None:
        """Sleeps until something that was registered happens."""
        poll = select.poll()
        for fd, events in self._events.items():
            poll.register(fd, events)
        if self._signals is not None:
            poll.register(self._signals[0], select.POLLIN)
        timeout, self._timeout = self._timeout, None
        self._events.clear()
        ready = poll.poll(timeout)
        if self._signals is not None and any(
                fd == self._signals[0] for fd, _ in ready):
            with contextlib.suppress(BlockingIOError):
                os.read(self._signals[0], select.PIPE_BUF)

    def close(self) -> None:
        """Signals are as they were."""
        if self._signals is not None:
            signal.set_wakeup_fd(-1)
            for fd in self._signals:
                os.close(fd)
            self._signals = None
