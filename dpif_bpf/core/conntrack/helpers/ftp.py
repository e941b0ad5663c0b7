# SPDX-License-Identifier: Apache-2.0
"""The helper of FTP: net/netfilter/nf_conntrack_ftp.c and nf_nat_ftp.c.

A line counts where it begins a segment that follows a newline.  The first
segment of a direction is not looked at, as nothing is known of what was
before.  A line that is split over segments is dropped, for its sender to send
it again as one: otherwise somebody could hide what he says from the helper,
or have it believe what was not said.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from dpif_bpf.core.conntrack.helpers.ftp_lines import (
    PORT_MAX,
    Kind,
    Named,
    Partial,
    format_named,
    read_named,
)
from dpif_bpf.core.conntrack.helpers.model import (
    Expectation,
    Expected,
    Expects,
    Follow,
    Master,
    Outcome,
    dropped,
)
from dpif_bpf.wire import seqadj
from dpif_bpf.wire.ct_tuple import AF_INET, CtTuple
from dpif_bpf.wire.protocols import IPPROTO_TCP
from dpif_bpf.wire.segment import Segment

REMEMBERED = 2
"""Sequence numbers behind newlines, of each direction."""
PORT_TRIES = 128
"""Ports that are asked for when the one that was named is taken."""

_M32 = 0xffffffff


@dataclass(slots=True)
class FtpState:
    """What the helper remembers of a control connection.

    :ivar pick_up: directions whose next segment is looked at though nothing
        is known of what was before: of connections that were there before
        the provider was (NF_CT_FTP_SEQ_PICKUP)
    :ivar newlines: by direction
    :ivar shifts: by direction
    """

    pick_up: list[bool] = field(default_factory=lambda: [False, False])
    newlines: tuple[list[int], list[int]] = field(
        default_factory=lambda: ([], []))
    shifts: seqadj.Shifts = (seqadj.NONE, seqadj.NONE)

    def is_line(self, direction: int, seq: int) -> bool:
        """Whether a line begins there; asked once of a segment."""
        if seq in self.newlines[direction]:
            return True
        picked, self.pick_up[direction] = self.pick_up[direction], False
        return picked

    def note_newline(self, direction: int, seq: int) -> None:
        """A line ends before `seq`."""
        known = self.newlines[direction]
        if seq in known:
            return
        if len(known) < REMEMBERED:
            known.append(seq)
            return
        oldest = 0 if seqadj.after(known[1], known[0]) else 1
        if seqadj.after(seq, known[oldest]):
            known[oldest] = seq


def ftp(segment: Segment, direction: int, established: bool, master: Master,
        state: FtpState, expects: Expects,
        below: Callable[[int], int] = random.randrange) -> Outcome:
    """A segment of a control connection, as NAT has left it.

    :param direction: 0: of a client, 1: of a server
    :param established: its connection has seen both directions
    :param below: a random number less than so many
    """
    if established:
        changed = _help(segment, direction, master, state, expects, below)
        if isinstance(changed, Outcome):
            return changed
        segment = changed
    if state.shifts == (seqadj.NONE, seqadj.NONE):
        return Outcome(segment.data)
    adjusted = seqadj.adjust(segment, state.shifts, direction)
    if adjusted is None:
        return dropped("options")
    return Outcome(adjusted.data)


def _help(segment: Segment, direction: int, master: Master, state: FtpState,
          expects: Expects, below: Callable[[int], int]) -> Segment | Outcome:
    payload = segment.payload
    if not payload:
        return segment
    begin = segment.seq
    changed: Segment | Outcome = segment
    if state.is_line(direction, begin):
        try:
            named = read_named(payload, direction, master.tuples[0].family)
        except Partial:
            return dropped("partial")
        if named is not None:
            changed = _expect(segment, direction, named, master, state,
                              expects, below)
    if payload.endswith(b"\n"):
        # As the sender has it: before corrections; and as the kernel, even
        # when the line is dropped as nothing can be expected.
        state.note_newline(direction, begin + len(payload) & _M32)
    return changed


def _expect(segment: Segment, direction: int, named: Named, master: Master,
            state: FtpState, expects: Expects, below: Callable[[int], int],
            ) -> Segment | Outcome:
    sender, other = master.tuples[direction], master.tuples[1 - direction]
    if named.addr is not None and named.addr + sender.src[
            len(named.addr):] != sender.src:
        # Not its own address: it opens nothing (the kernel's `loose` is off).
        return segment

    def wish(port: int) -> Expectation:
        follow = (Follow(sender.dst, sender.src, named.port)
                  if master.has_nat else None)
        return Expectation(
            CtTuple(sender.family, IPPROTO_TCP, other.src, other.dst, 0,
                    port), follow)

    if not master.has_nat:
        if expects.expect(master, wish(named.port)) is not Expected.DONE:
            return dropped("expectation")
        return segment
    port = _find_port(master, wish, named.port, expects, below)
    if not port:
        return dropped("ports")
    text = format_named(named.kind, sender.family, _mapped(named, other),
                        port)
    changed = segment.replaced(named.start, named.size, text)
    if changed is None:
        expects.unexpect(master)
        return dropped("too long")
    state.shifts = seqadj.shifted(
        state.shifts, seqadj.corrected(state.shifts[direction], segment.seq,
                                       len(text) - named.size), direction)
    return changed


def _mapped(named: Named, other: CtTuple) -> bytes:
    """The sender's address, as the other end has it."""
    if named.kind in (Kind.PORT, Kind.PASV) and other.family != AF_INET:
        return other.dst[:4]
    return other.dst


def _find_port(master: Master, wish: Callable[[int], Expectation], port: int,
               expects: Expects, below: Callable[[int], int]) -> int:
    """nf_nat_exp_find_port(): the port that was named, or another one above
    it; 0: none.  As in the kernel, port 0 is expected, but nobody is told."""
    span = PORT_MAX - port
    tried = port
    for _ in range(min(span, PORT_TRIES) + 1):
        result = expects.expect(master, wish(tried))
        if result is Expected.DONE:
            return tried
        if result is not Expected.BUSY or not span:
            break
        tried = port + below(span)
    return 0
