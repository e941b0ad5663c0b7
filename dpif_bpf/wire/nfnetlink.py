# SPDX-License-Identifier: Apache-2.0
"""Messages of NETLINK_NETFILTER: <linux/netfilter/nfnetlink.h>.

A message's type is its subsystem and what is asked of that; a struct nfgenmsg
takes the place of generic netlink's header.  Integers are in network order.
"""

from __future__ import annotations

import errno
from struct import Struct

from dpif_bpf.errors import RequestError
from dpif_bpf.wire.netlink import (
    NLA_F_NESTED,
    NLM_F_DUMP,
    NLM_F_MULTI,
    NLMSG_HDRLEN,
    Message,
    build,
    nla,
)
from dpif_bpf.wire.nf_uapi import NFGENMSG, NFNETLINK_V0

ATTRS_POS = NLMSG_HDRLEN + NFGENMSG.size
"""Where the attributes of a message begin."""

BE16 = Struct("!H")
BE32 = Struct("!I")
BE64 = Struct("!Q")

_NLA_BE16 = Struct("=HH2s2x")
_NLA_BE32 = Struct("=HH4s")


def subsystem(message: Message) -> int:
    """NFNL_SUBSYS_* of a message."""
    return message.type >> 8


def parse_nfgen(message: Message) -> tuple[int, int, int]:
    """(what is asked of the subsystem, nfgen_family, version).

    :raises RequestError: EINVAL
    """
    if len(message.raw) < ATTRS_POS:
        raise RequestError(
            errno.EINVAL, f"a message of {len(message.raw)} bytes has no"
            " struct nfgenmsg")
    family, version, _ = NFGENMSG.unpack_from(message.raw, NLMSG_HDRLEN)
    return message.type & 0xff, family, version


def is_dump(message: Message) -> bool:
    """Whether all are asked for: one of NLM_F_DUMP's two bits is enough
    here."""
    return bool(message.flags & NLM_F_DUMP)


def build_nf(subsys: int, cmd: int, flags: int, seq: int, pid: int,
             family: int, payload: bytes, res_id: int = 0) -> bytes:
    """A message around attributes that are padded."""
    return build(subsys << 8 | cmd, flags, seq, pid, NFGENMSG.pack(
        family, NFNETLINK_V0, res_id) + payload)


def build_reply(request: Message, subsys: int, cmd: int, family: int,
                payload: bytes, res_id: int = 0, flags: int = 0) -> bytes:
    """One of the replies to `request`.

    The kernel says NLM_F_MULTI of all that it sends to a port id other than
    0, even of the only one.
    """
    if request.pid:
        flags |= NLM_F_MULTI
    return build_nf(subsys, cmd, flags, request.seq, request.pid, family,
                    payload, res_id)


def nest(kind: int, *attrs: bytes) -> bytes:
    """An attribute of attributes, which says that it is one."""
    return nla(kind | NLA_F_NESTED, b"".join(attrs))


def nla_be16(kind: int, value: int) -> bytes:
    return _NLA_BE16.pack(6, kind, BE16.pack(value))


def nla_be32(kind: int, value: int) -> bytes:
    return _NLA_BE32.pack(8, kind, BE32.pack(value))


def nla_be64(kind: int, value: int) -> bytes:
    return nla(kind, BE64.pack(value))
