# SPDX-License-Identifier: Apache-2.0
"""What a table of flows does to a packet that comes in, in plain Python.

Lookup, recirculation, ports and their MTU around ``oracle.run_list()``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from oracle import run_list
from oracle_events import Miss, Output, Recirc, Result
from oracle_key import Meta, be16, extract
from oracle_state import TAGS, State

from dpif_bpf.abi import OVS_MAX_RECIRC, DropReason

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
class Path:
    """A datapath.

    :param mtus: of the ports that there are
    :ivar lookups: keys that were looked up
    :ivar hits: number of the flow, bytes and TCP flags
    """

    flows: Sequence[Flow]
    mtus: Mapping[int, int]
    lookups: list[bytes] = field(default_factory=list)
    hits: list[tuple[int, int, int]] = field(default_factory=list)

    def receive(self, packet: bytes, meta: Meta) -> Result:
        """A packet comes in by a port.

        :raises Endless: there are more than LOOKUPS lookups
        """
        result = Result()
        self._look_up(packet, meta, 0, 0, result)
        return result

    def execute(self, packet: bytes, meta: Meta, actions: bytes) -> Result:
        """OVS_PACKET_CMD_EXECUTE."""
        result = Result()
        parsed = extract(packet, meta)
        if parsed is None:
            result.drop = DropReason.MALFORMED
        else:
            self._run(State(packet, meta, parsed), actions, 0, result)
        return result

    def _look_up(self, packet: bytes, meta: Meta, cutlen: int, depth: int,
                 result: Result) -> None:
        parsed = extract(packet, meta)
        if parsed is None:
            result.copies.append(DropReason.MALFORMED)
            return
        self.lookups.append(parsed.key)
        if len(self.lookups) > LOOKUPS:
            raise Endless
        number = next((number for number, flow in enumerate(self.flows)
                       if flow.matches(parsed.key)), None)
        if number is None:
            result.events.append(Miss(meta.in_port, packet, parsed.key))
            return
        self.hits.append((number, len(packet),
                          be16(parsed.field("tcp_flags"), 0)))
        self._run(State(packet, meta, parsed, cutlen, cutlen > 0),
                  self.flows[number].actions, depth, result)

    def _run(self, state: State, actions: bytes, depth: int,
             result: Result) -> None:
        inner = run_list(actions, state)
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
            elif depth >= OVS_MAX_RECIRC:
                result.copies.append(DropReason.RECIRC_LIMIT)
            else:
                self._look_up(event.packet,
                              replace(event.meta, recirc_id=event.recirc_id),
                              event.cutlen, depth + 1, result)

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
