# SPDX-License-Identifier: Apache-2.0
"""What the packet path's benchmark sends, and what it makes of its times."""

from __future__ import annotations

import struct

import pytest
from oracle_key import Meta, extract

from bench import odpflows, path
from bench.pathcases import (
    CASES,
    DST_MAC,
    MANY,
    SIZE,
    SRC_MAC,
    Case,
    Packet,
    Sent,
)
from bench.pathct import NEW, handshake
from dpif_bpf.wire.checksum import ones_sum

HASH = "packets have a hash"
SAMPLE = 300
"""Flows, more than any case has masks: to read one takes a millisecond."""


def frame(packet: Sent) -> bytes:
    """As it arrives."""
    macs = bytes.fromhex((DST_MAC + SRC_MAC).replace(":", ""))
    udp = struct.pack("!HH", SIZE - 34, 0) * isinstance(packet, Packet)
    return (macs + b"\x08\0" + packet.headers() + udp).ljust(SIZE, b"\0")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_packet_has_one_flow(case: Case) -> None:
    tables: dict[int, dict[int, str]] = {}
    flows = case.flows()[:SAMPLE]
    for flow in flows:
        key, mask = odpflows.parse(flow.match)
        assert key not in tables.setdefault(mask, {})
        tables[mask][key] = flow.match
    assert len(tables) == case.masks
    for flow in flows:
        if flow.packet is None:
            continue
        key = int.from_bytes(
            extract(frame(flow.packet), Meta(in_port=1)).key, "little")
        assert [table[key & mask] for mask, table in tables.items()
                if key & mask in table] == [flow.match]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_flows_get_the_packets(case: Case) -> None:
    flows = case.flows()
    assert len({flow.match for flow in flows}) == len(flows)
    sent = case.sent(flows)
    if case.spread:
        assert MANY * .99 < len(flows) <= MANY
        assert len(sent) == len(flows)
        assert set(sent) == {flow.packet for flow in flows}
    elif case.packets:
        assert {len(frame(packet)) for packet in sent} == {case.size}
    else:
        assert sent == [flows[-1].packet]


def test_headers_have_their_checksum() -> None:
    raw = Packet(0x0A000001, 0x0A000002, 1000, 2000).headers()
    assert len(raw) == 24
    total = sum(struct.unpack_from("!10H", raw))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


@pytest.mark.parametrize("segment", handshake())
def test_segments_have_their_checksums(segment: Sent) -> None:
    raw = segment.headers()
    assert ones_sum(raw[:20]) == 0xFFFF
    pseudo = raw[12:20] + struct.pack("!HH", 6, len(raw) - 20)
    assert ones_sum(pseudo + raw[20:]) == 0xFFFF
    assert len(raw) == {2: 60, 18: 60, 16: 52}[raw[33]]
    assert raw[32] >> 4 == (len(raw) - 20) // 4


@pytest.mark.parametrize("port", [0x04000001, 0x0400FFFF, 0x04010000])
def test_new_ports_leave_the_checksum(port: int) -> None:
    """As bench_vary() of path.bpf.c writes them."""
    raw = NEW.headers()
    transport = (struct.pack("!II", port, 0xFFFFFFFF ^ port) + raw[28:])
    pseudo = raw[12:20] + struct.pack("!HH", 6, len(transport))
    assert ones_sum(pseudo + transport) == 0xFFFF


def test_figures_are_above_the_dropped_packet() -> None:
    records = [
        {"case": "output", "who": "drop", "ns": 6400., "kind": "plain"},
        {"case": "output", "who": "redirect", "ns": 8800., "kind": "plain"},
        {"case": "output-hash", "who": "drop", "ns": 6420., "kind": HASH},
        {"case": "output-hash", "who": "redirect", "ns": 8820., "kind": HASH},
        {"case": "output", "who": "module", "ns": 12400., "kind": "plain",
         "tried": 1., "cached": 1.},
        {"case": "output-hash", "who": "module", "ns": 12420., "kind": HASH,
         "tried": 2.25, "cached": .75},
        {"case": "output", "who": "bpf", "ns": 10900., "kind": "plain",
         "tried": 2.},
        {"case": "output-hash", "who": "bpf", "ns": 10920., "kind": HASH,
         "tried": 1.},
    ]
    assert [(row.what, row.value, row.ratio, row.note)
            for row in path.rows(records)] == [
        ("plain: drop", 3200., None, "in all"),
        ("plain: redirect", 1200., None, ""),
        ("packets have a hash: drop", 3210., None, "in all"),
        ("packets have a hash: redirect", 1200., None, ""),
        ("output: module", 3000., 1., ""),
        ("output: bpf", 2250., .75, "2.0 probes"),
        ("output, packets have a hash: module", 3000., 1.,
         "2.2 masks, 75% by the cache"),
        ("output, packets have a hash: bpf", 2250., .75, ""),
    ]
