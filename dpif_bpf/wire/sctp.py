# SPDX-License-Identifier: Apache-2.0
"""Cuts an SCTP GSO packet into the packets that a device would send.

As sctp_gso_segment() of Linux 6.18.  Nothing in the packet says where one
ends and the next one begins: the kernel keeps them as separate buffers, and
the programs tell their lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct

from dpif_bpf.wire.checksum import crc32c
from dpif_bpf.wire.layers import bad, find_ip, finish_ip, ip_id
from dpif_bpf.wire.protocols import IPPROTO_SCTP

SCTP_HLEN = 12
_CHECK = Struct("<I")
_CHECK_AT = 8


def sctp_segments(packet: bytes | memoryview, lengths: Sequence[int],
                  partial: bool) -> Iterator[bytes]:
    """Cuts a packet.

    :param packet: from its Ethernet header on
    :param lengths: bytes of each packet that comes of it, without headers
    :param partial: checksums are to be computed; else they are left alone
    :raises RequestError: EINVAL when the packet is not of its type
    """
    at = find_ip(packet)
    start = at.l4 + SCTP_HLEN
    if (at.proto != IPPROTO_SCTP or not lengths
            or start + sum(lengths) != len(packet)):
        raise bad(f"{sum(lengths)} of {len(packet)} bytes, protocol"
                  f" {at.proto}")
    header = bytearray(packet[:start])
    number = ip_id(packet, at)
    for length in lengths:
        data = bytes(packet[start:start + length])
        start += length
        finish_ip(header, at, length, number)
        number += 1
        if partial:
            place = at.l4 + _CHECK_AT
            _CHECK.pack_into(header, place, 0)
            _CHECK.pack_into(header, place, crc32c(header[at.l4:] + data))
        yield bytes(header) + data
