# SPDX-License-Identifier: Apache-2.0
"""integration/plugin/transport.c against dpif_bpf.edge.server.

The transport is preloaded into a Python interpreter, whose netlink sockets of
the private protocol it takes over; this process is the provider, which comes
and goes.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dpif_bpf.edge.server import Client, Server

SOURCE = (Path(__file__).parents[2] / "integration" / "plugin"
          / "transport.c")
NLM_F_REQUEST, NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP = 1, 4, 8, 0x300
WAIT_MS = 1500
REPLY_MS = 2000

# What runs under the transport: reads expressions, writes their values.
PEER = r"""
import errno, select, socket, struct, sys, threading, time

def nl(type, flags, seq, body=b""):
    return struct.pack("=IHHII", 16 + len(body), type, flags, seq, 0) + body

def make(protocol=31):
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    s.connect((0, 0))
    return s

def recv(s, flags=socket.MSG_DONTWAIT):
    try:
        return s.recv(1 << 17, flags)
    except OSError as e:
        return errno.errorcode[e.errno]

def send(s, data, flags=0):
    try:
        return s.send(data, flags)
    except OSError as e:
        return errno.errorcode[e.errno]

def transact(s, *messages):
    sent = s.sendmsg(messages)
    replies = []
    while True:
        reply = recv(s)
        replies.append(reply)
        if isinstance(reply, str):
            return replies

def poll(s, ms):
    p = select.poll()
    p.register(s, select.POLLIN)
    return [events for _, events in p.poll(ms)]

def timed(f, *args):
    t = time.monotonic()
    r = f(*args)
    return time.monotonic() - t, r

def in_thread(f, *args):
    box = []
    t = threading.Thread(target=lambda: box.append(f(*args)))
    t.box = box
    t.start()
    return t

def joined(t):
    t.join(20)
    return t.box[0]

for line in sys.stdin:
    code = compile(line, "line", "single" if "=" in line.split("(")[0]
                   else "eval")
    print(repr(eval(code)), flush=True)
"""


class Peer:
    """The process under the transport."""

    def __init__(self, library: str, path: str) -> None:
        env = {**os.environ, "LD_PRELOAD": library, "DPIF_BPF_SOCK": path,
               "DPIF_BPF_WAIT_MS": str(WAIT_MS),
               "DPIF_BPF_REPLY_MS": str(REPLY_MS)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PEER], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, line: str) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        text = self._process.stdout.readline()
        assert text, f"the peer died of {line!r}"
        return ast.literal_eval(text)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        assert self._process.wait(30) == 0


class Provider:
    """A provider in a thread, with replies by message type."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.requests: list[tuple[int, int, int]] = []	# type, flags, seq
        self.clients: list[tuple[int, int, int]] = []
        self.reply: Callable[[int, int, int], Iterable[bytes]] = usual
        self.die_on: int | None = None
        self.hang_on: int | None = None
        self.hung = threading.Event()
        self._go_on = threading.Event()
        self.todo: list[Callable[[Server], object]] = []

    def message(self, client: Client, data: bytes) -> Iterator[bytes]:
        while data:
            length, type_, flags, seq, _ = struct.unpack_from("=IHHII", data)
            data = data[length:]
            self.requests.append((type_, flags, seq))
            if type_ == self.die_on:
                self.die_on = None
                self.die()
                return
            if type_ == self.hang_on:
                self.hang_on = None
                self._go_on.clear()
                self.hung.set()
                self._go_on.wait()
            yield from self.reply(type_, flags, seq)

    def closed(self, client: Client) -> None:
        pass

    def failed(self, client: Client) -> None:
        raise

    def start(self) -> None:
        self._stop.clear()
        self.clients = []
        server = Server(self._path, self)
        self._thread = threading.Thread(target=self._run, args=(server,))
        self._thread.start()

    def _run(self, server: Server) -> None:
        class Poller:
            def __init__(self) -> None:
                self.poll = select.poll()

            def fd_wait(self, fd: int, events: int) -> None:
                self.poll.register(fd, events)

        with contextlib.closing(server):
            while not self._stop.is_set():
                server.run()
                self.clients = [(c.port_id, c.protocol, c.groups)
                                for c in server.clients()]
                while self.todo:
                    self.todo.pop(0)(server)
                poller = Poller()
                server.wait(poller)
                poller.poll.poll(5)

    def go_on(self) -> None:
        """Ends a hang that `hang_on` began."""
        self.hung.clear()
        self._go_on.set()

    def stop(self) -> None:
        self._stop.set()
        self.go_on()
        self.join()

    def die(self) -> None:
        """Called in the thread: ends it at the end of this turn."""
        self._stop.set()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join(10)
            self._thread = None

    def do(self, action: Callable[[Server], object]) -> None:
        self.todo.append(action)
        until(lambda: not self.todo)


def usual(type_: int, flags: int, seq: int) -> Iterator[bytes]:
    """As the kernel: 0x20 replies to ECHO, 0x21 fails with ENODEV."""
    header = struct.pack("=IHHII", 24, type_, flags, seq, 0)
    if flags & NLM_F_DUMP == NLM_F_DUMP:
        for i in range(3):
            yield message(type_, seq, i.to_bytes(4, "little"))
        yield message(3, seq, bytes(4))
    elif type_ == 0x21:
        yield message(2, seq, struct.pack("=i", -errno.ENODEV) + header)
    else:
        if flags & NLM_F_ECHO:
            yield message(type_, seq, b"echo")
        if flags & NLM_F_ACK:
            yield message(2, seq, struct.pack("=i", 0) + header)


def message(type_: int, seq: int, body: bytes = b"") -> bytes:
    return struct.pack("=IHHII", 16 + len(body), type_, 0, seq, 0) + body


def parse(datagram: bytes) -> tuple[int, int, bytes]:
    _, type_, _, seq, _ = struct.unpack_from("=IHHII", datagram)
    return type_, seq, datagram[16:]


def refusals(replies: list[Any]) -> list[tuple[int, int]]:
    """Sequence number and errno of each; nothing else may be there."""
    *answers, last = replies
    assert last == "EAGAIN"
    refused = []
    for datagram in answers:
        type_, seq, body = parse(datagram)
        assert type_ == 2 and len(datagram) == 36
        assert struct.unpack_from("=I", body, 12) == (seq,)
        refused.append((seq, -struct.unpack_from("=i", body)[0]))
    return refused


def until(condition: Callable[[], object], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, to build the transport")
    out = tmp_path_factory.mktemp("transport") / "libovsnl_bpf.so"
    subprocess.run(["gcc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra",
                    "-Werror", "-fPIC", "-fvisibility=hidden", "-shared",
                    "-pthread", "-o", str(out), str(SOURCE), "-ldl"],
                   check=True)
    return str(out)


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    provider = Provider(str(tmp_path / "sock"))
    yield provider
    provider.stop()


@pytest.fixture
def peer(library: str, tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(library, str(tmp_path / "sock"))
    yield peer
    peer.close()


def test_socket_is_announced(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make(31)")
    peer("t = make(30)")
    port, groups = peer("s.getsockname()")
    assert 0 < port < 1 << 31 and groups == 0
    other = peer("t.getsockname()")[0]
    until(lambda: len(provider.clients) == 2)
    assert sorted(provider.clients) == sorted([(port, 16, 0), (other, 12, 0)])
    peer("t.close()")
    until(lambda: provider.clients == [(port, 16, 0)])


def test_other_sockets_pass_through(provider: Provider, peer: Peer) -> None:
    # A real netlink socket: RTM_GETLINK's dump ends with NLMSG_DONE.
    peer("r = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)")
    peer("r.connect((0, 0))")
    peer("r.send(nl(18, 0x301, 9, bytes(16)))")
    assert parse(peer("recv(r, 0)"))[:2] == (16, 9)
    peer("pair = socket.socketpair()")
    assert peer("pair[0].send(b'x')") == 1
    assert peer("recv(pair[1])") == b"x"


def test_reply_is_waited_for(provider: Provider, peer: Peer) -> None:
    def slow(*request: int) -> Iterator[bytes]:
        time.sleep(0.2)
        yield from usual(*request)

    provider.start()
    provider.reply = slow
    peer("s = make()")
    replies = peer(f"transact(s, nl(0x20, {NLM_F_REQUEST | NLM_F_ECHO}, 5))")
    assert parse(replies[0]) == (0x20, 5, b"echo")
    assert replies[1:] == ["EAGAIN"], "the added ACK is swallowed"
    assert provider.requests[0][1] & NLM_F_ACK


def test_request_without_reply_ends(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    assert peer("transact(s, nl(0x20, 1, 5))") == ["EAGAIN"]


def test_ack_that_was_asked_for(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    replies = peer(f"transact(s, nl(0x20, {NLM_F_ACK | 1}, 5))")
    assert parse(replies[0])[:2] == (2, 5) and replies[1:] == ["EAGAIN"]


def test_error(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    replies = peer("transact(s, nl(0x21, 1, 5))")
    type_, seq, body = parse(replies[0])
    assert (type_, seq) == (2, 5) and replies[1:] == ["EAGAIN"]
    assert struct.unpack_from("=i", body) == (-errno.ENODEV,)


def test_batch(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    replies = peer("transact(s, nl(0x20, 9, 1), nl(0x21, 1, 2), "
                   "nl(0x20, 1, 3), nl(0x20, 9, 4))")
    assert [parse(r)[:2] for r in replies[:-1]] == [
        (0x20, 1), (2, 2), (0x20, 4)]
    assert replies[-1] == "EAGAIN"
    assert [flags & NLM_F_ACK for _, flags, _ in provider.requests] == [
        0, 0, 0, NLM_F_ACK]


def test_ack_left_unread_is_not_the_next_answer(provider: Provider,
                                                peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    for seq in range(1, 20):
        peer(f"s.send(nl(0x20, 9, {seq}))")
        assert parse(peer("recv(s)"))[:2] == (0x20, seq)
    assert peer("transact(s, nl(0x20, 1, 20))") == ["EAGAIN"]


def test_dump(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    replies = peer(f"transact(s, nl(0x20, {1 | NLM_F_DUMP}, 5))")
    assert [parse(r)[0] for r in replies[:-1]] == [0x20, 0x20, 0x20, 3]
    assert replies[-1] == "EAGAIN"


def test_large_messages(provider: Provider, peer: Peer) -> None:
    body = b"x" * 65000
    provider.reply = lambda type_, flags, seq: [
        message(type_, seq, body), *usual(0x20, flags & ~NLM_F_ECHO, seq)]
    provider.start()
    peer("s = make()")
    replies = peer("transact(s, nl(0x20, 9, 5, bytes(65000)))")
    assert parse(replies[0])[2] == body and replies[1:] == ["EAGAIN"]


def test_without_a_provider(provider: Provider, peer: Peer) -> None:
    assert peer("timed(lambda: make().close())")[0] < 0.2
    peer("s = make()")
    assert peer("recv(s)") == "EAGAIN"
    assert peer("poll(s, 50)") == [], "a poll loop does not spin"
    took, result = peer("timed(transact, s, nl(0x20, 1, 1))")
    assert refusals(result) == [(1, errno.ECONNREFUSED)]
    assert took < 1.4, "never seen: short"
    took, result = peer("timed(transact, s, nl(0x20, 1, 1))")
    assert refusals(result) == [(1, errno.ECONNREFUSED)]
    assert took < 0.2, "known to be away"


def test_provider_arrives(provider: Provider, peer: Peer) -> None:
    peer("s = make()")
    port = peer("s.getsockname()")[0]
    peer("w = in_thread(poll, s, 5000)")
    time.sleep(0.1)
    provider.start()
    assert peer("timed(joined, w)")[0] < 4, "the sleeper is woken"
    until(lambda: provider.clients == [(port, 16, 0)])
    assert peer("recv(s)") == "EAGAIN"
    assert peer("transact(s, nl(0x20, 1, 2))") == ["EAGAIN"]


def test_restart_between_requests(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    before = peer("(s.fileno(), s.getsockname())")
    assert peer("transact(s, nl(0x20, 1, 1))") == ["EAGAIN"]
    provider.stop()
    provider.start()
    replies = peer("transact(s, nl(0x20, 9, 2))")
    assert parse(replies[0])[:2] == (0x20, 2), "nothing was lost: no ENOBUFS"
    assert peer("(s.fileno(), s.getsockname())") == before
    until(lambda: provider.clients == [(before[1][0], 16, 0)])


def test_request_while_away_waits(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    peer("transact(s, nl(0x20, 1, 1))")
    provider.stop()
    peer("w = in_thread(timed, transact, s, nl(0x20, 9, 2))")
    time.sleep(0.5)
    provider.start()
    took, replies = peer("joined(w)")
    assert 0.4 < took < WAIT_MS / 1000
    assert parse(replies[0])[:2] == (0x20, 2)


def test_wait_is_bounded(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    peer("transact(s, nl(0x20, 1, 1))")
    provider.stop()
    took, result = peer("timed(transact, s, nl(0x20, 1, 2))")
    assert refusals(result) == [(2, errno.ECONNREFUSED)]
    assert 0.9 * WAIT_MS < took * 1000 < WAIT_MS + 1000
    took, result = peer("timed(transact, s, nl(0x20, 1, 3))")
    assert refusals(result) == [(3, errno.ECONNREFUSED)] and took < 0.2
    assert peer("send(s, nl(0x20, 1, 4), socket.MSG_DONTWAIT)") == "EAGAIN"
    provider.start()
    until(lambda: provider.clients)
    assert peer("transact(s, nl(0x20, 1, 5))") == ["EAGAIN"]


def test_lost_reply_is_enobufs(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    provider.die_on = 0x22
    assert peer("transact(s, nl(0x22, 9, 1))") == ["ENOBUFS"]
    provider.join()
    provider.start()
    assert parse(peer("transact(s, nl(0x22, 9, 2))")[0])[:2] == (0x22, 2)


def test_dump_is_asked_for_again(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    provider.die_on = 0x22
    peer(f"w = in_thread(transact, s, nl(0x22, {1 | NLM_F_DUMP}, 1))")
    provider.join()
    provider.start()
    replies = peer("joined(w)")
    assert [parse(r)[0] for r in replies[:-1]] == [0x22, 0x22, 0x22, 3]
    assert [r[0] for r in provider.requests] == [0x22, 0x22]


def test_dump_cut_short_is_enobufs(provider: Provider, peer: Peer) -> None:
    def reply(type_: int, flags: int, seq: int) -> Iterator[bytes]:
        yield message(type_, seq)
        provider.die()

    provider.reply = reply
    provider.start()
    peer("s = make()")
    replies = peer(f"transact(s, nl(0x20, {1 | NLM_F_DUMP}, 1))")
    assert parse(replies[0])[:2] == (0x20, 1)
    assert replies[1:] == ["ENOBUFS"]


def test_silent_provider_times_out(provider: Provider, peer: Peer) -> None:
    provider.reply = lambda *request: []
    provider.start()
    peer("s = make()")
    took, result = peer("timed(transact, s, nl(0x20, 1, 1))")
    assert refusals(result) == [(1, errno.ETIMEDOUT)]
    assert 0.9 * REPLY_MS < took * 1000 < REPLY_MS + 1500
    provider.reply = usual
    until(lambda: peer("transact(s, nl(0x20, 1, 2))") == ["EAGAIN"])


def test_batch_is_refused_message_by_message(provider: Provider,
                                             peer: Peer) -> None:
    """OVS takes a message that none of the answers is for as done."""
    peer("s = make()")
    replies = peer("transact(s, nl(0x20, 9, 7), nl(0x22, 1, 8, b'1234'), "
                   "nl(0x20, 9, 9))")
    assert refusals(replies) == [(seq, errno.ECONNREFUSED)
                                 for seq in (7, 8, 9)]
    assert peer("transact(s, nl(0x20, 1, 10))")[1:] == ["EAGAIN"]


def test_rest_of_a_batch_is_refused(provider: Provider, peer: Peer) -> None:
    provider.hang_on = 0x22
    provider.start()
    peer("s = make()")
    replies = peer("transact(s, nl(0x20, 9, 1), nl(0x20, 1, 2), "
                   "nl(0x21, 1, 3), nl(0x22, 9, 4), nl(0x20, 9, 5))")
    assert [parse(reply)[:2] for reply in replies[:2]] == [(0x20, 1), (2, 3)]
    assert refusals(replies[2:]) == [(4, errno.ETIMEDOUT),
                                     (5, errno.ETIMEDOUT)]


def test_dump_is_refused(provider: Provider, peer: Peer) -> None:
    peer("s = make()")
    assert refusals(peer(f"transact(s, nl(0x20, {1 | NLM_F_DUMP}, 1))")) == [
        (1, errno.ECONNREFUSED)]


def test_mute_provider_is_waited_for_once(provider: Provider,
                                          peer: Peer) -> None:
    """By all sockets together, those that are connected and new ones."""
    provider.start()
    peer("s, t, u, m = make(), make(), make(), make()")
    peer("transact(u, nl(0x20, 1, 1))")
    provider.hang_on = 0x22
    peer("w = in_thread(transact, t, nl(0x22, 9, 1))")
    assert provider.hung.wait(5)
    peer("v = in_thread(timed, transact, s, nl(0x20, 9, 1))")
    assert refusals(peer("joined(w)")) == [(1, errno.ETIMEDOUT)]
    took, replies = peer("joined(v)")
    assert refusals(replies) == [(1, errno.ETIMEDOUT)]
    assert took * 1000 < REPLY_MS + 1000
    for line in ("u", "s", "make()"):
        took, replies = peer(f"timed(transact, {line}, nl(0x20, 9, 2))")
        assert refusals(replies) == [(2, errno.ETIMEDOUT)]
        assert took * 1000 < REPLY_MS / 2
    took, _ = peer("timed(lambda: m.setsockopt(270, 1, 3))")
    assert took * 1000 < REPLY_MS / 2
    provider.go_on()
    until(lambda: peer("transact(u, nl(0x20, 9, 3))")[0][:2] != b"$\0")
    # The late answers are nobody's.
    for line in ("s", "t", "u"):
        replies = peer(f"transact({line}, nl(0x20, 9, 4))")
        assert parse(replies[0]) == (0x20, 4, b"echo")
        assert replies[1:] == ["EAGAIN"]


def test_member_learns_that_it_was_mute(provider: Provider,
                                        peer: Peer) -> None:
    provider.start()
    peer("s, t = make(), make()")
    peer("s.setsockopt(270, 1, 1)")
    provider.hang_on = 0x22
    assert refusals(peer("transact(t, nl(0x22, 9, 1))")) == [
        (1, errno.ETIMEDOUT)]
    assert peer("recv(s)") == "EAGAIN"
    provider.go_on()
    until(lambda: peer("recv(s)") == "ENOBUFS")
    assert peer("recv(s)") == "EAGAIN"


def test_mute_provider_dies_and_another_comes(provider: Provider,
                                              peer: Peer) -> None:
    provider.start()
    peer("s, t = make(), make()")
    peer("transact(s, nl(0x20, 1, 1))")
    provider.hang_on = 0x22
    assert refusals(peer("transact(t, nl(0x22, 9, 1))")) == [
        (1, errno.ETIMEDOUT)]
    peer("t.close()")
    provider.stop()
    until(lambda: refusals(peer("transact(s, nl(0x20, 9, 2))")) == [
        (2, errno.ECONNREFUSED)])
    provider.start()
    until(lambda: parse(peer("transact(s, nl(0x20, 9, 3))")[0])[0] == 0x20)


def test_provider_is_found_without_a_socket_to_connect(
        provider: Provider, peer: Peer) -> None:
    """The one that timed out is closed, all others are still connected."""
    provider.start()
    peer("s, t = make(), make()")
    peer("transact(s, nl(0x20, 1, 1))")
    provider.hang_on = 0x22
    peer("transact(t, nl(0x22, 9, 1))")
    peer("t.close()")
    assert refusals(peer("transact(s, nl(0x20, 9, 2))")) == [
        (2, errno.ETIMEDOUT)]
    provider.go_on()
    until(lambda: parse(peer("transact(s, nl(0x20, 9, 3))")[0])[0] == 0x20)


OVS_DP_CMD_NEW = b"\1" + bytes(7)


def test_request_that_takes_long(provider: Provider, peer: Peer) -> None:
    """Programs are loaded for a datapath: that may take its time."""
    def slow(*request: int) -> Iterator[bytes]:
        time.sleep(REPLY_MS / 1000 + 0.5)
        yield from usual(*request)

    provider.reply = slow
    provider.start()
    peer("s = make()")
    replies = peer(f"transact(s, nl(0x20, 9, 1, {OVS_DP_CMD_NEW!r}))")
    assert parse(replies[0]) == (0x20, 1, b"echo")
    assert replies[1:] == ["EAGAIN"]


def test_provider_that_works_is_waited_for(provider: Provider,
                                           peer: Peer) -> None:
    """On a slow machine, or behind other requests."""
    took = REPLY_MS / 1000 + 0.5

    def slow(*request: int) -> Iterator[bytes]:
        time.sleep(took)
        yield from usual(*request)

    provider.reply = slow
    provider.start()
    peer("s = make()")
    peer("w = in_thread(transact, s, nl(0x20, 9, 1))")
    end = time.monotonic() + took
    while time.monotonic() < end:
        pass  # this thread is what is seen of the process
    replies = peer("joined(w)")
    assert parse(replies[0]) == (0x20, 1, b"echo")
    assert replies[1:] == ["EAGAIN"]


def test_mute_provider_is_not_waited_for_long(provider: Provider,
                                              peer: Peer) -> None:
    provider.start()
    peer("s, t = make(), make()")
    provider.hang_on = 0x22
    peer("t.send(nl(0x22, 9, 1))")
    assert provider.hung.wait(5)
    took, replies = peer(
        f"timed(transact, s, nl(0x20, 9, 1, {OVS_DP_CMD_NEW!r}))")
    assert refusals(replies) == [(1, errno.ETIMEDOUT)]
    assert took * 1000 < REPLY_MS + 1500


def test_events(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    peer("s.setsockopt(270, 1, 3)")
    until(lambda: [c[2] for c in provider.clients] == [0b100])
    provider.do(lambda server: server.multicast(3, message(0x20, 0, b"ev")))
    assert peer("poll(s, 2000)") == [1]
    assert parse(peer("recv(s)")) == (0x20, 0, b"ev")
    assert peer("recv(s)") == "EAGAIN"
    peer("s.setsockopt(270, 2, 3)")
    provider.do(lambda server: server.multicast(3, message(0x20, 0, b"ev")))
    assert peer("recv(s)") == "EAGAIN"


def test_join_is_known_before_it_returns(provider: Provider,
                                         peer: Peer) -> None:
    provider.start()
    for _ in range(50):
        peer("s = make()")
        peer("s.setsockopt(270, 1, 1)")
        provider.do(lambda server: server.multicast(1, message(0x20, 0)))
        assert parse(peer("recv(s, 0)"))[:2] == (0x20, 0)


def test_member_learns_of_a_restart(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    peer("s.setsockopt(270, 1, 1)")
    provider.stop()
    assert peer("poll(s, 2000)") != [], "the end is seen"
    assert peer("recv(s)") == "EAGAIN"
    assert peer("poll(s, 50)") == []
    provider.start()
    until(lambda: provider.clients and provider.clients[0][2] == 1)
    # Whenever the program polls, it finds out.
    assert peer("poll(s, 2000)") != []
    assert peer("recv(s)") == "ENOBUFS"
    assert peer("recv(s)") == "EAGAIN"
    assert peer("poll(s, 50)") == []


def test_idle_socket_learns_nothing(provider: Provider, peer: Peer) -> None:
    """OVS warns of ENOBUFS on an upcall socket."""
    provider.start()
    peer("s = make()")
    port = peer("s.getsockname()")[0]
    until(lambda: provider.clients)
    provider.stop()
    assert peer("poll(s, 2000)") != [] and peer("recv(s)") == "EAGAIN"
    peer("w = in_thread(poll, s, 5000)")
    provider.start()
    until(lambda: provider.clients == [(port, 16, 0)])
    peer("joined(w)")
    assert peer("recv(s)") == "EAGAIN"
    provider.do(lambda server: found(server, port).send(message(0x23, 0)))
    assert peer("poll(s, 2000)") == [1]
    assert parse(peer("recv(s)"))[:2] == (0x23, 0)


def found(server: Server, port: int) -> Client:
    client = server.client(port)
    assert client is not None
    return client


def test_what_was_queued_is_read_before_the_end(provider: Provider,
                                                peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    port = peer("s.getsockname()")[0]
    until(lambda: provider.clients)
    for i in range(3):
        provider.do(lambda server, i=i: found(server, port).send(
            message(0x23, i)))
    provider.stop()
    assert [parse(peer("recv(s)"))[1] for _ in range(3)] == [0, 1, 2]
    assert peer("recv(s)") == "EAGAIN"


def test_epoll_registration_survives(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    peer("t = make()")
    port = peer("s.getsockname()")[0]
    peer("e = select.epoll()")
    peer("e.register(s, select.EPOLLIN | select.EPOLLEXCLUSIVE)")
    peer("e.register(t, select.EPOLLIN)")
    fds = peer("(s.fileno(), t.fileno())")
    provider.stop()
    seen = {fd for fd, _ in peer("e.poll(2)")}
    assert seen == set(fds)
    assert peer("(recv(s), recv(t))") == ("EAGAIN", "EAGAIN")
    assert peer("e.poll(0.05)") == []
    peer("e.unregister(t)")
    provider.start()
    until(lambda: len(provider.clients) == 2)
    provider.do(lambda server: [c.send(message(0x23, 1))
                                for c in server.clients()])
    assert peer("e.poll(2)") == [(fds[0], 1)]
    assert parse(peer("recv(s)"))[:2] == (0x23, 1)
    assert port in {c[0] for c in provider.clients}
    peer("e.unregister(s)")


def test_epoll_instance_that_is_gone(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    peer("e = select.epoll()")
    number = peer("e.fileno()")
    peer("e.register(s, select.EPOLLIN)")
    peer("e.close()")
    peer("e = select.epoll()")
    assert peer("e.fileno()") == number
    provider.stop()
    assert peer("poll(s, 2000)") != [] and peer("recv(s)") == "EAGAIN"
    provider.start()
    until(lambda: provider.clients)
    provider.do(lambda server: server.clients()[0].send(message(0x23, 1)))
    assert peer("poll(s, 2000)") != []
    assert parse(peer("recv(s)"))[:2] == (0x23, 1)
    assert peer("e.poll(0.05)") == []


def test_descriptors_are_recycled(provider: Provider, peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    number = peer("s.fileno()")
    peer("s.close()")
    peer("p = socket.socketpair()")
    assert number in peer("(p[0].fileno(), p[1].fileno())")
    peer("p[0].send(b'plain')")
    assert peer("recv(p[1])") == b"plain"
    until(lambda: provider.clients == [])
    before = peer("len(__import__('os').listdir('/proc/self/fd'))")
    for _ in range(30):
        peer("s = make()")
        peer("s.close()")
    provider.stop()
    for _ in range(30):
        peer("s = make()")
        peer("s.close()")
    assert peer("len(__import__('os').listdir('/proc/self/fd'))") == before


def test_many_threads_over_restarts(provider: Provider, peer: Peer) -> None:
    """Each request is answered once and rightly, or reported as lost."""
    provider.start()
    peer("stop = []")
    peer("work = lambda n: (lambda s: [(transact(s, nl(0x20, 9, q + 1)), "
         "q + 1)[0:2] for q in range(400)])(make())")
    peer("ws = [in_thread(work, n) for n in range(6)]")
    for _ in range(4):
        time.sleep(0.05)
        provider.stop()
        provider.start()
    good = lost = 0
    for i in range(6):
        for replies, seq in peer(f"joined(ws[{i}])"):
            if replies == ["ENOBUFS"]:
                lost += 1
                continue
            assert parse(replies[0])[:2] == (0x20, seq)
            assert replies[1:] == ["EAGAIN"]
            good += 1
    assert good + lost == 2400 and lost < 100
