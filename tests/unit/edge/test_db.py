# SPDX-License-Identifier: Apache-2.0
"""dpif_bpf.edge.db and a database that sends what nobody expects.

tests/system/test_db.py has a real one.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dpif_bpf.edge.db import Database
from dpif_bpf.edge.poller import Poller
from dpif_bpf.limited import msec

BRIDGE, PORT, INTERFACE, ROW = (
    f"00000000-0000-4000-8000-00000000000{n}" for n in range(4))


def contents(**bridge: Any) -> dict[str, Any]:
    """A database with one bridge, as the reply to "monitor"."""
    return {
        "Open_vSwitch": {ROW: {"new": {"external_ids": ["map", []]}}},
        "Bridge": {BRIDGE: {"new": {
            "name": "br0", "datapath_type": "bpf",
            "ports": ["set", [["uuid", PORT]]], **bridge}}},
        "Port": {PORT: {"new": {
            "interfaces": ["set", [["uuid", INTERFACE]]]}}},
        "Interface": {INTERFACE: {"new": {"name": "p0"}}}}


class Server:
    """Speaks as an ovsdb-server of old, which the IDL falls back to.

    :ivar rows: the reply to "monitor"
    """

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._listener.setblocking(False)
        self._sock: socket.socket | None = None
        self._decoder = json.JSONDecoder()
        self._input = ""
        self.connections = 0
        self.rows: Any = contents()

    def run(self) -> None:
        """Answers what has come."""
        try:
            self._sock, _ = self._listener.accept()
            self._sock.setblocking(False)
            self.connections += 1
            self._input = ""
        except BlockingIOError:
            pass
        try:
            data = self._sock.recv(1 << 16) if self._sock else b""
        except (BlockingIOError, ConnectionResetError):
            return
        self._input += data.decode()
        while self._input:
            message, end = self._decoder.raw_decode(self._input)
            self._input = self._input[end:].lstrip()
            if message["method"] == "monitor":
                self.send(id=message["id"], result=self.rows, error=None)
            elif message["method"] == "transact":
                self.send(id=message["id"], error=None, result=[
                    {} for _ in message["params"][1:]])
            else:
                self.send(id=message["id"], result=None,
                          error="unknown method")

    def send(self, **message: Any) -> None:
        assert self._sock is not None
        self._sock.sendall(json.dumps(message).encode())

    def close(self) -> None:
        self._listener.close()
        if self._sock is not None:
            self._sock.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(str(tmp_path / "db.sock"))
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"unix:{tmp_path}/db.sock")
    yield made
    made.close()


def run_until(server: Server, database: Database,
              done: Callable[[], object]) -> list[Exception]:
    """What run() raised until then."""
    raised: list[Exception] = []
    end = msec() + 20000
    while not done():
        assert msec() < end, raised
        server.run()
        try:
            database.run()
        except Exception as error:
            raised.append(error)
        poller = Poller()
        database.wait(poller)
        poller.timer_wait(5)
        poller.block()
    return raised


def test_bridges(server: Server, database: Database) -> None:
    database.set_status({"version": "1"})
    assert run_until(server, database, lambda: database.seqno == 1) == []
    assert database.bridges() == {"br0": {"p0"}}


@pytest.mark.parametrize("row", [
    {"name": ["set", ["a", "b"]]}, {"name": 7}, {"name": ["set", []]},
    {"datapath_type": ["map", []]}, {"ports": ["set", [["uuid", "x"]]]},
    {"ports": "p0"}, {"unknown": 1},
    {"ports": ["set", [["uuid", BRIDGE]]]}, {"name": "x" * 100000}])
def test_odd_columns(server: Server, database: Database,
                     row: dict[str, Any]) -> None:
    server.rows = contents(**row)
    raised = run_until(server, database, lambda: database.synced)
    server.send(id=None, method="update", params=[None, contents(name="b1")])
    raised += run_until(server, database, lambda: "b1" in database.bridges())
    assert raised == []


NONSENSE = [
    {"id": None, "method": "monitor_canceled", "params": []},
    {"id": None, "method": "update", "params": [None, {"Bridge": 1}]},
    {"id": None, "method": "update3", "params": [None, None, 7]},
    {"id": None, "method": "locked", "params": []},
    {"id": 99, "result": {"a": 1}, "error": None}]


@pytest.mark.parametrize("message", NONSENSE)
def test_nonsense(server: Server, database: Database,
                  message: dict[str, Any]) -> None:
    """Whether the IDL makes of it an error or an exception, it is read
    again, and what was known stays."""
    database.set_status({"version": "1"})
    run_until(server, database, lambda: database.bridges())
    server.send(**message)
    server.send(id=None, method="update", params=[None, contents(name="b1")])
    server.rows = contents(name="b2")
    seen = set()

    def done() -> bool:
        seen.update(database.bridges())
        return bool(seen & {"b1", "b2"})

    run_until(server, database, done)
    assert "br0" in seen


def test_an_exception_of_the_idl(server: Server, database: Database) -> None:
    run_until(server, database, lambda: database.bridges())
    server.send(**NONSENSE[0])
    raised = run_until(server, database, lambda: server.connections == 2)
    assert [type(error) for error in raised] == [IndexError]
    server.rows = contents(name="b2")
    raised = run_until(server, database, lambda: "b2" in database.bridges())
    assert raised == []
