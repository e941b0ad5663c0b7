# SPDX-License-Identifier: Apache-2.0
"""Clients of dpif_bpf.edge.server that end while they are served, or cannot
be had."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import pytest
from clients import (
    Recorder,
    begin_dump,
    dial,
    hello,
    join,
    no_descriptor_left,
    ready,
)
from clients import handler as handler
from clients import path as path
from clients import server as server

from dpif_bpf.edge import server as server_module
from dpif_bpf.edge.server import Server


def test_a_request_overflows_its_own_client(
        server: Server, path: str, handler: Recorder) -> None:
    """A member whose one datagram makes more events than may wait."""
    own = join(server, path, 1, groups=1)
    other = join(server, path, 2, groups=1)
    made = 0

    def requests() -> Iterator[bytes]:
        nonlocal made
        for i in range(server_module.MAX_EVENTS + 10):
            made += 1
            server.multicast(1, i.to_bytes(4, "big"))
        yield b"reply"
        made += 1
        yield b"another"

    handler.reply = lambda data: requests()
    own.send(b"many requests")
    server.run()
    assert made == server_module.MAX_EVENTS + 10
    assert handler.gone == [1] and handler.failures == []
    assert server.counters()["server_event_overflow"] == 1
    assert [own.recv(100), own.recv(100)] == [b"reply", b""]
    assert [int.from_bytes(other.recv(10), "big")
            for _ in range(made)] == list(range(made))
    # It comes back, as the transport does.
    handler.reply = lambda data: [b"reply"]
    again = join(server, path, 1, groups=1)
    again.send(b"request")
    server.run()
    assert again.recv(100) == b"reply" and not ready(server)


def test_a_request_overflows_another_client(
        server: Server, path: str, handler: Recorder) -> None:
    """That one has a dump under way, and something to say in this turn."""
    slow = join(server, path, 2, groups=1)
    dump = begin_dump(server, handler, slow)
    slow.recv(70000)

    def requests() -> Iterator[bytes]:
        for _ in range(server_module.MAX_EVENTS + 10):
            server.multicast(1, b"event")
        yield b"reply"

    handler.reply = lambda data: requests()
    own = join(server, path, 1)
    own.send(b"request")
    for _ in range(3):
        server.run()
    assert dump.closed and handler.gone == [2] and handler.failures == []
    assert own.recv(100) == b"reply"


def test_a_request_that_raises_ends_its_client_alone(
        server: Server, path: str, handler: Recorder) -> None:
    first, second, third = (join(server, path, i) for i in (1, 2, 3))

    def reply(data: bytes) -> Iterable[bytes]:
        if data == b"at once":
            raise ValueError("one")
        return broken() if data == b"later" else [data]

    def broken() -> Iterator[bytes]:
        yield b"some"
        raise ValueError("two")

    handler.reply = reply
    first.send(b"at once")
    second.send(b"later")
    third.send(b"good")
    server.run()
    assert first.recv(100) == b""
    assert [second.recv(100), second.recv(100)] == [b"some", b""]
    assert third.recv(100) == b"good"
    assert sorted(handler.gone) == [1, 2]
    assert sorted((port, str(error)) for port, error in handler.failures) == [
        (1, "one"), (2, "two")]
    assert not ready(server)


def test_a_dump_that_raises_when_it_is_closed(
        server: Server, path: str, handler: Recorder) -> None:
    sock = join(server, path, 1)

    def dump() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(60000)
        finally:
            raise ValueError("closed")

    handler.reply = lambda data: dump()
    sock.send(b"dump")
    for _ in range(20):
        server.run()
    sock.close()
    server.run()
    assert [str(error) for _, error in handler.failures] == ["closed"]
    assert server.client(1) is None and not ready(server)


def test_a_peer_leaves_amid_its_own_request(
        server: Server, path: str, handler: Recorder) -> None:
    sock = join(server, path, 1, groups=1)
    other = join(server, path, 2, groups=1)

    def requests() -> Iterator[bytes]:
        sock.close()
        server.multicast(1, b"event")
        yield b"reply"
        yield b"more"

    handler.reply = lambda data: requests()
    sock.send(b"request")
    for _ in range(3):
        server.run()
    assert handler.gone == [1] and handler.failures == []
    assert other.recv(100) == b"event"
    assert not ready(server)


def test_a_peer_dials_again_amid_its_own_request(
        server: Server, path: str, handler: Recorder) -> None:
    """The new connection has the port id of the one that is served."""
    old = join(server, path, 1)
    new = []

    def requests() -> Iterator[bytes]:
        new.append(dial(path))
        new[0].send(hello(1))
        old.close()
        yield bytes(100)

    handler.reply = lambda data: requests()
    old.send(b"request")
    for _ in range(3):
        server.run()
    assert handler.gone == [1] and len(server.clients()) == 1
    handler.reply = lambda data: [data]
    new[0].send(b"ping")
    server.run()
    assert new[0].recv(100) == b"ping" and not ready(server)


def test_no_descriptor_for_one_more_client(
        path: str, handler: Recorder,
        monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(server_module.vlog, "warn", warnings.append)
    now = 1000
    server = Server(path, handler, lambda: now)
    one = join(server, path, 1)
    two = dial(path)
    two.send(hello(2))
    with no_descriptor_left() as fill:
        for _ in range(50):
            server.run()
        assert not ready(server), "the listener stays readable"
        assert server.counters()["server_accept_failed"] == 1
        one.send(b"x")
        server.run()
        assert handler.messages == [(1, b"x")], "others are served"
        # Again after a while, and at once when a client has gone.
        for _ in range(20):
            now += server_module.ACCEPT_PAUSE
            server.run()
        assert server.counters()["server_accept_failed"] == 21
        assert 2 <= len(warnings) < 10
        os.close(fill.pop())
        server.run()
        assert server.client(2) is None
        now += server_module.ACCEPT_PAUSE
        server.run()
        assert server.client(2) is not None
    server.run()
    assert not ready(server)
    two.close()
    server.close()


def test_a_client_that_goes_makes_room_for_one(
        path: str, handler: Recorder) -> None:
    server = Server(path, handler, lambda: 1000)
    one = join(server, path, 1)
    two = dial(path)
    two.send(hello(2))
    with no_descriptor_left():
        server.run()
        assert not ready(server) and server.client(2) is None
        one.send(b"")   # its end is seen, its descriptor here stays open
        server.run()
        assert handler.gone == [1] and ready(server)
        server.run()
        assert server.client(2) is not None
    server.close()
