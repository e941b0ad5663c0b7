# SPDX-License-Identifier: Apache-2.0
"""Sequences of packets between two ends, by chance: mostly what real ends
send, with numbers, flags and options that are wrong now and then."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ctframes import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    PSH,
    RST,
    SCTP,
    SYN,
    UDP,
    URG,
    Flow,
    chunk,
    icmp,
    init,
    packet,
    sctp,
    tcp,
    udp,
)

V4, V6 = Flow(), Flow("fd01::1", "fd02::1")
_OFF = (1, -1, 2, -2, 100, -100, 1000, -1000, 8191, 8192, 8193, -8192, 65535,
        66000, 66001, -66000, -66001, 1 << 20, -(1 << 20), 1 << 31, 1 << 30,
        -(1 << 30))
_WINDOWS = (8192, 8192, 8192, 0, 1, 100, 65535)
_FLAGS = (SYN, SYN | ACK, ACK, ACK | PSH, FIN | ACK, RST, RST | ACK,
          SYN | URG, ACK | URG, FIN | ACK | URG)


@dataclass(frozen=True, slots=True)
class Step:
    """A frame, from the second end if `back`."""

    frame: bytes
    back: bool
    what: str


class TcpEnd:
    """What an end knows of itself."""

    def __init__(self, rng: random.Random) -> None:
        self.next = rng.choice((rng.getrandbits(32), 0xfffffff0, 0))
        self.scale = rng.choice((None, None, 0, 3, 7, 14, 15))
        self.sack = rng.random() < .5


class TcpSequence:
    """Segments of one connection."""

    def __init__(self, rng: random.Random, flow: Flow, wild: float) -> None:
        self.rng, self.flow, self.wild = rng, flow, wild
        self.ends = TcpEnd(rng), TcpEnd(rng)
        self.last: list[Step] = []

    def _options(self, end: TcpEnd, peer: TcpEnd, flags: int) -> bytes:
        rng, options = self.rng, b""
        if rng.random() < .05:
            return rng.randbytes(rng.randrange(1, 41))
        if flags & SYN:
            if end.sack:
                options += b"\4\2"
            if end.scale is not None:
                options += b"\1\3\3" + bytes((end.scale,))
        elif rng.random() < .2:
            first = (peer.next + rng.choice((0, *_OFF))) & 0xffffffff
            blocks = b"".join(struct.pack(
                ">II", (first + 10 * n) & 0xffffffff,
                (first + 10 * n + 5) & 0xffffffff)
                for n in range(rng.randrange(1, 4)))
            options += b"\1\1\5" + bytes((2 + len(blocks),)) + blocks
        if rng.random() < .3:
            options = b"\1\1\10\12" + rng.randbytes(8) + options
        return options[:40]

    def _odd(self, number: int) -> int:
        rng = self.rng
        if rng.random() > self.wild:
            return number
        if rng.random() < .1:
            return rng.choice((0, rng.getrandbits(32)))
        return (number + rng.choice(_OFF)) & 0xffffffff

    def segment(self, back: bool, flags: int, data: int = 0) -> Step:
        """A segment, as it should be but for chance; its end moves on."""
        rng = self.rng
        end, peer = self.ends[back], self.ends[not back]
        if rng.random() < self.wild / 8:
            flags = rng.getrandbits(8)
        seq = self._odd(end.next)
        ack = self._odd(peer.next) if flags & ACK else rng.choice(
            (0, peer.next))
        win = rng.choice(_WINDOWS)
        flow = self.flow.back() if back else self.flow
        frame = tcp(flow, flags, seq, ack, win,
                    self._options(end, peer, flags), b"d" * data)
        if seq == end.next:
            end.next = (seq + data + bool(flags & SYN)
                        + bool(flags & FIN)) & 0xffffffff
        return Step(frame, back, f"{'<' if back else '>'} flags {flags:#04x}"
                    f" seq {seq} ack {ack} win {win} data {data}")

    def _again(self) -> Step | None:
        return self.rng.choice(self.last) if self.last else None

    def steps(self, count: int) -> Iterator[Step]:
        """Some packets; the beginning is one of several."""
        rng = self.rng
        begin: tuple[tuple[bool, int], ...] = rng.choice((
            ((False, SYN), (True, SYN | ACK), (False, ACK)),
            ((False, SYN), (True, SYN | ACK), (False, ACK)),
            ((False, SYN), (False, SYN), (True, SYN | ACK), (False, ACK)),
            ((False, SYN), (True, SYN), (True, SYN | ACK),
             (False, SYN | ACK)),
            ((False, SYN), (True, SYN), (False, ACK), (True, ACK)),
            ((False, SYN), (True, ACK), (False, RST), (False, SYN)),
            ((False, SYN), (True, RST | ACK)), ((False, SYN), (False, RST)),
            ((False, ACK), (True, ACK)), ((True, ACK), (False, ACK)),
            ()))
        sent = 0
        for back, flags in begin:
            yield self._note(self.segment(back, flags))
            sent += 1
        while sent < count:
            back = rng.random() < .5
            what = rng.random()
            if what < .12 and (again := self._again()):
                yield again
            elif what < .55:
                yield self._note(self.segment(
                    back, ACK, rng.choice((0, 0, 1, 100, 1400))))
            elif what < .68:
                yield self._note(self.segment(back, FIN | ACK))
            elif what < .76:
                yield self._note(self.segment(back, rng.choice(
                    (RST, RST | ACK))))
            elif what < .88:
                if rng.random() < .5:	# a new one, on the same ports
                    self.ends[back].next = rng.getrandbits(32)
                yield self._note(self.segment(back, rng.choice(
                    (SYN, SYN, SYN | ACK))))
            else:
                yield self._note(self.segment(back, rng.choice(_FLAGS)))
            sent += 1

    def _note(self, step: Step) -> Step:
        self.last = [*self.last[-5:], step]
        return step


def tcp_steps(rng: random.Random, flow: Flow, count: int) -> Iterator[Step]:
    """A TCP connection."""
    return TcpSequence(rng, flow, rng.choice((0, .05, .2, .5))).steps(count)


def plain_steps(rng: random.Random, flow: Flow, count: int) -> Iterator[Step]:
    """A TCP connection as it is between ends that do nothing wrong: data, some
    of it twice, and its end."""
    talk = TcpSequence(rng, flow, 0)
    for back, flags in ((False, SYN), (True, SYN | ACK), (False, ACK)):
        yield _plain(talk, back, flags)
    for _ in range(count - 7):
        step = _plain(talk, rng.random() < .5, ACK, rng.choice(
            (0, 1, 100, 1400)))
        yield step
        if rng.random() < .1:
            yield step
    first = rng.random() < .5
    for back, flags in ((first, FIN | ACK), (not first, ACK),
                        (not first, FIN | ACK), (first, ACK)):
        yield _plain(talk, back, flags)


def _plain(talk: TcpSequence, back: bool, flags: int, data: int = 0) -> Step:
    end, peer = talk.ends[back], talk.ends[not back]
    flow = talk.flow.back() if back else talk.flow
    options = b""
    if flags & SYN and (not back or peer.scale is not None) and (
            end.scale is not None):
        options = b"\1\3\3" + bytes((end.scale,))
    frame = tcp(flow, flags, end.next, peer.next if flags & ACK else 0, 60000,
                options, b"d" * data)
    end.next = (end.next + data + bool(flags & (SYN | FIN))) & 0xffffffff
    return Step(frame, back, f"{'<' if back else '>'} flags {flags:#x}"
                f" data {data}")


def udp_steps(rng: random.Random, flow: Flow, count: int) -> Iterator[Step]:
    """Datagrams, whose length is wrong now and then."""
    for _ in range(count):
        back = rng.random() < .4
        said = rng.choice((None,) * 8 + (0, 7, 8, 9, 100))
        yield Step(udp(flow.back() if back else flow, b"data", said), back,
                   f"udp back {back} said {said}")


def icmp_steps(rng: random.Random, flow: Flow, count: int) -> Iterator[Step]:
    """Echo and other messages; the identifier is the flow's sport."""
    known = ((128, 129, 139, 140, 135, 136, 133, 134, 137, 130, 143, 127, 1)
             if flow.v6 else (8, 0, 13, 14, 15, 16, 17, 18, 19, 40, 9, 3))
    first = rng.choice(known[:2] * 4 + known)
    for _ in range(count):
        back = rng.random() < .4
        kind = first
        if back:
            pairs = {8: 0, 13: 14, 15: 16, 17: 18, 128: 129, 139: 140}
            kind = pairs.get(first, first)
        if rng.random() < .1:
            kind = rng.choice(known)
        code = rng.choice((0,) * 9 + (1,))
        yield Step(icmp(flow.back() if back else flow, kind, code,
                        flow.sport), back, f"icmp {kind} {code} back {back}")


def error_steps(rng: random.Random, flow: Flow, count: int,
                ) -> Iterator[Step]:
    """A connection, and ICMP errors about it and about others."""
    kind: tuple[int, Callable[[Flow], bytes]] = rng.choice((
        (UDP, lambda f: udp(f)),
        (6, lambda f: tcp(f, ACK, 1, 1)),
        (ICMPV6 if flow.v6 else ICMP,
         lambda f: icmp(f, 128 if f.v6 else 8, 0, flow.sport)),
        (SCTP, lambda f: sctp(f, 0, init(1, 5)))))
    proto, make = kind
    head = 40 if flow.v6 else 20
    if rng.random() < .9:
        yield Step(make(flow), False, f"protocol {proto}")
    for _ in range(count):
        back = rng.random() < .7
        inner = flow if back else flow.back()
        if rng.random() < .1:
            inner = inner.back()
        if rng.random() < .1:
            inner = inner.ports(inner.sport + 1)
        body = make(inner)[14:]
        if flow.v6 and rng.random() < .3:
            extra = rng.choice((0, 60, 43, 44))
            body = packet(inner, extra, bytes((body[6], 0)) + rng.choice(
                (bytes(6), bytes((0, 8)) + bytes(4))) + body[40:])
        size = rng.choice((len(body), head + 8, head + 8, head + 4, head,
                           head - 1, 8, 0))
        types = ((1, 2, 3, 4, 5, 100) if flow.v6 else (3, 4, 5, 11, 12, 3))
        # by a router on the way, or by the other end
        outer = flow.back() if back else flow
        if rng.random() < .1:
            outer = outer.back()
        number = rng.choice(types)
        yield Step(icmp(outer, number, 0, 0, body[:size]), back,
                   f"error {number} back {back} {size} bytes")


_CHUNKS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 64, 192)


def sctp_steps(rng: random.Random, flow: Flow, count: int) -> Iterator[Step]:
    """An association: its usual way, with other chunks and tags by chance."""
    tags = [rng.getrandbits(32) or 1, rng.getrandbits(32) or 1]
    wild = rng.choice((0, .1, .3))

    def one(back: bool, *kinds: int) -> Step:
        vtag = tags[not back]
        if kinds and kinds[0] == 1:
            vtag = 0
        if rng.random() < wild:
            vtag = rng.choice((0, tags[0], tags[1], rng.getrandbits(32)))
        if rng.random() < wild:
            kinds = tuple(rng.choice(_CHUNKS)
                          for _ in range(rng.randrange(4)))
        if 1 in kinds and rng.random() < .2:
            tags[back] = rng.getrandbits(32)
        parts = []
        for kind in kinds:
            if kind in {1, 2}:
                part = init(kind, tags[back])
            else:
                part = chunk(kind, rng.randbytes(rng.choice((0, 4, 9))),
                             rng.choice((0, 0, 0, 1)))
            if rng.random() < wild / 10:
                part = rng.choice((part[:3], part[:6], chunk(kind, b"", 0,
                                                             0)))
            parts.append(part)
        return Step(sctp(flow.back() if back else flow, vtag, *parts), back,
                    f"{'<' if back else '>'} vtag {vtag:#x} chunks {kinds}")

    sent = 0
    for back, kind in ((False, 1), (True, 2), (False, 10), (True, 11)):
        if rng.random() > wild:
            yield one(back, kind)
            sent += 1
    while sent < count:
        back = rng.random() < .5
        kinds = rng.choice(((0,), (3,), (0, 3), (4,), (5,), (7,), (8,),
                            (14,), (6,), (1,), (2,), (10,), (11,), (9,),
                            (10, 0), (3, 7)))
        yield one(back, *kinds)
        sent += 1


GENERATORS: dict[int, Callable[[random.Random, Flow, int],
                               Iterator[Step]]] = {
    6: tcp_steps, UDP: udp_steps, ICMP: icmp_steps, SCTP: sctp_steps}
