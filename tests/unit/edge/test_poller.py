# SPDX-License-Identifier: Apache-2.0
"""dpif_bpf.edge.poller, and edges with descriptors that select(2) lacks."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from select import POLLIN, POLLOUT

import pytest

from dpif_bpf.edge.poller import Poller

MANY = 10000


@pytest.fixture
def high() -> Iterator[None]:
    """The next descriptors are beyond MANY."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MANY + 100:
        pytest.skip(f"no {MANY} descriptors to be had")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    first = os.open(os.devnull, os.O_RDONLY)
    fds = [first]
    while fds[-1] < MANY:
        fds.append(os.dup(first))
    yield
    for fd in fds:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class Timeout(Exception):
    pass


@pytest.fixture
def alarm() -> Iterator[None]:
    """Ends a block() that nothing ends."""
    def handler(number: int, frame: object) -> None:
        raise Timeout

    before = signal.signal(signal.SIGALRM, handler)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_descriptors_beyond_1023(high: None, alarm: None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert ours.fileno() > MANY
        poller = Poller()
        poller.fd_wait(ours, POLLIN)
        theirs.send(b"x")
        poller.block()


def test_registrations_of_one_descriptor_add_up(
        pair: tuple[socket.socket, socket.socket], alarm: None) -> None:
    """As ovs.jsonrpc registers a socket, to write to and to read from."""
    ours, _ = pair
    for events in ((POLLIN, POLLOUT), (POLLOUT, POLLIN)):
        poller = Poller()
        for event in events:
            poller.fd_wait(ours, event)
        poller.block()      # it can be written to


def test_registrations_hold_for_one_block(
        pair: tuple[socket.socket, socket.socket], alarm: None) -> None:
    ours, theirs = pair
    poller = Poller()
    poller.fd_wait(ours.fileno(), POLLIN)
    poller.immediate_wake()
    poller.block()
    theirs.send(b"x")
    with pytest.raises(Timeout):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        poller.block()


@pytest.mark.parametrize("timers", [(0,), (-5,), (10 ** 6, 0), (0, 10 ** 6)])
def test_timers(timers: tuple[int, ...], alarm: None) -> None:
    poller = Poller()
    for msec in timers:
        poller.timer_wait(msec)
    poller.block()


SLEEPER = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from dpif_bpf.edge.poller import Poller

POLL = ("7 ", "271 ")   # poll(2), ppoll(2) of x86-64

def ended(number, frame):
    print("ended", flush=True)
    os._exit(0)

def late():
    # The main thread sleeps.  A signal that another thread takes finds it as
    # one does that comes after its interpreter's last look for signals.
    while True:
        with open(f"/proc/self/task/{os.getpid()}/syscall") as file:
            if file.read().startswith(POLL):
                break
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

signal.signal(signal.SIGTERM, ended)
poller = Poller()
poller.wake_on_signals()
threading.Thread(target=late, daemon=True).start()
while True:
    poller.block()
"""


def test_a_signal_is_noticed_that_does_not_interrupt_poll() -> None:
    top = str(Path(__file__).parents[3])
    sleeper = subprocess.Popen([sys.executable, "-c", SLEEPER, top],
                               stdout=subprocess.PIPE, text=True)
    try:
        output, _ = sleeper.communicate(timeout=20)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert output == "ended\n"


def test_close_gives_signals_back(alarm: None) -> None:
    before = len(os.listdir("/proc/self/fd"))
    poller = Poller()
    poller.wake_on_signals()
    poller.close()
    assert signal.set_wakeup_fd(-1) == -1
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_signal_wakes_once(alarm: None) -> None:
    """What it has written is read: the next block() sleeps."""
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1,
                           lambda number, frame: seen.append(number))
    poller = Poller()
    poller.wake_on_signals()
    try:
        threading.Thread(target=lambda: signal.pthread_kill(
            threading.get_ident(), signal.SIGUSR1)).start()
        poller.block()
        assert seen == [signal.SIGUSR1]
        with pytest.raises(Timeout):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            poller.block()
    finally:
        poller.close()
        signal.signal(signal.SIGUSR1, before)
