# SPDX-License-Identifier: Apache-2.0
"""Connections of all protocols through NAT, by chance, and ICMP errors about
their packets: frames as the inner end sees them."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator

import ctgen
from ctframes import (
    GRE,
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Flow,
    frame,
    icmp,
    udp,
)
from ctgen import Step
from ctnat import L3, PORTS, place, sum_sctp

UNKNOWN = 253
"""RFC 3692: a protocol that nobody knows."""
KINDS = (TCP, TCP, TCP, UDP, UDP, ICMP, ICMP, SCTP, UDPLITE, GRE, UNKNOWN)
ROUTERS = {False: ("10.1.0.200", "10.2.0.200"), True: ("fd01::200",
                                                       "fd02::200")}
"""On the way, at either side."""
_TYPES = {False: (3, 3, 4, 5, 11, 12), True: (1, 2, 3, 4, 1, 100)}


def with_zero_sum(step: Step) -> Step:
    """A datagram without a checksum."""
    data = bytearray(step.frame)
    where = place(data, L3)
    assert where is not None
    data[where.l4 + 6:where.l4 + 8] = bytes(2)
    return Step(bytes(data), step.back, step.what + " without a checksum")


def udp_steps(rng: random.Random, flow: Flow, count: int) -> Iterator[Step]:
    for step in ctgen.udp_steps(rng, flow, count):
        yield with_zero_sum(step) if rng.random() < .25 else step


def udplite_steps(rng: random.Random, flow: Flow,
                  count: int) -> Iterator[Step]:
    for _ in range(count):
        back = rng.random() < .4
        yield Step(udp(flow.back() if back else flow, rng.randbytes(5),
                       rng.choice((0, None)), UDPLITE), back,
                   f"udplite back {back}")


def sctp_steps(rng: random.Random, flow: Flow, count: int) -> Iterator[Step]:
    for step in ctgen.sctp_steps(rng, flow, count):
        data = bytearray(step.frame)
        where = place(data, L3)
        assert where is not None
        sum_sctp(data, where.l4)
        yield Step(bytes(data), step.back, step.what)


def icmp_steps(rng: random.Random, flow: Flow, count: int) -> Iterator[Step]:
    """Requests of one type and their answers; of node information the
    identifier is never translated."""
    kind, answer = rng.choice(
        ((128, 129), (128, 129), (139, 140)) if flow.v6 else
        ((8, 0), (8, 0), (8, 0), (13, 14), (15, 16), (17, 18)))
    for _ in range(count):
        back = rng.random() < .4
        number = answer if back else kind
        if rng.random() < .05:
            number = kind if back else answer
        yield Step(icmp(flow.back() if back else flow, number, 0, flow.sport,
                        rng.randbytes(rng.randrange(0, 9))), back,
                   f"icmp {number} back {back}")


def gre_steps(rng: random.Random, flow: Flow, count: int) -> Iterator[Step]:
    version = rng.choice((0, 0, 1, 2))
    for _ in range(count):
        back = rng.random() < .4
        head = struct.pack(">HHHH", version, 0x880b if version == 1 else
                           0x0800, 0, flow.sport)
        yield Step(frame(flow.back() if back else flow, GRE,
                         head + rng.randbytes(4)), back,
                   f"gre {version} back {back}")


def unknown_steps(rng: random.Random, flow: Flow,
                  count: int) -> Iterator[Step]:
    for _ in range(count):
        back = rng.random() < .4
        yield Step(frame(flow.back() if back else flow, UNKNOWN,
                         rng.randbytes(rng.choice((0, 1, 8, 30)))), back,
                   f"protocol {UNKNOWN} back {back}")


STEPS: dict[int, Callable[[random.Random, Flow, int], Iterator[Step]]] = {
    TCP: ctgen.tcp_steps, UDP: udp_steps, UDPLITE: udplite_steps,
    SCTP: sctp_steps, ICMP: icmp_steps, GRE: gre_steps,
    UNKNOWN: unknown_steps}


class Talk:
    """One connection.

    :param plain: TCP as it is between ends that do nothing wrong
    :ivar seen: its packets of late
    """

    def __init__(self, rng: random.Random, flow: Flow, kind: int, count: int,
                 plain: bool) -> None:
        self.rng, self.flow, self.count = rng, flow, count
        self.proto = ICMPV6 if kind == ICMP and flow.v6 else kind
        self.seen: list[Step] = []
        steps = ctgen.plain_steps if plain and kind == TCP else STEPS[kind]
        self.steps = steps(rng, flow, count)

    def step(self) -> Step | None:
        """The next packet; None at the end."""
        if self.seen and self.rng.random() < .2:
            return self.error()
        step = next(self.steps, None)
        if step is not None:
            self.seen = [*self.seen[-3:], step]
        return step

    def error(self) -> Step:
        """About one that was there."""
        rng = self.rng
        about = rng.choice(self.seen)
        v6, inner = self.flow.v6, about.frame[L3:]
        head = 40 if v6 else 20
        if v6 and rng.random() < .2:
            kind = rng.choice((0, 43, 60, 44))
            extra = bytes((inner[6], 0)) + (
                bytes(2) + rng.randbytes(4) if kind == 44 else
                b"\1\4\0\0\0\0")
            inner = inner[:6] + bytes((kind,)) + inner[7:40] + extra + (
                inner[40:])
            inner = inner[:4] + struct.pack(">H", len(inner) - 40) + (
                inner[6:])
            head += 8
        # TCP's checksum: whole, or not at all.
        size = rng.choice((len(inner), len(inner), head + 8, head + 8,
                           head + 20, head + 24, head + 4, head, 8))
        back = not about.back
        if rng.random() < .05:
            back = not back
        way = self.flow.back() if back else self.flow
        src = rng.choice((ROUTERS[v6][back], way.src))
        number = rng.choice(_TYPES[v6])
        return Step(icmp(Flow(src, way.dst), number, rng.choice((0, 1)), 0,
                         inner[:min(size, 1280 - 88)]), back,
                    f"error {number} {'<' if back else '>'} from {src} about"
                    f" {size} bytes of: {about.what}")


def talks(rng: random.Random, dst: str, first: int, length: int,
          plain: bool) -> list[Talk]:
    """Connections to one address, which may want the same mapping.

    :param plain: TCP does nothing wrong, and there is no second one of a
        protocol without ports
    """
    v6 = ":" in dst
    count = rng.choice((1, 1, 2, 3, 4))
    kind = rng.choice(KINDS)
    # Ports below 512 and 1024 are classes of their own.
    sport = rng.choice((first, first, first, 100 + first % 400,
                        700 + first % 300))
    dport = rng.choice((80, 8080, 1024 + first % 1000))
    made: list[Talk] = []
    for number in range(count):
        if made and made[-1].proto in PORTS and rng.random() < .3:
            # The same source once more: with NAT of the destination both may
            # become one and the same.
            flow = made[-1].flow
            made.append(Talk(rng, flow.ports(sport, flow.dport + 1),
                             made[-1].proto, max(4, length // count), plain))
            continue
        src = f"fd01::{number + 1}" if v6 else f"10.1.0.{number + 1}"
        if kind in {GRE, UNKNOWN} and made and plain:
            kind = UDP
        made.append(Talk(rng, Flow(src, dst, sport, dport), kind,
                         max(4, length // count), plain))
        if rng.random() < .3:
            kind = rng.choice(KINDS)
    return made
