# SPDX-License-Identifier: Apache-2.0
"""What the helpers read and write, byte by byte.  That it is what the kernel
reads and writes is for tests/bpf/test_ct_helpers_kernel.py."""

from __future__ import annotations

import random
import socket
import struct
from dataclasses import dataclass, field

import pytest
from ctframes import ACK, PSH, TCP, UDP, Flow, tcp, udp
from ctlines import address_line, damaged, other_line

from dpif_bpf.core.conntrack.helpers.ftp import FtpState, ftp
from dpif_bpf.core.conntrack.helpers.ftp_lines import (
    Kind,
    Partial,
    format_named,
    read_named,
)
from dpif_bpf.core.conntrack.helpers.model import (
    Expectation,
    Expected,
    Follow,
    Master,
    Outcome,
)
from dpif_bpf.core.conntrack.helpers.tftp import tftp
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire import seqadj
from dpif_bpf.wire.checksum import checksum, ones_sum
from dpif_bpf.wire.ct_entry import SeqAdj
from dpif_bpf.wire.ct_tuple import AF_INET, AF_INET6, CtTuple
from dpif_bpf.wire.segment import Segment, read_segment

CLIENT, SERVER = 0, 1
V4 = Flow("10.1.0.1", "10.2.0.1", 1000, 21)
V6 = Flow("fd01::1", "fd02::1", 1000, 21)


def pton(addr: str) -> bytes:
    return socket.inet_pton(AF_INET6 if ":" in addr else AF_INET, addr)


def tuple_of(flow: Flow, proto: int = TCP) -> CtTuple:
    return CtTuple(AF_INET6 if flow.v6 else AF_INET, proto, pton(flow.src),
                   pton(flow.dst), flow.sport, flow.dport)


def master_of(flow: Flow, seen: Flow | None = None,
              proto: int = TCP) -> Master:
    """:param seen: the connection behind NAT"""
    status = 0 if seen is None else nf.IPS_SRC_NAT
    return Master(1, 1, 0, (tuple_of(flow, proto),
                            tuple_of((seen or flow).back(), proto)), status)


@dataclass
class Wishes:
    """Notes what is expected."""

    answer: Expected = Expected.DONE
    busy: set[int] = field(default_factory=set)
    asked: list[Expectation] = field(default_factory=list)
    back: int = 0

    def expect(self, master: Master, wish: Expectation) -> Expected:
        self.asked.append(wish)
        return (Expected.BUSY if wish.tuple.dport in self.busy
                else self.answer)

    def unexpect(self, master: Master) -> None:
        self.back += 1


def segment_of(frame: bytes, proto: int = TCP) -> Segment:
    found = read_segment(frame, 14, 54 if frame[12] == 0x86 else 34, proto)
    assert found is not None
    return found


def check_sums(frame: bytes) -> None:
    """Lengths and checksums are right."""
    ip = frame[14:]
    if ip[0] >> 4 == 4:
        assert struct.unpack_from(">H", ip, 2)[0] == len(ip)
        assert checksum(ip[:20]) == 0
        addresses, l4, proto = ip[12:20], ip[20:], ip[9]
    else:
        assert struct.unpack_from(">H", ip, 4)[0] == len(ip) - 40
        addresses, l4, proto = ip[8:40], ip[40:], ip[6]
    assert checksum(l4, ones_sum(addresses) + proto + len(l4)) == 0


class Line:
    """A control connection of which the first line of each side is known."""

    def __init__(self, flow: Flow = V4, seen: Flow | None = None) -> None:
        self.flow, self.seen = flow, seen or flow
        self.master = master_of(flow, seen)
        self.state, self.wishes = FtpState(), Wishes()
        self.seq = [1, 1]
        self.send(b"220 hi\r\n", SERVER)
        self.send(b"USER x\r\n", CLIENT)

    def send(self, data: bytes, way: int, established: bool = True,
             options: bytes = b"", ack: int | None = None) -> Outcome:
        flow = self.flow.back() if way else self.seen
        frame = tcp(flow, ACK | PSH, self.seq[way],
                    self.seq[1 - way] if ack is None else ack,
                    options=options, data=data)
        outcome = ftp(segment_of(frame), way, established, self.master,
                      self.state, self.wishes, lambda span: 7)
        if outcome.packet is not None:
            check_sums(outcome.packet)
            self.seq[way] += len(data)
        return outcome


@pytest.mark.parametrize(("line", "way", "family", "kind", "addr", "port"), [
    (b"PORT 10,1,0,1,4,5\r\n", 0, 2, Kind.PORT, "10.1.0.1", 1029),
    (b"port 10,1,0,1,4,5\r\n", 0, 2, Kind.PORT, "10.1.0.1", 1029),
    (b"PORTxx 10,1,0,1,4,5\r", 0, 2, Kind.PORT, "10.1.0.1", 1029),
    (b"PORT 10,,0,1,,5\r\n", 0, 2, Kind.PORT, "10.0.0.1", 5),
    (b"EPRT |1|10.1.0.1|1029|\r\n", 0, 2, Kind.EPRT, "10.1.0.1", 1029),
    (b"EPRT !1!10.1.0.1!1029!", 0, 2, Kind.EPRT, "10.1.0.1", 1029),
    (b"EPRT |2|fd01::1|1|\r\n", 0, 10, Kind.EPRT, "fd01::1", 1),
    (b"227 Entering (10,2,0,1,4,5)\r\n", 1, 2, Kind.PASV, "10.2.0.1", 1029),
    (b"227 10,2,0,1,4,5\r\n", 1, 2, Kind.PASV, "10.2.0.1", 1029),
    (b"227 ok 10,2,0,1,4,5.", 1, 2, Kind.PASV, "10.2.0.1", 1029),
    (b"229 ok (|||6446|)\r\n", 1, 10, Kind.EPSV, None, 6446),
    (b"229 ok (!!!6446!)\r\n", 1, 2, Kind.EPSV, None, 6446)])
def test_lines(line: bytes, way: int, family: int, kind: Kind,
               addr: str | None, port: int) -> None:
    named = read_named(line, way, family)
    assert named is not None
    assert (named.kind, named.addr, named.port) == (
        kind, None if addr is None else pton(addr), port)
    again = line[:named.start] + format_named(
        kind, family, named.addr or b"", port) + line[
            named.start + named.size:]
    assert read_named(again, way, family) is not None


@pytest.mark.parametrize(("line", "way", "family"), [
    (b"P", 0, 2), (b"PORT", 0, 2), (b"PORT ", 0, 2), (b"EPRT", 0, 2),
    (b"PORT 10,1,0,1,4\r\n", 0, 2), (b"PORT 10,1,0,1,4,5", 0, 2),
    (b"PORT 10,1,0,1,4,5,\r\n", 0, 2), (b"PORT 10,1,0,1,4,5\n", 0, 2),
    (b"PORT 10,1,0,1,256,5\r\n", 0, 2), (b"PORT 10,1,0,1,4,-5\r\n", 0, 2),
    (b"PORT 10,1,0,1,4,4294967297\r\n", 0, 2),
    (b"EPRT |2|fd01::1|1|\r\n", 0, 2), (b"EPRT |1|10.1.0.1|1|\r\n", 0, 10),
    (b"EPRT |1|10.1.0.1|0|\r\n", 0, 2), (b"EPRT |1|10.1.0.1|65536|\r\n", 0,
                                         2),
    (b"EPRT 11110.1.0.111|\r\n", 0, 2), (b"EPRT |1|10.1.0|1|\r\n", 0, 2),
    (b"EPRT |1|10.1.0.1|1x|\r\n", 0, 2), (b"EPRT |1|", 0, 2),
    (b"EPRT |2|fd01::1|1", 0, 10), (b"EPRT |2|fd01::1", 0, 10),
    (b"EPRT |2|g::|1|", 0, 10), (b"EPRT |2|\xff::|1|", 0, 10),
    (b"EPRT |2||1|", 0, 10), (b"EPRT |2|::1%0|1|", 0, 10),
    (b"22", 1, 2), (b"227 ", 1, 2), (b"227 none\r\n", 1, 2),
    (b"227 10,2,0,1,4,5", 1, 2), (b"229 (|||)\r\n", 1, 2),
    (b"229 (|||1\r\n", 1, 2), (b"229 (|1||1|)", 1, 2), (b"229 (", 1, 2),
    (b"229 |||1|", 1, 2)])
def test_partial_lines(line: bytes, way: int, family: int) -> None:
    with pytest.raises(Partial):
        read_named(line, way, family)


@pytest.mark.parametrize(("line", "way"), [
    (b"LIST\r\n", 0), (b"POR \r\n", 0), (b" PORT 1,1,1,1,1,1\r\n", 0),
    (b"227 1,1,1,1,1,1\r\n", 0), (b"PORT 1,1,1,1,1,1\r\n", 1),
    (b"226 \r\n", 1), (b"227\r\n", 1)])
def test_other_lines(line: bytes, way: int) -> None:
    assert read_named(line, way, AF_INET) is None


def test_active() -> None:
    line = Line()
    assert line.send(b"PORT 10,1,0,1,4,5\r\n", CLIENT).packet is not None
    assert line.wishes.asked == [Expectation(CtTuple(
        AF_INET, TCP, pton("10.2.0.1"), pton("10.1.0.1"), 0, 1029))]


def test_passive_v6() -> None:
    line = Line(V6)
    assert line.send(b"229 ok (|||1029|)\r\n", SERVER).packet is not None
    assert line.wishes.asked == [Expectation(CtTuple(
        AF_INET6, TCP, pton("fd01::1"), pton("fd02::1"), 0, 1029))]


@pytest.mark.parametrize("text", [b"PORT 10,9,0,1,4,5\r\n",
                                  b"EPRT |1|10.9.0.1|5|\r\n"])
def test_somebody_elses_address(text: bytes) -> None:
    """It passes, and opens nothing."""
    line = Line()
    assert line.send(text, CLIENT).packet is not None
    assert line.wishes.asked == []
    assert line.state.newlines[0][-1] == line.seq[0]


def test_before_both_directions_were_seen() -> None:
    line = Line()
    line.send(b"PORT 10,1,0,1,4,5\r\n", CLIENT, established=False)
    assert line.wishes.asked == []


def test_where_no_line_begins() -> None:
    """The first segment, and one that follows half a line."""
    line = Line()
    line.state = FtpState()
    line.send(b"PORT 10,1,0,1,4,5\r\n", CLIENT)
    assert line.wishes.asked == []
    line.send(b"SITE ", CLIENT)
    line.send(b"PORT 10,1,0,1,4,5\r\n", CLIENT)
    assert line.wishes.asked == []
    line.send(b"PORT 10,1,0,1,4,5\r\n", CLIENT)
    assert len(line.wishes.asked) == 1


def test_of_before_the_provider() -> None:
    """Nothing is known of its newlines: the next segment is believed to begin
    a line, once in each direction."""
    line = Line()
    line.state = FtpState([True, True])
    line.send(b"PORT 10,1,0,1,4,5\r\n", CLIENT)
    line.send(b"227 10,2,0,1,4,5\r\n", SERVER)
    assert len(line.wishes.asked) == 2
    line.seq[0] += 1
    line.send(b"PORT 10,1,0,1,4,5\r\n", CLIENT)
    assert len(line.wishes.asked) == 2


def test_split_lines() -> None:
    """Whatever can be the beginning of such a line is dropped; sent again
    as one, it counts."""
    text = b"PORT 10,1,0,1,4,5\r\n"
    for at in range(1, len(text) - 1):
        line = Line()
        assert line.send(text[:at], CLIENT).packet is None
        assert line.send(text[:at], CLIENT).why == "partial"
        assert line.send(text, CLIENT).packet is not None
        assert len(line.wishes.asked) == 1


def test_nobody_can_be_expected() -> None:
    line = Line()
    for answer in (Expected.BUSY, Expected.FULL):
        line.wishes.answer = answer
        assert line.send(b"PORT 10,1,0,1,4,5\r\n", CLIENT).packet is None
        line.seq[0] = line.state.newlines[0][-1]


def natted() -> Line:
    return Line(V4, Flow("192.168.123.45", "10.2.0.1", 1000, 21))


def test_nat() -> None:
    """The line gets longer; what follows is shifted, and what is
    acknowledged, selectively too, is shifted back."""
    line = natted()
    text = b"PORT 10,1,0,1,4,5\r\n"
    new = b"PORT 192,168,123,45,4,5\r\n"
    begin = line.seq[0]
    outcome = line.send(text, CLIENT)
    assert outcome.packet is not None and outcome.packet.endswith(new)
    assert line.wishes.asked == [Expectation(
        CtTuple(AF_INET, TCP, pton("10.2.0.1"), pton("192.168.123.45"), 0,
                1029), Follow(pton("10.2.0.1"), pton("10.1.0.1"), 1029))]
    more = len(new) - len(text)
    assert line.state.shifts[0] == SeqAdj(begin, 0, more)
    # A copy of the line is changed in the same way, and counts once.
    line.seq[0] = begin
    assert line.send(text, CLIENT).packet == outcome.packet
    assert line.state.shifts[0] == SeqAdj(begin, 0, more)
    after = line.send(b"LIST\r\n", CLIENT).packet
    assert after is not None
    assert segment_of(after).seq == begin + len(text) + more
    edges = begin + len(text) + more, begin + len(text) + more + 6
    answer = line.send(b"200 ok\r\n", SERVER,
                       options=b"\1\1\5\x0a" + struct.pack(">II", *edges),
                       ack=begin + len(new)).packet
    assert answer is not None
    segment = segment_of(answer)
    assert segment.ack == begin + len(text)
    assert struct.unpack(">II", segment.data[segment.options][4:]) == (
        begin + len(text), begin + len(text) + 6)


def test_nat_looks_for_a_port() -> None:
    line = natted()
    line.wishes.busy = {1029}
    packet = line.send(b"PORT 10,1,0,1,4,5\r\n", CLIENT).packet
    assert packet is not None
    assert packet.endswith(b"PORT 192,168,123,45,4,12\r\n")
    assert line.wishes.asked[-1].follow == Follow(
        pton("10.2.0.1"), pton("10.1.0.1"), 1029)


def test_nat_finds_no_port() -> None:
    """Not for ever."""
    line = natted()
    line.wishes.answer = Expected.BUSY
    assert line.send(b"PORT 10,1,0,1,4,5\r\n", CLIENT).why == "ports"
    assert len(line.wishes.asked) == 129
    line.wishes.asked.clear()
    line.seq[0] = line.state.newlines[0][-1]
    assert line.send(b"PORT 10,1,0,1,255,255\r\n", CLIENT).why == "ports"
    assert len(line.wishes.asked) == 1


def test_nat_of_a_large_segment() -> None:
    line = natted()
    text = b"PORT 10,1,0,1,4,5\r\n"
    outcome = line.send(text + b"x" * (65535 - 40 - len(text)), CLIENT)
    assert outcome.why == "too long"
    assert line.wishes.back == 1
    assert line.state.shifts == (seqadj.NONE, seqadj.NONE)


def test_options_that_are_none() -> None:
    line = natted()
    line.send(b"PORT 10,1,0,1,4,5\r\n", CLIENT)
    for options in (b"\5\0\0\0", b"\1\1\1\5", b"\5\x0c\0\0", b"\xff\1\0\0"):
        assert line.send(b"LIST\r\n", CLIENT, options=options).why == (
            "options")
    for options in (b"\0\5\1\1", b"\5\4\0\0", b"\1\1\1\1"):
        assert line.send(b"LIST\r\n", CLIENT, options=options).packet


def test_sequence_numbers_wrap_round() -> None:
    shift = seqadj.corrected(seqadj.NONE, 0xfffffff0, 6)
    assert seqadj.offset(shift, 0xfffffff0) == 0
    assert seqadj.offset(shift, 5) == 6
    assert seqadj.corrected(shift, 3, 2) == SeqAdj(3, 6, 8)
    assert seqadj.corrected(shift, 0xfffffff0, 9) == shift
    state = FtpState()
    for seq in (0xfffffff0, 5, 1):
        state.note_newline(0, seq)
    assert state.newlines[0] == [1, 5]


def test_where_headers_are_cut_short() -> None:
    frame = tcp(V4, ACK, 1, 1, data=b"PORT")
    for size in range(len(frame)):
        found = read_segment(frame[:size], 14, 34, TCP)
        assert found is None or size >= 54
    short = bytearray(frame)
    short[46] = 0x40
    assert read_segment(bytes(short), 14, 34, TCP) is None
    # A header that is longer than the packet has no data behind it.
    short[46] = 0xf0
    whole = read_segment(bytes(short), 14, 34, TCP)
    assert whole is not None and whole.payload == b""
    assert ftp(whole, 0, True, master_of(V4), FtpState(), Wishes()
               ).packet == bytes(short)


def test_what_pads_a_frame_is_no_line() -> None:
    frame = tcp(V4, ACK, 1, 1)
    assert segment_of(frame + bytes(6)).payload == b""


@pytest.mark.parametrize("flow", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("opcode", [1, 2])
def test_tftp(flow: Flow, opcode: int) -> None:
    flow = flow.ports(2000, 69)
    wishes = Wishes()
    frame = udp(flow, struct.pack(">H", opcode) + b"file\0octet\0")
    master = master_of(flow, proto=UDP)
    assert tftp(segment_of(frame, UDP), master, wishes).packet == frame
    assert wishes.asked == [Expectation(CtTuple(
        master.tuples[0].family, UDP, pton(flow.dst), pton(flow.src), 0,
        2000))]
    seen = flow.ports(3000)
    master = master_of(flow, seen, UDP)
    tftp(segment_of(frame, UDP), master, wishes)
    assert wishes.asked[-1] == Expectation(
        CtTuple(master.tuples[0].family, UDP, pton(flow.dst),
                pton(flow.src), 0, 3000),
        Follow(pton(flow.dst), pton(flow.src), 2000))
    wishes.answer = Expected.FULL
    assert tftp(segment_of(frame, UDP), master, wishes).packet is None


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\3\0\1", b"\0\5", b"\1\0",
                                  b"\0\6"])
def test_tftp_without_a_request(data: bytes) -> None:
    wishes = Wishes()
    frame = udp(V4, data)
    assert tftp(segment_of(frame, UDP), master_of(V4, proto=UDP), wishes
                ).packet == frame
    assert wishes.asked == []


@pytest.mark.parametrize("seed", range(20))
def test_by_chance(seed: int) -> None:
    """Whatever is said: packets are right, or dropped, and no more than that
    happens; addresses of others are never expected."""
    rng = random.Random(seed)
    for flow, seen in ((V4, None), (V6, None),
                       (V4, Flow("192.168.1.2", V4.dst, 1000, 21)),
                       (V6, Flow("fd03::2", V6.dst, 1000, 21))):
        line = Line(flow, seen)
        for _ in range(50):
            way = rng.randrange(2)
            addr = line.flow.dst if way else line.flow.src
            text = (other_line(rng, bool(way)) if rng.random() < .3 else
                    address_line(rng, bool(way), addr,
                                 rng.randrange(1, 65536)))
            for _ in range(rng.randrange(3)):
                text = damaged(rng, text)
            line.send(text, way)
            if rng.random() < .2:
                line.seq[way] = rng.randrange(1 << 32)
        ends = {pton(flow.src), pton(flow.dst), pton(line.seen.src)}
        for wish in line.wishes.asked:
            assert {wish.tuple.src, wish.tuple.dst} <= ends
