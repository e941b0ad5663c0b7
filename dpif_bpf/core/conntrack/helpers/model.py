# SPDX-License-Identifier: Apache-2.0
"""What a helper is told of a control connection, and what it answers.

A helper reads packets of control connections and says which connections will
follow.  As ``nf_conntrack_helper`` of the kernel: it is pure, and asks for
expectations at somebody who keeps them (core.conntrack.expect).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_tuple import CtTuple

TIMEOUT = 300
"""Seconds that an expectation of FTP and of TFTP lasts."""
MOST = 1
"""Expectations of a control connection: one more takes the oldest's place."""


@dataclass(frozen=True, slots=True)
class Master:
    """A control connection.

    :param id: of its record
    :param gen: incarnation of that
    :param tuples: of its original and of its reply direction
    :param status: IPS_*
    """

    id: int
    gen: int
    zone: int
    tuples: tuple[CtTuple, CtTuple]
    status: int = 0

    @property
    def has_nat(self) -> bool:
        return bool(self.status & (nf.IPS_SRC_NAT | nf.IPS_DST_NAT))


@dataclass(frozen=True, slots=True)
class Follow:
    """How an expected connection is translated, as its master is:
    nf_nat_follow_master().

    :param src: address that its packets come from then
    :param dst: address that they go to then
    :param dport: port that they go to then
    """

    src: bytes
    dst: bytes
    dport: int


@dataclass(frozen=True, slots=True)
class Expectation:
    """A connection that will come.

    :param tuple: of its first packet; its source port, 0, may be any
    :param follow: None: it has no NAT
    """

    tuple: CtTuple
    follow: Follow | None = None


class Expected(Enum):
    """What became of a wish: nf_ct_expect_related()."""

    DONE = auto()
    BUSY = auto()
    """Another control connection expects the same."""
    FULL = auto()
    """There is no room for more."""


class Expects(Protocol):
    """Who keeps expectations."""

    def expect(self, master: Master, wish: Expectation) -> Expected:
        """Has a connection expected, in place of what this control
        connection expected up to now."""

    def unexpect(self, master: Master) -> None:
        """Takes back what it expects."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a packet of a control connection.

    :param packet: as it goes on, or None: it is dropped
    :param why: it was dropped; for a counter
    """

    packet: bytes | None
    why: str = ""


def dropped(why: str) -> Outcome:
    return Outcome(None, why)
