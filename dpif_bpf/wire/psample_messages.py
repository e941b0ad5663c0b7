# SPDX-License-Identifier: Apache-2.0
"""Messages of the family "psample" (<linux/psample.h>): sampled packets.

What a message carries is that of Linux net/psample/psample.c
(``psample_sample_packet()``).
"""

from __future__ import annotations

from dpif_bpf.wire.netlink import (
    GENL_HDRLEN,
    GENLMSGHDR,
    NLA_HDRLEN,
    NLA_PAYLOAD_MAX,
    NLMSG_HDRLEN,
    build,
    nla,
    nla_flag,
    nla_u16,
    nla_u32,
)

FAMILY, GROUP, VERSION = "psample", "packets", 1
CMD_SAMPLE = 0

ATTR_IIFINDEX = 0
ATTR_ORIGSIZE = 2
ATTR_SAMPLE_GROUP = 3
ATTR_GROUP_SEQ = 4
ATTR_SAMPLE_RATE = 5
ATTR_DATA = 6
ATTR_PROTO = 14
ATTR_USER_COOKIE = 15
ATTR_SAMPLE_PROBABILITY = 16

_MAX_MESSAGE = 0xffff
"""PSAMPLE_MAX_PACKET_SIZE: of attributes."""


def encode_sample(family: int, group: int, seq: int, rate: int,
                  cookie: bytes | None, in_ifindex: int, protocol: int,
                  size: int, data: bytes) -> bytes:
    """One sampled packet.

    :param family: id of the family
    :param seq: number of the sample in its group
    :param rate: probability of the sample, of 0xffffffff
    :param cookie: OVS_PSAMPLE_ATTR_COOKIE, None when there is none
    :param in_ifindex: the device that it came by, 0 when that is not known
    :param protocol: EtherType, host order
    :param size: of the packet
    :param data: what truncation leaves of it; as much as fits is sent
    """
    parts = [nla_u16(ATTR_IIFINDEX, in_ifindex & 0xffff)] if in_ifindex else []
    parts += [nla_u32(ATTR_SAMPLE_RATE, rate), nla_u32(ATTR_ORIGSIZE, size),
              nla_u32(ATTR_SAMPLE_GROUP, group),
              nla_u32(ATTR_GROUP_SEQ, seq), nla_u16(ATTR_PROTO, protocol)]
    last = nla_flag(ATTR_SAMPLE_PROBABILITY)
    if cookie:
        last = nla(ATTR_USER_COOKIE, cookie) + last
    room = _MAX_MESSAGE - NLMSG_HDRLEN - GENL_HDRLEN - NLA_HDRLEN - len(
        last) - sum(map(len, parts)) & ~3
    if data:
        parts.append(nla(ATTR_DATA, data[:min(room, NLA_PAYLOAD_MAX)]))
    return build(family, 0, 0, 0, GENLMSGHDR.pack(CMD_SAMPLE, VERSION, 0)
                 + b"".join(parts) + last)
