# SPDX-License-Identifier: Apache-2.0
"""NFNL_SUBSYS_CTNETLINK_TIMEOUT: timeout policies by name, and the default.

Formats: <linux/netfilter/nfnetlink_cttimeout.h>; what is refused, and how:
Linux net/netfilter/nfnetlink_cttimeout.c of 6.1 and 6.12.  A policy is of one
family and one protocol, and has a timeout for each state of that; OVS makes
six of each of its own, ovs_tp_ID_tcp4 and the like.

All timeouts are in seconds.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field

from dpif_bpf.errors import RequestError, decoder
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.netlink import (
    NLA_HDRLEN,
    NLM_F_EXCL,
    Attrs,
    Message,
    Policy,
    binary,
    exactly,
    nested,
    nla,
    nla_u8,
    parse_attrs,
)
from dpif_bpf.wire.nfnetlink import (
    ATTRS_POS,
    BE16,
    BE32,
    build_reply,
    is_dump,
    nest,
    nla_be16,
    nla_be32,
    parse_nfgen,
)
from dpif_bpf.wire.protocols import (
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_RAW,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
)

NLM_F_REPLACE = 0x100

GENERIC = IPPROTO_RAW
"""What stands for all protocols that have no tracker of their own."""

STATES: Mapping[int, int] = {
    IPPROTO_TCP: nf.CTA_TIMEOUT_TCP_UNACK,
    IPPROTO_UDP: nf.CTA_TIMEOUT_UDP_REPLIED,
    IPPROTO_UDPLITE: nf.CTA_TIMEOUT_UDPLITE_REPLIED,
    IPPROTO_ICMP: nf.CTA_TIMEOUT_ICMP_TIMEOUT,
    IPPROTO_ICMPV6: nf.CTA_TIMEOUT_ICMPV6_TIMEOUT,
    IPPROTO_SCTP: nf.CTA_TIMEOUT_SCTP_HEARTBEAT_ACKED,
    IPPROTO_GRE: nf.CTA_TIMEOUT_GRE_REPLIED,
    GENERIC: nf.CTA_TIMEOUT_GENERIC_TIMEOUT,
}
"""Protocols that have timeouts, and how many: attributes 1 to that."""

Timeouts = tuple[int, ...]
"""Seconds; the first is that of attribute 1."""

_POLICY: Policy = {
    nf.CTA_TIMEOUT_NAME: binary("CTA_TIMEOUT_NAME"),
    nf.CTA_TIMEOUT_L3PROTO: exactly("CTA_TIMEOUT_L3PROTO", 2),
    nf.CTA_TIMEOUT_L4PROTO: exactly("CTA_TIMEOUT_L4PROTO", 1),
    nf.CTA_TIMEOUT_DATA: nested("CTA_TIMEOUT_DATA"),
    nf.CTA_TIMEOUT_USE: binary("CTA_TIMEOUT_USE"),
}

_DATA_POLICIES: Mapping[int, Policy] = {
    proto: {kind: exactly(f"timeout {kind} of IP protocol {proto}", 4)
            for kind in range(1, count + 1)}
    for proto, count in STATES.items()}


@dataclass(frozen=True, slots=True)
class TimeoutPolicy:
    """A policy, or the default of a protocol.

    :param name: 1 to 31 characters; empty for the default
    :param l3num: AF_INET or AF_INET6, or what else the peer says
    :param proto: one of STATES
    :param timeouts: as many as STATES says
    """

    name: str
    l3num: int
    proto: int
    timeouts: Timeouts


@dataclass(frozen=True, slots=True)
class TimeoutRequest:
    """IPCTNL_MSG_TIMEOUT_*.

    :param message: the netlink message, for the reply's header
    :param cmd: IPCTNL_MSG_TIMEOUT_*
    :param name: of NEW and GET; of DELETE empty for all
    :param l3num: of NEW, DEFAULT_SET and DEFAULT_GET
    :param proto: likewise
    :param timeouts: those that NEW and DEFAULT_SET give, by attribute
    :param replace: a policy of that name is changed (NLM_F_REPLACE)
    :param exclusive: it is an error that there is one (NLM_F_EXCL)
    :param dump: all are asked for
    """

    message: Message
    cmd: int
    name: str = ""
    l3num: int = 0
    proto: int = 0
    timeouts: Mapping[int, int] = field(default_factory=dict)
    replace: bool = False
    exclusive: bool = False
    dump: bool = False


def _need(attrs: Attrs, *kinds: int) -> None:
    for kind in kinds:
        if kind not in attrs:
            raise RequestError(errno.EINVAL,
                               f"{_POLICY[kind].name} is missing")


def _name(raw: bytes, attrs: Attrs) -> str:
    """Of a policy; empty without one.  What an action calls it is read the
    same way."""
    if nf.CTA_TIMEOUT_NAME not in attrs:
        return ""
    start, stop = attrs[nf.CTA_TIMEOUT_NAME]
    nul = raw.find(b"\0", start, min(stop, start + nf.CTNL_TIMEOUT_NAME_MAX))
    if nul <= start:
        raise RequestError(
            errno.EINVAL, "CTA_TIMEOUT_NAME is no text of 1 to"
            f" {nf.CTNL_TIMEOUT_NAME_MAX - 1} bytes and a NUL",
            start - NLA_HDRLEN)
    return raw[start:nul].decode(errors="surrogateescape")


def _numbers(raw: bytes, attrs: Attrs) -> tuple[int, int]:
    """l3num and protocol, 0 without them."""
    l3num = proto = 0
    if nf.CTA_TIMEOUT_L3PROTO in attrs:
        l3num = BE16.unpack_from(raw, attrs[nf.CTA_TIMEOUT_L3PROTO][0])[0]
    if nf.CTA_TIMEOUT_L4PROTO in attrs:
        proto = raw[attrs[nf.CTA_TIMEOUT_L4PROTO][0]]
    return l3num, proto


@decoder
def decode_timeout(message: Message) -> TimeoutRequest:
    """A request of NFNL_SUBSYS_CTNETLINK_TIMEOUT.

    The timeouts are those of the protocol, which may not have any: then they
    are left alone, for what else may be wrong comes first.

    :raises RequestError: EINVAL, ERANGE
    """
    cmd, _, _ = parse_nfgen(message)
    raw = message.raw
    if cmd > nf.IPCTNL_MSG_TIMEOUT_DEFAULT_GET:
        raise RequestError(errno.EINVAL,
                           f"message {cmd} of timeouts is unknown")
    attrs = parse_attrs(raw, ATTRS_POS, len(raw), _POLICY)
    name = _name(raw, attrs)
    l3num, proto = _numbers(raw, attrs)
    if cmd == nf.IPCTNL_MSG_TIMEOUT_NEW:
        _need(attrs, nf.CTA_TIMEOUT_NAME, nf.CTA_TIMEOUT_L3PROTO,
              nf.CTA_TIMEOUT_L4PROTO, nf.CTA_TIMEOUT_DATA)
        return TimeoutRequest(
            message, cmd, name, l3num, proto, _data(raw, attrs, proto),
            bool(message.flags & NLM_F_REPLACE),
            bool(message.flags & NLM_F_EXCL))
    if cmd == nf.IPCTNL_MSG_TIMEOUT_GET:
        if is_dump(message):
            return TimeoutRequest(message, cmd, dump=True)
        _need(attrs, nf.CTA_TIMEOUT_NAME)
    elif cmd == nf.IPCTNL_MSG_TIMEOUT_DEFAULT_SET:
        _need(attrs, nf.CTA_TIMEOUT_L4PROTO, nf.CTA_TIMEOUT_DATA)
        return TimeoutRequest(message, cmd, "", l3num, proto,
                              _data(raw, attrs, proto))
    elif cmd == nf.IPCTNL_MSG_TIMEOUT_DEFAULT_GET:
        _need(attrs, nf.CTA_TIMEOUT_L3PROTO, nf.CTA_TIMEOUT_L4PROTO)
    return TimeoutRequest(message, cmd, name, l3num, proto)


def _data(raw: bytes, attrs: Attrs, proto: int) -> dict[int, int]:
    policy = _DATA_POLICIES.get(proto)
    if policy is None:
        return {}
    found = parse_attrs(raw, *attrs[nf.CTA_TIMEOUT_DATA], policy)
    return {kind: BE32.unpack_from(raw, where[0])[0]
            for kind, where in found.items()}


def _timeouts(policy: TimeoutPolicy) -> bytes:
    return nest(nf.CTA_TIMEOUT_DATA, *(
        nla_be32(kind, value)
        for kind, value in enumerate(policy.timeouts, 1)))


def timeout_reply(request: TimeoutRequest, policy: TimeoutPolicy,
                  use: int) -> bytes:
    """A policy that was asked for, alone or in a dump.

    :param use: how often it is referred to, with 1 for that it is there
    """
    return build_reply(
        request.message, nf.NFNL_SUBSYS_CTNETLINK_TIMEOUT,
        nf.IPCTNL_MSG_TIMEOUT_NEW, 0,
        nla(nf.CTA_TIMEOUT_NAME,
            policy.name.encode(errors="surrogateescape") + b"\0")
        + nla_be16(nf.CTA_TIMEOUT_L3PROTO, policy.l3num)
        + nla_u8(nf.CTA_TIMEOUT_L4PROTO, policy.proto)
        + nla_be32(nf.CTA_TIMEOUT_USE, use) + _timeouts(policy))


def default_reply(request: TimeoutRequest, policy: TimeoutPolicy) -> bytes:
    """The default of a protocol, to DEFAULT_GET."""
    return build_reply(
        request.message, nf.NFNL_SUBSYS_CTNETLINK_TIMEOUT,
        nf.IPCTNL_MSG_TIMEOUT_DEFAULT_SET, 0,
        nla_be16(nf.CTA_TIMEOUT_L3PROTO, policy.l3num)
        + nla_u8(nf.CTA_TIMEOUT_L4PROTO, policy.proto) + _timeouts(policy))
