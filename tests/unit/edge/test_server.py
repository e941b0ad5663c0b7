# SPDX-License-Identifier: Apache-2.0
"""dpif_bpf.edge.server over real AF_UNIX sockets."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import (
    NLM_F_ACK,
    Recorder,
    begin_dump,
    dial,
    hello,
    join,
    ready,
)
from clients import handler as handler
from clients import path as path
from clients import server as server

from dpif_bpf.edge import server as server_module
from dpif_bpf.edge.server import Server
from dpif_bpf.errors import BackendError


def test_hello_and_request(server: Server, path: str,
                           handler: Recorder) -> None:
    sock = join(server, path, 4711)
    client = server.client(4711)
    assert client is not None
    assert (client.protocol, client.groups) == (16, 0)
    handler.reply = lambda data: [data.upper(), b"end"]
    sock.send(b"request")
    assert ready(server)
    server.run()
    assert handler.messages == [(4711, b"request")]
    assert [sock.recv(100), sock.recv(100)] == [b"REQUEST", b"end"]
    assert not ready(server)


def test_request_right_behind_hello(server: Server, path: str,
                                    handler: Recorder) -> None:
    sock = dial(path)
    sock.send(hello(1))
    sock.send(b"x")
    server.run()
    server.run()
    assert handler.messages == [(1, b"x")]


@pytest.mark.parametrize("first", [
    b"no hello", hello(1, version=2), hello(0), hello(1, protocol=0),
    hello(1)[:-1]])
def test_bad_hello_is_disconnected(server: Server, path: str, first: bytes,
                                   handler: Recorder) -> None:
    sock = dial(path)
    sock.send(first)
    server.run()
    assert sock.recv(10) == b""
    assert handler.messages == [] and handler.gone == []
    assert server.counters()["server_bad_hello"] == 1


def test_port_id_cannot_change(server: Server, path: str,
                               handler: Recorder) -> None:
    sock = join(server, path, 1)
    sock.send(hello(2))
    server.run()
    assert sock.recv(10) == b""
    assert handler.gone == [1] and server.client(2) is None


def test_reconnect_with_the_same_port_id(server: Server, path: str,
                                         handler: Recorder) -> None:
    old = join(server, path, 5)
    new = join(server, path, 5, groups=1)
    assert handler.gone == [5]
    assert old.recv(10) == b""
    server.multicast(1, b"event")
    assert new.recv(10) == b"event"


def test_membership(server: Server, path: str) -> None:
    one = join(server, path, 1, groups=0b10)
    two = join(server, path, 2)
    server.multicast(2, b"a")
    two.send(hello(2, groups=0b10, flags=NLM_F_ACK))
    server.run()
    server.multicast(2, b"b")
    server.multicast(1, b"c")
    assert [one.recv(10), one.recv(10)] == [b"a", b"b"]
    ack = two.recv(100)
    assert struct.unpack_from("=IHHIIi", ack) == (36, 2, 0, 7, 2, 0)
    assert ack[20:36] == hello(2, flags=NLM_F_ACK)[:16]
    assert two.recv(10) == b"b"
    one.send(hello(1, groups=0))
    server.run()
    server.multicast(2, b"d")
    one.setblocking(False)
    with pytest.raises(BlockingIOError):
        one.recv(10)


def test_replies_are_pulled_as_the_socket_takes_them(
        server: Server, path: str, handler: Recorder) -> None:
    sock = join(server, path, 1)
    pulled = 0
    count = 1000

    def dump() -> Iterator[bytes]:
        nonlocal pulled
        for i in range(count):
            pulled += 1
            yield i.to_bytes(4, "big") + bytes(60000)

    handler.reply = lambda data: dump()
    sock.send(b"dump")
    sock.send(b"next")
    for _ in range(100):
        server.run()
    assert 50 < pulled < 400, "as many as 8 MiB hold"
    assert handler.messages == [(1, b"dump")], "busy: not read from"
    assert not ready(server)
    client = server.client(1)
    assert client is not None and client.send(b"upcall") is None

    got = []
    while len(got) < count:
        server.run()
        got.append(int.from_bytes(sock.recv(70000)[:4], "big"))
    assert got == list(range(count))
    handler.reply = lambda data: None
    server.run()
    server.run()
    assert handler.messages[-1] == (1, b"next")


def test_reply_that_is_not_there_yet(server: Server, path: str,
                                     handler: Recorder) -> None:
    """Others are served meanwhile."""
    slow, other = join(server, path, 1), join(server, path, 2)
    there = False

    def reply(data: bytes) -> Iterator[bytes]:
        while data == b"slow" and not there:
            yield b""
        yield data

    handler.reply = reply
    slow.send(b"slow")
    slow.send(b"next")
    for _ in range(3):
        other.send(b"other")
        server.run()
        assert other.recv(100) == b"other"
    assert (1, b"next") not in handler.messages and ready(server)
    there = True
    server.run()
    assert slow.recv(100) == b"slow"
    server.run()
    assert slow.recv(100) == b"next" and not ready(server)


def test_dump_of_a_client_that_leaves_is_closed(
        server: Server, path: str, handler: Recorder) -> None:
    sock = join(server, path, 1)
    dump = begin_dump(server, handler, sock)
    sock.close()
    server.run()
    assert dump.closed and handler.gone == [1]
    assert server.client(1) is None and not ready(server)


def fill(server: Server, port_id: int) -> int:
    sent = 0
    while taken := server.upcall(port_id, bytes(1000)):
        sent += 1
    assert taken is None
    return sent


def test_upcalls_to_a_full_socket_are_refused(server: Server,
                                              path: str) -> None:
    sock = join(server, path, 1)
    sent = fill(server, 1)
    assert 32 < sent < 400, "few, so that none waits for long in there"
    for _ in range(sent):
        assert len(sock.recv(2000)) == 1000
    assert server.upcall(1, bytes(65536 + 4096)), "a large GSO packet"
    assert len(sock.recv(1 << 17)) == 69632


def test_room_for_upcalls_is_waited_for(server: Server, path: str,
                                        handler: Recorder) -> None:
    sock = join(server, path, 1)
    sent = fill(server, 1)
    server.run()
    assert not ready(server)
    sock.send(b"request")
    server.run()
    assert handler.messages == [(1, b"request")], "it is read from"
    for _ in range(sent):
        sock.recv(2000)
    assert ready(server)
    server.run()
    assert server.upcall(1, b"x")
    assert not ready(server), "nothing is waited for any more"


def test_upcall_to_a_client_that_left(server: Server, path: str,
                                      handler: Recorder) -> None:
    sock = join(server, path, 1)
    sock.close()
    assert server.upcall(1, b"x") is False
    server.run()
    assert handler.gone == [1]
    assert server.upcall(1, b"x") is False


def test_slow_member_is_disconnected(server: Server, path: str,
                                     handler: Recorder) -> None:
    slow = join(server, path, 1, groups=1)
    fast = join(server, path, 2, groups=1)
    event = bytes(30000)
    sent = 0
    while not handler.gone and sent < 10000:
        server.multicast(1, event)
        sent += 1
        assert len(fast.recv(40000)) == len(event)
    assert handler.gone == [1]
    assert sent > server_module.MAX_EVENTS
    assert server.counters()["server_event_overflow"] == 1
    kept = 0
    while slow.recv(40000):
        kept += 1
    assert kept < sent


def test_queued_events_arrive_in_order(server: Server, path: str,
                                       handler: Recorder) -> None:
    sock = join(server, path, 1, groups=1)
    handler.reply = lambda data: [b"reply"]
    count = 700
    for i in range(count):
        server.multicast(1, i.to_bytes(4, "big") + bytes(30000))
    sock.send(b"request")
    got = []
    while len(got) < count:
        server.run()
        got.append(int.from_bytes(sock.recv(40000)[:4], "big"))
    assert got == list(range(count))
    server.run()
    assert sock.recv(100) == b"reply"


def test_large_requests(server: Server, path: str,
                        handler: Recorder) -> None:
    sock = join(server, path, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    sock.send(bytes(150000))
    server.run()
    assert [len(data) for _, data in handler.messages] == [150000]


def test_many_clients(server: Server, path: str, handler: Recorder) -> None:
    socks = [dial(path) for _ in range(300)]
    for i, sock in enumerate(socks):
        sock.send(hello(i + 1))
        sock.send(b"x")
    for _ in range(20):
        server.run()
    assert sorted(port for port, _ in handler.messages) == list(range(1, 301))
    for sock in socks:
        sock.close()
    for _ in range(20):
        server.run()
    assert sorted(handler.gone) == list(range(1, 301))
    assert not ready(server)


def test_socket_file(path: str, handler: Recorder) -> None:
    server = Server(path, handler)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(BackendError, match="another ovs-bpfd"):
        Server(path, handler)
    server.close()
    assert not os.path.exists(path)
    assert os.listdir(os.path.dirname(path)) == []


def test_stale_file_is_replaced(path: str, handler: Recorder) -> None:
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    dead.bind(path)
    dead.close()
    server = Server(path, handler)
    join(server, path, 1)
    # Somebody else's file is left alone.
    os.unlink(path)
    Path(path).touch()
    server.close()
    assert os.path.exists(path)


def test_path_longer_than_sun_path(tmp_path: Path,
                                   handler: Recorder) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    server = Server(str(directory / "sock"), handler)
    fd = os.open(directory, os.O_PATH)
    join(server, f"/proc/self/fd/{fd}/sock", 3)
    os.close(fd)
    server.close()
    assert list(directory.iterdir()) == []


def test_cannot_listen(tmp_path: Path, handler: Recorder) -> None:
    with pytest.raises(BackendError, match="cannot listen"):
        Server(str(tmp_path / "nowhere" / "sock"), handler)
