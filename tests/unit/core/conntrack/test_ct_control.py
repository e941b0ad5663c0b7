# SPDX-License-Identifier: Apache-2.0
"""Control connections: from a record of the ring to a packet that goes on."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from ct_entries import entry
from ct_memory import NS, Tracker
from ctframes import ACK, PSH, Flow, tcp, udp

from dpif_bpf import abi, abi_ct
from dpif_bpf.core.conntrack.control import Controls
from dpif_bpf.core.conntrack.expect import ExpectTable
from dpif_bpf.core.conntrack.table import Table
from dpif_bpf.core.reassembly import Reassembly
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.ct_entry import CtEntry, SeqAdj
from dpif_bpf.wire.ct_tuple import CtTuple
from dpif_bpf.wire.facts import KeyFacts
from dpif_bpf.wire.netlink import nla, nla_u32
from dpif_bpf.wire.segment import transport_of
from tests.unit.core.conntrack.test_ct_ftp import pton, tuple_of
from tests.unit.core.test_reassembly import Bench
from tests.unit.core.test_reassembly import bench as bench

FLOW = Flow("10.1.0.1", "10.2.0.1", 1000, 21)
FLOW6 = Flow("fd01::1", "fd02::1", 1000, 21)
SEEN = Flow("192.168.123.45", "10.2.0.1", 1000, 21)
OUT = nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2)
LINE = b"PORT 10,1,0,1,4,5\r\n"
EST, RPL = abi_ct.OVS_CT_ESTABLISHED, abi_ct.OVS_CT_REPLY


def control(flow: Flow, helper: str = "ftp", seen: Flow | None = None,
            proto: int = 6) -> CtEntry:
    """A connection with a helper, as the table has it."""
    made = entry(proto)
    return CtEntry(
        tuple_of(flow, proto), tuple_of((seen or flow).back(), proto), 1, 5,
        nf.IPS_CONFIRMED | (0 if seen is None else nf.IPS_SRC_NAT), 100, 0,
        bytes(16), made.protoinfo, ((0, 0), (0, 0)), 1 << 60, 0, helper)


class World:
    """A table, helpers, and a datapath that sends what they leave."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.tracker = bench, Tracker()
        memory = self.tracker.memory
        self.table = Table(memory, self.tracker.clock)
        self.expects = ExpectTable(
            memory.expects, memory.use, self.table.hash, self.table.lives,
            lambda: self.tracker.now // NS)
        self.controls = Controls(self.table, self.expects, 0)
        dp = bench.dp
        dp.reassembly = Reassembly(dp.plane, dp.programs, self.controls)
        self.program = dp.programs.get(OUT, KeyFacts())

    def send(self, frame: bytes, state: int = EST, flow: Flow = FLOW,
             proto: int = 6) -> bytes | None:
        """A packet that the programs hand over; what goes on of it."""
        key = bytearray(abi.OVS_KEY_BASE * 8)
        key[abi.KEY["in_port"].offset] = 1
        key[abi.KEY["eth_type"].slice] = frame[12:14]
        key[abi.KEY["ct_state"].offset] = abi_ct.OVS_CT_TRACKED | state
        key[abi.KEY["ct_zone"].slice] = struct.pack("=H", 5)
        for name, value in (
                (f"ct_orig_ipv{6 if flow.v6 else 4}_src", pton(flow.src)),
                (f"ct_orig_ipv{6 if flow.v6 else 4}_dst", pton(flow.dst)),
                ("ct_orig_tp_src", struct.pack(">H", flow.sport)),
                ("ct_orig_tp_dst", struct.pack(">H", flow.dport)),
                ("ct_orig_proto", bytes((proto,)))):
            key[abi.KEY[name].slice] = value
        done = self.bench.plane.executed
        before = len(done)
        self.bench.upcalls.handle(memoryview(abi.UPCALL.struct.pack(
            len(frame), len(frame), abi.OVS_UPCALL_HELP, 0, 0, 0, 0, 0,
            self.program.pc, 0, 0, 0, 0, 4, bytes(2), bytes(2), 0,
            bytes(key)) + frame))
        if len(done) == before:
            return None
        program, bridge, sent, packet = done[-1]
        assert (program, bridge) == (self.program, 4)
        assert sent[:len(key)] == bytes(key)
        return packet


@pytest.fixture
def world(bench: Bench) -> World:
    return World(bench)


def said(flow: Flow, data: bytes, seq: int, ack: int = 1) -> bytes:
    return tcp(flow, ACK | PSH, seq, ack, data=data)


@pytest.mark.parametrize(("flow", "line", "addr"), [
    (FLOW, LINE, "10.1.0.1"),
    (FLOW6, b"EPRT |2|fd01::1|1029|\r\n", "fd01::1")], ids=["v4", "v6"])
def test_ftp(world: World, flow: Flow, line: bytes, addr: str) -> None:
    """A line is read, the packet goes on, and what it names is expected."""
    number = world.tracker.add(control(flow))
    for data, seq in ((b"USER x\r\n", 1), (line, 9)):
        frame = said(flow, data, seq)
        assert world.send(frame, flow=flow) == frame
    assert len(world.expects) == 1
    words = world.tracker.words["ovs_ct_expect"]
    at = next(at for at in range(0, len(words), 16) if words[at])
    element = words[at:at + 16].tobytes()
    assert element[8 + 32:8 + 36] == struct.pack(">HH", 0, 1029)
    assert pton(addr) in element
    assert struct.unpack_from("=I", element, 88) == (number,)
    world.tracker.end(number)
    world.expects.upkeep()
    world.controls.upkeep()
    assert not len(world.expects) and not len(world.controls)


def test_ftp_with_nat(world: World) -> None:
    """What it shifts is in the record, from the next packet on, and what the
    next provider begins with."""
    number = world.tracker.add(control(FLOW, seen=SEEN))
    world.send(said(SEEN, b"USER x\r\n", 1))
    packet = world.send(said(SEEN, LINE, 9))
    assert packet is not None
    assert packet.endswith(b"PORT 192,168,123,45,4,5\r\n")
    shown = world.table.entry(number)
    assert shown is not None and shown.status & nf.IPS_SEQ_ADJUST
    assert shown.seq_adj == (SeqAdj(9, 0, 6), SeqAdj(0, 0, 0))
    world.controls = Controls(world.table, world.expects, 1 << 62)
    dp = world.bench.dp
    dp.reassembly = Reassembly(dp.plane, dp.programs, world.controls)
    packet = world.send(said(SEEN, b"LIST\r\n", 28))
    assert packet is not None and packet[38:42] == struct.pack(">I", 34)
    answer = world.send(said(FLOW.back(), b"200 ok\r\n", 1, 40), EST | RPL)
    assert answer is not None and answer[42:46] == struct.pack(">I", 34)


def test_partial_lines_end_here(world: World) -> None:
    world.tracker.add(control(FLOW))
    world.send(said(FLOW, b"USER x\r\n", 1))
    assert world.send(said(FLOW, b"PORT 10,1", 9)) is None
    assert world.controls.dropped["partial"] == 1


def test_tftp(world: World) -> None:
    flow = FLOW.ports(2000, 69)
    world.tracker.add(control(flow, "tftp", proto=17))
    frame = udp(flow, b"\0\1file\0octet\0")
    assert world.send(frame, abi_ct.OVS_CT_NEW, flow, 17) == frame
    assert len(world.expects) == 1


@pytest.mark.parametrize("make", [
    lambda world: None,
    lambda world: world.tracker.add(control(FLOW, "")),
    lambda world: world.tracker.end(world.tracker.add(control(FLOW)))],
    ids=["none", "no helper", "ended"])
def test_without_a_helper(world: World,
                          make: Callable[[World], object]) -> None:
    """It has ended meanwhile: the packet goes on as it is."""
    make(world)
    for seq, data in ((1, b"USER x\r\n"), (9, LINE)):
        assert world.send(said(FLOW, data, seq)) == said(FLOW, data, seq)
    assert not len(world.expects)


def test_what_is_no_segment(world: World) -> None:
    """Whatever the programs hand over, it is looked at as it is."""
    frame = said(FLOW, LINE, 1)
    for size in range(35, len(frame)):
        world.send(frame[:size])
    for proto in (1, 17, 132):
        assert world.send(frame[:23] + bytes((proto,)) + frame[24:])
    later = frame[:20] + b"\0\1" + frame[22:]
    assert transport_of(later, 14) is None


def test_a_list_that_has_gone(world: World) -> None:
    world.bench.dp.programs.release(world.program)
    assert world.send(said(FLOW, LINE, 1)) is None
    assert world.bench.dp.reassembly.lost == 1


def test_shift_of_what_has_gone_or_is_locked(world: World) -> None:
    number = world.tracker.add(control(FLOW))
    shifts = SeqAdj(5, 0, -6), SeqAdj(0xffffffff, 1, 2)
    world.tracker.busy.add(number)
    gen = world.table.incarnation(number)
    assert world.table.shift(number, gen, shifts)
    shown = world.table.entry(number)
    assert shown is not None and shown.seq_adj == shifts
    assert not world.table.shift(number, gen + 1, shifts)


def test_helpers_are_compiled(world: World) -> None:
    """Their numbers are those of records and of dumps."""
    for helper, proto, number in (("ftp", 6, 1), ("tftp", 17, 2)):
        program = world.bench.dp.programs.get(
            nla(u.OVS_ACTION_ATTR_CT, nla(u.OVS_CT_ATTR_COMMIT, b"")
                + nla(u.OVS_CT_ATTR_HELPER, helper.encode() + b"\0")) + OUT,
            KeyFacts(eth_type=0x0800, ip_proto=proto))
        words = world.bench.plane.acts[program.pc:program.pc + 11]
        operand = words[1:].tobytes()
        assert operand[abi.ACT_CT["helper"].slice] == struct.pack("=H",
                                                                  number)


def test_orig_tuple_is_the_connections(world: World) -> None:
    """Of the other direction, too."""
    world.tracker.add(control(FLOW))
    for seq, data in ((1, b"220 hi\r\n"), (9, b"227 10,2,0,1,4,5\r\n")):
        frame = said(FLOW.back(), data, seq)
        assert world.send(frame, EST | RPL) == frame
    assert len(world.expects) == 1
    assert CtTuple(2, 6, pton("10.1.0.1"), pton("10.2.0.1"), 0, 1029)
