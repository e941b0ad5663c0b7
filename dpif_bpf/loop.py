# SPDX-License-Identifier: Apache-2.0
"""The turns of the provider's loop, and how long they took.

While one part works, no other does, and no peer is answered: what takes long
belongs into slices.  ``dpif-bpf/loop-show`` tells which parts do not keep to
that.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import ovs.vlog

from dpif_bpf.boundary import Boundary
from dpif_bpf.core.devices import Poller
from dpif_bpf.limited import Limited

vlog = ovs.vlog.Vlog("timeval")

LONG = 20
"""ms that a turn should not take."""
UNREASONABLE = 1000
"""ms of which the log tells, in the words of OVS's timeval, which those who
look for warnings know."""
KEPT = 10
"""Longest turns that are kept."""

_MS = 10 ** 6


@dataclass(slots=True)
class Part:
    """A part of the loop.

    :param boundary: with its name
    :param run: does what is there to do, a bounded amount of it
    :param wait: registers what to wake up for
    :ivar total: ns of all its turns
    :ivar longest: ns of one
    """

    boundary: Boundary
    run: Callable[[], object]
    wait: Callable[[Poller], object]
    total: int = 0
    longest: int = 0


class Loop:
    """All parts, in their order.

    :param clock: ns, monotonic
    :param now: s since 1970
    :ivar turns: how many there have been
    :ivar long: how many of them took longer than LONG
    """

    def __init__(self, parts: Sequence[Part],
                 clock: Callable[[], int] = time.perf_counter_ns,
                 now: Callable[[], float] = time.time) -> None:
        self.parts = parts
        self.turns = 0
        self.long = 0
        self._clock = clock
        self._now = now
        self._warn = Limited(vlog.warn)
        self._longest: list[tuple[int, int, float, tuple[int, ...]]] = []
        self._since = now()

    def run(self) -> None:
        """A turn."""
        clock = self._clock
        times = [clock()]
        for part in self.parts:
            part.boundary.run(part.run)
            times.append(clock())
        self._note(times)

    def _note(self, times: list[int]) -> None:
        self.turns += 1
        spent = tuple(end - start for start, end
                      in pairwise(times))
        for part, took in zip(self.parts, spent, strict=True):
            part.total += took
            part.longest = max(part.longest, took)
        whole = times[-1] - times[0]
        self.long += whole > LONG * _MS
        if whole > UNREASONABLE * _MS:
            self._warn(f"Unreasonably long {whole // _MS}ms poll interval:"
                       f" {self._told(spent)}")
        longest = self._longest
        if len(longest) == KEPT and whole <= longest[0][0]:
            return
        add = heapq.heappush if len(longest) < KEPT else heapq.heapreplace
        add(longest, (whole, self.turns, self._now(), spent))

    def wait(self, poller: Poller) -> None:
        """Has all parts register what they wait for."""
        for part in self.parts:
            part.boundary.wait(poller, part.wait)

    def show(self) -> Iterator[str]:
        """Lines of text."""
        yield (f"turns: {self.turns} in {self._now() - self._since:.0f} s,"
               f" longer than {LONG} ms: {self.long}")
        for part in self.parts:
            yield (f"  {part.boundary.name}: {part.total / _MS:.1f} ms in"
                   f" all, at most {part.longest / _MS:.1f} ms")
        yield "longest turns:"
        for whole, _, when, spent in sorted(self._longest, reverse=True):
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
            yield f"  {at} {whole / _MS:.1f} ms: {self._told(spent)}"

    def _told(self, spent: tuple[int, ...]) -> str:
        """What a turn spent, the most first, without what is nothing."""
        named = sorted(zip(spent, (part.boundary.name for part in self.parts),
                           strict=True), reverse=True)
        return ", ".join(f"{name} {took / _MS:.1f}" for took, name in named
                         if took * 20 >= _MS) or "nothing"
