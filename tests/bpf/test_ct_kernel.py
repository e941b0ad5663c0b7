# SPDX-License-Identifier: Apache-2.0
"""The tracker says of each packet what the kernel's nf_conntrack says of it.

CT_SEQUENCES sequences of each kind, from CT_SEED on; all differences that are
known are in docs/conntrack.rst.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator

import ctgen
import pytest
import verifier
from ctframes import ACK, SYN, Flow, addresses, tcp
from ctkernel import Entry, Kernel, available, kernel
from ctobject import SOURCES, CtObject, Found
from objects import compile_object

from dpif_bpf import abi_ct as a

SEQUENCES = int(os.environ.get("CT_SEQUENCES", "40"))
SEED = int(os.environ.get("CT_SEED", "1"))
LENGTH = 24
CHECKED = (a.OVS_CT_S_SEEN_REPLY | a.OVS_CT_S_ASSURED
           | a.OVS_CT_S_CONFIRMED)
SINCE = 6, 18
"""Linux with the states that the tracker has; earlier ones differ a little
(docs/conntrack.rst)."""
SLACK = 2
"""Seconds by which two ends of a connection may differ: each is rounded, and
some time passes from one to the other."""

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("nft") is None or not available(),
        reason="needs root, nft and nf_conntrack"),
    pytest.mark.skipif(
        tuple(map(int, verifier.series().split("."))) < SINCE
        and "CT_SEQUENCES" not in os.environ,
        reason="the kernel has other states"),
]

Steps = Callable[[random.Random, Flow, int], Iterator[ctgen.Step]]


class Judge:
    """Both trackers, and the packets of a connection so far."""

    def __init__(self, ours: CtObject, theirs: Kernel) -> None:
        self.ours, self.theirs = ours, theirs
        self.port = 0
        self.packets = 0
        self.trail: list[str] = []

    def flow(self, base: Flow) -> Flow:
        """Ports that were not used yet."""
        self.port += 1
        return base.ports(1024 + self.port % 60000, 1 + self.port // 60000)

    def entry(self, found: Found) -> Entry | None:
        """Our connection, as the kernel tells of its own."""
        ours, number = self.ours, found.id
        if not number or ours.get(number, "word") != (
                found.gen << a.OVS_CT_GEN_SHIFT | a.OVS_CT_LIVE):
            return None
        left = ours.expiry(number) - 1 - int(ours.clock())
        packets = ours.record(number)[a.CT["packets"].slice].cast("Q")
        return Entry(ours.get(number, "status"), left,
                     ours.get(number, "state"), (packets[0], packets[1]))

    def step(self, step: ctgen.Step) -> Found:
        """A packet through both; their verdicts agree."""
        self.packets += 1
        self.trail.append(step.what)
        state = self.theirs.send(step.frame, step.back)
        found = self.ours.run(step.frame)
        mine = found.state & ~a.OVS_CT_TRACKED
        assert mine == state, self.say(f"we say {mine:#x},"
                                       f" the kernel {state:#x}")
        return found

    def compare(self, found: Found | None, flow: Flow, proto: int) -> None:
        """The connection is the same in both."""
        theirs = self.theirs.get(flow, proto)
        ours = None if found is None else self.entry(found)
        if ours is None or theirs is None:
            assert ours == theirs, self.say(f"we have {ours},"
                                            f" the kernel {theirs}")
            return
        if proto in {6, 132}:
            assert ours.proto == theirs.proto, self.say(
                f"we have state {ours.proto}, the kernel {theirs.proto}")
        assert ours.status & CHECKED == theirs.status & CHECKED, self.say(
            f"status {ours.status:#x}, the kernel's {theirs.status:#x}")
        assert abs(ours.left - theirs.left) <= SLACK, self.say(
            f"{ours.left} s left, in the kernel {theirs.left}")
        assert ours.packets == theirs.packets, self.say(
            f"{ours.packets} packets, in the kernel {theirs.packets}")

    def say(self, what: str) -> str:
        """With what led there."""
        return "\n".join((what, *self.trail))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    path = compile_object(SOURCES["tc"], tmp_path_factory.mktemp("ct"))
    with kernel() as theirs, CtObject(path, 1 << 18) as ours:
        yield Judge(ours, theirs)


def run(judge: Judge, steps: Steps, base: Flow, proto: int,
        seed: int) -> None:
    """A sequence."""
    rng = random.Random(seed)
    flow = judge.flow(base)
    judge.trail = [f"seed {seed}"]
    known: Found | None = None
    for step in steps(rng, flow, LENGTH):
        found = judge.step(step)
        if found.id and found.verdict is not a.Verdict.RELATED:
            known = found
        if known is not None:
            orig = judge.ours.record(known.id)[a.CT["orig"].slice]
            begun = bytes(orig[:4]) == addresses(flow)[:4] and (
                not flow.v6 or bytes(orig[:16]) == addresses(flow)[:16])
            judge.compare(known, flow if begun else flow.back(), proto)


@pytest.mark.parametrize("base", [ctgen.V4, ctgen.V6], ids=["v4", "v6"])
@pytest.mark.parametrize(("steps", "proto"), [
    (ctgen.tcp_steps, 6), (ctgen.udp_steps, 17), (ctgen.sctp_steps, 132)],
    ids=["tcp", "udp", "sctp"])
def test_sequences(judge: Judge, steps: Steps, proto: int,
                   base: Flow) -> None:
    for number in range(SEQUENCES):
        run(judge, steps, base, proto, SEED * 1000003 + number)


@pytest.mark.parametrize(("name", "value", "flags"), [
    ("tcp_loose", 0, 0),
    ("tcp_be_liberal", 1, a.OVS_CT_F_LOOSE | a.OVS_CT_F_LIBERAL),
    ("tcp_ignore_invalid_rst", 1, a.OVS_CT_F_LOOSE | a.OVS_CT_F_IGNORE_RST)])
def test_settings(judge: Judge, name: str, value: int, flags: int) -> None:
    """Other ones than the default."""
    judge.theirs.set(name, value)
    judge.ours.set_up(flags)
    try:
        for number in range(SEQUENCES):
            run(judge, ctgen.tcp_steps, ctgen.V4, 6, SEED * 1000003 + number)
    finally:
        judge.theirs.set(name, 1 - value)
        judge.ours.set_up()


@pytest.mark.parametrize("base", [ctgen.V4, ctgen.V6], ids=["v4", "v6"])
@pytest.mark.parametrize("steps", [ctgen.icmp_steps, ctgen.error_steps],
                         ids=["icmp", "errors"])
def test_icmp(judge: Judge, steps: Steps, base: Flow) -> None:
    for number in range(SEQUENCES):
        seed = SEED * 1000003 + number
        judge.trail = [f"seed {seed}"]
        for step in steps(random.Random(seed), judge.flow(base), LENGTH):
            judge.step(step)


@pytest.mark.parametrize("known", [False, True], ids=["new", "established"])
def test_all_flags(judge: Judge, known: bool) -> None:
    for flags in range(256):
        flow = judge.flow(ctgen.V4)
        judge.trail = [f"flags {flags:#x}"]
        if known:
            for frame, back in ((tcp(flow, SYN, 1), False),
                                (tcp(flow.back(), SYN | ACK, 9, 2), True),
                                (tcp(flow, ACK, 2, 10), False)):
                judge.step(ctgen.Step(frame, back, "handshake"))
        found = judge.step(ctgen.Step(tcp(flow, flags, 2, 10), False, "this"))
        if found.id:
            judge.compare(found, flow, 6)
