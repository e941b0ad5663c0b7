# SPDX-License-Identifier: Apache-2.0
"""A second judge: what lib/conntrack.c of OVS, the tracker of its datapath in
user space, says of packets of which nf_conntrack says what we say.

CT_SEQUENCES sequences of each kind, from CT_SEED on, go through ``ovstest
test-conntrack pcap``, which commits each packet, as is done here.  The two
differ in what docs/conntrack.rst lists, and in nothing else: the first
difference of a sequence is of one of these kinds.  From then on its connection
is another one in both, and the rest is not compared.
"""

from __future__ import annotations

import itertools
import os
import random
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ctgen
import pytest
from ctframes import (
    ACK,
    FIN,
    ICMP,
    ICMPV6,
    PSH,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    URG,
    Flow,
)
from ctnat import L3, is_error, place
from ctobject import SOURCES, CtObject
from objects import compile_object
from ovs_build import find_build

from dpif_bpf import abi_ct as a

SEQUENCES = int(os.environ.get("CT_SEQUENCES", "40"))
SEED = int(os.environ.get("CT_SEED", "1"))
LENGTH = 24
NEW, EST, REL, RPL, INV = (
    a.OVS_CT_NEW, a.OVS_CT_ESTABLISHED, a.OVS_CT_RELATED, a.OVS_CT_REPLY,
    a.OVS_CT_INVALID)
_STATES = {"new": NEW, "est": EST, "rel": REL, "rpl": RPL, "inv": INV,
           "trk": 0}
_KNOWN = {EST, EST | RPL}
_RELATED = {REL, REL | RPL}
_NETFILTER_FLAGS = {
    SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG,
    ACK, ACK | URG}

Steps = Callable[[random.Random, Flow, int], Iterator[ctgen.Step]]


def netdev_flags(flags: int) -> bool:
    """Whether such a segment may be, by lib/conntrack-tcp.c."""
    if flags & SYN and flags & (RST | FIN):
        return False
    if not flags & (SYN | ACK | RST):
        return False
    return bool(flags & ACK) or not flags & (FIN | PSH | URG)


@dataclass(frozen=True, slots=True)
class Difference:
    """Of what is said of a packet.

    :param before: the packets of its sequence so far
    """

    ours: int
    theirs: int
    frame: bytes
    before: list[bytes]

    @property
    def proto(self) -> int:
        where = place(self.frame, L3)
        assert where is not None
        return where.proto

    def l4(self, frame: bytes | None = None) -> bytes:
        frame = self.frame if frame is None else frame
        where = place(frame, L3)
        assert where is not None
        return frame[where.l4:]


def tcp_kind(diff: Difference) -> str:
    """Of segments."""
    ours, theirs, flags = diff.ours, diff.theirs, diff.l4()[13]
    netfilter = flags & ~(PSH | 0xc0) in _NETFILTER_FLAGS
    if netfilter != netdev_flags(flags):
        return "flags" if (ours if netdev_flags(flags) else theirs) == INV \
            else ""
    if flags & SYN and not flags & ACK:
        return "SYN"
    if ours == NEW and theirs in _KNOWN:
        if theirs == EST:
            return "one direction"
        reset = any(diff.l4(frame)[13] & RST for frame in diff.before)
        return "reset" if reset else ""
    if {ours, theirs} == {NEW, INV}:
        return "beginning"
    if INV in {ours, theirs} and {ours, theirs} & _KNOWN:
        return "window"
    return ""


def icmp_kind(diff: Difference) -> str:
    kind, code = diff.l4()[:2]
    if diff.theirs == INV and (code or kind in {17, 18, 139, 140}):
        return "ICMP"
    return ""


def error_kind(diff: Difference) -> str:
    """Of ICMP errors."""
    ours, theirs = diff.ours, diff.theirs
    outer = place(diff.frame, L3)
    assert outer is not None
    inner = place(diff.frame, outer.l4 + 8)
    if theirs == INV and outer.v6 and not 1 <= diff.l4()[0] <= 4:
        return "ICMPv6"
    if inner is None:
        return ""
    if inner.proto == SCTP:
        return "no ports"
    if inner.proto in {TCP, UDP} and ours in _RELATED and theirs == INV:
        need = 20 if inner.v6 and inner.proto == TCP else 8
        return "short" if len(diff.frame) - inner.l4 < need else ""
    return ""


def kind_of(diff: Difference) -> str:
    """Which of those in docs/conntrack.rst; empty: of none."""
    if is_error(diff.frame):
        return error_kind(diff)
    if diff.proto == TCP:
        return tcp_kind(diff)
    if diff.proto in {ICMP, ICMPV6}:
        return icmp_kind(diff)
    if diff.proto == SCTP:
        return "" if diff.theirs == INV else "no ports"
    return ""


def judged(frames: list[bytes], path: Path) -> list[int]:
    """States, without OVS_CT_TRACKED."""
    build = find_build()
    program = build.build / "tests" / ".libs" / "ovstest"
    if not program.exists():
        pytest.skip(f"there is no {program}")
    with open(path, "wb") as out:
        out.write(struct.pack("=IHHIIII", 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
        for frame in frames:
            out.write(struct.pack("=IIII", 0, 0, len(frame), len(frame))
                      + frame)
    done = subprocess.run(
        [program, "test-conntrack", "pcap", path], check=True,
        capture_output=True, text=True,
        env={**os.environ, **build.environment})
    return [sum(_STATES[name] for name in line.split(": ")[1].split("|"))
            for line in done.stdout.splitlines()]


def said(state: int) -> str:
    return "|".join(name for name, bit in _STATES.items() if state & bit)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CtObject]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    path = compile_object(SOURCES["tc"], tmp_path_factory.mktemp("ct"))
    with CtObject(path, 1 << 18) as made:
        yield made


def compare(ours: CtObject, path: Path, steps: Steps, base: Flow,
            ) -> Counter[str]:
    """How often there is which kind of difference; "": how many packets were
    called the same."""
    ours.flush(0)
    made = []
    for number in range(SEQUENCES):
        rng = random.Random(SEED * 1000003 + number)
        # Errors are about the next port, too.
        flow = base.ports(1024 + 2 * number % 60000, 1 + number // 30000)
        made.append([*steps(rng, flow, LENGTH)])
    theirs = iter(judged([step.frame for step in itertools.chain(*made)],
                         path))
    found: Counter[str] = Counter()
    for sequence in made:
        over = False
        for index, step in enumerate(sequence):
            mine = ours.run(step.frame).state & ~a.OVS_CT_TRACKED
            other = next(theirs)
            if over:
                continue
            if mine == other:
                found[""] += 1
                continue
            over = True
            kind = kind_of(Difference(
                mine, other, step.frame,
                [before.frame for before in sequence[:index]]))
            assert kind, "\n".join((
                f"we say {said(mine)}, netdev {said(other)}",
                *(before.what for before in sequence[:index + 1]),
                step.frame.hex()))
            found[kind] += 1
    return found


@pytest.mark.parametrize("base", [ctgen.V4, ctgen.V6], ids=["v4", "v6"])
@pytest.mark.parametrize("steps", [
    ctgen.tcp_steps, ctgen.sctp_steps, ctgen.icmp_steps, ctgen.error_steps],
    ids=["tcp", "sctp", "icmp", "errors"])
def test_what_differs(ours: CtObject, tmp_path: Path, base: Flow,
                      steps: Steps) -> None:
    print(compare(ours, tmp_path / "pcap", steps, base))


@pytest.mark.parametrize("base", [ctgen.V4, ctgen.V6], ids=["v4", "v6"])
@pytest.mark.parametrize("steps", [ctgen.udp_steps, ctgen.plain_steps],
                         ids=["udp", "tcp"])
def test_what_does_not_differ(ours: CtObject, tmp_path: Path, base: Flow,
                              steps: Steps) -> None:
    """UDP, and what TCP is as a rule."""
    found = compare(ours, tmp_path / "pcap", steps, base)
    assert [*found] == [""]
