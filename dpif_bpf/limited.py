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
    """Says a few things at once, fewer in the long run, and how many were
    left out, as VLOG_RATE_LIMIT of OVS's vlog.h.

    :param say: a method of a Vlog
    :param clock: ms, monotonic
    :param burst: at once
    :param per_minute: in the long run
    """

    def __init__(self, say: Callable[[str], object],
                 clock: Callable[[], int] = msec, burst: int = BURST,
                 per_minute: int = PER_MINUTE) -> None:
        self._say = say
        self._clock = clock
        self._burst = burst
        self._per_minute = per_minute
        self._tokens = float(burst)
        self._last = clock()
        self._left_out = 0

    def __call__(self, text: str) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (
            now - self._last) * self._per_minute / 60000)
        self._last = now
        if self._tokens < 1:
            self._left_out += 1
            return
        self._tokens -= 1
        if self._left_out:
            text += f" ({self._left_out} before it were not logged)"
            self._left_out = 0
        self._say(text)
