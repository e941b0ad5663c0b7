# SPDX-License-Identifier: Apache-2.0
"""Log messages of which a peer or a broken machine could make thousands."""

from __future__ import annotations

import time
from collections.abc import Callable

BURST = 5
PER_MINUTE = 5


def msec() -> int:
    """CLOCK_MONOTONIC in ms."""
    return time.monotonic_ns() // 1000000


class Limited:
    """Says up to BURST things at once and PER_MINUTE in the long run, and
    how many were left out, as VLOG_RATE_LIMIT of OVS's vlog.h.

    :param say: a method of a Vlog
    :param clock: ms, monotonic
    """

    def __init__(self, say: Callable[[str], object],
                 clock: Callable[[], int] = msec) -> None:
        self._say = say
        self._clock = clock
        self._tokens = float(BURST)
        self._last = clock()
        self._left_out = 0

    def __call__(self, text: str) -> None:
        now = self._clock()
        self._tokens = min(BURST, self._tokens
                           + (now - self._last) * PER_MINUTE / 60000)
        self._last = now
        if self._tokens < 1:
            self._left_out += 1
            return
        self._tokens -= 1
        if self._left_out:
            text += f" ({self._left_out} before it were not logged)"
            self._left_out = 0
        self._say(text)
