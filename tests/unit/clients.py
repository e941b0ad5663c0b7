# SPDX-License-Identifier: Apache-2.0
"""Peers of dpif_bpf.edge.server, a handler that keeps what it sees, and a
process without descriptors."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from dpif_bpf.edge.server import HELLO, Client, Server

NLM_F_ACK = 4


class Recorder:
    """A handler that answers with what `reply` returns."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes]] = []
        self.gone: list[int] = []
        self.failures: list[tuple[int, BaseException | None]] = []
        self.reply: Callable[[bytes], Iterable[bytes] | None] = (
            lambda data: None)

    def message(self, client: Client, data: bytes) -> Iterable[bytes] | None:
        self.messages.append((client.port_id, data))
        return self.reply(data)

    def closed(self, client: Client) -> None:
        self.gone.append(client.port_id)

    def failed(self, client: Client) -> None:
        self.failures.append((client.port_id, sys.exception()))


def hello(port_id: int, groups: int = 0, *, version: int = 1,
          protocol: int = 16, flags: int = 0) -> bytes:
    return struct.pack("=IHHIIIIII", 32, HELLO, flags, 7, port_id,
                       version, protocol, port_id, groups)


def dial(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(path)
    sock.settimeout(5)
    return sock


def join(server: Server, path: str, port_id: int,
         groups: int = 0) -> socket.socket:
    sock = dial(path)
    sock.send(hello(port_id, groups))
    server.run()
    assert server.client(port_id) is not None
    return sock


class Endless:
    """A dump without an end, of large datagrams.

    :ivar closed: whether nobody wants more of it
    """

    def __init__(self) -> None:
        self.closed = False

    def replies(self) -> Iterator[bytes]:
        try:
            while True:
                yield bytes(60000)
        finally:
            self.closed = True


def begin_dump(server: Server, handler: Recorder,
               sock: socket.socket) -> Endless:
    """Has a client ask for one, which goes on until its socket is full."""
    dump = Endless()
    handler.reply = lambda data: dump.replies()
    sock.send(b"dump")
    for _ in range(20):
        server.run()
    return dump


class Poller:
    """What an edge waits for."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.timers: list[int] = []

    def fd_wait(self, fd: int, events: int) -> None:
        self.poll.register(fd, events)

    def timer_wait(self, msec: int) -> None:
        self.timers.append(msec)

    def immediate_wake(self) -> None:
        self.timers.append(0)


def ready(server: Server) -> bool:
    """Whether wait() would wake a poll loop at once."""
    poller = Poller()
    server.wait(poller)
    return bool(poller.poll.poll(0)) or any(t <= 0 for t in poller.timers)


@contextlib.contextmanager
def no_descriptor_left(beyond: int = 1) -> Iterator[list[int]]:
    """Takes every descriptor; closing one of these makes room for one.

    :param beyond: how many there may be beyond the highest one in use
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    fill: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most + beyond, hard))
        with pytest.raises(OSError):
            while True:
                fill.append(os.open(os.devnull, os.O_RDONLY))
        yield fill
    finally:
        for fd in fill:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Fixtures, which test files import.

@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ovs-bpfd.sock")


@pytest.fixture
def handler() -> Recorder:
    return Recorder()


@pytest.fixture
def server(path: str, handler: Recorder) -> Iterator[Server]:
    server = Server(path, handler)
    yield server
    server.close()
