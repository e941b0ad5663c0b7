# SPDX-License-Identifier: Apache-2.0
"""Finds the headers of packets that are to be cut or to be checksummed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from struct import Struct

from dpif_bpf.errors import RequestError
from dpif_bpf.wire.checksum import checksum, fold, ones_sum
from dpif_bpf.wire.protocols import (
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_NSH,
    IPPROTO_TCP,
    IPPROTO_UDP,
)

_TPIDS = {0x8100, 0x88A8}
_MPLS = {0x8847, 0x8848}
_EXTENSIONS = {0, 43, 60}
"""IPv6 extension headers that a segment repeats: hop-by-hop options,
routing, destination options."""
_ETH_HLEN = 14
_NSH_HLEN = 8
_NP_ETHERNET = 3
_NP_NSH = 4
_FRAMES_MAX = 8
"""Ethernet frames within frames that are looked into."""
_LENGTH_MAX = 0xFFFF
"""Of what IPv4 calls its total length and IPv6 its payload length."""

_U16 = Struct("!H")


@dataclass(frozen=True, slots=True)
class Layers:
    """Where an IP header and what follows it are.

    :param l3: offset of the IP header
    :param version: 4 or 6
    :param l4: offset of the transport header
    :param proto: IPPROTO_*
    :param payload: offset of the first byte after the header of TCP or UDP;
        `l4` when that is not known
    """

    l3: int
    version: int
    l4: int
    proto: int
    payload: int

    @property
    def check(self) -> int:
        """Offset of the checksum of TCP or UDP."""
        return self.l4 + (16 if self.proto == IPPROTO_TCP else 6)


def bad(text: str) -> RequestError:
    """The packet is not what it is said to be."""
    return RequestError(errno.EINVAL, f"packet to be cut: {text}")


def find_ip(packet: bytes | memoryview, frame: int = 0,
            depth: int = 0) -> Layers:
    """Finds the IP header of an Ethernet frame, below tags, labels and NSH.

    :param frame: where the frame begins
    :param depth: in how many frames that is
    :raises RequestError: EINVAL when there is none, or not a whole one that
        each segment could repeat
    """
    if depth > _FRAMES_MAX:
        raise bad(f"more than {_FRAMES_MAX} frames in one another")
    l3 = frame + _ETH_HLEN
    while len(packet) >= l3 and _U16.unpack_from(packet, l3 - 2)[
            0] in _TPIDS:
        l3 += 4
    if len(packet) < l3:
        raise bad("no Ethernet type")
    eth_type = _U16.unpack_from(packet, l3 - 2)[0]
    if eth_type == ETH_P_IP:
        return _ipv4(packet, l3)
    if eth_type == ETH_P_IPV6:
        return _ipv6(packet, l3)
    if eth_type in _MPLS:
        return _labelled(packet, l3)
    if eth_type == ETH_P_NSH:
        return _service(packet, l3, depth)
    raise bad(f"Ethernet type {eth_type:#06x}")


def _service(packet: bytes | memoryview, l3: int, depth: int) -> Layers:
    """Below a network service header (RFC 8300), or several."""
    while len(packet) >= l3 + _NSH_HLEN:
        size, following = (packet[l3 + 1] & 0x3F) * 4, packet[l3 + 3]
        if size < _NSH_HLEN:
            break
        l3 += size
        if following == _NP_ETHERNET:
            return find_ip(packet, l3, depth + 1)
        if following in _BELOW_NSH:
            return _BELOW_NSH[following](packet, l3)
        if following != _NP_NSH:
            break
    raise bad("no IP header below the NSH")


def _labelled(packet: bytes | memoryview, l3: int) -> Layers:
    """Below MPLS labels: the version says what it is."""
    while len(packet) >= l3 + 5:
        l3 += 4
        if packet[l3 - 2] & 1:
            version = packet[l3] >> 4
            if version == 4:
                return _ipv4(packet, l3)
            if version == 6:
                return _ipv6(packet, l3)
            break
    raise bad("no IP header below the MPLS labels")


def _ipv4(packet: bytes | memoryview, l3: int) -> Layers:
    if len(packet) < l3 + 20:
        raise bad("no IPv4 header")
    l4 = l3 + (packet[l3] & 15) * 4
    fragment = _U16.unpack_from(packet, l3 + 6)[0] & 0x3FFF
    if not l3 + 20 <= l4 <= len(packet) or fragment:
        raise bad("an IPv4 header that cannot be repeated")
    return Layers(l3, 4, l4, packet[l3 + 9], l4)


def _ipv6(packet: bytes | memoryview, l3: int) -> Layers:
    if len(packet) < l3 + 40:
        raise bad("no IPv6 header")
    proto, l4 = packet[l3 + 6], l3 + 40
    while proto in _EXTENSIONS and len(packet) >= l4 + 2:
        proto, l4 = packet[l4], l4 + (packet[l4 + 1] + 1) * 8
    return Layers(l3, 6, l4, proto, l4)


_BELOW_NSH: dict[int, Callable[[bytes | memoryview, int], Layers]] = {
    1: _ipv4, 2: _ipv6, 5: _labelled}
"""How to go on, by next protocol, where that is no frame."""


def find_inner(packet: bytes | memoryview, start: int, l4: int) -> Layers:
    """Finds the IP header that belongs to a transport header in a tunnel.

    What a tunnel's own header says of its payload depends on the tunnel;
    instead the header is known by its version, and by its lengths, which
    lead to `l4` and to the packet's end.

    :param start: offset at which the tunnel's header begins
    :param l4: offset of the inner transport header
    :raises RequestError: EINVAL when there is none
    """
    end = len(packet)
    if l4 > end:
        raise bad("csum_start is out of bounds")
    for l3 in range(l4 - 20, max(l4 - 60, start) - 1, -4):
        if packet[l3] == 0x40 | (l4 - l3) // 4 and _U16.unpack_from(
                packet, l3 + 2)[0] == end - l3:
            return _ipv4(packet, l3)
    for l3 in range(l4 - 40, max(l4 - 40 - 256, start) - 1, -8):
        if packet[l3] >> 4 == 6 and _U16.unpack_from(
                packet, l3 + 4)[0] == end - l3 - 40:
            found = _ipv6(packet, l3)
            if found.l4 == l4:
                return found
    raise bad("no IP header in the tunnel")


def with_payload(packet: bytes | memoryview, at: Layers) -> Layers:
    """Looks at the header of TCP or UDP as well.

    :raises RequestError: EINVAL when it is not there or not whole
    """
    if at.proto == IPPROTO_TCP:
        length = (packet[at.l4 + 12] >> 4) * 4 if len(
            packet) >= at.l4 + 20 else 0
        if length < 20:
            raise bad("no TCP header")
    elif at.proto == IPPROTO_UDP:
        length = 8
    else:
        raise bad(f"protocol {at.proto}")
    if len(packet) < at.l4 + length:
        raise bad("the transport header is cut")
    return replace(at, payload=at.l4 + length)


def find_layers(packet: bytes | memoryview) -> Layers:
    """Finds the headers of an Ethernet frame with TCP or UDP in IP.

    :raises RequestError: EINVAL when they are not there or not whole
    """
    return with_payload(packet, find_ip(packet))


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


def ip_id(packet: bytes | memoryview, at: Layers) -> int:
    """The identification in an IPv4 header; of IPv6 it says nothing."""
    number: int = _U16.unpack_from(packet, at.l3 + 4)[0]
    return number


def finish_ip(header: bytearray, at: Layers, size: int,
              number: int) -> None:
    """Length, identification and checksum of an IP header.

    :param size: bytes after `header`
    :raises RequestError: EINVAL when that is more than IP can say
    """
    length = len(header) - at.l3 + size
    if at.version == 6:
        length -= 40
    if length > _LENGTH_MAX:
        raise bad(f"{length} bytes of IPv{at.version}")
    if at.version == 6:
        _U16.pack_into(header, at.l3 + 4, length)
        return
    _U16.pack_into(header, at.l3 + 2, length)
    _U16.pack_into(header, at.l3 + 4, number & 0xFFFF)
    _U16.pack_into(header, at.l3 + 10, 0)
    _U16.pack_into(header, at.l3 + 10, checksum(header[at.l3:at.l4]))
