# SPDX-License-Identifier: Apache-2.0
"""Requests of NFNL_SUBSYS_CTNETLINK and the replies to them.

Connections are shown, deleted and counted; they cannot be made or changed:
packets do that.  Formats: <linux/netfilter/nfnetlink_conntrack.h>; what is
refused, and with which errno: Linux net/netfilter/nf_conntrack_netlink.c of
6.12 (which filters by zone, as OVS 3.5 wants of a kernel from 6.8 on).

This is stricter than the kernel: attributes that are unknown or too long are
refused, and so is a mask without a value where the kernel would act on all
connections.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass

from dpif_bpf.errors import RequestError, decoder
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_entry import CtEntry, encode_entry
from dpif_bpf.wire.ct_tuple import CtTuple, TupleFilter, decode_tuple
from dpif_bpf.wire.netlink import (
    NLA_F_NESTED,
    NLA_HDRLEN,
    NLATTR,
    U32,
    Attrs,
    Message,
    Policy,
    binary,
    exactly,
    nested,
    parse_attrs,
)
from dpif_bpf.wire.nfnetlink import (
    ATTRS_POS,
    BE16,
    BE32,
    build_reply,
    is_dump,
    nla_be32,
    parse_nfgen,
)

NLM_F_DUMP_FILTERED = 0x20
"""Of the replies to a dump that was not to have all."""

ORIG, REPLY = 0, 1
"""Directions."""

_POLICY: Policy = {
    nf.CTA_TUPLE_ORIG: nested("CTA_TUPLE_ORIG"),
    nf.CTA_TUPLE_REPLY: nested("CTA_TUPLE_REPLY"),
    nf.CTA_STATUS: exactly("CTA_STATUS", 4),
    nf.CTA_PROTOINFO: nested("CTA_PROTOINFO"),
    nf.CTA_HELP: nested("CTA_HELP"),
    nf.CTA_NAT_SRC: nested("CTA_NAT_SRC"),
    nf.CTA_TIMEOUT: exactly("CTA_TIMEOUT", 4),
    nf.CTA_MARK: exactly("CTA_MARK", 4),
    nf.CTA_COUNTERS_ORIG: binary("CTA_COUNTERS_ORIG"),
    nf.CTA_COUNTERS_REPLY: binary("CTA_COUNTERS_REPLY"),
    nf.CTA_USE: binary("CTA_USE"),
    nf.CTA_ID: exactly("CTA_ID", 4),
    nf.CTA_NAT_DST: nested("CTA_NAT_DST"),
    nf.CTA_TUPLE_MASTER: nested("CTA_TUPLE_MASTER"),
    nf.CTA_SEQ_ADJ_ORIG: nested("CTA_SEQ_ADJ_ORIG"),
    nf.CTA_SEQ_ADJ_REPLY: nested("CTA_SEQ_ADJ_REPLY"),
    nf.CTA_SECMARK: binary("CTA_SECMARK"),
    nf.CTA_ZONE: exactly("CTA_ZONE", 2),
    nf.CTA_SECCTX: binary("CTA_SECCTX"),
    nf.CTA_TIMESTAMP: binary("CTA_TIMESTAMP"),
    nf.CTA_MARK_MASK: exactly("CTA_MARK_MASK", 4),
    nf.CTA_LABELS: binary("CTA_LABELS"),
    nf.CTA_LABELS_MASK: binary("CTA_LABELS_MASK"),
    nf.CTA_SYNPROXY: binary("CTA_SYNPROXY"),
    nf.CTA_FILTER: nested("CTA_FILTER"),
    nf.CTA_STATUS_MASK: exactly("CTA_STATUS_MASK", 4),
}
"""A connection may be named by all that a dump said of it: what does not tell
it from others is passed over."""

_FILTER_POLICY: Policy = {
    nf.CTA_FILTER_ORIG_FLAGS: exactly("CTA_FILTER_ORIG_FLAGS", 4),
    nf.CTA_FILTER_REPLY_FLAGS: exactly("CTA_FILTER_REPLY_FLAGS", 4),
}


@dataclass(frozen=True, slots=True)
class CtFilter:
    """Which connections are meant: those that all of it is true of.

    :param family: AF_INET or AF_INET6; 0: any
    :param zone: None: any
    :param mark: (value, mask): mark & mask is to be the value
    :param status: (value, mask), likewise
    :param orig: of the tuple of the original direction
    :param reply: of the tuple of the reply direction
    """

    family: int = 0
    zone: int | None = None
    mark: tuple[int, int] = (0, 0)
    status: tuple[int, int] = (0, 0)
    orig: TupleFilter | None = None
    reply: TupleFilter | None = None

    def matches(self, entry: CtEntry) -> bool:
        return ((not self.family or entry.orig.family == self.family)
                and (self.zone is None or entry.zone == self.zone)
                and entry.mark & self.mark[1] == self.mark[0]
                and entry.status & self.status[1] == self.status[0]
                and (self.orig is None or self.orig.matches(entry.orig))
                and (self.reply is None or self.reply.matches(entry.reply)))


ALL = CtFilter()
"""Any connection."""


@dataclass(frozen=True, slots=True)
class CtName:
    """One connection, by the tuple of either direction.

    :param tuple: what one of its directions is called
    :param zone: its zone
    :param direction: ORIG or REPLY, of which it must be the tuple; None: of
        any
    :param id: its CTA_ID; None: any
    """

    tuple: CtTuple
    zone: int = 0
    direction: int | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True)
class CtRequest:
    """IPCTNL_MSG_CT_*.

    :param message: the netlink message, for the reply's header
    :param cmd: IPCTNL_MSG_CT_*; which of `name` and `filter` is set depends on
        it: GET, GET_CTRZERO and DELETE have one of them, others none
    :param name: the connection that is shown or deleted, ENOENT without it
    :param filter: those that are dumped, or deleted
    :param filtered: whether the replies to a dump say NLM_F_DUMP_FILTERED
    :param dump: whether there are any number of replies and then NLMSG_DONE
    """

    message: Message
    cmd: int
    name: CtName | None = None
    filter: CtFilter | None = None
    filtered: bool = False
    dump: bool = False


def _u32(raw: bytes, attrs: Attrs, kind: int) -> int:
    value: int = BE32.unpack_from(raw, attrs[kind][0])[0]
    return value


def _masked(raw: bytes, attrs: Attrs, kind: int, mask_kind: int,
            default: int | None) -> tuple[int, int]:
    """(value, mask), with `default`, or the value, for the mask."""
    if kind not in attrs:
        if mask_kind in attrs:
            raise RequestError(
                errno.EINVAL, f"{_POLICY[mask_kind].name} without"
                f" {_POLICY[kind].name}", attrs[mask_kind][0] - NLA_HDRLEN)
        return 0, 0
    value = _u32(raw, attrs, kind)
    if mask_kind in attrs:
        return value, _u32(raw, attrs, mask_kind)
    return value, value if default is None else default


def _filter(raw: bytes, attrs: Attrs, family: int) -> CtFilter:
    mark = _masked(raw, attrs, nf.CTA_MARK, nf.CTA_MARK_MASK, 0xffffffff)
    status = _masked(raw, attrs, nf.CTA_STATUS, nf.CTA_STATUS_MASK, None)
    if nf.CTA_STATUS in attrs and not status[1]:
        raise RequestError(errno.EINVAL, "CTA_STATUS with an empty mask",
                           attrs[nf.CTA_STATUS][0] - NLA_HDRLEN)
    zone: int | None = None
    if nf.CTA_ZONE in attrs:
        zone = BE16.unpack_from(raw, attrs[nf.CTA_ZONE][0])[0]
    tuples: list[TupleFilter | None] = [None, None]
    if nf.CTA_FILTER in attrs:
        flags = _filter_flags(raw, attrs[nf.CTA_FILTER])
        for i, (kind, flag) in enumerate(zip(
                (nf.CTA_TUPLE_ORIG, nf.CTA_TUPLE_REPLY), flags,
                strict=True)):
            if not flag:
                continue
            if kind not in attrs:
                raise RequestError(
                    errno.EINVAL, f"CTA_FILTER without {_POLICY[kind].name}",
                    attrs[nf.CTA_FILTER][0] - NLA_HDRLEN)
            one, tuple_zone = decode_tuple(raw, *attrs[kind], family, flag)
            tuples[i] = TupleFilter(one, flag)
            if tuple_zone is not None:
                if zone:
                    raise _two_zones(attrs[kind])
                zone = tuple_zone
    return CtFilter(family, zone, mark, status, *tuples)


def _filter_flags(raw: bytes, where: tuple[int, int]) -> tuple[int, int]:
    """CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS, which are in host
    order."""
    start = where[0] - NLA_HDRLEN
    if not NLATTR.unpack_from(raw, start)[1] & NLA_F_NESTED:
        raise RequestError(errno.EINVAL, "CTA_FILTER without NLA_F_NESTED",
                           start)
    attrs = parse_attrs(raw, *where, _FILTER_POLICY, strict=True)
    flags = [0, 0]
    for i, kind in enumerate(_FILTER_POLICY):
        if kind not in attrs:
            continue
        (flags[i],) = U32.unpack_from(raw, attrs[kind][0])
        if flags[i] & ~nf.CTA_FILTER_F_ALL:
            raise RequestError(
                errno.EINVAL, f"{_FILTER_POLICY[kind].name} has unknown bits",
                attrs[kind][0] - NLA_HDRLEN)
    return flags[0], flags[1]


def _two_zones(where: tuple[int, int]) -> RequestError:
    return RequestError(errno.EINVAL, "CTA_TUPLE_ZONE besides CTA_ZONE",
                        where[0] - NLA_HDRLEN)


def _name(raw: bytes, attrs: Attrs, family: int) -> CtName | None:
    """By the first of both tuples; None without one."""
    zone, direction = 0, None
    if nf.CTA_ZONE in attrs:
        zone = BE16.unpack_from(raw, attrs[nf.CTA_ZONE][0])[0]
    for kind, side in ((nf.CTA_TUPLE_ORIG, ORIG),
                       (nf.CTA_TUPLE_REPLY, REPLY)):
        if kind not in attrs:
            continue
        one, tuple_zone = decode_tuple(raw, *attrs[kind], family)
        if tuple_zone is not None:
            if zone:
                raise _two_zones(attrs[kind])
            # To the kernel this is the zone of one direction, and that of
            # the other is 0.
            zone, direction = tuple_zone, side if tuple_zone else None
        return CtName(one, zone, direction,
                      _u32(raw, attrs, nf.CTA_ID) if nf.CTA_ID in attrs
                      else None)
    return None


@decoder
def decode_ct_request(message: Message) -> CtRequest:
    """A request of NFNL_SUBSYS_CTNETLINK.

    :raises RequestError: EINVAL, ERANGE; EOPNOTSUPP for what would make or
        change a connection, and for a tuple of neither IPv4 nor IPv6
    """
    cmd, family, version = parse_nfgen(message)
    raw = message.raw
    if not nf.IPCTNL_MSG_CT_NEW <= cmd <= nf.IPCTNL_MSG_CT_GET_UNCONFIRMED:
        raise RequestError(errno.EINVAL,
                           f"message {cmd} of ctnetlink is unknown")
    attrs = parse_attrs(raw, ATTRS_POS, len(raw), _POLICY)
    dump = is_dump(message)
    if cmd == nf.IPCTNL_MSG_CT_NEW:
        raise RequestError(errno.EOPNOTSUPP,
                           "connections are made by packets alone")
    if cmd in (nf.IPCTNL_MSG_CT_GET_DYING,
               nf.IPCTNL_MSG_CT_GET_UNCONFIRMED):
        if not dump:
            raise RequestError(errno.EOPNOTSUPP,
                               "such connections can only be dumped")
        return CtRequest(message, cmd, dump=True)
    if cmd == nf.IPCTNL_MSG_CT_GET_STATS:
        return CtRequest(message, cmd)
    if cmd == nf.IPCTNL_MSG_CT_GET_STATS_CPU:
        return CtRequest(message, cmd, dump=dump)
    if cmd == nf.IPCTNL_MSG_CT_DELETE:
        name = (None if nf.CTA_FILTER in attrs
                else _name(raw, attrs, family))
        if name is not None:
            return CtRequest(message, cmd, name)
        # Who knows no filters sends a family that is none: version 0.
        if not version and nf.CTA_FILTER not in attrs:
            family = 0
        return CtRequest(message, cmd, filter=_filter(raw, attrs, family))
    if dump:
        filtered = bool(family) or any(kind in attrs for kind in (
            nf.CTA_MARK, nf.CTA_FILTER, nf.CTA_STATUS, nf.CTA_ZONE))
        return CtRequest(message, cmd, filter=_filter(raw, attrs, family),
                         filtered=filtered, dump=True)
    name = _name(raw, attrs, family)
    if name is None:
        raise RequestError(errno.EINVAL, "a connection without a tuple")
    return CtRequest(message, cmd, name)


# Replies

def entry_reply(request: CtRequest, entry: CtEntry) -> bytes:
    """A connection that was asked for, alone or in a dump."""
    return _reply(request, entry.orig.family, encode_entry(entry))


def entry_header(request: CtRequest, family: int, size: int) -> bytes:
    """What comes before `size` bytes of attributes of a connection."""
    return _reply(request, family, bytes(size))[:ATTRS_POS]


def _reply(request: CtRequest, family: int, payload: bytes) -> bytes:
    return build_reply(
        request.message, nf.NFNL_SUBSYS_CTNETLINK, nf.IPCTNL_MSG_CT_NEW,
        family, payload, flags=NLM_F_DUMP_FILTERED if request.filtered else 0)


def stats_reply(request: CtRequest, entries: int, max_entries: int) -> bytes:
    """To IPCTNL_MSG_CT_GET_STATS: how many connections there are and may
    be."""
    return build_reply(
        request.message, nf.NFNL_SUBSYS_CTNETLINK, nf.IPCTNL_MSG_CT_GET_STATS,
        0, nla_be32(nf.CTA_STATS_GLOBAL_ENTRIES, entries)
        + nla_be32(nf.CTA_STATS_GLOBAL_MAX_ENTRIES, max_entries))


CPU_STATS = {
    "found": nf.CTA_STATS_FOUND, "invalid": nf.CTA_STATS_INVALID,
    "insert": nf.CTA_STATS_INSERT,
    "insert_failed": nf.CTA_STATS_INSERT_FAILED, "drop": nf.CTA_STATS_DROP,
    "early_drop": nf.CTA_STATS_EARLY_DROP, "error": nf.CTA_STATS_ERROR,
    "search_restart": nf.CTA_STATS_SEARCH_RESTART,
    "clash_resolve": nf.CTA_STATS_CLASH_RESOLVE,
    "chain_toolong": nf.CTA_STATS_CHAIN_TOOLONG,
}
"""Counters of a CPU, in the kernel's order."""


def cpu_stats_reply(request: CtRequest, cpu: int,
                    counters: Mapping[str, int]) -> bytes:
    """One reply to a dump of IPCTNL_MSG_CT_GET_STATS_CPU.

    :param counters: those of CPU_STATS that there are; others are 0.  Their
        lower 32 bits are shown.
    """
    return build_reply(
        request.message, nf.NFNL_SUBSYS_CTNETLINK,
        nf.IPCTNL_MSG_CT_GET_STATS_CPU, 0,
        b"".join(nla_be32(kind, counters.get(name, 0) & 0xffffffff)
                 for name, kind in CPU_STATS.items()), cpu)
