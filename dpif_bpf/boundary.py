# SPDX-License-Identifier: Apache-2.0
"""Where an exception that nobody expected ends.

An error that is foreseen is a DpifError, and dealt with where it comes up.
Any other is a fault of this program; whatever provoked it, a packet, a peer
or a device, must not end the service of everybody else with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVarTuple

import ovs.vlog

from dpif_bpf.core.devices import Poller
from dpif_bpf.limited import Limited, msec

vlog = ovs.vlog.Vlog("boundary")

REST = 1000
"""ms.  What made a part of the loop fail may be there still, a descriptor
that is readable, for instance: without a rest the loop would spin on it."""

_Args = TypeVarTuple("_Args")


class Boundary:
    """The boundary of one part of the loop.

    :param name: of the part, for the log and for coverage/show
    :param doubt: called after each failure, with the name, where the part
        changes state: it may have changed half of what it was to change
    :param clock: ms, monotonic
    :ivar failures: exceptions so far
    """

    def __init__(self, name: str,
                 doubt: Callable[[str], object] | None = None,
                 clock: Callable[[], int] = msec) -> None:
        self.name = name
        self.failures = 0
        self._doubt = doubt
        self._clock = clock
        self._rests_until = 0
        self._exception = Limited(vlog.exception, clock)

    def attempt(self, call: Callable[[*_Args], object],
                *args: *_Args) -> bool:
        """One event; False when it failed."""
        try:
            call(*args)
        except Exception:
            self.failed()
            return False
        return True

    def failed(self) -> None:
        """To be called where such an exception was caught."""
        self.failures += 1
        self._exception(f"{self.name}: failed in a way that was not expected")
        if self._doubt is not None:
            self._doubt(self.name)

    def run(self, part: Callable[[], object]) -> None:
        """Runs the part, unless it rests."""
        if self._rests_until:
            if self._clock() < self._rests_until:
                return
            self._rests_until = 0
        if not self.attempt(part):
            self._rests_until = self._clock() + REST

    def wait(self, poller: Poller, part: Callable[[Poller], object]) -> None:
        """Has the part register what it waits for, unless it rests."""
        if self._rests_until or not self.attempt(part, poller):
            self._rests_until = self._rests_until or self._clock() + REST
            poller.timer_wait(self._rests_until - self._clock())
