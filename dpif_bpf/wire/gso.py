# SPDX-License-Identifier: Apache-2.0
"""Cuts a GSO packet into the packets that a device would send.

TCP over IPv4 and IPv6, UDP_L4, and UDP that becomes fragments, also in a
VXLAN, Geneve, GRE or IP tunnel, as the kernel does in software
(tcp_gso_segment(), __udp_gso_segment(), udp4_ufo_fragment(),
inet_gso_segment(), ipv6_gso_segment(), __skb_udp_tunnel_segment() and
gre_gso_segment() of Linux 6.18): all checksums are complete afterwards.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from dpif_bpf.errors import RequestError
from dpif_bpf.wire.checksum import checksum, mangle, ones_sum
from dpif_bpf.wire.layers import (
    Layers,
    bad,
    find_inner,
    find_ip,
    finish_ip,
    ip_id,
    pseudo_sum,
    with_payload,
)
from dpif_bpf.wire.protocols import (
    IPPROTO_FRAGMENT,
    IPPROTO_GRE,
    IPPROTO_IPIP,
    IPPROTO_IPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
)

SKB_GSO_TCPV4 = 1 << 0
SKB_GSO_DODGY = 1 << 1
SKB_GSO_TCP_ECN = 1 << 2
SKB_GSO_TCP_FIXEDID = 1 << 3
SKB_GSO_TCPV6 = 1 << 4
SKB_GSO_GRE = 1 << 6
SKB_GSO_GRE_CSUM = 1 << 7
SKB_GSO_IPXIP4 = 1 << 8
SKB_GSO_IPXIP6 = 1 << 9
SKB_GSO_UDP_TUNNEL = 1 << 10
SKB_GSO_UDP_TUNNEL_CSUM = 1 << 11
SKB_GSO_UDP = 1 << 16
SKB_GSO_UDP_L4 = 1 << 17
SKB_GSO_FRAGLIST = 1 << 18
SKB_GSO_TCP_ACCECN = 1 << 19
SKB_GSO_TCP_FIXEDID_OUTER = 1 << 30
SKB_GSO_TCP_FIXEDID_INNER = 1 << 31
"""<linux/skbuff.h>, not a UAPI.  Fixed ids were one bit until Linux 6.17,
which meant the inner header of a tunnel; since then bit 30 stands for the
outer or only header and bit 31 for the inner one."""

_UDP_TUNNEL = SKB_GSO_UDP_TUNNEL | SKB_GSO_UDP_TUNNEL_CSUM
_GRE = SKB_GSO_GRE | SKB_GSO_GRE_CSUM
_IPXIP = SKB_GSO_IPXIP4 | SKB_GSO_IPXIP6
_TUNNEL = _UDP_TUNNEL | _GRE | _IPXIP
_KNOWN = (_TUNNEL | SKB_GSO_TCPV4 | SKB_GSO_DODGY | SKB_GSO_TCP_ECN
          | SKB_GSO_TCP_FIXEDID | SKB_GSO_TCPV6 | SKB_GSO_UDP
          | SKB_GSO_UDP_L4
          | SKB_GSO_FRAGLIST | SKB_GSO_TCP_ACCECN
          | SKB_GSO_TCP_FIXEDID_OUTER | SKB_GSO_TCP_FIXEDID_INNER)
_TUNNEL_TYPES = {IPPROTO_UDP: _UDP_TUNNEL, IPPROTO_GRE: _GRE,
                 IPPROTO_IPIP: _IPXIP, IPPROTO_IPV6: _IPXIP}

_TCP_FIN_PSH = 0x09
_TCP_CWR = 0x80
_GRE_CSUM = 0x80
_DATAGRAM_MAX = 0xFFFF
"""Bytes of a datagram that fragments can put together."""

_U16 = Struct("!H")
_U32 = Struct("!I")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the segments of a packet have in common.

    :param outer: headers of the tunnel, None without one
    :param at: headers of TCP or UDP
    :param ids: the first identification of the outer and of the inner IPv4
        header
    :param steps: by how much each grows from segment to segment
    :param seq: TCP sequence number of the first segment
    :param flags: TCP flags of the packet
    :param keep_cwr: CWR is on all segments, not only on the first
    :param check: whether there is a transport checksum
    :param outer_check: whether the UDP header of the tunnel has one
    """

    outer: Layers | None
    at: Layers
    ids: tuple[int, int]
    steps: tuple[int, int]
    seq: int
    flags: int
    keep_cwr: bool
    check: bool
    outer_check: bool


def segment(packet: bytes | memoryview, gso_size: int, gso_type: int,
            csum_start: int = 0, zero_check: bool = False) -> Iterator[bytes]:
    """Cuts a GSO packet.

    :param packet: from its Ethernet header on
    :param gso_size: payload bytes of each segment but the last
    :param gso_type: SKB_GSO_*
    :param csum_start: offset of the transport header; in a tunnel it is found
        by this alone
    :param zero_check: a UDP checksum of zero means that there is none;
        otherwise it is one that is still to be computed
    :raises RequestError: EOPNOTSUPP for other GSO types; EINVAL when the
        packet is not of its type
    """
    if gso_type & ~_KNOWN:
        raise RequestError(errno.EOPNOTSUPP,
                           f"GSO type {gso_type:#x} cannot be cut")
    if gso_type & SKB_GSO_UDP:
        yield from _fragments(packet, gso_size, gso_type, csum_start)
        return
    plan = _plan(packet, gso_size, gso_type, csum_start, zero_check)
    header = bytearray(packet[:plan.at.payload])
    starts = (range(plan.at.payload, len(packet), gso_size)
              or (plan.at.payload,))
    for number, start in enumerate(starts):
        data = packet[start:start + gso_size]
        if plan.at.proto == IPPROTO_TCP:
            flags = plan.flags
            if start + gso_size < len(packet):
                flags &= ~_TCP_FIN_PSH
            if number and not plan.keep_cwr:
                flags &= ~_TCP_CWR
            header[plan.at.l4 + 13] = flags
            _U32.pack_into(header, plan.at.l4 + 4, plan.seq
                           + number * gso_size & 0xFFFFFFFF)
        _finish(header, plan.at, data, plan.ids[1] + number * plan.steps[1],
                plan.check)
        if plan.outer is not None:
            _finish_tunnel(header, plan.outer, data, plan.ids[0]
                           + number * plan.steps[0], plan.outer_check)
        yield bytes(header) + bytes(data)


def _plan(packet: bytes | memoryview, gso_size: int, gso_type: int,
          csum_start: int, zero_check: bool) -> _Plan:
    outer, at = _find(packet, gso_type, csum_start)
    wanted = (SKB_GSO_UDP_L4 if at.proto == IPPROTO_UDP else
              SKB_GSO_TCPV4 if at.version == 4 else SKB_GSO_TCPV6)
    if not gso_size or not gso_type & wanted:
        raise bad(f"of type {gso_type:#x}, size {gso_size}, has protocol"
                  f" {at.proto} in IPv{at.version}")
    inner_fixed = SKB_GSO_TCP_FIXEDID | (
        SKB_GSO_TCP_FIXEDID_INNER if outer else SKB_GSO_TCP_FIXEDID_OUTER)
    tcp = at.proto == IPPROTO_TCP
    no_check = not tcp and zero_check and not any(
        packet[at.check:at.check + 2])
    return _Plan(
        outer, at,
        (ip_id(packet, outer) if outer else 0, ip_id(packet, at)),
        (0 if gso_type & SKB_GSO_TCP_FIXEDID_OUTER else 1,
         0 if gso_type & inner_fixed else 1),
        _U32.unpack_from(packet, at.l4 + 4)[0] if tcp else 0,
        packet[at.l4 + 13] if tcp else 0,
        bool(gso_type & SKB_GSO_TCP_ACCECN), not no_check,
        bool(gso_type & SKB_GSO_UDP_TUNNEL_CSUM))


def _find(packet: bytes | memoryview, gso_type: int,
          csum_start: int) -> tuple[Layers | None, Layers]:
    """Headers of the tunnel, if it is one, and of TCP or UDP."""
    outer = None
    at = find_ip(packet)
    if gso_type & _TUNNEL:
        outer = at
        if not gso_type & _TUNNEL_TYPES.get(at.proto, 0):
            raise bad(f"type {gso_type:#x}, but protocol {at.proto}")
        at = find_inner(packet, at.l4, csum_start)
    return outer, with_payload(packet, at)


def _fragments(packet: bytes | memoryview, gso_size: int, gso_type: int,
               csum_start: int) -> Iterator[bytes]:
    """The IP fragments of a UDP packet, which always gets a checksum.

    Where the kernel forgets that offsets count in units of 8 bytes, and not
    in IPv6 extension headers, these are right.
    """
    outer, at = _find(packet, gso_type, csum_start)
    size = gso_size & ~7
    datagram = bytearray(packet[at.l4:])
    if (at.proto != IPPROTO_UDP or not size
            or not gso_size < len(datagram) <= _DATAGRAM_MAX):
        raise bad(f"of type {gso_type:#x}, size {gso_size}, has protocol"
                  f" {at.proto} and {len(datagram)} bytes")
    _U16.pack_into(datagram, 6, 0)
    _U16.pack_into(datagram, 6, mangle(checksum(
        datagram, pseudo_sum(packet, at, len(datagram)))))
    header = bytearray(packet[:at.l4])
    if at.version == 6:
        header += _fragment_header(header, at)
    number = ip_id(packet, at)
    outer_number = ip_id(packet, outer) if outer else 0
    for count, start in enumerate(range(0, len(datagram), size)):
        data = bytes(datagram[start:start + size])
        more = start + size < len(datagram)
        if at.version == 6:
            _U16.pack_into(header, at.l4 + 2, start | more)
        else:
            _U16.pack_into(header, at.l3 + 6, start >> 3 | more << 13)
        finish_ip(header, at, len(data), number)
        if outer is not None:
            _finish_tunnel(header, outer, data, outer_number + count,
                           bool(gso_type & SKB_GSO_UDP_TUNNEL_CSUM))
        yield bytes(header) + data


def _fragment_header(header: bytearray, at: Layers) -> bytes:
    """IPv6's, behind the headers that there are, of which the last says so.
    """
    last, end = at.l3 + 6, at.l3 + 40
    while end < at.l4:
        last, end = end, end + (header[end + 1] + 1) * 8
    header[last] = IPPROTO_FRAGMENT
    return bytes((at.proto, 0, 0, 0)) + _U32.pack(random.getrandbits(32) or 1)


def _finish(header: bytearray, at: Layers, data: bytes | memoryview,
            number: int, check: bool) -> None:
    """Lengths and checksums of TCP or UDP and of IP below it."""
    finish_ip(header, at, len(data), number)
    length = len(header) - at.l4 + len(data)
    if at.proto == IPPROTO_UDP:
        _U16.pack_into(header, at.l4 + 4, length)
    if not check:
        return
    # The headers from L4 on have an even length, so the sums add up.
    _U16.pack_into(header, at.check, 0)
    value = checksum(data, pseudo_sum(header, at, length)
                     + ones_sum(header[at.l4:]))
    _U16.pack_into(header, at.check, mangle(value)
                   if at.proto == IPPROTO_UDP else value)


def _finish_tunnel(header: bytearray, outer: Layers,
                   data: bytes | memoryview, number: int,
                   check: bool) -> None:
    """Lengths and checksums of what is around a finished segment."""
    if outer.proto == IPPROTO_UDP:
        _finish(header, outer, data, number, check)
        return
    finish_ip(header, outer, len(data), number)
    if outer.proto == IPPROTO_GRE and header[outer.l4] & _GRE_CSUM:
        _U16.pack_into(header, outer.l4 + 4, 0)
        _U16.pack_into(header, outer.l4 + 4, checksum(
            data, ones_sum(header[outer.l4:])))
