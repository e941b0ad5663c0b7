# SPDX-License-Identifier: Apache-2.0
"""Tuples of connections in ctnetlink: what both ends are called.

What is refused, and how, is as in Linux net/netfilter/nf_conntrack_netlink.c
(ctnetlink_parse_tuple_filter()) and the nf_conntrack_proto_*.c, which say what
a protocol has in place of ports.  An attribute that is too long is refused as
well.
"""

from __future__ import annotations

import enum
import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from dpif_bpf.errors import RequestError
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.netlink import (
    NLA_HDRLEN,
    Attrs,
    Policy,
    binary,
    exactly,
    nested,
    parse_attrs,
)
from dpif_bpf.wire.nfnetlink import BE16
from dpif_bpf.wire.protocols import (
    IPPROTO_DCCP,
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
)

AF_INET = int(socket.AF_INET)
AF_INET6 = int(socket.AF_INET6)


class Ends(enum.Enum):
    """What tells the ends of a protocol apart, besides their addresses."""

    NOTHING = 0
    PORTS = 1
    ICMP = 2
    ICMPV6 = 3


_ENDS: Mapping[int, Ends] = {
    IPPROTO_ICMP: Ends.ICMP, IPPROTO_ICMPV6: Ends.ICMPV6,
    **dict.fromkeys((IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, IPPROTO_SCTP,
                     IPPROTO_DCCP, IPPROTO_GRE), Ends.PORTS)}


def ends(proto: int) -> Ends:
    """Of an IP protocol.  GRE has keys, which are called ports."""
    return _ENDS.get(proto, Ends.NOTHING)


ICMP_PAIRS: Mapping[int, Mapping[int, int]] = {
    IPPROTO_ICMP: {0: 8, 8: 0, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18,
                   18: 17},
    IPPROTO_ICMPV6: {128: 129, 129: 128, 139: 140, 140: 139},
}
"""Types of messages that begin or are part of a connection, and that of the
answer: by protocol and type."""


@dataclass(frozen=True, slots=True)
class CtTuple:
    """One direction of a connection.

    :param family: AF_INET or AF_INET6
    :param proto: IP protocol
    :param src: address of 4 or 16 bytes
    :param dst: address
    :param sport: port in host order; of ICMP the id, in both directions
    :param dport: port in host order; of ICMP type << 8 | code
    """

    family: int
    proto: int
    src: bytes
    dst: bytes
    sport: int = 0
    dport: int = 0

    def reversed(self) -> CtTuple:
        """What answers it, without NAT.

        :raises KeyError: an ICMP message to which there is no answer
        """
        sport, dport = self.dport, self.sport
        if self.proto in ICMP_PAIRS:
            kind = ICMP_PAIRS[self.proto][self.dport >> 8]
            sport, dport = self.sport, kind << 8 | self.dport & 0xff
        return CtTuple(self.family, self.proto, self.dst, self.src, sport,
                       dport)


@dataclass(frozen=True, slots=True)
class TupleFilter:
    """A tuple of which only a part is compared.

    :param tuple: zero where nothing is compared
    :param flags: CTA_FILTER_F_*
    """

    tuple: CtTuple
    flags: int

    def matches(self, other: CtTuple) -> bool:
        mine, flags = self.tuple, self.flags
        if ((flags & nf.CTA_FILTER_F_CTA_IP_SRC and mine.src != other.src)
                or (flags & nf.CTA_FILTER_F_CTA_IP_DST
                and mine.dst != other.dst)):
            return False
        if not flags & nf.CTA_FILTER_F_CTA_PROTO_NUM:
            return True
        if mine.proto != other.proto:
            return False
        sport, dport = port_masks(mine.proto, flags)
        return not ((mine.sport ^ other.sport) & sport
                    or (mine.dport ^ other.dport) & dport)


def port_masks(proto: int, flags: int) -> tuple[int, int]:
    """Bits of sport and of dport that CTA_FILTER_F_* say are compared."""
    found = _FLAGS[ends(proto)]
    masks = [0, 0]
    for flag, (place, mask) in found.items():
        if flags & flag:
            masks[place] |= mask
    return masks[0], masks[1]


_FLAGS: Mapping[Ends, Mapping[int, tuple[int, int]]] = {
    Ends.NOTHING: {},
    Ends.PORTS: {nf.CTA_FILTER_F_CTA_PROTO_SRC_PORT: (0, 0xffff),
                 nf.CTA_FILTER_F_CTA_PROTO_DST_PORT: (1, 0xffff)},
    Ends.ICMP: {nf.CTA_FILTER_F_CTA_PROTO_ICMP_ID: (0, 0xffff),
                nf.CTA_FILTER_F_CTA_PROTO_ICMP_TYPE: (1, 0xff00),
                nf.CTA_FILTER_F_CTA_PROTO_ICMP_CODE: (1, 0xff)},
    Ends.ICMPV6: {nf.CTA_FILTER_F_CTA_PROTO_ICMPV6_ID: (0, 0xffff),
                  nf.CTA_FILTER_F_CTA_PROTO_ICMPV6_TYPE: (1, 0xff00),
                  nf.CTA_FILTER_F_CTA_PROTO_ICMPV6_CODE: (1, 0xff)},
}
"""By flag: 0 of sport or 1 of dport, and its bits."""

_ADDRESSES = nf.CTA_FILTER_F_CTA_IP_SRC | nf.CTA_FILTER_F_CTA_IP_DST
_NUMBERS = (nf.CTA_FILTER_F_ALL & ~_ADDRESSES
            & ~nf.CTA_FILTER_F_CTA_TUPLE_ZONE
            & ~nf.CTA_FILTER_F_CTA_PROTO_NUM)
"""Those flags that say something of a certain protocol."""

_TUPLE_POLICY: Policy = {
    nf.CTA_TUPLE_IP: nested("CTA_TUPLE_IP"),
    nf.CTA_TUPLE_PROTO: nested("CTA_TUPLE_PROTO"),
    nf.CTA_TUPLE_ZONE: exactly("CTA_TUPLE_ZONE", 2),
}
_IP_POLICY: Policy = {
    nf.CTA_IP_V4_SRC: exactly("CTA_IP_V4_SRC", 4),
    nf.CTA_IP_V4_DST: exactly("CTA_IP_V4_DST", 4),
    nf.CTA_IP_V6_SRC: exactly("CTA_IP_V6_SRC", 16),
    nf.CTA_IP_V6_DST: exactly("CTA_IP_V6_DST", 16),
}
_NAMES = {
    nf.CTA_PROTO_NUM: ("CTA_PROTO_NUM", 1),
    nf.CTA_PROTO_SRC_PORT: ("CTA_PROTO_SRC_PORT", 2),
    nf.CTA_PROTO_DST_PORT: ("CTA_PROTO_DST_PORT", 2),
    nf.CTA_PROTO_ICMP_ID: ("CTA_PROTO_ICMP_ID", 2),
    nf.CTA_PROTO_ICMP_TYPE: ("CTA_PROTO_ICMP_TYPE", 1),
    nf.CTA_PROTO_ICMP_CODE: ("CTA_PROTO_ICMP_CODE", 1),
    nf.CTA_PROTO_ICMPV6_ID: ("CTA_PROTO_ICMPV6_ID", 2),
    nf.CTA_PROTO_ICMPV6_TYPE: ("CTA_PROTO_ICMPV6_TYPE", 1),
    nf.CTA_PROTO_ICMPV6_CODE: ("CTA_PROTO_ICMPV6_CODE", 1),
}
_PARTS: Mapping[Ends, Mapping[int, tuple[int, int, int]]] = {
    Ends.NOTHING: {},
    Ends.PORTS: {
        nf.CTA_PROTO_SRC_PORT: (nf.CTA_FILTER_F_CTA_PROTO_SRC_PORT, 0, 0),
        nf.CTA_PROTO_DST_PORT: (nf.CTA_FILTER_F_CTA_PROTO_DST_PORT, 1, 0)},
    Ends.ICMP: {
        nf.CTA_PROTO_ICMP_TYPE: (nf.CTA_FILTER_F_CTA_PROTO_ICMP_TYPE, 1, 8),
        nf.CTA_PROTO_ICMP_CODE: (nf.CTA_FILTER_F_CTA_PROTO_ICMP_CODE, 1, 0),
        nf.CTA_PROTO_ICMP_ID: (nf.CTA_FILTER_F_CTA_PROTO_ICMP_ID, 0, 0)},
    Ends.ICMPV6: {
        nf.CTA_PROTO_ICMPV6_TYPE: (
            nf.CTA_FILTER_F_CTA_PROTO_ICMPV6_TYPE, 1, 8),
        nf.CTA_PROTO_ICMPV6_CODE: (
            nf.CTA_FILTER_F_CTA_PROTO_ICMPV6_CODE, 1, 0),
        nf.CTA_PROTO_ICMPV6_ID: (nf.CTA_FILTER_F_CTA_PROTO_ICMPV6_ID, 0, 0)},
}
"""By attribute: its flag, 0 for sport or 1 for dport, and how far it is
shifted to its place there."""


def _proto_policy(kind: Ends) -> Policy:
    """Only the protocol's own attributes have a size that matters."""
    own = {nf.CTA_PROTO_NUM, *_PARTS[kind]}
    return {attr: exactly(name, size) if attr in own else binary(name)
            for attr, (name, size) in _NAMES.items()}


_NUM_POLICY = _proto_policy(Ends.NOTHING)
_PROTO_POLICIES = {kind: _proto_policy(kind) for kind in Ends}


def _missing(name: str, start: int) -> RequestError:
    return RequestError(errno.EINVAL, f"{name} is missing",
                        start - NLA_HDRLEN)


def decode_tuple(buf: bytes, start: int, stop: int, family: int,
                 flags: int = nf.CTA_FILTER_F_ALL,
                 ) -> tuple[CtTuple, int | None]:
    """A tuple and its CTA_TUPLE_ZONE.

    :param start: of the payload of CTA_TUPLE_ORIG or CTA_TUPLE_REPLY
    :param family: of the message
    :param flags: which parts must be there; others are not looked at
    :raises RequestError: with the offset in `buf`; EOPNOTSUPP for another
        family than IPv4 and IPv6, EINVAL, ERANGE
    """
    found = parse_attrs(buf, start, stop, _TUPLE_POLICY)
    if family not in (AF_INET, AF_INET6):
        raise RequestError(errno.EOPNOTSUPP,
                           f"a tuple of address family {family}",
                           start - NLA_HDRLEN)
    size = 4 if family == AF_INET else 16
    src = dst = bytes(size)
    if flags & _ADDRESSES:
        src, dst = _decode_ip(buf, found, start, family, flags)
    proto, ports = 0, [0, 0]
    if flags & nf.CTA_FILTER_F_CTA_PROTO_NUM:
        proto, ports = _decode_proto(buf, found, start, flags)
    elif flags & _NUMBERS:
        raise RequestError(errno.EINVAL, "a filter for ports of no certain"
                           " protocol", start - NLA_HDRLEN)
    zone = None
    if (flags & nf.CTA_FILTER_F_CTA_TUPLE_ZONE
            and nf.CTA_TUPLE_ZONE in found):
        zone = BE16.unpack_from(buf, found[nf.CTA_TUPLE_ZONE][0])[0]
    return CtTuple(family, proto, src, dst, *ports), zone


def _decode_ip(buf: bytes, found: Attrs, start: int, family: int,
               flags: int) -> tuple[bytes, bytes]:
    if nf.CTA_TUPLE_IP not in found:
        raise _missing("CTA_TUPLE_IP", start)
    where = found[nf.CTA_TUPLE_IP]
    attrs = parse_attrs(buf, *where, _IP_POLICY)
    kinds = ((nf.CTA_IP_V4_SRC, nf.CTA_IP_V4_DST) if family == AF_INET
             else (nf.CTA_IP_V6_SRC, nf.CTA_IP_V6_DST))
    out = []
    for kind, flag in zip(kinds, (nf.CTA_FILTER_F_CTA_IP_SRC,
                                  nf.CTA_FILTER_F_CTA_IP_DST), strict=True):
        if not flags & flag:
            out.append(bytes(4 if family == AF_INET else 16))
        elif kind not in attrs:
            raise _missing(_IP_POLICY[kind].name, where[0])
        else:
            out.append(buf[slice(*attrs[kind])])
    return out[0], out[1]


def _decode_proto(buf: bytes, found: Attrs, start: int,
                  flags: int) -> tuple[int, list[int]]:
    if nf.CTA_TUPLE_PROTO not in found:
        raise _missing("CTA_TUPLE_PROTO", start)
    where = found[nf.CTA_TUPLE_PROTO]
    attrs = parse_attrs(buf, *where, _NUM_POLICY)
    if nf.CTA_PROTO_NUM not in attrs:
        raise _missing("CTA_PROTO_NUM", where[0])
    proto = buf[attrs[nf.CTA_PROTO_NUM][0]]
    kind = ends(proto)
    parse_attrs(buf, *where, _PROTO_POLICIES[kind])
    ports = [0, 0]
    for attr, (flag, place, shift) in _PARTS[kind].items():
        if not flags & flag:
            continue
        if attr not in attrs:
            raise _missing(_NAMES[attr][0], where[0])
        first, end = attrs[attr]
        value = int.from_bytes(buf[first:end], "big")
        if shift and value not in ICMP_PAIRS[proto]:
            raise RequestError(
                errno.EINVAL, f"{_NAMES[attr][0]} {value} is of no"
                " connection", first - NLA_HDRLEN)
        ports[place] |= value << shift
    return proto, ports
