# SPDX-License-Identifier: Apache-2.0
"""How the provider stores into memory that programs read: word by word, and
what publishes the others last.

The fakes of these tests have such memory as well (tests/mapped.py), so that
what is tried here in one go fails wherever else it is met.
"""

from __future__ import annotations

import ast
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ct_entries import entry
from forests import KEY_BITS, Forest
from mapped import mapped
from test_services import (
    OUTPUT,
    UFID,
    add_port,
    key,
    mask,
    put,
    the_dp,
    the_plane,
)
from test_services import peer as peer

from dpif_bpf import abi
from dpif_bpf.core.classifier.sizes import Sizes
from dpif_bpf.core.conntrack.expect import ExpectTable
from dpif_bpf.core.conntrack.helpers.model import Expectation, Master
from dpif_bpf.core.conntrack.kept import Kept
from dpif_bpf.core.conntrack.limits import Limits
from dpif_bpf.core.conntrack.policy import Policies
from dpif_bpf.core.conntrack.table import Table
from dpif_bpf.core.flow_stats import FlowCounts
from dpif_bpf.core.port_map import PortEntry, PortMap
from dpif_bpf.edge.inject import ExecSlots
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.ct_limit import ZoneLimit
from dpif_bpf.wire.cttimeout import TimeoutRequest
from dpif_bpf.wire.meter_messages import Band, MeterRequest
from dpif_bpf.wire.netlink import Message, nla, nla_flag, nla_u32
from tests.fake_plane import Peer

PACKAGE = Path(__file__).parents[2] / "dpif_bpf"
WRITERS = [*sorted((PACKAGE / "core").rglob("*.py")), PACKAGE / "bpf_plane.py",
           PACKAGE / "edge" / "inject.py"]
"""Modules that are given such memory."""
OWN_MEMORY = {("insn.py", "pack_into"), ("records.py", "cast('B')"),
              ("memory.py", "cast('I')"), ("fragments.py", "pack_into")}
"""Instructions, and timeouts, before they are stored; ovs_nlmem, which
programs do not read; packets."""
READ = {"ovs_ct", "ovs_ct_exp", "ovs_ct_tab"}
"""What programs alone write."""
ENTRY = PortEntry(0x1234, 1500, 7, abi.OVS_PORT_F_USED)


@pytest.mark.parametrize("store", [
    lambda memory: struct.pack_into("=Q", memory, 8, 1),
    lambda memory: memory.__setitem__(8, 1),
    lambda memory: memory.cast("I").__setitem__(2, 1),
    lambda memory: memory.cast("Q").__setitem__(
        slice(1, 2), memoryview(bytes(8)).cast("Q")),
    lambda memory: np.frombuffer(memory, np.uint64).__setitem__(1, 1),
], ids=["pack_into", "byte", "half a word", "slice", "numpy"])
def test_what_is_refused(store: Callable[..., None]) -> None:
    memory = mapped(64)
    with pytest.raises((AssertionError, BufferError, TypeError, ValueError)):
        store(memory)
    memory.cast("Q")[1] = 5
    assert memory.words == [1] and memory[8] == 5


def test_every_writer(peer: Peer) -> None:
    """Requests of all kinds, each of which stores something."""
    dp, plane = the_dp(peer), the_plane(peer)
    wide = b"".join(
        nla(kind, b"\xff" * size) for kind, size in (
            (u.OVS_KEY_ATTR_ETHERNET, 12), (u.OVS_KEY_ATTR_PRIORITY, 4),
            (u.OVS_KEY_ATTR_SKB_MARK, 4), (u.OVS_KEY_ATTR_ETHERTYPE, 2)))
    wide += nla(u.OVS_KEY_ATTR_IPV6, b"\xff" * 32 + bytes(8))
    v6 = b"".join(
        nla(kind, bytes(size)) for kind, size in (
            (u.OVS_KEY_ATTR_PRIORITY, 4), (u.OVS_KEY_ATTR_SKB_MARK, 4)))
    v6 += (nla_u32(u.OVS_KEY_ATTR_IN_PORT, 1)
           + nla(u.OVS_KEY_ATTR_ETHERNET, bytes(range(12)))
           + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\x86\xdd")
           + nla(u.OVS_KEY_ATTR_IPV6, bytes(40)))
    add_port(peer, "p3")
    for number in range(20):
        assert put(peer, key(1, number.to_bytes(6, "big")), mask(), OUTPUT,
                   nla(u.OVS_FLOW_ATTR_UFID,
                       number.to_bytes(16, "big"))) == (0, None)
    assert put(peer, nla(u.OVS_FLOW_ATTR_KEY, v6), nla(
        u.OVS_FLOW_ATTR_MASK, wide), OUTPUT, UFID) == (0, None)
    dp.bridges.set({"br0": frozenset({"p1"})})
    assert peer.do(u.OVS_FLOW_ID, u.OVS_FLOW_CMD_SET, UFID, nla(
        u.OVS_FLOW_ATTR_KEY, v6), nla(u.OVS_FLOW_ATTR_MASK, wide), nla(
        u.OVS_FLOW_ATTR_ACTIONS, nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2) * 9),
        nla_flag(u.OVS_FLOW_ATTR_CLEAR)) == (0, None)
    for flow in dp.flows.snapshot():
        for flow_id in flow.places.values():
            plane.stats.preset(flow_id, FlowCounts(1, 2, 3, 4))
    plane.classifier.cache = 64
    for bands in (2, 1):
        dp.meters.set(MeterRequest(
            Message(0, 0, 0, 0, b""), u.OVS_METER_CMD_SET, 0, 5, True,
            bands=(Band(u.OVS_METER_BAND_TYPE_DROP, 9, 9),) * bands))
    dp.meters.delete(5)
    peer.provider.ports.change("p1", mtu=9000)
    for event in peer.provider.ports.run():
        dp.ports.link_changed(event)
    dp.bridges.set({})
    plane.settle()
    assert peer.do(u.OVS_FLOW_ID, u.OVS_FLOW_CMD_DEL) == (0, None)
    plane.settle()
    number = plane.tracker.add(replace(
        entry(6), counters=((0, 0), (0, 0)), start=1 << 60))
    table = Table(plane.ct, plane.tracker.clock)
    assert table.entry(number, zero=True) is not None
    table.flush(0)
    policies = Policies(table, Kept(plane.ct.kept))
    policies.set_default(TimeoutRequest(
        Message(0, 0, 0, 0, b""), 0, proto=6))
    Limits(table, Kept(plane.ct.kept)).set([ZoneLimit(5, 6)])
    now = plane.tracker.now // 10 ** 9
    expects = ExpectTable(plane.ct.expects, plane.ct.use, table.hash,
                          table.lives, lambda: now)
    ends = entry(6).orig
    master = Master(number, 1, 0, (ends, ends))
    expects.expect(master, Expectation(ends))
    expects.unexpect(master)
    dp.close()
    assert {name for name, memory in plane.maps.items()
            if not memory.words} == READ


def test_execute_slots() -> None:
    """What a slot is to say is there before it is armed."""
    size = abi.SLOT.size // 8
    memory = mapped(abi.SLOT.size * abi.OVS_SLOTS, lambda index: not (
        memory.view[index // size * abi.SLOT.size] & abi.OVS_SLOT_ARMED))
    slots = ExecSlots(memory)
    for _ in range(3 * abi.OVS_EXEC_SLOTS):
        memory.words.clear()
        mark = slots.arm(11, 22, 3, bytes(abi.OVS_KEY_BASE * 8), None, 0)
        assert mark is not None
        slot = (mark & (1 << abi.OVS_SLOT_BITS) - 1) - 1
        assert memory.words[-1] == slot * size
        slots.cancel(mark)


def words(memory: bytes) -> tuple[int, ...]:
    return struct.unpack(f"={len(memory) // 8}Q", memory)


def test_ports_come_whole_and_go_whole() -> None:
    memory = mapped(4 * abi.PORT.size)
    ports = PortMap(memory.cast("Q"))
    at = 3 * abi.PORT.size // 8
    assert ports.write(3, ENTRY) is None
    assert memory.words == [at, at + 1]
    assert abi.PORT.struct.unpack_from(memory, 3 * abi.PORT.size) == (
        0x1234, 1500, 7, abi.OVS_PORT_F_USED, 0, bytes(2), bytes(2))
    memory.words.clear()
    assert ports.clear(3) == 0x1234
    assert memory.words == [at + 1, at]
    assert not any(memory[3 * abi.PORT.size:])


def test_ports_that_change_are_never_another() -> None:
    """Every word that there is for a moment was, or will be, there."""
    memory = mapped(abi.PORT.size)
    ports = PortMap(memory.cast("Q"))
    ports.write(0, ENTRY)
    before = words(memory[:])
    new = PortEntry(0x1234, 9000, 3, ENTRY.flags | abi.OVS_PORT_F_VETH)
    seen: list[tuple[int, ...]] = []
    memory.stored.append(lambda _index: seen.append(words(memory[:])))
    ports.write(0, new)
    after = words(memory[:])
    assert seen == [(after[0], before[1]), after]


def test_devices_of_ports() -> None:
    """An index that another port has by now is that port's."""
    ports = PortMap(mapped(8 * abi.PORT.size).cast("Q"))
    one = PortEntry(1, 0, 0, abi.OVS_PORT_F_USED)
    two = PortEntry(2, 0, 0, abi.OVS_PORT_F_USED)
    assert ports.write(4, one) is None
    assert ports.write(4, one) is None
    assert ports.write(4, two) == 1
    assert ports.write(5, two) is None
    assert ports.clear(4) is None
    assert ports.clear(5) == 2
    assert ports.clear(5) is None


@pytest.mark.parametrize("seed", range(3))
def test_flows_that_stay_are_found_at_every_store(seed: int) -> None:
    rng = random.Random(seed)
    forest = Forest(Sizes.for_flows(256, 2048))
    forest.add_root(0)
    positions = rng.sample(range(KEY_BITS), 10)

    def some() -> int:
        return sum(1 << bit for bit in positions if rng.random() < .8)

    one = 1 << rng.choice([bit for bit in range(KEY_BITS)
                           if bit not in positions])
    masks = [some() | one for _ in range(6)]
    stay = {forest.insert(0, rng.getrandbits(KEY_BITS) & bits | one, bits)
            for bits in masks}
    flows = {number: forest.flows[0][number] for number in stay}
    looked = 0

    def look(_index: int) -> None:
        nonlocal looked
        looked += 1
        for _, (value, bits) in flows.items():
            assert forest.reader.find(
                0, value | rng.getrandbits(KEY_BITS) & ~bits) in stay

    for memory in (forest.buffers.buckets, forest.buffers.descs,
                   forest.buffers.flows, forest.buffers.values,
                   forest.buffers.roots):
        memory.stored.append(look)
    others: list[int] = []
    for _ in range(80):
        if others and rng.random() < .4:
            forest.delete(0, others.pop(rng.randrange(len(others))))
            continue
        bits = some() | one
        value = rng.getrandbits(KEY_BITS) & bits & ~one
        if (value, bits) not in forest.flows[0].values():
            others.append(forest.insert(0, value, bits))
    forest.settle()
    forest.cls.tidy(100)
    assert looked > 500


@pytest.mark.parametrize("path", WRITERS, ids=lambda path: str(path.name))
def test_nothing_else_is_stored_with(path: Path) -> None:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(
                node.func, ast.Attribute):
            continue
        if node.func.attr in {"pack_into", "readinto", "tofile"}:
            found.add((path.name, node.func.attr))
        if node.func.attr == "cast" and ast.unparse(node.args[0]) != "'Q'":
            found.add((path.name, f"cast({ast.unparse(node.args[0])})"))
    assert found <= OWN_MEMORY
