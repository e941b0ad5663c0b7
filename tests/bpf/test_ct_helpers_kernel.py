# SPDX-License-Identifier: Apache-2.0
"""The helpers make of packets what nf_conntrack_ftp and nf_conntrack_tftp make
of them, NAT and sequence numbers included, and expect the same.

CT_SEQUENCES control connections of each kind, from CT_SEED on.  Lines with a
number above 255 are left out: kernels before 7.1 wrap it round.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from ctframes import ACK, PSH, SYN, TCP, UDP, Flow, packet, pseudo, tcp, udp
from ctkernel import available
from ctlines import address_line, damaged, other_address, other_line
from ctnatkernel import FTP_PORT, TFTP_PORT, NatKernel, nat_kernel

from dpif_bpf.core.conntrack.helpers.ftp import FtpState, ftp
from dpif_bpf.core.conntrack.helpers.model import (
    Expectation,
    Expected,
    Master,
)
from dpif_bpf.core.conntrack.helpers.tftp import tftp
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_tuple import CtTuple
from dpif_bpf.wire.segment import read_segment

SEQUENCES = int(os.environ.get("CT_SEQUENCES", "30"))
SEED = int(os.environ.get("CT_SEED", "1"))
LENGTH = 24
V4 = Flow("10.1.0.1", "10.2.0.1", 0, FTP_PORT)
V6 = Flow("fd01::1", "fd02::1", 0, FTP_PORT)
VIRTUAL = Flow("10.1.0.1", "10.2.0.88", 0, FTP_PORT)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft") is None or not available(),
    reason="needs root, nft and nf_conntrack")


@pytest.fixture
def theirs() -> Iterator[NatKernel]:
    with nat_kernel() as router:
        router.set("tcp_be_liberal", 1)
        yield router


@dataclass
class Wishes:
    """What is expected: one of each master."""

    of: dict[int, Expectation] = field(default_factory=dict)

    def expect(self, master: Master, wish: Expectation) -> Expected:
        for number, other in self.of.items():
            if number != master.id and other.tuple == wish.tuple:
                return Expected.BUSY
        self.of[master.id] = wish
        return Expected.DONE

    def unexpect(self, master: Master) -> None:
        del self.of[master.id]


def flow_of(frame: bytes) -> Flow:
    """The ends of a frame of TCP or UDP."""
    v6 = frame[12:14] == b"\x86\xdd"
    family, size, at = ((socket.AF_INET6, 16, 22) if v6
                        else (socket.AF_INET, 4, 26))
    l4 = 54 if v6 else 34
    sport, dport = struct.unpack_from(">HH", frame, l4)
    return Flow(socket.inet_ntop(family, frame[at:at + size]),
                socket.inet_ntop(family, frame[at + size:at + 2 * size]),
                sport, dport)


def tuple_of(flow: Flow, proto: int) -> CtTuple:
    family = socket.AF_INET6 if flow.v6 else socket.AF_INET
    return CtTuple(int(family), proto, socket.inet_pton(family, flow.src),
                   socket.inet_pton(family, flow.dst), flow.sport,
                   flow.dport)


def as_seen(frame: bytes) -> tuple[bytes, bytes]:
    """What forwarding leaves as it is: addresses, and what is behind."""
    v6 = frame[12:14] == b"\x86\xdd"
    return (frame[22:54] if v6 else frame[26:34],
            frame[54 if v6 else 34:])


class Control:
    """A control connection, through both.

    :ivar there: as the client sends, and as the server gets it
    """

    def __init__(self, theirs: NatKernel, wishes: Wishes, number: int,
                 flow: Flow, proto: int) -> None:
        self.theirs, self.wishes, self.proto = theirs, wishes, proto
        self.flow, self.state = flow, FtpState()
        first = tcp(flow, SYN, 1000) if proto == TCP else udp(flow, b"??")
        out, = theirs.through(first, v6=flow.v6)
        self.out = flow_of(out)
        status = 0
        if self.out != flow:
            status = (nf.IPS_SRC_NAT if self.out.src != flow.src
                      else nf.IPS_DST_NAT)
        self.master = Master(number, 1, 0, (
            tuple_of(flow, proto), tuple_of(self.out.back(), proto)), status)
        self.seq = [1001, 5001]
        if proto == TCP:
            theirs.through(tcp(self.out.back(), SYN | ACK, 5000, 1001),
                           back=True, v6=flow.v6)
            theirs.through(tcp(flow, ACK, 1001, 5001), v6=flow.v6)

    def send(self, data: bytes, back: bool, seq: int, ack: int,
             options: bytes = b"") -> bytes | None:
        """A packet with data through both; what came out."""
        ways = self.flow, self.out
        if back:
            ways = self.out.back(), self.flow.back()
        if self.proto == TCP:
            frames = [tcp(way, ACK | PSH, seq, ack, options=options,
                          data=data) for way in ways]
        else:
            frames = [udp(way, data) for way in ways]
        said = self.theirs.through(frames[0], back=back, v6=self.flow.v6)
        v6 = self.flow.v6
        segment = read_segment(frames[1], 14, 54 if v6 else 34, self.proto)
        assert segment is not None
        if self.proto == TCP:
            mine = ftp(segment, back, True, self.master, self.state,
                       self.wishes, self.chosen)
        else:
            mine = tftp(segment, self.master, self.wishes)
        if mine.packet is None or not said:
            assert (mine.packet is None) == (not said), (
                data, mine, said)
            return None
        assert as_seen(mine.packet) == as_seen(said[0]), data
        return said[0]

    def chosen(self, span: int) -> int:
        """How far from the port that was named the kernel's is, by chance, as
        that was taken."""
        known = {one.tuple for one in self.wishes.of.values()}
        for one in self.theirs.expectations():
            if one.tuple not in known:
                # It does not tell of a port 0 that was named.
                return one.tuple.dport - (one.nat[0].sport if one.nat else 0)
        raise AssertionError(f"none of {span} ports")

    def compare(self) -> None:
        """Both expect the same."""
        kernel = {(one.tuple, one.nat[0].sport if one.nat else 0)
                  for one in self.theirs.expectations()}
        ours = {(one.tuple, one.follow.dport if one.follow else 0)
                for one in self.wishes.of.values()}
        assert kernel == ours


def sack(*edges: int) -> bytes:
    """An option of TCP, and what aligns it."""
    return b"\1\1" + bytes((5, 2 + 4 * len(edges))) + b"".join(
        struct.pack(">I", edge & 0xffffffff) for edge in edges)


def line_of(rng: random.Random, back: bool, addr: str) -> bytes:
    if rng.random() < .1:
        addr = other_address(rng, addr)
    line = (other_line(rng, back) if rng.random() < .4 else
            address_line(rng, back, addr, rng.choice(
                (1, 20, 1029, 65535, rng.randrange(1, 65536)))))
    if rng.random() < .25:
        line = damaged(rng, line)
    return line


def is_wrapped(line: bytes) -> bool:
    """Whether the kernel may read another number than is there, or an address
    that ends at a zero."""
    numbers = re.findall(rb"\d+", line)
    if line[:4].upper() == b"EPRT":
        if b"." not in line and b"\0" in line:
            return True
        return any(int(number) > 255 for number in numbers[1:5]
                   if b"." in line) or (
            int(numbers[-1]) > 65535 if numbers else False)
    bound = 65535 if line[:3] == b"229" else 255
    return any(int(number) > bound for number in numbers
               if number not in (b"220", b"227", b"229", b"331"))


def talk(rng: random.Random, one: Control) -> None:
    """A control connection: lines, whole, split, damaged and repeated."""
    last: list[tuple[bytes, int, int, bytes] | None] = [None, None]
    for _ in range(LENGTH):
        back = rng.random() < .5
        addr = one.out.dst if back else one.flow.src
        seq, ack = one.seq[back], one.seq[1 - back]
        again = last[back]
        if again is not None and rng.random() < .2:
            one.send(again[0], back, again[1], again[2], again[3])
            one.compare()
            continue
        line = line_of(rng, back, addr)
        if is_wrapped(line):
            continue
        ack += rng.choice((0, 0, -7, 4))
        options = sack(ack + 5, ack + 9, ack + 20, ack + 30) if (
            rng.random() < .3) else b""
        parts = [line]
        if rng.random() < .15 and len(line) > 2:
            at = rng.randrange(1, len(line))
            parts = [line[:at], line[at:]]
        for part in parts:
            passed = one.send(part, back, seq, ack, options)
            one.compare()
            last[back] = part, seq, ack, options
            if passed is not None or rng.random() < .7:
                seq += len(part)
        one.seq[back] = seq


@pytest.mark.parametrize(("base", "first"), [
    (V4, 1000), (V6, 1000), (V4, 20000), (V6, 20000), (VIRTUAL, 1000)],
    ids=["v4", "v6", "v4-snat", "v6-snat", "v4-dnat"])
def test_ftp(theirs: NatKernel, base: Flow, first: int) -> None:
    wishes = Wishes()
    for number in range(SEQUENCES):
        rng = random.Random(SEED * 1000003 + number)
        talk(rng, Control(theirs, wishes, number,
                          base.ports(first + number), TCP))


@pytest.mark.parametrize(("base", "first"), [
    (V4, 1000), (V6, 1000), (V4, 20000), (V6, 20000), (VIRTUAL, 1000)],
    ids=["v4", "v6", "v4-snat", "v6-snat", "v4-dnat"])
def test_tftp(theirs: NatKernel, base: Flow, first: int) -> None:
    wishes = Wishes()
    for number in range(SEQUENCES):
        rng = random.Random(SEED * 1000003 + number)
        one = Control(theirs, wishes, number,
                      base.ports(first + number, TFTP_PORT), UDP)
        for _ in range(4):
            one.send(rng.choice((
                b"\0\1file\0octet\0", b"\0\2x\0octet\0", b"\0\3\0\1x", b"\0",
                b"", b"\0\4\0\1", b"\1\0x", b"\0\1")), rng.random() < .3, 0,
                0)
            one.compare()


@pytest.mark.parametrize(("base", "sport"), [
    (V4, 20001), (V6, 20001), (VIRTUAL, 1001), (V4, 1001)],
    ids=["v4-snat", "v6-snat", "v4-dnat", "v4"])
@pytest.mark.parametrize("passive", [False, True], ids=["active", "passive"])
def test_who_follows(theirs: NatKernel, base: Flow, sport: int,
                     passive: bool) -> None:
    """The data connection is translated as its expectation says."""
    wishes = Wishes()
    one = Control(theirs, wishes, 1, base.ports(sport), TCP)
    for data, back in ((b"220 hi\r\n", True), (b"USER x\r\n", False)):
        one.send(data, back, one.seq[back], one.seq[1 - back])
        one.seq[back] += len(data)
    addr = one.out.dst if passive else one.flow.src
    rng = random.Random(5)
    line = address_line(rng, passive, addr, 20 << 8 | 5)
    assert one.send(line, passive, one.seq[passive],
                    one.seq[1 - passive]) is not None
    wish = wishes.of[1]
    family = socket.AF_INET6 if base.v6 else socket.AF_INET
    first = Flow(socket.inet_ntop(family, wish.tuple.src),
                 socket.inet_ntop(family, wish.tuple.dst), 700,
                 wish.tuple.dport)
    out, = theirs.through(tcp(first, SYN, 1), back=not passive, v6=base.v6)
    follow = wish.follow
    if follow is None:
        assert flow_of(out) == first
        return
    assert flow_of(out) == Flow(
        socket.inet_ntop(family, follow.src),
        socket.inet_ntop(family, follow.dst), 700, follow.dport)


def test_frames_are_right() -> None:
    """That what is compared is what is meant."""
    frame = tcp(V4.ports(5), ACK, 1, 1, data=b"x")
    assert frame[14:] == packet(V4.ports(5), TCP, pseudo(
        V4.ports(5), TCP, frame[34:50] + b"\0\0" + frame[52:], 16))
    assert tuple_of(V4, UDP).proto == UDP
