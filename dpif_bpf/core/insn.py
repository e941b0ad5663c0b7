# SPDX-License-Identifier: Apache-2.0
"""Instructions of bpf/lib/abi.h on their way from netlink to ovs_acts."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field, replace
from struct import Struct

from dpif_bpf.abi import INSN, Op
from dpif_bpf.errors import RequestError
from dpif_bpf.wire.facts import KeyFacts

_U32 = Struct("=I")

MAX_INSNS = 8192
"""OVS_MAX_INSNS of bpf/lib/actions.h: how many the interpreter runs."""


@dataclass(frozen=True, slots=True)
class UserspaceDesc:
    """What an OVS_ACTION_ATTR_USERSPACE says about its upcalls.

    :param pid: OVS_USERSPACE_ATTR_PID, for per-vport dispatch
    :param userdata: OVS_USERSPACE_ATTR_USERDATA, None when there is none
    :param actions: the list of actions that the upcall must repeat
        (OVS_USERSPACE_ATTR_ACTIONS was given), else None
    """

    pid: int
    userdata: bytes | None = None
    actions: bytes | None = None


@dataclass(frozen=True, slots=True)
class Insn:
    """One instruction before it has an address.

    :param data: the words after it
    :param desc: descriptor whose id goes into `imm`
    """

    op: Op
    arg: int = 0
    imm: int = 0
    data: bytes = b""
    desc: UserspaceDesc | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """Instructions of a whole list of actions.

    :param code: instruction words; a multiple of 8 bytes
    :param uspace: descriptors of the userspace actions
    :param relocs: for each descriptor the byte offset in `code` of the
        32 bits that take its id
    """

    code: bytes
    uspace: tuple[UserspaceDesc, ...]
    relocs: tuple[int, ...]

    def link(self, ids: tuple[int, ...]) -> bytes:
        """The code with the descriptors' ids in their places."""
        if not ids:
            return self.code
        code = bytearray(self.code)
        for place, number in zip(self.relocs, ids, strict=True):
            _U32.pack_into(code, place, number)
        return bytes(code)


@dataclass(slots=True)
class Context:
    """What is known at one place of a list of actions.

    :param facts: of the flow's masked key, with what earlier actions changed
    :param actions: the whole list
    """

    facts: KeyFacts
    actions: bytes
    insns: list[Insn] = field(default_factory=list)


def bad(text: str) -> RequestError:
    """EINVAL: what the kernel says to nearly everything."""
    return RequestError(errno.EINVAL, text)


_EMITTING = {Op.OUTPUT: Op.OUTPUT_LAST, Op.RECIRC: Op.RECIRC_LAST,
             Op.USERSPACE: Op.USERSPACE, Op.DROP: Op.DROP}
"""Instructions that do more than change the packet: what becomes of them
when they are the last ones of a list that do."""


def assemble(insns: list[Insn]) -> Compiled:
    """Lays instructions out.

    What follows the last instruction that sends, reports or drops the packet
    cannot be seen and is left out; that one gets the packet itself.

    :raises RequestError: EMSGSIZE for more than MAX_INSNS instructions
    """
    end = len(insns)
    while end and insns[end - 1].op not in _EMITTING:
        end -= 1
    insns = insns[:end]
    if insns:
        insns[-1] = replace(insns[-1], op=_EMITTING[insns[-1].op])
    if not insns or insns[-1].op == Op.USERSPACE:
        insns.append(Insn(Op.END))
    if len(insns) > MAX_INSNS:
        raise RequestError(errno.EMSGSIZE, f"{len(insns)} actions are more"
                           f" than {MAX_INSNS}")
    code = bytearray()
    uspace: list[UserspaceDesc] = []
    relocs: list[int] = []
    for insn in insns:
        if insn.desc is not None:
            uspace.append(insn.desc)
            relocs.append(len(code) + INSN["imm"].offset)
        code += INSN.struct.pack(insn.op, len(insn.data) // 8, insn.arg,
                                 insn.imm)
        code += insn.data
    return Compiled(bytes(code), tuple(uspace), tuple(relocs))
