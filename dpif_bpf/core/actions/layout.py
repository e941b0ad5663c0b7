# SPDX-License-Identifier: Apache-2.0
"""Lays instructions and the blocks among them out, one after the other.

A block is the list of actions of a sample, a clone, a check_pkt_len or a
dec_ttl.  It works on a copy of the packet.  That copy need not be made where
the block is the last thing that can be seen, or leaves the packet as it is:
then the packet itself runs it.  Otherwise OVS_OP_CLONE goes before it, and
bpf/lib/act_recirc.h defers the copy.

An example.  ``clone(push_vlan(vid=5),2),trunc(100),3,4`` becomes, with the
address of each instruction in words::

    0  CLONE        +2      a copy runs 1 and 2: its tag must not show below
    1    PUSH_VLAN  vid 5
    2    OUTPUT_LAST 2      the copy itself goes; the block ends
    3  TRUNC        100
    4  CLONE        +1      a copy, as only this output is to be short
    5    OUTPUT_LAST 3
    6  TRUNC        0       what follows is whole again
    7  OUTPUT_LAST  4       nothing follows: the packet itself goes

A clone that is the last action, or one that only sends (``clone(2),3``), needs
no copy and no CLONE: ``OUTPUT 2; OUTPUT_LAST 3``.  Actions behind the last one
that can be seen (``2,push_vlan(vid=5)``) are left out.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from struct import Struct

from dpif_bpf.abi import INSN, OVS_MAX_INSNS, Op
from dpif_bpf.core.actions.insn import (
    ALWAYS,
    CheckPktLen,
    Compiled,
    DecTtl,
    Desc,
    Insn,
    Node,
    Sample,
)
from dpif_bpf.errors import RequestError

_WORD = Struct("=Q")

_EMITTING = {Op.OUTPUT: Op.OUTPUT_LAST, Op.RECIRC: Op.RECIRC_LAST,
             Op.USERSPACE: Op.USERSPACE, Op.METER: Op.METER,
             Op.DROP: Op.DROP, Op.CT: Op.CT}
"""Instructions that do more than change the packet: what becomes of them
when they are the last ones of a list that do."""

_LEAVING = {Op.OUTPUT, Op.RECIRC, Op.USERSPACE, Op.METER}
"""Those of them after which the packet is as it was before.  A packet that
exceeds a meter jumps to the end of such a block."""

_COPYING = {Op.CLONE, Op.RECIRC, Op.OUTPUT, Op.CT}
"""Instructions that may defer a copy, and the rest of the list: an output does
where a truncation waits that came over a recirculation, and ct() where many
come one after the other."""

_ENDING = {Op.OUTPUT_LAST, Op.RECIRC_LAST, Op.DROP, Op.END}
"""Instructions after which nothing runs."""


def _words(insns: Sequence[Insn]) -> int:
    return sum(1 + len(insn.data) // 8 for insn in insns)


def _emits(node: Node) -> bool:
    """Whether there is more to see of it than a changed packet."""
    if isinstance(node, Insn):
        return node.op in _EMITTING
    if isinstance(node, Sample):
        return bool(node.probability) and any(map(_emits, node.block))
    if isinstance(node, CheckPktLen):
        return any(map(_emits, node.greater + node.less_equal))
    return True  # a TTL that ends is a drop of its own


def _leaves(node: Node) -> bool:
    """Whether the packet is afterwards as it was before."""
    if isinstance(node, Insn):
        return node.op in _LEAVING
    return not isinstance(node, DecTtl)


def _seen(nodes: Sequence[Node]) -> Sequence[Node]:
    """The nodes up to the last one that emits something."""
    end = len(nodes)
    while end and not _emits(nodes[end - 1]):
        end -= 1
    return nodes[:end]


def _clone(block: list[Insn]) -> list[Insn]:
    return [Insn(Op.CLONE, imm=_words(block)), *block]


class _Layout:
    """One list.

    :param last: nothing follows: the packet itself goes with the last
        instruction, and none comes after these
    :param cut: a truncation may be waiting for the next output
    """

    def __init__(self, nodes: Sequence[Node], last: bool, cut: bool) -> None:
        self.insns: list[Insn] = []
        self._cut = cut
        self._ends = last
        self._meters: list[int] = []
        nodes = _seen(nodes)
        for number, node in enumerate(nodes, 1):
            self._node(node, last and number == len(nodes))
        if last and (not self.insns or self.insns[-1].op not in _ENDING):
            self.insns.append(Insn(Op.END))
        for at in reversed(self._meters):
            rest = _WORD.pack(_words(self.insns[at + 1:]))
            self.insns[at] = replace(self.insns[at], data=rest)

    def _node(self, node: Node, last: bool) -> None:
        if isinstance(node, Insn):
            self._insn(node, last)
        elif isinstance(node, Sample):
            self._sample(node, last)
        elif isinstance(node, CheckPktLen):
            self._check_pkt_len(node, last)
        else:
            block = _Layout(node.block, True, self._cut).insns
            if not node.block:
                block = []
            self.insns += [Insn(Op.DEC_TTL, imm=bool(node.block),
                                data=_WORD.pack(_words(block))), *block]
            if last:
                self.insns.append(Insn(Op.END))

    def _insn(self, insn: Insn, last: bool) -> None:
        if insn.op == Op.METER and not self._ends:
            self._meters.append(len(self.insns))
            self.insns.append(insn)
        elif last:
            self.insns.append(replace(insn, op=_EMITTING[insn.op]))
        elif insn.op == Op.OUTPUT and self._cut:
            self.insns += _clone([replace(insn, op=Op.OUTPUT_LAST)])
            self.insns.append(Insn(Op.TRUNC))
        else:
            self.insns.append(insn)
        if insn.op == Op.TRUNC:
            self._cut = True
        elif insn.op in {Op.OUTPUT, Op.USERSPACE}:
            self._cut = False

    def _block(self, nodes: Sequence[Node], last: bool) -> list[Insn]:
        """A block: run by the packet if that is all the same."""
        if last:
            return _Layout(nodes, True, self._cut).insns
        nodes = _seen(nodes)
        if not nodes:
            return []
        if not self._cut and all(map(_leaves, nodes)):
            return _Layout(nodes, False, False).insns
        return _clone(_Layout(nodes, True, self._cut).insns)

    def _sample(self, node: Sample, last: bool) -> None:
        if not node.probability:
            return
        block = self._block(node.block, last)
        if node.probability == ALWAYS or not block:
            self.insns += block
            return
        self.insns += [Insn(Op.SAMPLE, imm=node.probability,
                            data=_WORD.pack(_words(block))), *block]
        if last:
            self.insns.append(Insn(Op.END))

    def _check_pkt_len(self, node: CheckPktLen, last: bool) -> None:
        less = self._block(node.less_equal, last)
        greater = self._block(node.greater, last)
        if greater and not last:
            less.append(Insn(Op.JUMP, imm=_words(greater)))
        self.insns += [Insn(Op.CHECK_PKT_LEN, imm=node.length,
                            data=_WORD.pack(_words(less))), *less, *greater]


def assemble(nodes: Sequence[Node]) -> Compiled:
    """Lays a whole list of actions out.

    What follows the last instruction that sends, reports or drops the packet
    cannot be seen and is left out; that one gets the packet itself.

    :raises RequestError: EMSGSIZE
    """
    insns = _Layout(nodes, True, False).insns
    # No attribute of 4 bytes makes more than two, and none is beyond 64 kB:
    # not to be met.
    if len(insns) > OVS_MAX_INSNS:
        raise RequestError(errno.EMSGSIZE,
                           f"{len(insns)} instructions are too many")
    code = bytearray()
    uspace: list[Desc] = []
    relocs: list[int] = []
    for insn in insns:
        if insn.desc is not None:
            uspace.append(insn.desc)
            relocs.append(len(code) + INSN["imm"].offset)
        code += INSN.struct.pack(insn.op, len(insn.data) // 8, insn.arg,
                                 insn.imm)
        code += insn.data
    return Compiled(bytes(code), tuple(uspace), tuple(relocs),
                    any(insn.op in _COPYING for insn in insns))
