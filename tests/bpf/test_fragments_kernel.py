# SPDX-License-Identifier: Apache-2.0
"""Fragments become a whole packet where the kernel's do, and the same one.

The kernel cuts it again where it leaves: what is compared is that put together
without any rule, in the order in which it comes.  CT_SEQUENCES sequences of
each family, from CT_SEED on.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ctframes import Flow
from ctkernel import available
from ctnatkernel import NatKernel, nat_kernel
from devices import ip

from dpif_bpf.core.conntrack.fragments import Fragments, split
from tests.fragments import (
    V4,
    V6,
    Part,
    parts_of,
    read_fragment,
    sequence,
)

SEQUENCES = int(os.environ.get("CT_SEQUENCES", "60"))
SEED = int(os.environ.get("CT_SEED", "1"))

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft") is None or not available(),
    reason="needs root, nft and nf_conntrack")


@pytest.fixture(scope="module")
def theirs() -> Iterator[NatKernel]:
    with nat_kernel() as router:
        for name in ("net/ipv4/ipfrag_high_thresh",
                     "net/netfilter/nf_conntrack_frag6_high_thresh"):
            (Path("/proc/sys") / name).write_text(str(1 << 28))
        ip(*(f"link set {device} mtu 9000"
             for device in ("ka", "kax", "kb", "kbx")))
        yield router


@dataclass(frozen=True, slots=True)
class Packet:
    """What a whole packet says, and the size of its largest fragment."""

    tos: int
    dont: bool
    proto: int
    head: bytes
    data: bytes
    mru: int


def read(frames: list[bytes]) -> Packet:
    """What fragments in order, or a packet, say."""
    data, sizes = b"", []
    for frame in frames:
        fragment = read_fragment(frame, 14)
        if fragment is None:
            return whole(frame, len(frame) - 14)
        assert fragment.offset == len(data)
        data += fragment.data
        sizes.append(fragment.size)
    first = read_fragment(frames[0], 14)
    assert first is not None
    frame = frames[0]
    if frame[12] == 0x86:
        return Packet(struct.unpack_from(">H", frame, 14)[0] >> 4 & 255,
                      False, first.following, first.head[54:][1:], data,
                      max(sizes))
    return Packet(frame[15], bool(frame[20] & 0x40), frame[23],
                  first.head[34:], data, max(sizes))


def whole(frame: bytes, mru: int) -> Packet:
    """What a packet says."""
    if frame[12] == 0x86:
        at, proto = 54, frame[20]
        while proto == 60 and at + 8 <= len(frame):
            proto, at = frame[at], at + 8
        return Packet(struct.unpack_from(">H", frame, 14)[0] >> 4 & 255,
                      False, proto, frame[54:at][1:], frame[at:], mru)
    size = (frame[14] & 15) * 4
    return Packet(frame[15], bool(frame[20] & 0x40), frame[23],
                  frame[34:14 + size], frame[14 + size:], mru)


class Both:
    """Both reassemblies."""

    def __init__(self, theirs: NatKernel) -> None:
        self.theirs, self.ours = theirs, Fragments()
        self.trail: list[str] = []
        self.made = 0

    def send(self, part: Part) -> None:
        self.trail.append(f"{part.ident} {part.offset}+{len(part.data)}"
                          f" {part.more} tos {part.tos} {part.dont}")
        if not (part.flow.v6 or part.offset or part.more):
            return	# it is no fragment
        frame = part.frame()
        out = self.theirs.through(frame, v6=part.flow.v6)
        fragment = read_fragment(frame, 14)
        if fragment is None:
            return	# the kernel lets such IPv6 pass as it is
        mine = self.ours.add(0, frame[14:], 0)
        text = "\n".join(self.trail)
        if part.flow.v6 and len(out) == 1 and part.more:
            same = read_fragment(out[0], 14)
            if same is not None and same.more:
                # A first one without a whole header passes as it is.
                assert mine is None and not part.offset, text
                return
        assert (mine is None) == (not out), text
        if mine is None:
            return
        self.made += 1
        ours = whole(frame[:14] + mine.packet, mine.mru)
        kernel = read(out)
        if read_fragment(out[0], 14) is None:
            # The one fragment was all of it.
            kernel = replace(kernel, mru=mine.mru)
        # Where the kernel cuts as it was cut, DF is lost.
        kernel = replace(kernel, dont=kernel.dont or ours.dont)
        assert ours == kernel, text
        if len(mine.packet) <= mine.mru:
            return
        # Cut again, it is no larger than that, and the same.
        again = [frame[:14] + one for one in split(mine.packet, mine.mru, 1)]
        assert read(again).data == ours.data
        assert max(len(one) for one in again) <= mine.mru + 14


@pytest.mark.parametrize("flow", [V4, V6], ids=["v4", "v6"])
def test_sequences(theirs: NatKernel, flow: Flow) -> None:
    both = Both(theirs)
    for number in range(SEQUENCES):
        rng = random.Random(SEED * 1000003 + number)
        both.trail = [f"seed {number}"]
        for part in sequence(rng, flow, SEED * 10000 + number):
            if flow.v6 and part.more and len(part.data) % 8:
                # The kernel lets such a one pass as it is.
                continue
            both.send(part)
    assert both.made > SEQUENCES / 4


@pytest.mark.parametrize("flow", [V4, V6], ids=["v4", "v6"])
def test_two_at_once(theirs: NatKernel, flow: Flow) -> None:
    """With other identifiers, and IPv4 of another protocol."""
    both = Both(theirs)
    for number in range(SEQUENCES // 4 + 1):
        rng = random.Random(number)
        first, second = (parts_of(rng, flow, 7000 + 2 * number + more,
                                  rng.randbytes(3000), 800)
                         for more in (0, 1))
        third = [] if flow.v6 else [replace(part, proto=254)
                                    for part in first]
        every = first + second + third
        rng.shuffle(every)
        for part in every:
            both.send(part)
    assert both.made == (SEQUENCES // 4 + 1) * (2 if flow.v6 else 3)


@pytest.mark.parametrize("between", [63, 64, 65])
def test_overtaken(theirs: NatKernel, between: int) -> None:
    """By as many others of its sender that its identifier may be in use
    again."""
    both = Both(theirs)
    rng = random.Random(1)
    flow = replace(V4, src=f"10.1.0.{100 + between}")
    first = parts_of(rng, flow, 1, bytes(64), 40)
    both.send(first[0])
    for number in range(between):
        both.send(Part(flow, 100 + number, 8, bytes(8), True))
    for part in first[1:]:
        both.send(part)
    for part in first:
        both.send(part)


@pytest.mark.parametrize("flow", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("over", [-8, 0, 1])
def test_largest(theirs: NatKernel, flow: Flow, over: int) -> None:
    """Up to 65,535 bytes."""
    both = Both(theirs)
    size = 65535 - (0 if flow.v6 else 20) + over
    for part in parts_of(random.Random(2), flow, 9000 + over,
                         bytes(i & 255 for i in range(size)), 8000):
        if part.offset + len(part.data) > 65535:
            assert over > 0
            return
        both.send(part)
    assert both.made == (over <= 0)
