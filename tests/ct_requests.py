# SPDX-License-Identifier: Apache-2.0
"""Requests of ctnetlink, good and bad."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from errno import EINVAL, ENOENT, EOPNOTSUPP, ERANGE

from ct_entries import A4, A6, B4, B6

from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_tuple import AF_INET, AF_INET6, CtTuple, Ends, ends
from dpif_bpf.wire.netlink import NLM_F_DUMP, NLM_F_REQUEST, Message, nla
from dpif_bpf.wire.nfnetlink import build_nf, nest, nla_be16, nla_be32

__all__ = ["ENOENT", "REFUSED", "Refused", "filters", "mark", "message",
           "name"]

CT = nf.NFNL_SUBSYS_CTNETLINK
NEW, GET, DELETE = (nf.IPCTNL_MSG_CT_NEW, nf.IPCTNL_MSG_CT_GET,
                    nf.IPCTNL_MSG_CT_DELETE)


def message(cmd: int, family: int = 0, payload: bytes = b"", flags: int = 0,
            seq: int = 1, pid: int = 9, version: int = 0,
            subsys: int = CT) -> Message:
    raw = bytearray(build_nf(subsys, cmd, NLM_F_REQUEST | flags, seq, pid,
                             family, payload))
    raw[17] = version
    return Message(subsys << 8 | cmd, NLM_F_REQUEST | flags, seq, pid,
                   bytes(raw))


def ip(one: CtTuple) -> bytes:
    first = nf.CTA_IP_V4_SRC if one.family == AF_INET else nf.CTA_IP_V6_SRC
    return nla(nf.CTA_TUPLE_IP,
               nla(first, one.src) + nla(first + 1, one.dst))


def proto(one: CtTuple) -> bytes:
    data = nla(nf.CTA_PROTO_NUM, bytes([one.proto]))
    kind = ends(one.proto)
    if kind is Ends.PORTS:
        data += nla_be16(nf.CTA_PROTO_SRC_PORT, one.sport) + nla_be16(
            nf.CTA_PROTO_DST_PORT, one.dport)
    elif kind is not Ends.NOTHING:
        first = (nf.CTA_PROTO_ICMP_ID if kind is Ends.ICMP
                 else nf.CTA_PROTO_ICMPV6_ID)
        data += nla_be16(first, one.sport) + nla(
            first + 1, bytes([one.dport >> 8])) + nla(
                first + 2, bytes([one.dport & 0xff]))
    return nla(nf.CTA_TUPLE_PROTO, data)


def tuple_(one: CtTuple, *more: bytes, reply: bool = False) -> bytes:
    return nla(nf.CTA_TUPLE_REPLY if reply else nf.CTA_TUPLE_ORIG,
               ip(one) + proto(one) + b"".join(more))


def name(one: CtTuple, zone: int | None = None, id_: int | None = None,
         tuple_zone: int | None = None, reply: bool = False) -> bytes:
    """As OVS names a connection, without NLA_F_NESTED."""
    parts = []
    if zone is not None:
        parts.append(nla_be16(nf.CTA_ZONE, zone))
    parts.append(tuple_(
        one, *([] if tuple_zone is None
               else [nla_be16(nf.CTA_TUPLE_ZONE, tuple_zone)]), reply=reply))
    if id_ is not None:
        parts.append(nla_be32(nf.CTA_ID, id_))
    return b"".join(parts)


def flags(orig: int | None = None, reply: int | None = None) -> bytes:
    parts = []
    if orig is not None:
        parts.append(nla(nf.CTA_FILTER_ORIG_FLAGS, struct.pack("=I", orig)))
    if reply is not None:
        parts.append(nla(nf.CTA_FILTER_REPLY_FLAGS,
                         struct.pack("=I", reply)))
    return nest(nf.CTA_FILTER, *parts)


TCP = CtTuple(AF_INET, 6, A4, B4, 1000, 80)
TCP6 = CtTuple(AF_INET6, 6, A6, B6, 1003, 80)
ICMP = CtTuple(AF_INET, 1, A4, B4, 77, 8 << 8)
ICMPV6 = CtTuple(AF_INET6, 58, A6, B6, 77, 128 << 8)
UDP = CtTuple(AF_INET, 17, A4, B4, 1000, 53)
_IP = nf.CTA_FILTER_F_CTA_IP_SRC | nf.CTA_FILTER_F_CTA_IP_DST
_NUM = nf.CTA_FILTER_F_CTA_PROTO_NUM
_SRC = nf.CTA_FILTER_F_CTA_PROTO_SRC_PORT
_DST = nf.CTA_FILTER_F_CTA_PROTO_DST_PORT


def mark(value: int, mask: int | None = None) -> bytes:
    data = nla_be32(nf.CTA_MARK, value)
    return data if mask is None else data + nla_be32(nf.CTA_MARK_MASK, mask)


def status(value: int, mask: int | None = None) -> bytes:
    data = nla_be32(nf.CTA_STATUS, value)
    return (data if mask is None
            else data + nla_be32(nf.CTA_STATUS_MASK, mask))


def filters() -> dict[str, tuple[int, bytes]]:
    """Family and attributes; each matches some of ct_entries.entries()."""
    return {
        "ipv4": (AF_INET, b""), "ipv6": (AF_INET6, b""),
        "zone 0": (0, nla_be16(nf.CTA_ZONE, 0)),
        "zone 7": (0, nla_be16(nf.CTA_ZONE, 7)),
        "zone 3, ipv6": (AF_INET6, nla_be16(nf.CTA_ZONE, 3)),
        "mark": (0, mark(0xdeadbeef)),
        "mark 0": (0, mark(0)),
        "mark, masked": (0, mark(0xef, 0xff)),
        "mark 0, no mask": (0, mark(0, 0)),
        "assured": (0, status(nf.IPS_ASSURED)),
        "seen, not assured": (0, status(
            nf.IPS_SEEN_REPLY, nf.IPS_SEEN_REPLY | nf.IPS_ASSURED)),
        "not seen": (0, status(0, nf.IPS_SEEN_REPLY)),
        "all of it": (AF_INET, nla_be16(nf.CTA_ZONE, 7) + mark(0xdeadbeef)
                      + status(0, nf.IPS_ASSURED)),
        "source": (AF_INET, tuple_(TCP) + flags(nf.CTA_FILTER_F_CTA_IP_SRC)),
        "addresses of the reply": (AF_INET, tuple_(
            TCP.reversed(), reply=True) + flags(reply=_IP)),
        "protocol": (AF_INET, tuple_(TCP) + flags(_NUM)),
        "protocol without addresses": (AF_INET6, nla(
            nf.CTA_TUPLE_ORIG, proto(TCP6)) + flags(_NUM)),
        "source port": (AF_INET6, tuple_(TCP6) + flags(_NUM | _SRC)),
        "ports": (AF_INET, tuple_(TCP) + flags(_IP | _NUM | _SRC | _DST)),
        "both directions": (AF_INET, tuple_(TCP) + tuple_(
            TCP.reversed(), reply=True) + flags(_NUM | _DST, _NUM | _DST)),
        "udp port": (AF_INET, tuple_(UDP) + flags(_NUM | _SRC)),
        "icmp type": (AF_INET, tuple_(ICMP) + flags(
            _NUM | nf.CTA_FILTER_F_CTA_PROTO_ICMP_TYPE)),
        "icmp id and code": (AF_INET, tuple_(ICMP) + flags(
            _NUM | nf.CTA_FILTER_F_CTA_PROTO_ICMP_ID
            | nf.CTA_FILTER_F_CTA_PROTO_ICMP_CODE)),
        "icmpv6": (AF_INET6, tuple_(ICMPV6) + flags(
            _NUM | nf.CTA_FILTER_F_CTA_PROTO_ICMPV6_TYPE
            | nf.CTA_FILTER_F_CTA_PROTO_ICMPV6_ID
            | nf.CTA_FILTER_F_CTA_PROTO_ICMPV6_CODE)),
        "no flags": (AF_INET, tuple_(TCP) + flags(0)),
    }


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is refused.

    :param kernel: the kernel's errno, when it is another
    """

    name: str
    cmd: int
    payload: bytes
    errno: int = EINVAL
    family: int = AF_INET
    flags: int = 0
    version: int = 1
    kernel: int | None = None


def _orig(*parts: bytes) -> bytes:
    return nla(nf.CTA_TUPLE_ORIG, b"".join(parts))


def _ports(*parts: bytes, number: int = 6) -> bytes:
    return nla(nf.CTA_TUPLE_PROTO, nla(nf.CTA_PROTO_NUM, bytes([number]))
               + b"".join(parts))


def _refused() -> list[Refused]:
    found: list[Refused] = []
    src, dst = nla(nf.CTA_IP_V4_SRC, A4), nla(nf.CTA_IP_V4_DST, B4)
    sport = nla_be16(nf.CTA_PROTO_SRC_PORT, 1)
    dport = nla_be16(nf.CTA_PROTO_DST_PORT, 2)
    for cmd in (GET, DELETE):
        for what, payload, code in (
                ("no addresses", _orig(proto(TCP)), EINVAL),
                ("no protocol", _orig(ip(TCP)), EINVAL),
                ("empty", _orig(), EINVAL),
                ("no source", _orig(nla(nf.CTA_TUPLE_IP, dst), proto(TCP)),
                 EINVAL),
                ("no destination", _orig(nla(nf.CTA_TUPLE_IP, src),
                                         proto(TCP)), EINVAL),
                ("addresses of v6", _orig(ip(TCP6), proto(TCP)), EINVAL),
                ("short address", _orig(nla(
                    nf.CTA_TUPLE_IP, nla(nf.CTA_IP_V4_SRC, A4[:3]) + dst),
                    proto(TCP)), ERANGE),
                ("short address of v6", _orig(nla(
                    nf.CTA_TUPLE_IP, src + dst + nla(nf.CTA_IP_V6_SRC, A4)),
                    proto(TCP)), ERANGE),
                ("no number", _orig(ip(TCP), nla(
                    nf.CTA_TUPLE_PROTO, sport + dport)), EINVAL),
                ("empty number", _orig(ip(TCP), nla(
                    nf.CTA_TUPLE_PROTO, nla(nf.CTA_PROTO_NUM, b""))),
                 ERANGE),
                ("no source port", _orig(ip(TCP), _ports(dport)), EINVAL),
                ("no destination port", _orig(ip(TCP), _ports(sport)),
                 EINVAL),
                ("short port", _orig(ip(TCP), _ports(
                    nla(nf.CTA_PROTO_SRC_PORT, b"\1"), dport)), ERANGE),
                ("udp without ports", _orig(ip(UDP), _ports(number=17)),
                 EINVAL),
                ("icmp with ports", _orig(ip(TCP), _ports(
                    sport, dport, number=1)), EINVAL),
                ("icmp without id", _orig(ip(TCP), _ports(
                    nla(nf.CTA_PROTO_ICMP_TYPE, b"\x08"),
                    nla(nf.CTA_PROTO_ICMP_CODE, b"\0"), number=1)), EINVAL),
                ("icmp unreachable", tuple_(
                    CtTuple(AF_INET, 1, A4, B4, 1, 3 << 8)), EINVAL),
                ("zone and zone", nla_be16(nf.CTA_ZONE, 1) + tuple_(
                    TCP, nla_be16(nf.CTA_TUPLE_ZONE, 1)), EINVAL),
                ("short zone of a tuple", tuple_(
                    TCP, nla(nf.CTA_TUPLE_ZONE, b"\0")), ERANGE),
                ("short zone", nla(nf.CTA_ZONE, b"\0") + tuple_(TCP),
                 ERANGE),
                ("short id", tuple_(TCP) + nla(nf.CTA_ID, b"\0"), ERANGE),
                ("short tuple", nla(nf.CTA_TUPLE_ORIG, b"\0\0"), ERANGE)):
            found.append(Refused(f"{cmd}: {what}", cmd, payload, code))
        found += [
            Refused(f"{cmd}: family 0", cmd, tuple_(TCP), EOPNOTSUPP, 0),
            Refused(f"{cmd}: family 7", cmd, tuple_(TCP), EOPNOTSUPP, 7),
            Refused(f"{cmd}: icmpv6 type 127", cmd, tuple_(
                CtTuple(AF_INET6, 58, A6, B6, 1, 127 << 8)), EINVAL,
                AF_INET6),
            Refused(f"{cmd}: v6 without source", cmd, _orig(nla(
                nf.CTA_TUPLE_IP, nla(nf.CTA_IP_V6_DST, A6)), proto(TCP)),
                EINVAL, AF_INET6),
            Refused(f"{cmd}: unknown attribute", cmd,
                    tuple_(TCP) + nla(60, bytes(4)), kernel=0),
            Refused(f"{cmd}: long zone", cmd,
                    nla(nf.CTA_ZONE, bytes(4)) + tuple_(TCP), kernel=0),
        ]
    found.append(Refused("get: nothing", GET, b""))
    for cmd, more in ((GET, NLM_F_DUMP), (DELETE, 0)):
        for what, payload, code in (
                ("status mask 0", status(1, 0), EINVAL),
                ("status 0", status(0), EINVAL),
                ("status mask alone", nla_be32(nf.CTA_STATUS_MASK, 1),
                 EINVAL),
                ("mark mask alone", nla_be32(nf.CTA_MARK_MASK, 1), EINVAL),
                ("short mark", nla(nf.CTA_MARK, b"\0"), ERANGE),
                ("filter without tuple", flags(1), EINVAL),
                ("filter without reply", tuple_(TCP) + flags(0, 1), EINVAL),
                ("filter not nested", tuple_(TCP) + nla(
                    nf.CTA_FILTER, nla(1, struct.pack("=I", 1))), EINVAL),
                ("filter with unknown bits", tuple_(TCP) + flags(1 << 12),
                 EINVAL),
                ("filter, short flags", tuple_(TCP) + nest(
                    nf.CTA_FILTER, nla(1, b"\1")), EINVAL),
                ("filter, long flags", tuple_(TCP) + nest(
                    nf.CTA_FILTER, nla(1, bytes(8))), EINVAL),
                ("filter, unknown", tuple_(TCP) + nest(
                    nf.CTA_FILTER, nla(3, bytes(4))), EINVAL),
                ("filter for ports of any protocol",
                 tuple_(TCP) + flags(_SRC), EINVAL),
                ("filter for a port that is missing",
                 _orig(ip(TCP), _ports(dport)) + flags(_NUM | _SRC),
                 EINVAL),
                ("filter for addresses that are missing",
                 _orig(proto(TCP)) + flags(_IP), EINVAL)):
            found.append(Refused(f"{cmd}, all: {what}", cmd, payload, code,
                                 flags=more))
        found.append(Refused(
            f"{cmd}, all: filter of family 7", cmd, tuple_(TCP) + flags(1),
            EOPNOTSUPP, 7, more))
    found += [
        Refused("new", NEW, tuple_(TCP), EOPNOTSUPP, kernel=0),
        Refused("message 8", 8, b""), Refused("message 255", 255, b""),
        Refused("dying", nf.IPCTNL_MSG_CT_GET_DYING, b"", EOPNOTSUPP),
        Refused("unconfirmed", nf.IPCTNL_MSG_CT_GET_UNCONFIRMED, b"",
                EOPNOTSUPP),
        Refused("stray bytes", GET, tuple_(TCP) + b"\0\0\0", kernel=0),
    ]
    return found


REFUSED = _refused()
