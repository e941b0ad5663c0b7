# SPDX-License-Identifier: Apache-2.0
"""The flows of one datapath: their identity, their actions, their place.

Rules of identity and update are those of Linux net/openvswitch/datapath.c
(``ovs_flow_cmd_new`` and its neighbours).  A flow is named by its UFID or, if
it has none, by its full key, the bits that the mask leaves out included.  A
packet that has just that key meets no other flow when a flow is made, so that
no two flows have one name, or one match.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TypeVar

from dpif_bpf.core.actions.programs import Program, ProgramCache
from dpif_bpf.core.classifier.forest import Classifier
from dpif_bpf.core.flow_flush import Flush, Flushes
from dpif_bpf.core.flow_stats import total
from dpif_bpf.core.plane import ANY_BRIDGE, Statistics
from dpif_bpf.core.records import FLOW_BASE, FLOW_PREFIX, Records
from dpif_bpf.errors import DpifError, RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.key.attrs import bits
from dpif_bpf.wire.key.decode import Match, decode_key, decode_match
from dpif_bpf.wire.messages import FlowRequest
from dpif_bpf.wire.netlink import NLM_F_CREATE, NLM_F_EXCL, nla
from dpif_bpf.wire.replies import FlowParts, flow_body, flow_parts

_Name = TypeVar("_Name")
_Value = TypeVar("_Value")

_IN_PORT = bits("in_port")
_MOVE_STEPS = 8
"""Steps (core.flow_flush) that the move of a flow to another root is."""


@dataclass(slots=True, eq=False)
class Flow:
    """A megaflow.

    :param match: masked key and mask
    :param ufid: its name, or None: it is named by its full key
    :param parts: netlink attributes as they came, for replies
    :param places: bridge -> flow id in that bridge's classifier root: one,
        or all bridges when the input port is not matched
    :param body: parts for a peer that wants all of them
    :param serial: grows from flow to flow
    """

    match: Match
    ufid: bytes | None
    program: Program
    parts: FlowParts
    body: bytes
    places: dict[int, int]
    serial: int = 0

    @property
    def in_port(self) -> int | None:
        """The input port, or None when it is not matched exactly."""
        if self.match.mask & _IN_PORT != _IN_PORT:
            return None
        return self.match.key & _IN_PORT


class FlowTable:
    """All flows of a datapath.

    Input ports have bridges, which :meth:`move_port` and its like change.
    The flows of a port that has gone stay where they are, for no packet comes
    that they match: their owner deletes them, or the port comes back.

    :param max_flows: flows that there may be
    :ivar leaving: bridges whose roots still have such flows, which are taken
        out in slices by ``flushes``
    """

    def __init__(self, classifier: Classifier, stats: Statistics,
                 programs: ProgramCache, records: Records,
                 max_flows: int) -> None:
        self._classifier = classifier
        self._max_flows = max_flows
        self._stats = stats
        self._programs = programs
        self._records = records
        self._by_ufid: dict[bytes, Flow] = {}
        self._by_match: dict[tuple[int, int], Flow] = {}
        self._by_key: dict[int, Flow] = {}
        self._by_id: dict[int, Flow] = {}
        self._by_port: dict[int | None, dict[Flow, None]] = {}
        self._bridge_of: dict[int, int] = {}
        self._bridges: set[int] = {ANY_BRIDGE}
        self.leaving: set[int] = set()
        self._serial = 0
        self._flushed = 0
        """The last serial number that was flushed."""
        self.flushes = Flushes()

    def __len__(self) -> int:
        return len(self._by_match)

    def snapshot(self) -> list[Flow]:
        """The flows as they are now, for a dump that goes on over turns."""
        return list(self._by_match.values())

    def alive(self, flow: Flow) -> bool:
        """Whether `flow` of a snapshot is still there."""
        return bool(flow.places) and flow.serial > self._flushed

    def put(self, request: FlowRequest) -> Flow:
        """OVS_FLOW_CMD_NEW: a new flow, or new actions for one.

        :raises RequestError: EINVAL for what cannot be accepted; EEXIST when
            there is one and NLM_F_CREATE forbids to change it; ENOENT when
            there is another flow in its place
        :raises BackendError: ENOSPC when a table is full
        :raises RequestError: ENOSPC when there are max_flows
        """
        match = _match(request)
        old = self._find(request.ufid, match)
        if old is None:
            return self._insert(request, match)
        if request.message.flags & (NLM_F_CREATE | NLM_F_EXCL):
            raise RequestError(errno.EEXIST, "the flow exists")
        if not _same(old, match):
            raise RequestError(errno.ENOENT,
                               "another flow matches this flow's packets")
        self._set_actions(old, request)
        return old

    def restore(self, request: FlowRequest) -> Flow:
        """A flow of an earlier provider.

        What a packet with its full key meets may have been made after it,
        so that this is no reason to refuse it.  Flows come in the order in
        which they were made, so that of two that match a packet the same one
        is met as before.  One that was in several bridges comes as often.

        :raises RequestError: EINVAL; EEXIST when another flow has its name
            or its match
        :raises BackendError: ENOSPC when a table is full
        """
        match = _match(request)
        old = self._named(request.ufid, match)
        if old is None:
            return self._insert(request, match)
        if (old.match, old.ufid) != (match, request.ufid):
            raise RequestError(errno.EEXIST, "another flow has its name")
        return old

    def set(self, request: FlowRequest) -> Flow:
        """OVS_FLOW_CMD_SET: new actions, cleared statistics.

        :raises RequestError: EINVAL; ENOENT when there is no such flow
        """
        if request.mask is not None and request.key is not None:
            _match(request)
        flow = self.get(request)
        if request.actions is not None:
            self._set_actions(flow, request)
        if request.clear:
            for flow_id in flow.places.values():
                self._stats.set_flow_stats(flow_id, (0, 0, 0, 0))
        return flow

    def get(self, request: FlowRequest) -> Flow:
        """The flow that a GET, SET or DEL names, by UFID or by key.

        :raises RequestError: EINVAL; ENOENT when there is none
        """
        flow = None
        if request.key is not None:
            flow = self._by_key.get(decode_key(request.key, request.key_pos))
        if request.ufid is not None:
            flow = self._by_ufid.get(request.ufid)
        if flow is None:
            raise RequestError(errno.ENOENT, "no such flow")
        return flow

    def delete(self, flow: Flow) -> None:
        """Takes a flow out; its packets miss from now on."""
        for flow_id in flow.places.values():
            self._classifier.delete(flow_id)
            self._records.drop(FLOW_BASE + flow_id)
            del self._by_id[flow_id]
        flow.places.clear()
        del self._by_match[flow.match.key, flow.match.mask]
        if flow.ufid is not None:
            del self._by_ufid[flow.ufid]
        else:
            del self._by_key[flow.match.full_key]
        port_no = flow.in_port
        mates = self._by_port[port_no]
        del mates[flow]
        if not mates:
            del self._by_port[port_no]
        self._programs.release(flow.program)

    def flush(self) -> int:
        """Deletes all flows: they are not here any more, nor in what is kept
        for the next provider.  ``flushes`` has to do the rest.

        :returns: its number there
        """
        flows, names = self._by_match, chain(
            _drain(self._by_id), _drain(self._by_ufid), _drain(self._by_key),
            *map(_drain, self._by_port.values()))
        self._flushed = self._serial
        self._clear()
        kept = self._records.take_flows()
        kill, free = self._classifier.flush()
        return self.flushes.add(Flush(
            kill, chain(self._free(flows, kept), names, free)))

    def _free(self, flows: dict[tuple[int, int], Flow],
              kept: memoryview) -> Iterator[None]:
        while flows:
            _, flow = flows.popitem()
            for flow_id in flow.places.values():
                self._records.release(kept[flow_id])
            flow.places.clear()
            self._programs.release(flow.program)
            yield

    def stats(self, flows: list[Flow]) -> list[tuple[int, int, int, int]]:
        """Packets, bytes, used (ms, CLOCK_MONOTONIC, 0: never) and TCP flags
        of each flow, read in one go."""
        rows = self._stats.flow_stats(
            [flow_id for flow in flows for flow_id in flow.places.values()])
        if len(rows) == len(flows):
            return rows
        found = iter(rows)
        return [total([next(found) for _ in flow.places]) for flow in flows]

    def clear(self) -> None:
        """Forgets all flows; the plane goes, and they go with it."""
        for flow in self.snapshot():
            flow.places.clear()
        self._flushed = self._serial
        self._clear()
        self.flushes.forget()

    def _clear(self) -> None:
        self._by_ufid = {}
        self._by_match = {}
        self._by_key = {}
        self._by_id = {}
        self._by_port = {}

    def add_bridge(self, bridge: int) -> None:
        """Flows that match any port are in every bridge's root.

        :raises BackendError: ENOSPC when there is no room; there is no such
            bridge then
        """
        self._classifier.add_root(bridge)
        self._bridges.add(bridge)
        try:
            for flow in self._of(None):
                self._place(flow, bridge)
        except DpifError:
            self.remove_bridge(bridge)
            raise

    def remove_bridge(self, bridge: int) -> None:
        """Takes what is left in a bridge's root out of it, in slices.

        Those are flows that match any port, and those of ports that have
        gone.  These go to the root of no bridge; where there is no room they
        are deleted, and made again if they are missed.
        """
        self._bridges.discard(bridge)
        self.leaving.add(bridge)
        gone = [port_no for port_no, owner in self._bridge_of.items()
                if owner == bridge]
        for port_no in gone:
            del self._bridge_of[port_no]
        self.flushes.add(Flush(iter(()), self._vacate(
            bridge, chain.from_iterable(map(self._of, (None, *gone))))))
        self.flushes.run()  # most often that is all

    def _vacate(self, bridge: int, flows: Iterable[Flow]) -> Iterator[None]:
        """A step of what remove_bridge() does."""
        for flow in flows:
            if bridge in flow.places and self.alive(flow):
                if flow.in_port is None:
                    self._unplace(flow, bridge)
                else:
                    self._move_or_delete(flow, ANY_BRIDGE)
                yield from repeat(None, _MOVE_STEPS)
        self._classifier.remove_root(bridge)
        self.leaving.discard(bridge)

    def _of(self, port_no: int | None) -> list[Flow]:
        """The flows of an input port, or those that match any."""
        return list(self._by_port.get(port_no, ()))

    def move_port(self, port_no: int, bridge: int) -> None:
        """Moves the flows of `port_no` to the root of `bridge`.

        Until a grace period has passed they are found in both, so that the
        port's hook can follow and no packet is missed.

        :raises BackendError: ENOSPC when there is no room; they are where
            they were, as by return_port()
        """
        if self.bridge_of(port_no) != bridge:
            self._move(self._of(port_no), bridge)
            self._own(port_no, bridge)

    def of_port(self, port_no: int) -> bool:
        """Whether there are flows of an input port."""
        return port_no in self._by_port

    def bridge_of(self, port_no: int) -> int:
        """In whose root the flows of a port are, or would be."""
        return self._bridge_of.get(port_no, ANY_BRIDGE)

    def _own(self, port_no: int, bridge: int) -> None:
        if bridge == ANY_BRIDGE:
            self._bridge_of.pop(port_no, None)
        else:
            self._bridge_of[port_no] = bridge

    def return_port(self, port_no: int, bridge: int) -> None:
        """Moves the flows of `port_no` back to the root of `bridge`.

        Those that find no room there any more are deleted: their packets
        miss, and they are set up again.
        """
        for flow in self._of(port_no):
            if bridge not in flow.places:
                self._move_or_delete(flow, bridge)
        self._own(port_no, bridge)

    def forget_port(self, port_no: int) -> None:
        """A port that has gone, and so its bridge unless it has flows."""
        if not self.of_port(port_no):
            self._bridge_of.pop(port_no, None)

    def _move_or_delete(self, flow: Flow, bridge: int) -> None:
        try:
            self._move([flow], bridge)
        except DpifError:
            self.delete(flow)

    def _move(self, flows: list[Flow], bridge: int) -> None:
        """Moves flows that are in one root each."""
        self._classifier.move_all(
            [flow_id for flow in flows for flow_id in flow.places.values()],
            bridge)
        for flow in flows:
            (flow_id,) = flow.places.values()
            flow.places = {bridge: flow_id}

    def _named(self, ufid: bytes | None, match: Match) -> Flow | None:
        """The flow with one of these names, or with this match."""
        flow = None if ufid is None else self._by_ufid.get(ufid)
        if flow is None:
            flow = self._by_key.get(match.full_key)
        if flow is None:
            flow = self._by_match.get((match.key, match.mask))
        return flow

    def _find(self, ufid: bytes | None, match: Match) -> Flow | None:
        """The flow that a new one would get in the way of: a packet with the
        full key meets it."""
        flow = self._named(ufid, match)
        if flow is None:
            flow_id = self._classifier.lookup(
                self.bridge_of(match.full_key & _IN_PORT), match.full_key)
            if flow_id is not None:
                flow = self._by_id[flow_id]
        return flow

    def _roots(self, match: Match) -> list[int]:
        if match.mask & _IN_PORT != _IN_PORT:
            return sorted(self._bridges)
        return [self.bridge_of(match.key & _IN_PORT)]

    def _insert(self, request: FlowRequest, match: Match) -> Flow:
        key, actions = _attributes(request)
        if len(self) >= self._max_flows:
            raise RequestError(errno.ENOSPC, "there are"
                               f" {len(self)} flows, as many as there may be")
        program = self._programs.get(actions, match.facts,
                                     request.actions_pos)
        parts = flow_parts(key, request.mask, actions, request.ufid)
        self._serial += 1
        flow = Flow(match, request.ufid, program, parts,
                    flow_body(parts, 0), {}, self._serial)
        try:
            for bridge in self._roots(match):
                self._place(flow, bridge)
        except DpifError:
            for bridge in list(flow.places):
                self._unplace(flow, bridge)
            self._programs.release(program)
            raise
        self._by_match[match.key, match.mask] = flow
        self._by_port.setdefault(flow.in_port, {})[flow] = None
        if flow.ufid is not None:
            self._by_ufid[flow.ufid] = flow
        else:
            self._by_key[flow.match.full_key] = flow
        return flow

    def _place(self, flow: Flow, bridge: int) -> None:
        flow_id = self._classifier.insert(
            bridge, flow.match.key, flow.match.mask, flow.program.pc)
        flow.places[bridge] = flow_id
        self._by_id[flow_id] = flow
        self._keep(flow_id, flow, flow.body)

    def _keep(self, flow_id: int, flow: Flow, body: bytes) -> None:
        self._records.put(FLOW_BASE + flow_id,
                          FLOW_PREFIX.pack(flow.serial) + body)

    def _unplace(self, flow: Flow, bridge: int) -> None:
        flow_id = flow.places.pop(bridge)
        self._classifier.delete(flow_id)
        self._records.drop(FLOW_BASE + flow_id)
        del self._by_id[flow_id]

    def _set_actions(self, flow: Flow, request: FlowRequest) -> None:
        _, actions = _attributes(request)
        program = self._programs.get(actions, flow.match.facts,
                                     request.actions_pos)
        parts = FlowParts(
            flow.parts.ufid, flow.parts.key, flow.parts.mask,
            nla(uapi.OVS_FLOW_ATTR_ACTIONS, actions))
        body = flow_body(parts, 0)
        ids = list(flow.places.values())
        for i, flow_id in enumerate(ids):
            try:
                self._keep(flow_id, flow, body)
            except DpifError:
                for done in ids[:i]:  # where the old ones were is room
                    self._keep_again(done, flow)
                self._programs.release(program)
                raise
        for flow_id in ids:
            self._classifier.set_acts(flow_id, program.pc)
        self._programs.release(flow.program)
        flow.program, flow.parts, flow.body = program, parts, body

    def _keep_again(self, flow_id: int, flow: Flow) -> None:
        """Takes the record of actions back that the flow did not get."""
        try:
            self._keep(flow_id, flow, flow.body)
        except DpifError:
            self._records.drop(FLOW_BASE + flow_id)


def _drain(table: dict[_Name, _Value]) -> Iterator[None]:
    """Empties a table: the end of one with all its flows takes long."""
    while table:
        table.popitem()
        yield


def _attributes(request: FlowRequest) -> tuple[bytes, bytes]:
    """Key and actions, which wire.messages sees to where they must be.

    :raises RequestError: EINVAL
    """
    if request.key is None or request.actions is None:
        raise RequestError(errno.EINVAL, "OVS_FLOW_ATTR_KEY or"
                           " OVS_FLOW_ATTR_ACTIONS is missing")
    return request.key, request.actions


def _match(request: FlowRequest) -> Match:
    if request.key is None:
        raise RequestError(errno.EINVAL, "OVS_FLOW_ATTR_KEY is missing")
    return decode_match(request.key, request.mask, request.key_pos,
                        request.mask_pos)


def _same(flow: Flow, match: Match) -> bool:
    """Whether a request is about this flow: ovs_flow_cmp().  Of one with a
    UFID the kernel compares keys only, the masked one with the full one."""
    if flow.ufid is None:
        return flow.match.full_key == match.full_key
    return (flow.match.key, flow.match.mask) == (match.key, match.mask)
