# SPDX-License-Identifier: Apache-2.0
"""ct() and ct_clear on the shipped programs: what a packet's key is
afterwards, and the connection; test_act_nat.py is about NAT."""

from __future__ import annotations

import socket
import struct
import time

import ct_cases as c
import pytest
from ctframes import (
    ACK,
    SYN,
    TCP,
    UDP,
    Flow,
    tcp,
    udp,
)
from harness import BRIDGE, TC_ACT_REDIRECT, insn
from lists import clone, compiled, nla, output, recirc, set_masked
from oracle_key import Meta, extract
from tracked import (
    CLEAR,
    COMMIT,
    EST,
    FLOWS,
    FORCE,
    INV,
    NAT,
    NEW,
    REL,
    RPL,
    TRK,
    USER,
    V4,
    Tracked,
    ct,
    fields,
)

from dpif_bpf import abi, abi_ct
from dpif_bpf.abi import DropReason
from dpif_bpf.core.conntrack.expect import ExpectTable
from dpif_bpf.core.conntrack.hashing import Hash
from dpif_bpf.core.conntrack.helpers.model import (
    Expectation,
    Expected,
    Follow,
    Master,
)
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.ct_tuple import CtTuple


@pytest.mark.parametrize("flow", FLOWS)
def test_states(t: Tracked, flow: Flow) -> None:
    """New until it is committed and answered; zone, mark and labels are of
    the connection, and both directions have its original tuple."""
    labels = bytes(range(1, 17))
    there, back = udp(flow), udp(flow.back())
    assert t.send(there, ct()).state == TRK | NEW
    assert t.send(back, ct()).state == TRK | NEW
    seen = t.send(there, ct(COMMIT, c.mark(0x15, 0xff), nla(
        u.OVS_CT_ATTR_LABELS, labels + b"\xff" * 16), zone=7))
    assert (seen.state, seen.field("ct_zone"), seen.field("ct_mark"),
            seen.raw("ct_labels")) == (TRK | NEW, 7, 0x15, labels)
    assert seen.packet == there
    assert t.send(there, ct()).state == TRK | NEW	# of another zone
    assert t.send(there, ct(zone=7)).state == TRK | NEW
    seen = t.send(back, ct(zone=7))
    assert seen.state == TRK | EST | RPL
    assert seen.field("ct_mark") == 0x15 and seen.raw("ct_labels") == labels
    for frame in (there, back):
        seen = t.send(frame, ct(zone=7))
        assert seen.raw("ct_orig_tp_src") == b"\3\xe8"
        assert seen.raw("ct_orig_tp_dst") == b"\0\x50"
        assert seen.field("ct_orig_proto") == UDP
        tuple_ = seen.raw("ct_orig_ipv6_src") + seen.raw("ct_orig_ipv6_dst")
        addresses = there[22:54] if flow.v6 else there[26:34] + bytes(24)
        assert tuple_ == addresses
    assert t.send(there, ct(zone=7)).state == TRK | EST
    record, = t.records()
    assert struct.unpack("=2Q", record["packets"]) == (4, 2)


def test_clear(t: Tracked) -> None:
    there = udp(V4)
    t.send(there, ct(COMMIT, c.mark(5, 0xff)))
    seen = t.send(there, ct(), CLEAR)
    assert not any(seen.raw(name)[0] or any(seen.raw(name)) for name in (
        "ct_state", "ct_zone", "ct_mark", "ct_labels", "ct_orig_ipv6_src",
        "ct_orig_ipv6_dst", "ct_orig_proto", "ct_orig_tp_src"))
    # It is looked for anew, and counted.
    t.send(there, ct(), CLEAR, ct())
    record, = t.records()
    assert struct.unpack("=2Q", record["packets"])[0] == 4


def test_a_later_packet_has_nothing_of_it(t: Tracked) -> None:
    t.send(udp(V4), ct(COMMIT, c.mark(5, 0xff)))
    for actions in ((), (CLEAR,)):
        seen = t.send(udp(V4), *actions)
        assert not seen.state and not seen.field("ct_mark")
        assert not any(seen.raw("ct_orig_ipv6_src"))


def test_is_looked_for_once_in_a_zone(t: Tracked) -> None:
    """Also after recirculation, and in several zones."""
    there = udp(V4)
    seen = t.send(there, ct(COMMIT), recirc(1),
                  rest=ct() + ct(COMMIT, c.mark(1, 1)))
    assert seen.state == TRK | NEW and seen.field("ct_mark") == 1
    record, = t.records()
    assert struct.unpack("=2Q", record["packets"]) == (1, 0)
    t.send(there, ct(), ct(zone=5), ct(zone=5), ct(zone=5))
    assert struct.unpack("=2Q", t.records()[0]["packets"]) == (2, 0)
    t.send(there, ct(), ct(zone=5), ct())
    assert struct.unpack("=2Q", t.records()[0]["packets"]) == (4, 0)


def test_many_in_a_list(t: Tracked) -> None:
    """More than there may be tail calls in a row: the packet goes on
    later."""
    zones = [ct(COMMIT, zone=zone) for zone in range(1, 41)]
    seen = t.send(udp(V4), *zones)
    assert seen.field("ct_zone") == 40 and seen.state == TRK | NEW
    assert len(t.records()) == 40


@pytest.mark.parametrize("copies", [1, 3])
def test_copies(t: Tracked, copies: int) -> None:
    """What a clone commits is there, and the packet's key is its own."""
    seen = t.all(udp(V4), ct(), *(clone(ct(COMMIT, c.mark(n + 1, 0xff),
                                           zone=n + 1), USER)
                                  for n in range(copies)), ct(zone=9))
    marks = sorted(one.field("ct_mark") for one in seen)
    assert marks == [0, *range(1, copies + 1)]
    assert len(t.records()) == copies


def test_force(t: Tracked) -> None:
    """A forced commit ends the connection that begins at the other end."""
    t.send(udp(V4), ct(COMMIT, c.mark(1, 1)))
    assert t.send(udp(V4.back()), ct(), ct(COMMIT)).state == TRK | EST | RPL
    seen = t.send(udp(V4.back()), ct(), ct(FORCE))
    assert seen.state == TRK | NEW and not seen.field("ct_mark")
    record, = t.records()
    assert record["orig"][:4] == bytes((10, 2, 0, 1))
    # In the direction in which it is, nothing happens.
    assert t.send(udp(V4.back()), ct(FORCE)).state == TRK | NEW
    assert len(t.records()) == 1


def test_marks_are_masked(t: Tracked) -> None:
    there = udp(V4)
    labels = nla(u.OVS_CT_ATTR_LABELS, b"\x11" * 16 + b"\xf0" * 8
                 + b"\x01" * 8)
    t.send(there, ct(COMMIT, c.mark(0xab, 0xff), nla(
        u.OVS_CT_ATTR_LABELS, b"\x22" * 16 + b"\xff" * 16)))
    seen = t.send(there, ct(COMMIT, c.mark(0x100, 0xf00), labels))
    assert seen.field("ct_mark") == 0x1ab
    assert seen.raw("ct_labels") == b"\x12" * 8 + b"\x23" * 8
    seen = t.send(there, ct())
    assert seen.field("ct_mark") == 0x1ab
    assert seen.raw("ct_labels") == b"\x12" * 8 + b"\x23" * 8


def test_limit(t: Tracked) -> None:
    t.ct.zones[2 * 3 + 1] = 1
    t.send(udp(V4), ct(COMMIT, zone=3))
    assert t.dropped(udp(V4.ports(2)), ct(COMMIT, zone=3)) == (
        DropReason.CONNTRACK)
    assert t.send(udp(V4.ports(2)), ct(zone=3)).state == TRK | NEW
    t.send(udp(V4), ct(COMMIT, zone=3))


def test_what_cannot_be_tracked(t: Tracked) -> None:
    bad = tcp(V4, SYN | 1, 1)
    assert t.send(bad, ct(zone=4)).state == TRK | INV
    assert t.send(bad, ct(zone=4)).field("ct_zone") == 4
    assert t.send(bad, ct(COMMIT)).state == TRK | INV
    assert not t.records()


def test_fragments_are_handed_over(t: Tracked) -> None:
    """To the provider, with what it needs to let the packet go on; nothing
    else sees them."""
    fragment = udp(V4)[:20] + b"\x20\0" + udp(V4)[22:]
    for actions in ((ct(zone=3),), (ct(zone=1), ct(zone=3))):
        before = t.dp.drops()
        t.dp.clear()
        parsed = extract(fragment, Meta(in_port=1))
        assert parsed is not None
        code = compiled(b"".join(actions) + USER, fragment, parsed)
        t.dp.add_flow(code)
        t.dp.run(fragment)
        up, = t.dp.poll(1)
        assert up.cmd == abi.OVS_UPCALL_FRAGMENT and up.packet == fragment
        word = t.dp.acts[int(up.fields["desc"])]
        assert word & 0xff == abi.Op.CT and word >> 16 & 0xffff == (
            3 if len(actions) == 1 else 1)
        assert t.dp.drops() == before
        assert not t.records()


def helper(name: str) -> bytes:
    return nla(u.OVS_CT_ATTR_HELPER, name.encode() + b"\0")


def handed(t: Tracked, frame: bytes, *actions: bytes) -> int:
    """Where the packet goes on, of one that goes to its helper; 0: it is not
    handed over."""
    dp = t.dp
    dp.clear()
    parsed = extract(frame, Meta(in_port=1))
    assert parsed is not None
    dp.add_flow(compiled(b"".join(actions) + USER, frame, parsed))
    dp.run(frame)
    up, = dp.poll(1)
    assert up.packet == frame
    return int(up.fields["desc"]) if up.cmd == abi.OVS_UPCALL_HELP else 0


def only(t: Tracked) -> int:
    """The number of the one connection that there is."""
    record, = t.records()
    size = abi_ct.CT.size
    data = t.ct.records.cast("B")
    return next(at // size for at in range(0, len(data), size)
                if data[at:at + 4] == struct.pack("=I", abi_ct.OVS_CT_LIVE)
                and abi_ct.CT.struct.unpack(data[at:at + size]) == tuple(
                    record.values()))


@pytest.mark.parametrize("flow", FLOWS)
def test_what_helpers_see(t: Tracked, flow: Flow) -> None:
    """Data of FTP, once both directions were seen; all that comes when
    sequence numbers are shifted.  It goes on behind the action."""
    back = flow.back()
    commit = ct(COMMIT, helper("ftp"))
    assert not handed(t, tcp(flow, SYN, 1), commit)
    record, = t.records()
    assert record["helper"] == abi_ct.OVS_CT_HELPER_FTP
    assert record["status"] & abi_ct.OVS_CT_S_HELPER
    assert not handed(t, tcp(back, SYN | ACK, 1, 2), ct())
    assert not handed(t, tcp(flow, ACK, 2, 2), ct())
    for frame in (tcp(flow, ACK, 2, 2, data=b"x"),
                  tcp(back, ACK, 2, 3, data=b"x")):
        for actions, following in (
                ((ct(),), abi.Op.USERSPACE), ((commit,), abi.Op.USERSPACE),
                ((ct(), ct(), commit), abi.Op.CT)):
            pc = handed(t, frame, *actions)
            assert pc and t.dp.acts[pc] & 0xff == following
    word = only(t) * abi_ct.CT.size + abi_ct.CT["status"].offset
    t.ct.records[word // 8] |= abi_ct.OVS_CT_S_SEQ_ADJUST
    assert handed(t, tcp(flow, ACK, 3, 3), ct())


def test_helper_of_a_later_commit(t: Tracked) -> None:
    """It sees the packet that brings it; another one does not take its
    place."""
    t.send(tcp(V4, SYN, 1), ct(COMMIT))
    t.send(tcp(V4.back(), SYN | ACK, 1, 2), ct())
    data = tcp(V4, ACK, 2, 2, data=b"x")
    assert not handed(t, data, ct())
    assert handed(t, data, ct(COMMIT, helper("ftp")))
    assert handed(t, data, ct(), ct(COMMIT))
    record, = t.records()
    assert record["helper"] == abi_ct.OVS_CT_HELPER_FTP


@pytest.mark.parametrize("flow", FLOWS)
def test_requests_of_tftp(t: Tracked, flow: Flow) -> None:
    commit = ct(COMMIT, helper("tftp"))
    for opcode, seen in ((1, True), (2, True), (3, False), (0x100, False)):
        frame = udp(flow.ports(2000 + opcode),
                    opcode.to_bytes(2, "big") + b"x")
        assert bool(handed(t, frame, commit)) == seen
    assert not handed(t, udp(flow.ports(9), b"\0"), commit)
    assert not handed(t, udp(flow.ports(8), b"\0\1"), ct(COMMIT))


@pytest.mark.parametrize("flow", FLOWS)
def test_expected_connections(t: Tracked, flow: Flow) -> None:
    """Related, with the master's mark, labels and original tuple, and with its
    NAT where the action has some."""
    labels = bytes(range(1, 17))
    t.send(tcp(flow, SYN, 1), ct(COMMIT, c.mark(7, 0xff), nla(
        u.OVS_CT_ATTR_LABELS, labels + b"\xff" * 16)))
    number = only(t)
    record, = t.records()
    gen = record["word"] >> 32
    data = Flow(flow.dst, flow.src, 20, 1029)
    family = socket.AF_INET6 if flow.v6 else socket.AF_INET
    src, dst = (socket.inet_pton(family, end)
                for end in (data.src, data.dst))
    inside = dst[:-1] + b"\x63"
    expects = ExpectTable(
        t.ct.expects, t.ct.use,
        Hash(t.ct.conf.tobytes(), 1), lambda *_: True, lambda: 0)
    master = Master(number, gen, 0, (
        CtTuple(family, TCP, dst, src, 1000, 80),
        CtTuple(family, TCP, src, dst, 80, 1000)))
    wish = Expectation(CtTuple(family, TCP, src, dst, 0, 1029),
                       Follow(src, inside, 4000))
    now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
    expects._clock = lambda: now
    assert expects.expect(master, wish) is Expected.DONE
    try:
        seen = t.send(tcp(data, SYN, 1), ct())
        assert seen.state == TRK | NEW | REL
        assert seen.field("ct_mark") == 7
        assert seen.raw("ct_labels") == labels
        assert seen.raw("ct_orig_tp_src") == struct.pack(">H", flow.sport)
        seen = t.send(tcp(data, SYN, 1), ct(), ct(COMMIT, NAT))
        assert seen.state == TRK | NEW | REL | abi_ct.OVS_CT_DST_NAT | (
            abi_ct.OVS_CT_SRC_NAT)
        assert seen.raw("ct_labels") == labels
        at = 38 if flow.v6 else 30
        assert seen.packet[at:at + len(dst)] == inside
        assert fields(seen.packet)[1] == struct.pack(">H", 4000)
        other = data.ports(21)
        assert t.send(tcp(other, SYN, 1), ct()).state == TRK | NEW
    finally:
        expects.unexpect(master)


@pytest.mark.parametrize("flow", FLOWS)
def test_padding_is_taken_off(t: Tracked, flow: Flow) -> None:
    short = udp(flow, b"")
    seen = t.send(short + bytes(9), ct(COMMIT))
    assert seen.packet == short and seen.state == TRK | NEW


def test_a_changed_packet_is_looked_for_again(t: Tracked) -> None:
    """One whose addresses were set belongs to another connection."""
    t.send(udp(V4), ct(COMMIT))
    other = set_masked(u.OVS_KEY_ATTR_IPV4, bytes((10, 7, 7, 7)) + bytes(8),
                       b"\xff" * 4 + bytes(8))
    seen = t.send(udp(V4), ct(), other, ct(COMMIT, c.mark(3, 3)))
    assert len(t.records()) == 2
    assert seen.raw("ct_orig_ipv6_src")[:4] == bytes((10, 7, 7, 7))


def test_what_follows_a_known_line_is_compared(t: Tracked,
                                               one_cpu: None) -> None:
    """A frame that comes again takes the same way behind ct(), until its
    connection says something else."""
    frame, dp = udp(V4), t.dp
    t.send(frame, ct(COMMIT))
    record, = t.records()
    dp.clear()
    parsed = extract(frame, Meta(in_port=1))
    assert parsed is not None
    dp.add_flow(compiled(ct() + recirc(1), frame, parsed),
                struct.pack("=II", 1, 0), b"\xff" * 8)
    place = abi.KEY["ct_mark"].offset
    flows = [dp.add_flow(
        insn(abi.Op.OUTPUT_LAST, 2), struct.pack("=II", 1, 1).ljust(
            place, b"\0") + struct.pack("=I", mark),
        (b"\xff" * 8).ljust(place, b"\0") + b"\xff" * 4)
        for mark in (0, 5)]
    dp.mapped("ovs_roots").cast("Q")[
        BRIDGE * abi.ROOT.size // 8] |= 64 << 16 | 1 << 32
    before = dp.dp_stats()
    for _ in range(4):
        dp.run(frame)
    after = dp.dp_stats()
    # The first two are not known: nor is the line, nor what follows it.
    assert after["exact"] - before["exact"] == 3
    assert after["cache_hit"] - before["cache_hit"] == 2
    t.ct.records.cast("B")[_record_at(t, record)
                           + abi_ct.CT["mark"].offset] = 5
    for _ in range(3):
        dp.run(frame)
    assert [dp.flow_stats(flow)[0] for flow in flows] == [4, 3]
    assert dp.dp_stats()["cache_hit"] - after["cache_hit"] == 2


def test_actions_that_change_amid_a_packet(t: Tracked,
                                           one_cpu: None) -> None:
    """The line of the frame says ct(), and the list does not any more: the
    flow's new actions are stored before its generation."""
    frame, dp = udp(V4), t.dp
    parsed = extract(frame, Meta(in_port=1))
    assert parsed is not None
    key = struct.pack("=II", 1, 0), b"\xff" * 8
    other = dp.add_flow(insn(abi.Op.OUTPUT_LAST, 2),
                        struct.pack("=II", 3, 0), key[1])
    flow = dp.add_flow(compiled(ct() + output(2), frame, parsed), *key)
    for _ in range(2):
        assert dp.run(frame).retval == TC_ACT_REDIRECT
    place = abi.FLOW["acts"].offset
    acts = [dp.mapped("ovs_flows")[one * abi.FLOW.size + place:][:4]
            for one in (flow, other)]
    before = dp.dp_stats()["exact"]
    acts[0][:] = acts[1]
    assert dp.run(frame).retval == TC_ACT_REDIRECT
    assert dp.dp_stats()["exact"] == before + 1


def _record_at(t: Tracked, record: dict[str, int]) -> int:
    """Where a record is, bytes: others had its tuple before it."""
    data = t.ct.records.cast("B")
    same = [abi_ct.CT[name].slice for name in ("orig", "start")]
    wanted = [record["orig"], struct.pack("=Q", record["start"])]
    for at in range(0, len(data), abi_ct.CT.size):
        found = data[at:at + abi_ct.CT.size]
        if [found[part] for part in same] == wanted:
            return at
    raise AssertionError(record)
