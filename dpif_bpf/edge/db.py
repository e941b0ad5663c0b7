# SPDX-License-Identifier: Apache-2.0
"""Watches the Open_vSwitch database; the only user of ovs.db.

ovsdb-schema/README.rst says what each column is read or written for.  The
columns are older than Open vSwitch 1.0, so no server lacks one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ovs.db.idl
import ovs.dirs
import ovs.vlog

from dpif_bpf.core.devices import Poller

vlog = ovs.vlog.Vlog("db")

DATAPATH_TYPE = "bpf"
STATUS_PREFIX = "ovs-bpfd:"
MIN_BACKOFF_MS = 500
MAX_BACKOFF_MS = 2000


def _map_of(key: str, value: str) -> dict[str, Any]:
    return {"type": {"key": key, "value": value, "min": 0,
                     "max": "unlimited"}}


def _set_of(table: str) -> dict[str, Any]:
    return {"type": {"key": {"type": "uuid", "refTable": table}, "min": 0,
                     "max": "unlimited"}}


COLUMNS: dict[str, dict[str, dict[str, Any]]] = {
    "Open_vSwitch": {"external_ids": _map_of("string", "string")},
    "Bridge": {"name": {"type": "string"},
               "datapath_type": {"type": "string"},
               "ports": _set_of("Port")},
    "Port": {"interfaces": _set_of("Interface")},
    "Interface": {"name": {"type": "string"}},
}
"""Tables and columns that are monitored, with their types."""


class _Idl(ovs.db.idl.Idl):     # type: ignore[misc]
    """Keeps the names of each port's interfaces.

    Following every reference again at each change would take 70 ms with
    2,000 ports, this takes 15.
    """

    def __init__(self, remote: str,
                 helper: ovs.db.idl.SchemaHelper) -> None:
        self._names: dict[object, frozenset[str]] = {}
        super().__init__(remote, helper)

    def notify(self, event: str, row: Any, updates: Any = None) -> None:
        self._names.pop(row.uuid, None)

    def bridges(self) -> dict[str, frozenset[str]]:
        known, self._names = self._names, {}
        found = {}
        for bridge in self.tables["Bridge"].rows.values():
            if bridge.datapath_type != DATAPATH_TYPE:
                continue
            members: set[str] = set()
            for port in bridge.ports:
                names = known.get(port.uuid)
                if names is None:
                    names = frozenset(i.name for i in port.interfaces)
                self._names[port.uuid] = names
                members |= names
            found[bridge.name] = frozenset(members)
        return found


class Database:
    """See :class:`dpif_bpf.core.devices.DbEdge`.

    :param remote: "unix:PATH", "tcp:HOST:PORT", …; None for the socket
        db.sock in the run directory
    """

    def __init__(self, remote: str | None = None) -> None:
        if remote is None:
            remote = f"unix:{ovs.dirs.RUNDIR}/db.sock"
        helper = ovs.db.idl.SchemaHelper(None, {
            "name": "Open_vSwitch", "version": "0.0.0",
            "tables": {name: {"columns": columns}
                       for name, columns in COLUMNS.items()}})
        for table in COLUMNS:
            helper.register_table(table)
        self._idl = _Idl(remote, helper)
        # Each attempt to reach an absent database would be a warning, but it
        # is no trouble; one that comes is wanted soon.  The IDL has no public
        # way to its session.
        ovs.vlog.Vlog.set_level("reconnect", "any", "err")
        self._session = self._idl._session
        self._session.reconnect.set_backoff(MIN_BACKOFF_MS, MAX_BACKOFF_MS)
        self._connected = False
        self._idl_seqno = self._idl.change_seqno
        self._seqno = 0
        self._bridges: dict[str, frozenset[str]] = {}
        self._status: dict[str, str] = {}
        self._written_to: object = None
        """uuid of the Open_vSwitch row that has the status."""
        self._txn: Any = None

    @property
    def seqno(self) -> int:
        return self._seqno

    @property
    def synced(self) -> bool:
        """Whether the database has been read at least once."""
        return bool(self._idl.has_ever_connected())

    def bridges(self) -> Mapping[str, frozenset[str]]:
        return self._bridges

    def set_status(self, status: Mapping[str, str]) -> None:
        """What operators can read in Open_vSwitch.external_ids, each key
        with ``STATUS_PREFIX`` before it.  Written when there is a database;
        keys of others are left alone."""
        self._status = {STATUS_PREFIX + key: value
                        for key, value in status.items()}
        self._written_to = None

    def run(self) -> None:
        """See DbEdge.

        :raises Exception: of the IDL, which was sent what it did not expect;
            all is read again, on another connection
        """
        try:
            self._run()
        except Exception:
            self._start_over()
            raise

    def _start_over(self) -> None:
        """The IDL's copy of the database may be half changed."""
        self._idl.force_reconnect()
        if self._txn is not None:
            self._txn.abort()
            self._txn = None
        self._written_to = None
        self._idl_seqno = self._idl.change_seqno

    def _run(self) -> None:
        self._idl.run()
        connected = self._session.is_connected()
        if connected != self._connected:
            self._connected = connected
            vlog.info(f"{self._session.get_name()}: "
                      + ("connected" if connected else "disconnected"))
        if self._idl_seqno != self._idl.change_seqno:
            self._idl_seqno = self._idl.change_seqno
            bridges = self._idl.bridges()
            if bridges != self._bridges:
                self._bridges = bridges
                self._seqno += 1
        self._write_status()

    def wait(self, poller: Poller) -> None:
        self._idl.wait(poller)
        if self._txn is not None:
            self._txn.wait(poller)

    def close(self) -> None:
        if self._txn is not None:
            self._txn.abort()
        self._idl.close()

    def _write_status(self) -> None:
        if self._txn is None:
            row = next(iter(self._idl.tables["Open_vSwitch"].rows.values()),
                       None)
            if row is None or row.uuid == self._written_to:
                return
            self._written_to = row.uuid
            now = row.external_ids
            changed = {key: value for key, value in self._status.items()
                       if now.get(key) != value}
            if not changed:
                return
            self._txn = ovs.db.idl.Transaction(self._idl)
            for key, value in changed.items():
                row.setkey("external_ids", key, value)
        result = self._txn.commit()
        if result == ovs.db.idl.Transaction.INCOMPLETE:
            return
        if result == ovs.db.idl.Transaction.TRY_AGAIN:
            self._written_to = None
        elif result not in (ovs.db.idl.Transaction.SUCCESS,
                            ovs.db.idl.Transaction.UNCHANGED):
            vlog.info("the status could not be written: "
                      f"{self._txn.get_error()}")
        self._txn = None
