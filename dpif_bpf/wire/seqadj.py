# SPDX-License-Identifier: Apache-2.0
"""Sequence numbers of a control connection whose data have got longer or
shorter: net/netfilter/nf_conntrack_seqadj.c.

A direction has one correction at a time: of two that are in the window at
once the kernel knows the last one alone, and so does this.
"""

from __future__ import annotations

from dataclasses import replace
from struct import Struct

from dpif_bpf.wire.ct_entry import SeqAdj
from dpif_bpf.wire.segment import Segment

NONE = SeqAdj(0, 0, 0)

Shifts = tuple[SeqAdj, SeqAdj]
"""By direction."""

_U32 = Struct("!I")
_EDGES = Struct("!II")
_M32 = 0xffffffff
_EOL, _NOP, _SACK = 0, 1, 5


def after(one: int, other: int) -> bool:
    """Whether a sequence number is behind another one."""
    return 0 < (one - other & _M32) < 1 << 31


def offset(shift: SeqAdj, seq: int) -> int:
    """By how much a sequence number of this direction is shifted."""
    return shift.after if after(seq, shift.pos) else shift.before


def corrected(shift: SeqAdj, seq: int, by: int) -> SeqAdj:
    """With one more correction: nf_ct_seqadj_set().  The same one again, for
    a packet that is sent again, is none."""
    if not by:
        return shift
    if shift.before == shift.after or after(seq, shift.pos):
        return replace(shift, pos=seq, before=shift.after,
                       after=shift.after + by)
    return shift


def shifted(shifts: Shifts, by: SeqAdj, direction: int) -> Shifts:
    """With another one for a direction."""
    return (shifts[0], by) if direction else (by, shifts[1])


def _unshifted(shift: SeqAdj, number: int) -> int:
    """What the other end acknowledges, as the sender has it."""
    by = (shift.after if after(number - shift.before & _M32, shift.pos)
          else shift.before)
    return number - by & _M32


def adjust(segment: Segment, shifts: Shifts, direction: int) -> Segment | None:
    """The segment as it goes on: nf_ct_seq_adjust().  None: it is dropped,
    as its options are none."""
    mine, other = shifts[direction], shifts[1 - direction]
    data = bytearray(segment.data)
    _U32.pack_into(data, segment.l4 + 4,
                   segment.seq + offset(mine, segment.seq) & _M32)
    _U32.pack_into(data, segment.l4 + 8, _unshifted(other, segment.ack))
    if not _adjust_sack(data, segment.options, other):
        return None
    return segment.changed(data)


def _adjust_sack(data: bytearray, options: slice, other: SeqAdj) -> bool:
    at, stop = options.start, options.stop
    while at < stop:
        kind = data[at]
        if kind == _EOL:
            break
        if kind == _NOP:
            at += 1
            continue
        if at + 1 == stop:
            return False
        size = data[at + 1]
        if size < 2 or at + size > stop:
            return False
        if kind == _SACK and size >= 10 and not (size - 2) % 8:
            for block in range(at + 2, at + size, 8):
                _EDGES.pack_into(data, block, *(
                    _unshifted(other, edge)
                    for edge in _EDGES.unpack_from(data, block)))
        at += size
    return True
