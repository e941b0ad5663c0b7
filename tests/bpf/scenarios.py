# SPDX-License-Identifier: Apache-2.0
"""Scenarios for hypothesis: packets, and flows that some of them match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gen_actions import Lists
from gen_flows import can_be_put, disjoint, draw_decoy, draw_mask
from gen_frames import arrives, frames, sometimes
from hypothesis import strategies as st
from lists import output
from oracle import Undefined
from oracle_attrs import put_key
from oracle_events import Miss
from oracle_key import Meta
from oracle_path import Endless, Flow, Path

from dpif_bpf.wire.key import decode_match

Draw = Callable[[st.SearchStrategy[Any]], Any]

MTUS = {1: 9000, 2: 9000, 3: 9000, 4: 400}
BRIDGE = {1, 2, 4}
IN_PORTS = [1, 3, 2]
MOST_FLOWS = 8
LEAST = 320
"""Bytes that truncation leaves: more than headers have."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A frame that comes in."""

    frame: bytes
    in_port: int
    mark: int

    @property
    def meta(self) -> Meta:
        return Meta(in_port=self.in_port, skb_mark=self.mark)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Disjoint flows, and packets that come one after the other."""

    flows: tuple[Flow, ...]
    packets: tuple[Packet, ...]

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """For hypothesis: as a regression test has it."""
        printer.text(str(self))

    def __str__(self) -> str:
        flows = "".join(
            f"    flow(\"{put_key(flow.key).hex()}\",\n"
            f"         \"{put_key(flow.key, flow.mask).hex()}\",\n"
            f"         \"{flow.actions.hex()}\"),\n"
            for flow in self.flows)
        packets = "".join(
            f"    Packet(bytes.fromhex(\"{packet.frame.hex()}\"),"
            f" {packet.in_port}, {packet.mark:#x}),\n"
            for packet in self.packets)
        return f"Scenario((\n{flows}), (\n{packets}))"


def _flow(draw: Draw, key: bytes, others: Sequence[Flow]) -> Flow | None:
    """A flow that a packet of `key` matches; None: others are in its way."""
    mask = draw_mask(draw, key, proto=draw(st.booleans()))
    facts = decode_match(put_key(key), put_key(key, mask)).facts
    flow = Flow(key, mask, Lists(draw, facts, LEAST).make())
    return flow if disjoint(flow, others) else None


def _outcome(flows: Sequence[Flow], packet: Packet) -> list[Miss] | None:
    """Lookups that miss; None: it cannot be told what happens."""
    try:
        result = Path(flows, MTUS).receive(packet.frame, packet.meta)
    except (Undefined, Endless):
        return None
    return [event for event in result.events if isinstance(event, Miss)]


@st.composite
def scenarios(draw: Draw) -> Scenario:
    """Flows for a packet and for what recirculates of it, others that differ
    in a bit, and one to three packets."""
    packet = Packet(draw(frames().filter(arrives)),
                    draw(st.sampled_from(IN_PORTS)),
                    draw(st.sampled_from([0, 1, 0xffffffff])))
    flows: list[Flow] = []
    missing = _outcome(flows, packet) or []
    while missing and len(flows) < MOST_FLOWS:
        key = missing.pop(0).key
        if not can_be_put(key) or sometimes(draw, 10):
            continue
        flow = _flow(draw, key, flows)
        if flow is None:
            continue
        more = _outcome([*flows, flow], packet)
        if more is None:
            flow = Flow(flow.key, flow.mask, output(2))
            more = _outcome([*flows, flow], packet) or []
        flows.append(flow)
        missing = more
        for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
            decoy = draw_decoy(draw, flow)
            if disjoint(decoy, flows):
                flows.append(decoy)
    more_packets = draw(st.lists(frames().filter(arrives), max_size=2))
    return Scenario(tuple(flows), (packet, *(
        Packet(frame, packet.in_port, packet.mark)
        for frame in [*more_packets, *([packet.frame] if draw(
            st.booleans()) else [])])))
