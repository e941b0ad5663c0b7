# SPDX-License-Identifier: Apache-2.0
"""The family ovs_ct_limit: how many connections a zone may have.

Formats: <linux/openvswitch.h>, Linux net/openvswitch/conntrack.c.  A request
has an array of struct ovs_zone_limit, whose zone -1 is what holds for zones
that have no limit of their own; 0 stands for no limit.

Stricter than the kernel, which passes over a zone that is none and over what
is left of the array: both are EINVAL here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass

from dpif_bpf.errors import RequestError, decoder
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import ATTRS_POS, parse_genl
from dpif_bpf.wire.netlink import (
    GENLMSGHDR,
    NLA_HDRLEN,
    Message,
    Policy,
    build,
    nested,
    nla,
    parse_attrs,
)

DEFAULT_ZONE = uapi.OVS_ZONE_LIMIT_DEFAULT_ZONE
_ZONES = 1 << 16

_POLICY: Policy = {
    uapi.OVS_CT_LIMIT_ATTR_ZONE_LIMIT: nested("OVS_CT_LIMIT_ATTR_ZONE_LIMIT"),
}


@dataclass(frozen=True, slots=True)
class ZoneLimit:
    """struct ovs_zone_limit.

    :param zone: 0 to 65535, or DEFAULT_ZONE
    :param limit: connections; 0: as many as may be
    :param count: connections that there are, only in replies
    """

    zone: int
    limit: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class LimitRequest:
    """OVS_CT_LIMIT_CMD_*.

    :param message: the netlink message, for the reply's header
    :param cmd: OVS_CT_LIMIT_CMD_*
    :param dp_ifindex: comes back in the reply, and is not looked at
    :param zones: those of the request, in its order; None: all, of GET
    """

    message: Message
    cmd: int
    dp_ifindex: int
    zones: tuple[ZoneLimit, ...] | None


@decoder
def decode_limit(message: Message) -> LimitRequest:
    """A request of the family.

    :raises RequestError: EINVAL, ERANGE, EOPNOTSUPP
    """
    cmd, _, dp_ifindex = parse_genl(message)
    raw = message.raw
    if cmd not in (uapi.OVS_CT_LIMIT_CMD_SET, uapi.OVS_CT_LIMIT_CMD_DEL,
                   uapi.OVS_CT_LIMIT_CMD_GET):
        raise RequestError(errno.EOPNOTSUPP,
                           f"command {cmd} of ovs_ct_limit is unknown")
    attrs = parse_attrs(raw, ATTRS_POS, len(raw), _POLICY)
    where = attrs.get(uapi.OVS_CT_LIMIT_ATTR_ZONE_LIMIT)
    if where is None:
        if cmd != uapi.OVS_CT_LIMIT_CMD_GET:
            raise RequestError(errno.EINVAL,
                               "OVS_CT_LIMIT_ATTR_ZONE_LIMIT is missing")
        return LimitRequest(message, cmd, dp_ifindex, None)
    return LimitRequest(message, cmd, dp_ifindex,
                        tuple(_zones(raw, *where)))


def _zones(raw: bytes, start: int, stop: int) -> list[ZoneLimit]:
    size = uapi.OVS_ZONE_LIMIT.size
    if (stop - start) % size:
        raise RequestError(
            errno.EINVAL, f"OVS_CT_LIMIT_ATTR_ZONE_LIMIT has {stop - start}"
            f" bytes, which is no array of {size} bytes each",
            start - NLA_HDRLEN)
    found = []
    for pos in range(start, stop, size):
        zone, limit, _ = uapi.OVS_ZONE_LIMIT.unpack_from(raw, pos)
        if zone != DEFAULT_ZONE and not 0 <= zone < _ZONES:
            raise RequestError(errno.EINVAL, f"there is no zone {zone}",
                               start - NLA_HDRLEN)
        found.append(ZoneLimit(zone, limit))
    return found


def limit_reply(request: LimitRequest,
                zones: Iterable[ZoneLimit] | None = None) -> bytes:
    """The reply, which SET and DEL have as well, without `zones`."""
    payload = GENLMSGHDR.pack(request.cmd, uapi.OVS_CT_LIMIT_VERSION, 0)
    payload += uapi.OVS_HEADER.pack(request.dp_ifindex)
    if zones is not None:
        payload += nla(uapi.OVS_CT_LIMIT_ATTR_ZONE_LIMIT, b"".join(
            uapi.OVS_ZONE_LIMIT.pack(one.zone, one.limit, one.count)
            for one in zones))
    message = request.message
    return build(message.type, 0, message.seq, message.pid, payload)
