# SPDX-License-Identifier: Apache-2.0
"""The Open_vSwitch database (dpif_bpf.edge.db), with a real ovsdb-server."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ovs_build import TOP, OvsBuild, find_build

from dpif_bpf.edge.db import COLUMNS, Database
from dpif_bpf.edge.poller import Poller


class Server:
    """An ovsdb-server that can be stopped and started."""

    def __init__(self, build: OvsBuild, rundir: Path) -> None:
        self._build = build
        self._dir = rundir
        self.remote = f"unix:{rundir}/db.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.create()

    def create(self) -> None:
        (self._dir / "conf.db").unlink(missing_ok=True)
        subprocess.run([self._build.program("ovsdb-tool"), "create",
                        f"{self._dir}/conf.db", self._build.schema],
                       check=True)

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._build.program("ovsdb-server"), f"{self._dir}/conf.db",
             f"--remote=punix:{self._dir}/db.sock",
             f"--unixctl={self._dir}/ctl",
             f"--log-file={self._dir}/ovsdb-server.log", "-vconsole:off"])
        end = time.monotonic() + 10
        while not (self._dir / "db.sock").exists():
            assert time.monotonic() < end
            time.sleep(0.02)

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None
            (self._dir / "db.sock").unlink(missing_ok=True)

    def vsctl(self, *args: str) -> str:
        return subprocess.run(
            [self._build.program("ovs-vsctl"), f"--db={self.remote}",
             "--no-wait", *args], check=True, stdout=subprocess.PIPE,
            text=True).stdout.strip()

    def query(self, transaction: str) -> str:
        return subprocess.run(
            [self._build.program("ovsdb-client"), "query", self.remote,
             transaction], check=True, stdout=subprocess.PIPE,
            text=True).stdout.strip()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(find_build(), tmp_path)
    yield made
    made.stop()


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    made = Database(server.remote)
    yield made
    made.close()


def run_until(database: Database, done: Callable[[], bool],
              seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while True:
        database.run()
        if done():
            return
        assert time.monotonic() < end, database.bridges()
        poller = Poller()
        database.wait(poller)
        poller.timer_wait(100)
        poller.block()


def status(server: Server) -> dict[str, str]:
    text = server.vsctl("--format=json", "--columns=external_ids", "list",
                        "Open_vSwitch")
    return dict(json.loads(text)["data"][0][0][1])


CLIENT = """
import sys, time
import ovs.vlog
from dpif_bpf.edge.db import Database
from dpif_bpf.edge.poller import Poller
ovs.vlog.Vlog.init()
database = Database(sys.argv[1])
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    database.run()
    poller = Poller()
    database.wait(poller)
    poller.timer_wait(100)
    poller.block()
print(database.synced, database.seqno, dict(database.bridges()))
"""


def client(server: Server, seconds: float) -> subprocess.Popen[str]:
    """A program that watches the database and logs to standard error."""
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, server.remote, str(seconds)], cwd=TOP,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_absent_database_is_quiet(server: Server) -> None:
    output, _ = client(server, 2).communicate()
    assert output == "False 0 {}\n"


def test_coming_and_going_database_is_quiet(server: Server) -> None:
    watcher = client(server, 8)
    for how in (signal.SIGTERM, signal.SIGKILL):
        server.start()
        server.vsctl("init", "--", "--may-exist", "add-br", "br0", "--",
                     "set", "bridge", "br0", "datapath_type=bpf")
        time.sleep(2.5)
        server.stop(how)
    output, _ = watcher.communicate()
    assert "WARN" not in output and "ERR" not in output, output
    assert output.endswith("True 1 {'br0': frozenset({'br0'})}\n")


def test_bridges(server: Server, database: Database) -> None:
    server.start()
    run_until(database, lambda: database.synced)
    assert database.bridges() == {}
    server.vsctl("init")
    server.vsctl("add-br", "br0", "--", "set", "bridge", "br0",
                 "datapath_type=bpf", "--", "add-br", "br1", "--",
                 "set", "bridge", "br1", "datapath_type=netdev")
    run_until(database, lambda: "br0" in database.bridges())
    assert database.bridges() == {"br0": frozenset({"br0"})}
    before = database.seqno
    server.vsctl("add-port", "br0", "p0", "--", "add-bond", "br0", "bond0",
                 "p1", "p2", "--", "add-port", "br1", "p3")
    run_until(database, lambda: database.seqno != before)
    assert database.bridges() == {
        "br0": frozenset({"br0", "p0", "p1", "p2"})}
    before = database.seqno
    server.vsctl("--", "--id=@i", "create", "Interface", "name=p4", "--",
                 "add", "Port", "bond0", "interfaces", "@i")
    run_until(database, lambda: database.seqno != before)
    assert "p4" in database.bridges()["br0"]
    server.vsctl("--", "--id=@i", "get", "Interface", "p4", "--", "remove",
                 "Port", "bond0", "interfaces", "@i")
    server.vsctl("del-port", "br0", "p0")
    server.vsctl("set", "bridge", "br1", "datapath_type=bpf")
    run_until(database, lambda: "br1" in database.bridges())
    assert database.bridges() == {
        "br0": frozenset({"br0", "p1", "p2"}),
        "br1": frozenset({"br1", "p3"})}
    server.vsctl("del-br", "br0")
    run_until(database, lambda: "br0" not in database.bridges())
    assert database.bridges() == {"br1": frozenset({"br1", "p3"})}


def test_other_changes_are_none(server: Server, database: Database) -> None:
    server.start()
    server.vsctl("init", "--", "add-br", "br0", "--", "set", "bridge", "br0",
                 "datapath_type=bpf")
    run_until(database, lambda: bool(database.bridges()))
    before = database.seqno
    server.vsctl("set", "Open_vSwitch", ".", "external_ids:hostname=here")
    server.vsctl("set", "Interface", "br0", "external_ids:a=b")
    server.vsctl("add-br", "br9")
    server.vsctl("add-br", "mark", "--", "set", "bridge", "mark",
                 "datapath_type=bpf")
    run_until(database, lambda: "mark" in database.bridges())
    assert database.seqno == before + 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_restarted_server(server: Server, database: Database,
                          how: signal.Signals) -> None:
    server.start()
    server.vsctl("init", "--", "add-br", "br0", "--", "set", "bridge", "br0",
                 "datapath_type=bpf")
    run_until(database, lambda: bool(database.bridges()))
    before = database.seqno
    server.stop(how)
    end = time.monotonic() + 1
    run_until(database, lambda: time.monotonic() > end)
    assert database.bridges() == {"br0": frozenset({"br0"})}
    server.start()
    server.vsctl("add-port", "br0", "p0")
    run_until(database, lambda: database.seqno != before)
    assert database.bridges() == {"br0": frozenset({"br0", "p0"})}


def row_version(server: Server) -> str:
    """Another one for each change of the Open_vSwitch row."""
    return server.query('["Open_vSwitch",{"op":"select","where":[],'
                        '"table":"Open_vSwitch","columns":["_version"]}]')


def test_status(server: Server, database: Database) -> None:
    database.set_status({"version": "1.2"})
    server.start()
    run_until(database, lambda: database.synced)
    server.vsctl("init", "--", "set", "Open_vSwitch", ".",
                 "external_ids:hostname=here")
    run_until(database, lambda: len(status(server)) == 2)
    assert status(server) == {"hostname": "here", "ovs-bpfd:version": "1.2"}
    log = server.vsctl("get", "Open_vSwitch", ".", "_uuid")
    database.set_status({"version": "1.3"})
    run_until(database, lambda: status(server)["ovs-bpfd:version"] == "1.3")
    assert status(server)["hostname"] == "here"
    # A database made anew gets it again.
    server.stop()
    server.create()
    server.start()
    server.vsctl("init")
    run_until(database, lambda: bool(status(server)))
    assert server.vsctl("get", "Open_vSwitch", ".", "_uuid") != log
    assert status(server) == {"ovs-bpfd:version": "1.3"}


def test_status_is_not_written_again(server: Server,
                                     database: Database) -> None:
    """A restarted provider changes nothing that is right already."""
    server.start()
    server.vsctl("init", "--", "set", "Open_vSwitch", ".",
                 "external_ids:ovs-bpfd\\:version=1.2")
    version = row_version(server)
    database.set_status({"version": "1.2"})
    end = time.monotonic() + 0.5
    run_until(database, lambda: database.synced and time.monotonic() > end)
    assert row_version(server) == version


def test_columns_are_the_schemas() -> None:
    with open(find_build().schema) as file:
        tables = json.load(file)["tables"]
    for table, columns in COLUMNS.items():
        for column, ours in columns.items():
            theirs = tables[table]["columns"][column]["type"]
            if isinstance(theirs, dict):
                theirs = {**theirs, "min": 0}
            assert ours["type"] == theirs, f"{table}.{column}"


def test_columns_are_documented() -> None:
    text = (TOP / "ovsdb-schema" / "README.rst").read_text()
    documented = set(re.findall(r"^``(\w+)\.(\w+)``$", text, re.MULTILINE))
    assert documented == {(table, column) for table, columns
                          in COLUMNS.items() for column in columns}
