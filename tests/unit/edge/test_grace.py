# SPDX-License-Identifier: Apache-2.0
"""Grace periods over a real membarrier(2), and what waits for them."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator

import pytest

from dpif_bpf.core.quarantine import Quarantine
from dpif_bpf.edge import bpfsys, grace
from dpif_bpf.edge.grace import Grace
from dpif_bpf.errors import BackendError


@pytest.fixture
def running() -> Iterator[Grace]:
    try:
        made = Grace()
    except BackendError as error:
        pytest.skip(f"no grace periods here: {error}")
    yield made
    made.close()


class Waiter:
    """A poller that knows one descriptor."""

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.woken = False

    def fd_wait(self, fd: int, events: int) -> None:
        assert events == select.POLLIN
        self.fds.append(fd)

    def immediate_wake(self) -> None:
        self.woken = True

    def block(self) -> None:
        """Sleeps until a descriptor is ready."""
        ready, _, _ = select.select(self.fds, [], [], 10)
        assert ready
        self.fds.clear()


def turn(running: Grace) -> int:
    """One turn of a main loop."""
    waiter = Waiter()
    running.wait(waiter)
    waiter.block()
    return running.run()


def test_frees_in_order_and_sleeps(running: Grace) -> None:
    first, second = Quarantine(), Quarantine()
    running.watch(first, second)
    done: list[int] = []
    assert running.run() == 0
    waiter = Waiter()
    running.wait(waiter)
    assert waiter.fds == []		# nothing to wait for
    second.retire(done.append, 3)
    first.retire(done.append, 1)
    first.retire(done.append, 2)
    assert running.run() == 0 and done == []
    first.retire(done.append, 4)	# after the period began
    assert turn(running) == 3 and done == [1, 2, 3]
    assert turn(running) == 1 and done == [1, 2, 3, 4]
    assert running.periods == 2


def test_waits_for_a_whole_period(
        running: Grace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is freed while the call is under way."""
    real = bpfsys.wait_for_programs

    def slow() -> None:
        time.sleep(.2)
        real()

    monkeypatch.setattr(grace.bpfsys, "wait_for_programs", slow)
    queue = Quarantine()
    running.watch(queue)
    done: list[int] = []
    queue.retire(done.append, 1)
    began = time.monotonic()
    while not done:
        running.run()
        time.sleep(.01)
    assert time.monotonic() - began >= .2


def test_what_may_be_named_stays(
        running: Grace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A period that ends after the upcalls were read frees nothing yet."""
    ends = threading.Event()
    monkeypatch.setattr(grace.bpfsys, "wait_for_programs", ends.wait)
    queue = Quarantine()
    running.watch(queue)
    queue.retire(int)
    running.run()
    over = running.over
    ends.set()
    running._poll.poll()
    assert not over and running.over
    assert running.run(over) == 0 and len(queue) == 1
    assert running.run(running.over) == 1 and not running.over


def test_forgotten_things_stay(running: Grace) -> None:
    queue, other = Quarantine(), Quarantine()
    running.watch(queue, other)
    done: list[int] = []
    queue.retire(done.append, 1)
    other.retire(done.append, 2)
    running.run()
    running.forget(queue)
    assert turn(running) == 1 and done == [2]
    assert len(queue) == 1


def test_a_turn_frees_a_part(running: Grace,
                             monkeypatch: pytest.MonkeyPatch) -> None:
    """What is retired meanwhile waits for a period of its own."""
    monkeypatch.setattr(grace, "FREED", 3)
    first, second = Quarantine(), Quarantine()
    running.watch(first, second)
    done: list[int] = []
    for number in range(4):
        first.retire(done.append, number)
    second.retire(done.append, 4)
    assert running.run() == 0
    first.retire(done.append, 5)
    assert turn(running) == 3 and done == [0, 1, 2]
    waiter = Waiter()
    running.wait(waiter)
    assert waiter.woken and not running.over
    # It was made sure that nothing names them when the period was over.
    assert running.run(False) == 2 and done == [0, 1, 2, 3, 4]
    assert running.periods == 1
    assert turn(running) == 1 and done[-1] == 5
    for number in range(6, 11):
        first.retire(done.append, number)
    assert [running.reclaim() for _ in range(3)] == [3, 2, 0]
    assert done == list(range(11))


def test_reclaim(running: Grace) -> None:
    """What is retired by now, in a period that is under way or not; what
    the freeing itself retires waits like anything else."""
    queue = Quarantine()
    running.watch(queue)
    done: list[int] = []
    assert running.reclaim() == 0
    queue.retire(done.append, 1)
    running.run()
    queue.retire(queue.retire, done.append, 3)
    queue.retire(done.append, 2)
    assert running.reclaim(lambda: done.append(0)) == 3
    assert done == [0, 1, 0, 2] and len(queue) == 1
    assert running.run() == 0
    assert turn(running) == 1 and done[-1] == 3


def test_a_failure_is_told(running: Grace,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise BackendError(22, "no")

    queue = Quarantine()
    running.watch(queue)
    queue.retire(int)
    monkeypatch.setattr(grace.bpfsys, "wait_for_programs", fail)
    running.run()
    with pytest.raises(BackendError):
        turn(running)
    assert len(queue) == 1
