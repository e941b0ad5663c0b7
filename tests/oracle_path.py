# SPDX-License-Identifier: Apache-2.0
"""What a table of flows does to a packet that comes in, in plain Python.

Lookup, recirculation, ports and their MTU around ``oracle.run_list()``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from oracle import run_list
from oracle_events import Miss, Output, Recirc, Result
from oracle_key import Meta, be16, extract
from oracle_state import TAGS, State

from dpif_bpf.abi import (
    OVS_COPY_BUDGET,
    OVS_COPY_COST,
    OVS_MAX_RECIRC,
    DropReason,
)

ETH_HLEN = 14
LOOKUPS = 100
"""More than any list of a test means to cause."""


class Endless(Exception):
    """Copies of copies of a packet are looked up again and again."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A megaflow: images of its key and its mask, and netlink actions."""

    key: bytes
    mask: bytes
    actions: bytes

    def matches(self, key: bytes) -> bool:
        """Whether a packet of this key is of the flow."""
        return not any((a ^ b) & m for a, b, m in zip(
            self.key, key, self.mask, strict=True))


@dataclass(frozen=True, slots=True)
class _Way:
    """How a packet came to a lookup.

    :param depth: recirculations so far
    :param copy: it is not the packet that came in
    """

    depth: int = 0
    copy: bool = False


@dataclass(slots=True)
class _Family:
    """A packet that came in, and its copies.

    :param queue: copies that wait for their lookup
    :param spent: of OVS_COPY_BUDGET
    """

    result: Result
    queue: deque[tuple[Recirc, _Way]] = field(default_factory=deque)
    spent: int = 0

    def spend(self, cost: int) -> bool:
        """Whether there was that much left."""
        if self.spent + cost > OVS_COPY_BUDGET:
            return False
        self.spent += cost
        return True


@dataclass(frozen=True, slots=True)
class Path:
    """A datapath.

    :param mtus: of the ports that there are
    :param most: lookups of a packet
    :ivar lookups: keys that were looked up
    :ivar hits: number of the flow, bytes and TCP flags
    """

    flows: Sequence[Flow]
    mtus: Mapping[int, int]
    lookups: list[bytes] = field(default_factory=list)
    hits: list[tuple[int, int, int]] = field(default_factory=list)
    most: int = LOOKUPS

    def receive(self, packet: bytes, meta: Meta) -> Result:
        """A packet comes in by a port.

        :raises Endless: there are more than `most` lookups, or it cannot be
            told which copies are more than one packet may cause
        """
        family = _Family(Result())
        self._look_up(packet, meta, 0, _Way(), family)
        return self._copies(family)

    def execute(self, packet: bytes, meta: Meta, actions: bytes) -> Result:
        """OVS_PACKET_CMD_EXECUTE."""
        family = _Family(Result())
        parsed = extract(packet, meta)
        if parsed is None:
            family.result.drop = DropReason.MALFORMED
        else:
            self._run(State(packet, meta, parsed), actions, _Way(), family)
        return self._copies(family)

    def _copies(self, family: _Family) -> Result:
        """Copies are looked up again one after the other."""
        while family.queue:
            event, way = family.queue.popleft()
            self._again(event, way, family)
        return family.result

    def _again(self, event: Recirc, way: _Way, family: _Family) -> None:
        self._look_up(event.packet,
                      replace(event.meta, recirc_id=event.recirc_id),
                      event.cutlen, way, family)

    def _look_up(self, packet: bytes, meta: Meta, cutlen: int, way: _Way,
                 family: _Family) -> None:
        result = family.result
        parsed = extract(packet, meta)
        if parsed is None:
            result.copies.append(DropReason.MALFORMED)
            return
        self.lookups.append(parsed.key)
        if len(self.lookups) > self.most:
            raise Endless
        number = next((number for number, flow in enumerate(self.flows)
                       if flow.matches(parsed.key)), None)
        if number is None:
            result.events.append(Miss(meta.in_port, packet, parsed.key))
            return
        self.hits.append((number, len(packet),
                          be16(parsed.field("tcp_flags"), 0)))
        self._run(State(packet, meta, parsed, cutlen, cutlen > 0),
                  self.flows[number].actions, way, family)

    def _run(self, state: State, actions: bytes, way: _Way,
             family: _Family) -> None:
        result = family.result
        inner = run_list(actions, state)
        if way.copy and inner.blocks:
            family.spent += OVS_COPY_COST * inner.blocks
            if family.spent > OVS_COPY_BUDGET:
                raise Endless
        result.late |= inner.late
        result.lost += inner.lost
        result.copies += [*inner.copies, inner.drop]
        for event in inner.events:
            if isinstance(event, Output):
                reason = self._refused(event, state.meta.gso)
                if reason is None:
                    result.events.append(event)
                else:
                    result.lost.append(reason)
            elif not isinstance(event, Recirc):
                result.events.append(event)
            elif way.depth >= OVS_MAX_RECIRC:
                result.copies.append(DropReason.RECIRC_LIMIT)
            elif way.copy and not family.spend(
                    1 if event.last else OVS_COPY_COST):
                result.copies.append(DropReason.COPIES)
            elif event.last:
                self._again(event, _Way(way.depth + 1, way.copy), family)
            else:
                family.queue.append((event, _Way(way.depth + 1, True)))

    def _refused(self, output: Output, gso: int) -> DropReason | None:
        """ovs_vport_send() of Linux net/openvswitch/vport.c."""
        if output.port not in self.mtus:
            return DropReason.NO_PORT
        if output.layer3:
            return DropReason.LAYER3
        size = len(output.packet) - ETH_HLEN
        if be16(output.packet, 12) in TAGS:
            size -= 4
        if size > self.mtus[output.port] and not gso:
            return DropReason.MTU
        return None
