# SPDX-License-Identifier: Apache-2.0
"""The helper of TFTP: net/netfilter/nf_conntrack_tftp.c and nf_nat_tftp.c.

A server answers a request from another port.
"""

from __future__ import annotations

from dpif_bpf.core.conntrack.helpers.model import (
    Expectation,
    Expected,
    Expects,
    Follow,
    Master,
    Outcome,
    dropped,
)
from dpif_bpf.wire.ct_tuple import CtTuple
from dpif_bpf.wire.protocols import IPPROTO_UDP
from dpif_bpf.wire.segment import Segment

READ, WRITE = 1, 2
"""Opcodes of requests (RFC 1350)."""


def tftp(segment: Segment, master: Master, expects: Expects) -> Outcome:
    """A packet of a control connection, in either direction."""
    opcode = segment.payload[:2]
    if len(opcode) == 2 and int.from_bytes(opcode, "big") in (READ, WRITE):
        orig, reply = master.tuples
        follow = (Follow(orig.dst, orig.src, orig.sport)
                  if master.has_nat else None)
        wish = Expectation(
            CtTuple(reply.family, IPPROTO_UDP, reply.src, reply.dst, 0,
                    reply.dport), follow)
        if expects.expect(master, wish) is not Expected.DONE:
            return dropped("expectation")
    return Outcome(segment.data)
