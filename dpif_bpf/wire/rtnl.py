# SPDX-License-Identifier: Apache-2.0
"""rtnetlink messages about devices: the few that are read again and again.

Source: <linux/rtnetlink.h>, <linux/if_link.h>.  What changes the machine is
written by pyroute2; its parser takes about a millisecond for a device, this
one microseconds.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from struct import Struct

from dpif_bpf.wire.netlink import (
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_HDRLEN,
    S32,
    U32,
    Message,
    build,
    iter_attrs,
    nla,
    nla_s32,
    nla_string,
    nla_u32,
)

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_GETROUTE = 26
RTM_GETNSID = 90
RTM_NEWSTATS = 92
RTM_GETSTATS = 94

IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_LINK = 5
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_IFALIAS = 20
IFLA_STATS64 = 23
IFLA_EXT_MASK = 29
IFLA_LINK_NETNSID = 37
IFLA_TARGET_NETNSID = 46
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_STATS_LINK_64 = 1
RTA_DST = 1
RTA_PREFSRC = 7
NETNSA_NSID = 1
NETNSA_PID = 2
RTEXT_FILTER_SKIP_STATS = 8

NLM_F_DUMP_INTR = 0x10
"""Of a message of a dump: what it lists changed meanwhile."""

NSID_NONE = -1
"""NETNSA_NSID_NOT_ASSIGNED."""

COLLECT_METADATA = {
    "vxlan": 25,
    "geneve": 6,
    "bareudp": 0,
    **dict.fromkeys(("gre", "gretap", "erspan", "ip6gre", "ip6gretap",
                     "ip6erspan"), 18),
    **dict.fromkeys(("ipip", "sit", "ip6tnl"), 19),
}
"""IFLA_*_COLLECT_METADATA of a kind's IFLA_INFO_DATA; 0 where it is so without
an attribute.  Source: also <linux/if_tunnel.h>."""

UDP_PORT = {"vxlan": 15, "geneve": 5, "bareudp": 1}
"""IFLA_*_PORT of a kind's IFLA_INFO_DATA: its destination port, a be16."""
IFLA_VXLAN_GBP = 23

_IFINFO = Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, change."""
_IF_STATS = Struct("=BxxxII")
"""struct if_stats_msg: family, ifindex, filter_mask."""
_STATS64 = Struct("=8Q")
_RTMSG = Struct("=8BI")
"""struct rtmsg: family, bits of the destination, and what is not asked for."""
_IFINFO_END = NLMSG_HDRLEN + _IFINFO.size
_IF_STATS_END = NLMSG_HDRLEN + _IF_STATS.size


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A device, as RTM_NEWLINK tells it.

    :param type: ARPHRD_*
    :param flags: IFF_*
    :param peer: IFLA_LINK: the other end of a veth pair, the lower device
        of a VLAN; 0 for none
    :param peer_nsid: the reader's id of the namespace that `peer` is in,
        None when it is the device's own
    :param kind: "veth", "tun", …; empty for hardware
    :param metadata: whether it is a tunnel of which each packet says where it
        came from and is to go ("external" of ip-link)
    :param udp_port: of such a tunnel; 0 for none
    :param gbp: whether that is a VXLAN with group policies
    """

    index: int
    name: str
    type: int
    flags: int
    mtu: int = 0
    address: bytes = b""
    alias: str = ""
    kind: str = ""
    master: int = 0
    peer: int = 0
    peer_nsid: int | None = None
    metadata: bool = False
    udp_port: int = 0
    gbp: bool = False


def get_link(seq: int, index: int = 0, name: str = "",
             nsid: int | None = None, stats: bool = False) -> bytes:
    """RTM_GETLINK for one device by index or name.

    :param nsid: id of the namespace to look in, None for the socket's
    :param stats: whether IFLA_STATS64 is wanted
    """
    payload = _IFINFO.pack(0, 0, index, 0, 0)
    if name:
        payload += nla_string(IFLA_IFNAME, name)
    if nsid is not None:
        payload += nla_s32(IFLA_TARGET_NETNSID, nsid)
    if not stats:
        payload += nla_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return build(RTM_GETLINK, NLM_F_REQUEST, seq, 0, payload)


def dump_links(seq: int) -> bytes:
    """RTM_GETLINK for all devices of the socket's namespace."""
    return build(
        RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, seq, 0,
        _IFINFO.pack(0, 0, 0, 0, 0)
        + nla_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS))


def get_stats(seq: int, index: int) -> bytes:
    """RTM_GETSTATS for the rtnl_link_stats64 of one device."""
    return build(RTM_GETSTATS, NLM_F_REQUEST, seq, 0,
                 _IF_STATS.pack(0, index, 1 << IFLA_STATS_LINK_64 - 1))


def get_nsid(seq: int, pid: int) -> bytes:
    """RTM_GETNSID for the namespace of process `pid`."""
    return build(RTM_GETNSID, NLM_F_REQUEST, seq, 0,
                 bytes(4) + nla_u32(NETNSA_PID, pid))


def get_route(seq: int, address: bytes) -> bytes:
    """RTM_GETROUTE: how a packet would go to an IPv4 or IPv6 address."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return build(RTM_GETROUTE, NLM_F_REQUEST, seq, 0, _RTMSG.pack(
        family, 8 * len(address), *bytes(6), 0) + nla(RTA_DST, address))


def parse_source(message: Message) -> bytes:
    """The address from which it would go, of an RTM_NEWROUTE; or none."""
    return _attrs(message.raw, NLMSG_HDRLEN + _RTMSG.size).get(RTA_PREFSRC,
                                                               b"")


def link_index(message: Message) -> int:
    """ifi_index of an RTM_NEWLINK or RTM_DELLINK that is about a device.

    :returns: 0 for other messages of these types: AF_BRIDGE ones tell of a
        bridge's port and not of the device
    """
    if len(message.raw) < _IFINFO_END:
        return 0
    family, _type, index, _flags, _change = _IFINFO.unpack_from(
        message.raw, NLMSG_HDRLEN)
    return index if family == 0 else 0


def parse_link(message: Message) -> LinkInfo:
    """Decodes an RTM_NEWLINK."""
    raw = message.raw
    _family, type_, index, flags, _change = _IFINFO.unpack_from(
        raw, NLMSG_HDRLEN)
    found = _attrs(raw, _IFINFO_END)
    info = _attrs(found.get(IFLA_LINKINFO, b""), 0)
    nsid = found.get(IFLA_LINK_NETNSID)
    kind = _text(info.get(IFLA_INFO_KIND))
    data = info.get(IFLA_INFO_DATA, b"")
    metadata = _metadata(kind, data)
    return LinkInfo(
        index, _text(found.get(IFLA_IFNAME)), type_, flags,
        mtu=_number(found.get(IFLA_MTU)),
        address=found.get(IFLA_ADDRESS, b""),
        alias=_text(found.get(IFLA_IFALIAS)),
        kind=kind,
        master=_number(found.get(IFLA_MASTER)),
        peer=_number(found.get(IFLA_LINK)),
        peer_nsid=None if nsid is None else int(S32.unpack(nsid)[0]),
        metadata=metadata,
        udp_port=_udp_port(kind, data) if metadata else 0,
        gbp=kind == "vxlan" and IFLA_VXLAN_GBP in _attrs(data, 0))


def _metadata(kind: str, data: bytes) -> bool:
    attr = COLLECT_METADATA.get(kind)
    if not attr:
        return attr == 0
    # A flag, or with VXLAN a byte that may be zero.
    value = _attrs(data, 0).get(attr)
    return value is not None and (not value or value[0] != 0)


def _udp_port(kind: str, data: bytes) -> int:
    found = _attrs(data, 0).get(UDP_PORT.get(kind, 0), b"")
    return int.from_bytes(found[:2], "big")


def parse_stats(message: Message) -> tuple[int, ...]:
    """The first eight counters of rtnl_link_stats64.

    :param message: RTM_NEWSTATS, or RTM_NEWLINK with IFLA_STATS64
    :returns: packets, bytes, errors and dropped, each received and sent;
        zeros when the message has none
    """
    if message.type == RTM_NEWSTATS:
        start, wanted = _IF_STATS_END, IFLA_STATS_LINK_64
    else:
        start, wanted = _IFINFO_END, IFLA_STATS64
    for attr, at, _end in iter_attrs(message.raw, start):
        if attr == wanted:
            return _STATS64.unpack_from(message.raw, at)
    return (0,) * 8


def parse_done(message: Message) -> int:
    """The errno with which a dump has ended, 0 when it is whole."""
    if len(message.raw) < NLMSG_HDRLEN + S32.size:
        return 0
    return -int(S32.unpack_from(message.raw, NLMSG_HDRLEN)[0])


def parse_nsid(message: Message) -> int:
    """The id in the answer to get_nsid(), or NSID_NONE."""
    value = _attrs(message.raw, NLMSG_HDRLEN + 4).get(NETNSA_NSID)
    return NSID_NONE if value is None else int(S32.unpack(value)[0])


def _attrs(raw: bytes, start: int) -> dict[int, bytes]:
    return {kind: raw[at:end] for kind, at, end in iter_attrs(raw, start)}


def _text(value: bytes | None) -> str:
    return "" if value is None else value.rstrip(b"\0").decode(
        errors="replace")


def _number(value: bytes | None) -> int:
    return 0 if value is None else int(U32.unpack_from(value)[0])
