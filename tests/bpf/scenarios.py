# SPDX-License-Identifier: Apache-2.0
"""Scenarios for hypothesis: packets, and flows that some of them match."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from gen_actions import Lists
from gen_flows import can_be_put, disjoint, draw_decoy, draw_mask
from gen_frames import arrives, frames, large_frames, sometimes
from hypothesis import strategies as st
from lists import output
from oracle import Undefined
from oracle_attrs import put_key
from oracle_events import Miss, Result
from oracle_key import Meta, extract
from oracle_path import Endless, Flow, Path
from packets import finished, unfinished

from dpif_bpf.abi import KEY
from dpif_bpf.wire.extract import packet_facts
from dpif_bpf.wire.key.decode import decode_match

Draw = Callable[[st.SearchStrategy[Any]], Any]

MTUS = {1: 9000, 2: 9000, 3: 9000, 4: 400}
BRIDGE = {1, 2, 4}
IN_PORTS = [1, 3, 2]
MOST_FLOWS = 8
LEAST = 320
"""Bytes that truncation leaves: more than headers have."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A frame that comes in by a port, or that a peer sends.

    :param partial: its checksum is left to the device
    :param gso: bytes of payload of the packets that the device is to make
        of it; 0: none
    :param actions: of OVS_PACKET_CMD_EXECUTE; None: it comes in
    :param more: what a peer says beside port and mark: priority,
        recirculation id, hash
    """

    frame: bytes
    in_port: int
    mark: int
    partial: bool = False
    actions: bytes | None = None
    more: tuple[int, int, int] = (0, 0, 0)
    gso: int = 0

    @property
    def meta(self) -> Meta:
        priority, recirc_id, dp_hash = self.more
        return Meta(gso=self.gso, in_port=self.in_port, skb_mark=self.mark,
                    skb_priority=priority, recirc_id=recirc_id,
                    dp_hash=dp_hash)

    def __str__(self) -> str:
        actions = ("None" if self.actions is None else
                   f'bytes.fromhex("{self.actions.hex()}")')
        return (f'Packet(bytes.fromhex("{self.frame.hex()}"), {self.in_port},'
                f" {self.mark:#x}, {self.partial}, {actions}, {self.more},"
                f" {self.gso})")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Disjoint flows, and packets that come one after the other."""

    flows: tuple[Flow, ...]
    packets: tuple[Packet, ...]

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """For hypothesis: as REGRESSIONS of test_agreement.py has it."""
        printer.text(str(self))

    def __str__(self) -> str:
        flows = "".join(
            f"    flow(\"{put_key(flow.key).hex()}\",\n"
            f"         \"{put_key(flow.key, flow.mask).hex()}\",\n"
            f"         \"{flow.actions.hex()}\"),\n"
            for flow in self.flows)
        packets = "".join(f"    {packet},\n" for packet in self.packets)
        return f"Scenario((\n{flows}), (\n{packets}))"


def flow(key: str, mask: str, actions: str) -> Flow:
    """A flow of netlink attributes, in hexadecimal digits."""
    match = decode_match(bytes.fromhex(key), bytes.fromhex(mask))
    return Flow(match.full_key.to_bytes(KEY.size, "little"),
                match.mask.to_bytes(KEY.size, "little"),
                bytes.fromhex(actions))


def _flow(draw: Draw, key: bytes, others: Sequence[Flow],
          without: Set[str]) -> Flow | None:
    """A flow that a packet of `key` matches; None: others are in its way."""
    mask = draw_mask(draw, key, proto=draw(st.booleans()))
    facts = decode_match(put_key(key), put_key(key, mask)).facts
    flow = Flow(key, mask, Lists(draw, facts, LEAST, without).make())
    return flow if disjoint(flow, others) else None


def outcome(path: Path, packet: Packet) -> Result | None:
    """What is expected; None: it cannot be told."""
    path.lookups.clear()
    path.hits.clear()
    try:
        if packet.actions is None:
            return path.receive(packet.frame, packet.meta)
        return path.execute(packet.frame, packet.meta, packet.actions)
    except (Undefined, Endless):
        return None


def _missing(flows: Sequence[Flow], packet: Packet) -> list[bytes] | None:
    """Keys that miss; None: it cannot be told what happens."""
    result = outcome(Path(flows, MTUS), packet)
    if result is None:
        return None
    return [event.key for event in result.events if isinstance(event, Miss)]


def can_be_partial(frame: bytes) -> bool:
    """Whether there is a checksum that is as the device would make it."""
    parsed = extract(frame)
    if (parsed is None or not parsed.l4 or parsed.byte("ip_frag")
            or parsed.byte("ip_proto") not in {6, 17}
            or parsed.field("tp_src") + parsed.field("tp_dst") == bytes(4)):
        return False
    partial, csum = unfinished(frame)
    return finished(partial, csum) == frame


@st.composite
def packets(draw: Draw) -> Packet:
    """A packet that comes in, or one that a peer sends."""
    in_port = draw(st.sampled_from(IN_PORTS))
    mark = draw(st.sampled_from([0, 1, 0xffffffff]))
    kind = draw(st.sampled_from(["plain", "partial", "execute", "gso"]))
    if kind == "gso":
        frame = draw(large_frames().filter(can_be_partial))
        return Packet(frame, in_port, mark, True,
                      gso=draw(st.sampled_from([100, 536])))
    frame = draw(frames().filter(arrives))
    if kind != "execute" or extract(frame) is None:
        return Packet(frame, in_port, mark,
                      kind == "partial" and can_be_partial(frame))
    return Packet(
        frame, in_port, mark, False,
        Lists(draw, packet_facts(frame), LEAST).make(),
        (draw(st.sampled_from([0, 7])), draw(st.sampled_from([0, 1])),
         draw(st.sampled_from([0, 9]))))


@st.composite
def scenarios(draw: Draw) -> Scenario:
    """Flows for a packet and for what recirculates of it, others that differ
    in a bit, and one to four packets."""
    packet = draw(packets())
    without = {"trunc"} if packet.partial else set()
    if packet.gso:
        without |= {"encap", "nsh"}
    flows: list[Flow] = []
    missing = _missing(flows, packet) or []
    while missing and len(flows) < MOST_FLOWS:
        key = missing.pop(0)
        if not can_be_put(key) or sometimes(draw, 10):
            continue
        flow = _flow(draw, key, flows, without)
        if flow is None:
            continue
        more = _missing([*flows, flow], packet)
        if more is None:
            flow = Flow(flow.key, flow.mask, output(2))
            more = _missing([*flows, flow], packet) or []
        flows.append(flow)
        missing = more
        for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
            decoy = draw_decoy(draw, flow)
            if disjoint(decoy, flows):
                flows.append(decoy)
    others = [Packet(frame, packet.in_port, packet.mark) for frame in draw(
        st.lists(frames().filter(arrives), max_size=2))]
    if draw(st.booleans()):
        others.append(packet)
    return Scenario(tuple(flows), (packet, *others))
