# SPDX-License-Identifier: Apache-2.0
"""Runs scenarios on a switch, and holds what comes out to the oracle."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from devices import Vnet
from oracle_attrs import DP_HASH, put_key
from oracle_events import Miss, Output, Result, Upcall
from oracle_gso import headers, segments
from oracle_key import extract
from oracle_path import Path
from oracle_state import attributes
from packets import finished, unfinished
from scenarios import Packet, Scenario, outcome
from switch import UPCALL_PID, Message, Sent, Switch

from dpif_bpf import abi
from dpif_bpf.abi import DropReason
from dpif_bpf.wire import uapi

PATIENCE = 5.0
"""Seconds that what is expected may take on a machine under load."""
IMPATIENCE = 0.1
"""The same once an example has failed, and smaller ones are looked for."""

TCPV4, TCPV6 = 1, 4
"""VIRTIO_NET_HDR_GSO_*"""

Attrs = list[tuple[int, bytes]]
Drops = dict[DropReason, int]


@dataclass(frozen=True, slots=True)
class Report:
    """An upcall, as far as it is compared.

    :param key: as _known()
    """

    cmd: int
    pid: int
    packet: bytes
    key: Attrs
    userdata: bytes | None = None
    actions: bool = False
    length: int = 0


def _output_of(sent: Sent) -> Output:
    """An output; what is left to the device is done."""
    packet, csum = sent.packet, sent.vnet.csum
    if csum is not None:
        tag = 4 if sent.tagged else 0
        packet = finished(packet, (csum[0] + tag, csum[1]))
    return Output(sent.port, packet, sent.priority or 0, sent.mark)


def _known(key: bytes) -> Attrs:
    """A key's attributes; any hash that is there is as good as another."""
    return [(kind, b"\xff" * 4 if kind == DP_HASH and any(value) else value)
            for kind, value in attributes(key)]


def _report_of(message: Message) -> Report:
    attrs = message.attrs
    key = _known(attrs[uapi.OVS_PACKET_ATTR_KEY])
    return Report(
        message.cmd, message.pid, attrs[uapi.OVS_PACKET_ATTR_PACKET], key,
        attrs.get(uapi.OVS_PACKET_ATTR_USERDATA),
        uapi.OVS_PACKET_ATTR_ACTIONS in attrs, int.from_bytes(
            attrs.get(uapi.OVS_PACKET_ATTR_LEN, b""), "little"))


def _report_on(event: Miss | Upcall) -> Report:
    key = _known(put_key(event.key))
    if isinstance(event, Miss):
        return Report(uapi.OVS_PACKET_CMD_MISS, UPCALL_PID + event.in_port,
                      event.packet, key)
    return Report(uapi.OVS_PACKET_CMD_ACTION, event.pid, event.packet, key,
                  event.userdata, event.actions, event.length)


def _cut(report: Report, gso: int) -> list[Report]:
    """What comes of an upcall of a packet that is to be cut."""
    if not gso:
        return [report]
    return [replace(report, packet=packet)
            for packet in segments(report.packet, gso)]


class Observer:
    """Judges a switch.

    :ivar packets: how many were compared
    """

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._patience = PATIENCE
        self._before: Drops = {}
        self.packets = 0
        self.events: Counter[str] = Counter()
        words = np.frombuffer(switch.instance.plane.gen.mapped("ovs_slots"),
                              np.uint64)
        first = abi.SLOT["pc"].offset // 8
        self._named = words[first:][abi.OVS_EXEC_SLOTS * abi.SLOT.size // 8::
                                    abi.SLOT.size // 8]
        """Of the programs' slots the words with `pc`."""

    def check(self, scenario: Scenario) -> None:
        """Runs a scenario.

        :raises AssertionError: what came is not what is expected
        """
        switch = self._switch
        switch.flush()
        self._named[:] = 0
        for flow in scenario.flows:
            code, text = switch.put(put_key(flow.key),
                                    put_key(flow.key, flow.mask),
                                    flow.actions)
            assert code == 0, f"a flow is refused: {text}"
        counted = [(0, 0, 0)] * len(scenario.flows)
        path = Path(scenario.flows, switch.mtus)
        for packet in scenario.packets:
            expected = outcome(path, packet)
            if expected is None:
                continue
            self._before = switch.drops()
            hits, misses = switch.hits_and_misses()
            self._send(packet)
            for number, size, flags in path.hits:
                before = counted[number]
                counted[number] = (before[0] + 1, before[1] + size,
                                   before[2] | flags)
            try:
                self._compare(packet, expected)
                assert switch.flow_stats() == counted, packet
                assert switch.hits_and_misses() == (
                    hits + len(path.hits),
                    misses + len(path.lookups) - len(path.hits)), packet
            except AssertionError:
                self._patience = IMPATIENCE
                self._settle()
                raise
        self._check_deferred()

    def _check_deferred(self) -> None:
        """What slots name is kept longer than a grace period."""
        named = np.unique(self._named & np.uint64(0xffffffff)).tolist()
        for flow in self._switch.instance.dp.flows.snapshot():
            program = flow.program
            if not program._compiled.deferred:
                assert not any(program.pc <= pc < program.pc + program.words
                               for pc in named), flow.parts

    def _send(self, packet: Packet) -> None:
        if packet.actions is not None:
            parsed = extract(packet.frame, packet.meta)
            assert parsed is not None
            code, text = self._switch.execute(
                packet.frame, put_key(parsed.key), packet.actions)
            assert code == 0, f"an execute is refused: {text}"
            return
        frame, vnet = packet.frame, Vnet()
        if packet.partial:
            frame, csum = unfinished(frame)
            vnet = Vnet(csum)
            if packet.gso:
                kind = TCPV4 if frame[12:14] == b"\x08\0" else TCPV6
                vnet = Vnet(csum, (kind, headers(frame)[2], packet.gso))
        self._switch.ports[packet.in_port].send(frame, vnet, packet.mark)

    def _compare(self, packet: Packet, expected: Result) -> None:
        wanted = [event for event in expected.events
                  if isinstance(event, Output)]
        reports_wanted = [
            report for event in expected.events
            if isinstance(event, Miss | Upcall)
            for report in _cut(_report_on(event), packet.gso)]
        dropped = expected.drops
        if expected.late:
            dropped.pop(DropReason.EXPLICIT, None)
        sent, messages, drops = self._observe(
            len(wanted), len(reports_wanted), dropped, expected.late)
        found = [_output_of(out) for out in sent]
        if sent and sent[0].priority is None:
            wanted = [replace(event, priority=0) for event in wanted]
        reports = [_report_of(message) for message in messages]
        if expected.late:
            # Deferred copies come out of order.
            for events in found, wanted, reports, reports_wanted:
                events.sort(key=repr)
        where = f"port {packet.in_port}, {packet.frame.hex()}"
        assert found == wanted, where
        assert all(out.vnet.gso[2] == packet.gso for out in sent), where
        assert reports == reports_wanted, where
        assert drops == dropped, where
        self.packets += 1
        self.events.update({"GSO": packet.gso > 0, "PARTIAL": packet.partial,
                            "EXECUTE": packet.actions is not None})
        self.events.update(type(event).__name__ for event in expected.events)
        self.events.update(reason.name for reason in expected.drops)

    def _observe(
            self, outputs: int, upcalls: int, dropped: Drops, late: bool,
            ) -> tuple[list[Sent], list[Message], Drops]:
        """What came of a packet; waits until it is what is expected, or the
        time is over, and looks for more then.

        :param late: there were copies: whether the packet itself is one
            without output depends on which of its blocks got a copy
        """
        switch = self._switch
        sent: list[Sent] = []
        end = time.monotonic() + self._patience
        while True:
            sent += switch.capture.read()
            switch.turn()
            over = time.monotonic() >= end
            if over or (len(sent) >= outputs
                        and len(switch.messages) >= upcalls):
                drops = self._dropped()
                if late:
                    drops.pop(DropReason.EXPLICIT, None)
                if over or drops == dropped:
                    break
        sent += switch.capture.read()
        messages, switch.messages = switch.messages, []
        return sent, messages, drops

    def _dropped(self) -> Drops:
        return {reason: count - self._before.get(reason, 0)
                for reason, count in self._switch.drops().items()
                if count != self._before.get(reason, 0)}

    def _settle(self) -> None:
        """Lets what is still on its way pass."""
        time.sleep(IMPATIENCE)
        for _ in self._switch.capture.read():
            pass
        self._switch.turn()
        self._switch.messages.clear()
