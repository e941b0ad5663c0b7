# SPDX-License-Identifier: Apache-2.0
"""dpif_bpf.edge.ctl over real sockets, and what clients do to it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ovs.unixctl
import ovs.vlog
import pytest
from clients import Poller, no_descriptor_left

from dpif_bpf import boundary
from dpif_bpf.core.slices import LATER
from dpif_bpf.edge import ctl as ctl_module
from dpif_bpf.edge.ctl import ACCEPT_PAUSE, MAX_CLIENTS, MAX_INPUT, Ctl
from dpif_bpf.errors import DpifError


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
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ctl")


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Exceptions and warnings."""
    lines: list[str] = []
    monkeypatch.setattr(boundary.vlog, "exception", lines.append)
    monkeypatch.setattr(ctl_module.vlog, "warn", lines.append)
    return lines


@pytest.fixture
def ctl(path: str, clock: Clock, logged: list[str]) -> Iterator[Ctl]:
    made = Ctl(path, "1.0", clock)
    yield made
    made.close()


class Tool:
    """ovs-appctl, or something like it."""

    def __init__(self, ctl: Ctl, path: str) -> None:
        self._ctl = ctl
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.sock.settimeout(5)

    def ask(self, method: str, *params: str, id: object = 0) -> Any:
        """[error, result] of a command."""
        self.send(method, *params, id=id)
        self._ctl.run()
        return self.reply()

    def send(self, method: str, *params: str, id: object = 0) -> None:
        """A command."""
        self.sock.sendall(json.dumps(
            {"method": method, "params": params, "id": id}).encode())

    def reply(self) -> Any:
        """[error, result], which has come."""
        reply = json.loads(self.sock.recv(1 << 16))
        return reply["error"], reply["result"]

    def gone(self) -> bool:
        """Whether the other end has closed."""
        self.sock.setblocking(False)
        try:
            return self.sock.recv(1 << 16) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


def busy(ctl: Ctl) -> bool:
    """Whether wait() would wake a poll loop at once."""
    poller = Poller()
    ctl.wait(poller)
    return bool(poller.poll.poll(0)) or any(t <= 0 for t in poller.timers)


def test_commands(ctl: Ctl, path: str) -> None:
    def refuse(argv: list[str]) -> str:
        raise DpifError(2, "no such thing")

    ctl.register("upper", "WORD", 1, 1, lambda argv: argv[0].upper())
    ctl.register("refuse", "", 0, 0, refuse)
    tool = Tool(ctl, path)
    assert tool.ask("upper", "a") == (None, "A\n")
    assert tool.ask("refuse")[0].startswith("no such thing")
    assert "requires at least" in tool.ask("upper")[0]
    assert "not a valid" in tool.ask("nothing")[0]
    assert "1.0" in tool.ask("version")[1]
    assert not busy(ctl) and ctl.failures == 0


def test_text_that_comes_in_slices(ctl: Ctl, path: str) -> None:
    """Others are answered meanwhile; who asked waits, or goes."""
    ended: list[str] = []

    def long(argv: list[str]) -> Iterator[str]:
        try:
            yield from ("one", LATER, LATER, "two")
            if argv:
                raise DpifError(2, "gone meanwhile")
        finally:
            ended.append("")

    ctl.register("long", "[FAIL]", 0, 1, long)
    for params, reply in (((), (None, "one\ntwo\n")),
                          (("x",), ("gone meanwhile", None))):
        tool, other = Tool(ctl, path), Tool(ctl, path)
        tool.send("long", *params)
        ctl.run()
        assert busy(ctl)
        assert "1.0" in other.ask("version")[1]
        assert busy(ctl)
        ctl.run()
        error, result = tool.reply()
        assert (error and error[:len(reply[0] or "")], result) == reply
        assert not busy(ctl)
    tool.send("long")
    ctl.run()
    tool.sock.close()
    while busy(ctl):
        ctl.run()
    assert len(ended) == 3 and ctl.failures == 0


def test_a_command_that_fails_ends_nothing(
        ctl: Ctl, path: str, logged: list[str]) -> None:
    def broken(argv: list[str]) -> str:
        raise KeyError("unexpected")

    ctl.register("broken", "", 0, 0, broken)
    ctl.register("fine", "", 0, 0, lambda argv: "fine")
    tool = Tool(ctl, path)
    assert "KeyError('unexpected')" in tool.ask("broken")[0]
    assert tool.ask("fine") == (None, "fine\n")
    assert ctl.failures == 1 and len(logged) == 1


def test_a_file_that_cannot_be_had(ctl: Ctl, path: str) -> None:
    """As that of vlog/reopen."""
    ctl.register("open", "", 0, 0, lambda argv: os.readlink("/nowhere/x"))
    assert "No such file" in Tool(ctl, path).ask("open")[0]
    assert ctl.failures == 0


@pytest.mark.parametrize("argv", [
    ("--format", "no-such"), ("--help",), ("x", "y")])
def test_arguments_that_end_argparse(ctl: Ctl, path: str,
                                     argv: tuple[str, ...]) -> None:
    """ovs.unixctl has argparse look at those of set-options, which exits."""
    if "set-options" not in ovs.unixctl.commands:
        pytest.skip("this version of ovs has no set-options")
    tool = Tool(ctl, path)
    assert tool.ask("set-options", *argv)[0]
    assert "1.0" in tool.ask("version")[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ovs.vlog")
@pytest.mark.parametrize("pattern", ["%D{(}%m", "%d{[}"])
def test_a_pattern_that_no_message_fits(ctl: Ctl, path: str,
                                        pattern: str) -> None:
    kept = dict(ovs.vlog.PATTERNS)
    tool = Tool(ctl, path)
    error, _ = tool.ask("vlog/set", f"pattern:file:{pattern}")
    assert error.startswith("not a pattern")
    assert kept == ovs.vlog.PATTERNS
    assert tool.ask("vlog/set", "ctl:file:dbg") == (None, "")
    assert "no destination" in tool.ask("vlog/set", "nonsense:x")[1]


@pytest.mark.parametrize("garbage", [
    b"\0" * 100, b"hello", b'{"method": 1, "params": [], "id": 0}',
    b'{"method": "version", "params": {}, "id": 0}', b"[" * 5000,
    b'{"result": 1, "error": null, "id": 0}', b"\xff\xfe{}", b'"\\ud800"',
    b'{"method": "version", "params": [1], "id": 0}', b"{}" * 100,
    b'{"method":"version","params":[],"id":{"a":["b",null]}}',
    b'{"method":"version","params":[],"id":0,"x":1}'])
def test_garbage(ctl: Ctl, path: str, garbage: bytes) -> None:
    bad, good = Tool(ctl, path), Tool(ctl, path)
    bad.sock.sendall(garbage)
    for _ in range(3):
        ctl.run()
    assert not busy(ctl)
    assert "1.0" in good.ask("version")[1]
    bad.sock.close()
    ctl.run()
    assert not busy(ctl) and ctl.failures == 0


@pytest.mark.parametrize(("start", "more"), [
    (b"", b"\n"), (b'"', b"x"), (b"[", b"1,"), (b"{", b'"a":1,')])
def test_a_command_without_an_end(ctl: Ctl, path: str, start: bytes,
                                  more: bytes) -> None:
    tool = Tool(ctl, path)
    tool.sock.sendall((start + more * MAX_INPUT)[:2 * MAX_INPUT])
    ctl.run()
    assert tool.gone() and not busy(ctl)


def test_a_connection_may_ask_for_ever(ctl: Ctl, path: str) -> None:
    tool = Tool(ctl, path)
    for _ in range(2 * MAX_INPUT // 100):
        assert "1.0" in tool.ask("version", id="x" * 100)[1]


def test_clients_that_leave_without_reading(ctl: Ctl, path: str) -> None:
    ctl.register("much", "", 0, 0, lambda argv: "x" * (1 << 22))
    ask = b'{"method":"much","params":[],"id":0}'
    slow, gone, amid = (Tool(ctl, path) for _ in range(3))
    slow.sock.sendall(ask)
    gone.sock.sendall(ask)
    gone.sock.close()
    amid.sock.sendall(ask)
    ctl.run()
    amid.sock.recv(1000)
    amid.sock.close()
    ctl.run()
    assert not busy(ctl), "slow does not read"
    got = 0
    while got < 1 << 22:
        got += len(slow.sock.recv(1 << 20))
        ctl.run()
    assert "1.0" in Tool(ctl, path).ask("version")[1]
    assert ctl.failures == 0


def test_a_thousand_clients(ctl: Ctl, path: str) -> None:
    """Those that hang make room for those that ask."""
    tools = []
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        tools.append(Tool(ctl, path))
        ctl.run()
    assert sum(tool.gone() for tool in tools) == 1000 - MAX_CLIENTS
    assert len(os.listdir("/proc/self/fd")) <= before + 1000 + MAX_CLIENTS
    assert not busy(ctl)
    assert "1.0" in Tool(ctl, path).ask("version")[1]
    for tool in tools:
        tool.sock.close()
    ctl.run()
    assert not busy(ctl)


def test_no_descriptor_for_one_more(
        ctl: Ctl, path: str, clock: Clock, logged: list[str]) -> None:
    one, two = Tool(ctl, path), Tool(ctl, path)
    with no_descriptor_left(2) as fill:
        os.close(fill.pop())
        assert "1.0" in one.ask("version")[1]
        for _ in range(50):
            ctl.run()
            assert not busy(ctl), "the listener stays readable"
        assert "1.0" in one.ask("version")[1], "others are served"
        for _ in range(100):
            clock.now += ACCEPT_PAUSE
            ctl.run()
        assert 1 <= len(logged) < 20
        os.close(fill.pop())
        clock.now += ACCEPT_PAUSE
        assert "1.0" in two.ask("version")[1]
