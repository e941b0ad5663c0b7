# SPDX-License-Identifier: Apache-2.0
"""Cuts a GSO packet into the packets that a device would send.

TCP over IPv4 and IPv6 and UDP_L4, as the kernel does in software
(tcp_gso_segment(), __udp_gso_segment(), inet_gso_segment() and
ipv6_gso_segment() of Linux 6.18): all checksums are complete afterwards.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from dpif_bpf.errors import RequestError
from dpif_bpf.wire.checksum import checksum, fold, mangle, ones_sum

SKB_GSO_TCPV4 = 1 << 0
SKB_GSO_DODGY = 1 << 1
SKB_GSO_TCP_ECN = 1 << 2
SKB_GSO_TCP_FIXEDID = 1 << 3
SKB_GSO_TCPV6 = 1 << 4
SKB_GSO_UDP_L4 = 1 << 17
SKB_GSO_FRAGLIST = 1 << 18
SKB_GSO_TCP_ACCECN = 1 << 19
"""<linux/skbuff.h>; not a UAPI, unchanged since they were introduced."""

_KNOWN = (SKB_GSO_TCPV4 | SKB_GSO_DODGY | SKB_GSO_TCP_ECN
          | SKB_GSO_TCP_FIXEDID | SKB_GSO_TCPV6 | SKB_GSO_UDP_L4
          | SKB_GSO_FRAGLIST | SKB_GSO_TCP_ACCECN)

ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
IPPROTO_TCP = 6
IPPROTO_UDP = 17
_TPIDS = {0x8100, 0x88A8}
_EXTENSIONS = {0, 43, 60}
"""IPv6 extension headers that a segment repeats: hop-by-hop options,
routing, destination options."""

_ETH_HLEN = 14
_TCP_FIN_PSH = 0x09
_TCP_CWR = 0x80

_U16 = Struct("!H")
_U32 = Struct("!I")


@dataclass(frozen=True, slots=True)
class Layers:
    """Where the headers of a TCP or UDP packet are.

    :param l3: offset of the IP header
    :param version: 4 or 6
    :param l4: offset of the transport header
    :param proto: IPPROTO_TCP or IPPROTO_UDP
    :param payload: offset of the first byte after the transport header
    """

    l3: int
    version: int
    l4: int
    proto: int
    payload: int

    @property
    def check(self) -> int:
        """Offset of the transport checksum."""
        return self.l4 + (16 if self.proto == IPPROTO_TCP else 6)


def bad(text: str) -> RequestError:
    """The packet is not what its GSO type says."""
    return RequestError(errno.EINVAL, f"GSO packet: {text}")


def find_layers(packet: bytes | memoryview) -> Layers:
    """Finds the headers of an Ethernet frame with TCP or UDP in IP.

    :raises RequestError: EINVAL when they are not there or not whole
    """
    l3 = _ETH_HLEN
    size = len(packet)
    while size >= l3 and _U16.unpack_from(packet, l3 - 2)[0] in _TPIDS:
        l3 += 4
    if size < l3 + 20:
        raise bad("no IP header")
    eth_type = _U16.unpack_from(packet, l3 - 2)[0]
    if eth_type == ETH_P_IP:
        version, l4, proto = 4, l3 + (packet[l3] & 15) * 4, packet[l3 + 9]
        if l4 < l3 + 20 or _U16.unpack_from(packet, l3 + 6)[0] & 0x3FFF:
            raise bad("an IPv4 header that cannot be repeated")
    elif eth_type == ETH_P_IPV6:
        version, l4, proto = 6, l3 + 40, packet[l3 + 6]
        while proto in _EXTENSIONS and size >= l4 + 2:
            proto, l4 = packet[l4], l4 + (packet[l4 + 1] + 1) * 8
    else:
        raise bad(f"Ethernet type {eth_type:#06x}")
    if proto == IPPROTO_TCP:
        length = (packet[l4 + 12] >> 4) * 4 if size >= l4 + 20 else 0
        if length < 20:
            raise bad("no TCP header")
    elif proto == IPPROTO_UDP:
        length = 8
    else:
        raise bad(f"protocol {proto}")
    if size < l4 + length:
        raise bad("the transport header is cut")
    return Layers(l3, version, l4, proto, l4 + length)


def pseudo_sum(packet: bytes | bytearray | memoryview, at: Layers,
               length: int) -> int:
    """Sum of the pseudo header (RFC 9293, RFC 8200): addresses, protocol.

    :param length: of transport header and payload
    """
    if at.version == 4:
        addresses = packet[at.l3 + 12:at.l3 + 20]
    else:
        addresses = packet[at.l3 + 8:at.l3 + 40]
    return fold(ones_sum(addresses) + at.proto + length)


def segment(packet: bytes | memoryview, gso_size: int, gso_type: int,
            zero_check: bool = False) -> Iterator[bytes]:
    """Cuts a GSO packet.

    :param packet: from its Ethernet header on
    :param gso_size: payload bytes of each segment but the last
    :param gso_type: SKB_GSO_*
    :param zero_check: a UDP checksum of zero means that there is none;
        otherwise it is one that is still to be computed
    :raises RequestError: EOPNOTSUPP for types other than TCP and UDP_L4,
        tunnels among them; EINVAL when the packet is not of its type
    """
    if gso_type & ~_KNOWN:
        raise RequestError(errno.EOPNOTSUPP,
                           f"GSO type {gso_type:#x} cannot be cut")
    at = find_layers(packet)
    wanted = (SKB_GSO_UDP_L4 if at.proto == IPPROTO_UDP else
              SKB_GSO_TCPV4 if at.version == 4 else SKB_GSO_TCPV6)
    if not gso_size or not gso_type & wanted:
        raise bad(f"of type {gso_type:#x}, size {gso_size}, has protocol"
                  f" {at.proto} in IPv{at.version}")
    header = bytearray(packet[:at.payload])
    unchecked = (zero_check and at.proto == IPPROTO_UDP
                 and not any(header[at.check:at.check + 2]))
    first = seq = 0
    if at.proto == IPPROTO_TCP:
        seq = _U32.unpack_from(header, at.l4 + 4)[0]
    if at.version == 4:
        first = _U16.unpack_from(header, at.l3 + 4)[0]
    fixed_id = gso_type & SKB_GSO_TCP_FIXEDID
    flags = header[at.l4 + 13] if at.proto == IPPROTO_TCP else 0
    starts = range(at.payload, len(packet), gso_size) or (at.payload,)
    for number, start in enumerate(starts):
        data = packet[start:start + gso_size]
        if at.version == 4:
            _ipv4(header, at, len(data),
                  first if fixed_id else first + number)
        else:
            _U16.pack_into(header, at.l3 + 4,
                           len(header) - at.l3 - 40 + len(data))
        if at.proto == IPPROTO_UDP:
            _U16.pack_into(header, at.l4 + 4, 8 + len(data))
        else:
            now = flags
            if start + gso_size < len(packet):
                now &= ~_TCP_FIN_PSH
            if number and not gso_type & SKB_GSO_TCP_ACCECN:
                now &= ~_TCP_CWR
            header[at.l4 + 13] = now
            _U32.pack_into(header, at.l4 + 4,
                           seq + number * gso_size & 0xFFFFFFFF)
        if not unchecked:
            _transport(header, at, data)
        yield bytes(header) + bytes(data)


def _ipv4(header: bytearray, at: Layers, size: int, number: int) -> None:
    _U16.pack_into(header, at.l3 + 2, at.payload - at.l3 + size)
    _U16.pack_into(header, at.l3 + 4, number & 0xFFFF)
    _U16.pack_into(header, at.l3 + 10, 0)
    _U16.pack_into(header, at.l3 + 10, checksum(header[at.l3:at.l4]))


def _transport(header: bytearray, at: Layers,
               data: bytes | memoryview) -> None:
    """The checksum of one segment; both headers have even lengths."""
    _U16.pack_into(header, at.check, 0)
    start = pseudo_sum(header, at, len(header) - at.l4 + len(data))
    check = checksum(data, start + ones_sum(header[at.l4:]))
    if at.proto == IPPROTO_UDP:
        check = mangle(check)
    _U16.pack_into(header, at.check, check)
