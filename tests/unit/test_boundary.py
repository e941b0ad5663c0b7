# SPDX-License-Identifier: Apache-2.0
"""Where what is not expected ends, and how often it is said."""

from __future__ import annotations

import pytest
from clients import Poller

from dpif_bpf import boundary as boundary_module
from dpif_bpf.boundary import REST, Boundary
from dpif_bpf.limited import BURST, PER_MINUTE, Limited


class Clock:
    """ms."""

    def __init__(self) -> None:
        self.now = 5000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(boundary_module.vlog, "exception", lines.append)
    return lines


def broken() -> None:
    raise KeyError("unexpected")


def test_next_event_goes_on(clock: Clock, logged: list[str]) -> None:
    doubts: list[str] = []
    done: list[int] = []
    boundary = Boundary("link", doubts.append, clock)
    assert boundary.attempt(done.append, 1)
    assert not boundary.attempt(broken)
    assert boundary.attempt(done.append, 2)
    assert done == [1, 2] and boundary.failures == 1
    assert doubts == ["link"] and len(logged) == 1


def test_part_that_fails_rests(clock: Clock, logged: list[str]) -> None:
    """The loop does not spin on what it waits for."""
    boundary = Boundary("part", clock=clock)
    ran: list[int] = []
    waited: list[Poller] = []
    boundary.run(broken)
    for _ in range(10):
        boundary.run(lambda: ran.append(clock.now))
        poller = Poller()
        boundary.wait(poller, lambda p: waited.append(p))
        assert poller.timers == [REST - (clock.now - 5000)]
        clock.now += REST // 10
    assert not ran and not waited
    boundary.run(lambda: ran.append(clock.now))
    boundary.wait(Poller(), lambda p: waited.append(p))
    assert ran == [5000 + REST] and len(waited) == 1
    assert boundary.failures == 1


def test_part_that_cannot_wait_rests(clock: Clock,
                                     logged: list[str]) -> None:
    boundary = Boundary("part", clock=clock)
    poller = Poller()
    boundary.wait(poller, lambda p: broken())
    assert poller.timers == [REST] and boundary.failures == 1


def test_failures_are_not_all_logged(clock: Clock,
                                     logged: list[str]) -> None:
    boundary = Boundary("part", clock=clock)
    for _ in range(10000):
        boundary.attempt(broken)
    assert boundary.failures == 10000 and len(logged) == BURST


def test_limit(clock: Clock) -> None:
    said: list[str] = []
    limited = Limited(said.append, clock)
    for i in range(100):
        limited(str(i))
    assert said == [str(i) for i in range(BURST)]
    clock.now += 60000 // PER_MINUTE
    limited("later")
    limited("left out")
    assert said[BURST:] == [f"later ({100 - BURST} before it were not"
                            " logged)"]
    clock.now += 3600000
    for i in range(100):
        limited(str(i))
    assert len(said) == 2 * BURST + 1
