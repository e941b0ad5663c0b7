# SPDX-License-Identifier: Apache-2.0
"""Control connections: whose packets helpers see, and what they remember.

A connection has a helper by its record (struct ovs_ct), as
the kernel's nf_conn_help.  What a helper remembers of one is here, for as long
as that is a connection; a provider that starts begins with what is in the
record, and believes the next segment of each direction to begin a line
(``FtpState.pick_up``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from dpif_bpf.core.conntrack.helpers.ftp import FtpState, ftp
from dpif_bpf.core.conntrack.helpers.model import Expects, Master, Outcome
from dpif_bpf.core.conntrack.helpers.tftp import tftp
from dpif_bpf.wire.ct_entry import CtEntry
from dpif_bpf.wire.ct_tuple import CtTuple
from dpif_bpf.wire.ctnetlink import CtName
from dpif_bpf.wire.protocols import IPPROTO_TCP, IPPROTO_UDP
from dpif_bpf.wire.segment import Segment
from dpif_bpf.wire.seqadj import NONE, Shifts

PROTOS = {IPPROTO_TCP: "ftp", IPPROTO_UDP: "tftp"}
"""The helper that sees packets of a protocol."""

Name = tuple[int, int]


class Connections(Protocol):
    """What is asked of the table."""

    def find(self, name: CtName) -> int | None: ...

    def entry(self, number: int) -> CtEntry | None: ...

    def incarnation(self, number: int) -> int: ...

    def lives(self, number: int, gen: int) -> bool: ...

    def shift(self, number: int, gen: int, shifts: Shifts) -> bool:
        """Has sequence numbers shifted; False: it is no connection any
        more."""


@dataclass(slots=True)
class Controls:
    """All control connections.

    :param since: ns since 1970; those that began before are of another
        provider
    :ivar dropped: packets, by why
    """

    connections: Connections
    expects: Expects
    since: int
    dropped: Counter[str] = field(default_factory=Counter)
    _states: dict[Name, FtpState] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._states)

    def help(self, orig: CtTuple, zone: int, direction: int,
             established: bool, segment: Segment) -> bytes | None:
        """A packet of a control connection, as NAT has left it.

        :param orig: the connection's original tuple
        :returns: it, as it goes on; None when it is dropped
        """
        outcome = self._help(orig, zone, direction, established, segment)
        if outcome.packet is None:
            self.dropped[outcome.why] += 1
        return outcome.packet

    def _help(self, orig: CtTuple, zone: int, direction: int,
              established: bool, segment: Segment) -> Outcome:
        number = self.connections.find(CtName(orig, zone, 0))
        entry = None if number is None else self.connections.entry(number)
        if (number is None or entry is None
                or entry.helper != PROTOS.get(segment.proto)):
            # It has ended meanwhile.
            return Outcome(segment.data)
        gen = self.connections.incarnation(number)
        master = Master(number, gen, zone, (entry.orig, entry.reply),
                        entry.status)
        if segment.proto == IPPROTO_UDP:
            return tftp(segment, master, self.expects)
        state = self._state((number, gen), entry)
        before = state.shifts
        outcome = ftp(segment, direction, established, master, state,
                      self.expects)
        if state.shifts != before:
            self.connections.shift(number, gen, state.shifts)
        return outcome

    def _state(self, name: Name, entry: CtEntry) -> FtpState:
        state = self._states.get(name)
        if state is None:
            earlier = (entry.start or 0) < self.since
            state = self._states[name] = FtpState(
                [earlier, earlier], shifts=entry.seq_adj or (NONE, NONE))
        return state

    def upkeep(self) -> None:
        """Forgets those that have ended."""
        for name in list(self._states):
            if not self.connections.lives(*name):
                del self._states[name]
