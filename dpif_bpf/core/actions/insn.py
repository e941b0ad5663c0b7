# SPDX-License-Identifier: Apache-2.0
"""Instructions of bpf/lib/abi.h on their way from netlink to ovs_acts."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct

from dpif_bpf.abi import Op
from dpif_bpf.errors import RequestError
from dpif_bpf.wire.facts import KeyFacts

_U32 = Struct("=I")

ALWAYS = 0xFFFFFFFF
"""OVS_SAMPLE_ATTR_PROBABILITY of what happens to every packet."""


@dataclass(frozen=True, slots=True)
class UserspaceDesc:
    """What an OVS_ACTION_ATTR_USERSPACE says about its upcalls.

    :param pid: OVS_USERSPACE_ATTR_PID, for per-vport dispatch
    :param userdata: OVS_USERSPACE_ATTR_USERDATA, None when there is none
    :param actions: the list of actions that the upcall must repeat
        (OVS_USERSPACE_ATTR_ACTIONS was given), else None
    :param egress: OVS_USERSPACE_ATTR_EGRESS_TUN_PORT: the upcall is to tell
        with which tunnel key the packet would leave by it; None
    """

    pid: int
    userdata: bytes | None = None
    actions: bytes | None = None
    egress: int | None = None


@dataclass(frozen=True, slots=True)
class PsampleDesc:
    """What an OVS_ACTION_ATTR_PSAMPLE says about its samples.

    :param group: OVS_PSAMPLE_ATTR_GROUP
    :param cookie: OVS_PSAMPLE_ATTR_COOKIE, None when there is none
    :param rate: probability of the samples around it, of 0xffffffff
    """

    group: int
    cookie: bytes | None
    rate: int


Desc = UserspaceDesc | PsampleDesc
"""What the provider must know of an upcall of OVS_OP_USERSPACE."""


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
    desc: Desc | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A block that happens with a probability of `probability` / ALWAYS; a
    clone is one that always does."""

    probability: int
    block: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class CheckPktLen:
    """One block for packets longer than `length`, one for all others."""

    length: int
    greater: tuple[Node, ...]
    less_equal: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class DecTtl:
    """The list ends with `block` where the TTL does."""

    block: tuple[Node, ...]


Node = Insn | Sample | CheckPktLen | DecTtl
"""What a list of actions becomes before it is laid out."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """Instructions of a whole list of actions.

    :param code: instruction words; a multiple of 8 bytes
    :param uspace: descriptors of the userspace and psample actions
    :param relocs: for each descriptor the byte offset in `code` of the
        32 bits that take its id
    :param deferred: a copy may be deferred that runs a part of it later
    """

    code: bytes
    uspace: tuple[Desc, ...]
    relocs: tuple[int, ...]
    deferred: bool = False

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
    :param actions: the whole list, or that of the block
    :param nested: compiles a block: the context around it, and the place of
        its list in `actions`
    :param psample: whether samples can be sent
    :param flow: facts of the flow's masked key
    :param row: the row of a timeout policy by its name, address family and
        IP protocol; 0: there is none
    :param depth: in how many blocks this list is
    :param rate: probability of the sample that this list is of; 0: of none
    """

    facts: KeyFacts
    actions: bytes
    nested: Callable[[Context, int, int], tuple[Node, ...]]
    psample: Callable[[], bool]
    flow: KeyFacts
    row: Callable[[str, int, int], int]
    depth: int = 0
    rate: int = 0
    insns: list[Node] = field(default_factory=list)

    def block(self, start: int, stop: int) -> tuple[Node, ...]:
        """Compiles the list of actions at a place of `actions`."""
        return self.nested(self, start, stop)


def bad(text: str) -> RequestError:
    """EINVAL: what the kernel says to nearly everything."""
    return RequestError(errno.EINVAL, text)
