# SPDX-License-Identifier: Apache-2.0
"""Checksums of packets: RFC 1071, and CRC32c for SCTP (RFC 9260).

The sum of RFC 1071 is found by one division.  Read as one big-endian number
whose digits are 16-bit words, the data are ``sum(word[i] * 65536**i)``, and
since 65536 leaves 1 modulo 65535 so does each of its powers: the number and
the sum of its words leave the same remainder.  Adding with the carry brought
round (65536 = 1) also keeps the remainder, and ends in 1..65535 unless all
words are zero: it is the remainder, with 65535 in place of 0.
"""

from __future__ import annotations

import errno

from dpif_bpf.errors import RequestError

_CRC32C_POLY = 0x82F63B78
"""Castagnoli, bits reversed."""


def ones_sum(data: bytes | bytearray | memoryview) -> int:
    """The ones' complement sum of the 16-bit words of `data`.

    An odd byte at the end is the high byte of a word.

    :returns: 0 when all bytes are zero, else 1 to 0xffff
    """
    number = int.from_bytes(data, "big")
    if len(data) & 1:
        number <<= 8
    return number and (number % 0xFFFF or 0xFFFF)


def fold(total: int) -> int:
    """The ones' complement sum of sums: 0 when all were 0."""
    return total and (total % 0xFFFF or 0xFFFF)


def checksum(data: bytes | bytearray | memoryview, start: int = 0) -> int:
    """The internet checksum of `data`.

    :param start: sum of what else it covers: a pseudo header
    """
    return fold(ones_sum(data) + start) ^ 0xFFFF


def mangle(check: int) -> int:
    """A checksum of 0 as it is sent where 0 stands for none (RFC 768)."""
    return check or 0xFFFF


def finish_partial(packet: bytearray, start: int, offset: int) -> None:
    """Does what a device does to a packet with CHECKSUM_PARTIAL.

    The checksum of all bytes from `start` on goes to `start + offset`, where
    the sum of the pseudo header is.  As skb_csum_hwoffload_help() of the
    kernel: a result of 0 becomes 0xffff, and SCTP has its CRC, which is known
    by the offset that no other protocol has.

    :raises RequestError: EINVAL when the place is not in the packet
    """
    place = start + offset
    if offset == 8:
        if place + 4 > len(packet):
            raise RequestError(errno.EINVAL, "csum_start is out of bounds")
        packet[place:place + 4] = bytes(4)
        packet[place:place + 4] = crc32c(packet[start:]).to_bytes(4, "little")
        return
    if place + 2 > len(packet):
        raise RequestError(errno.EINVAL, "csum_start is out of bounds")
    check = checksum(memoryview(packet)[start:])
    packet[place:place + 2] = mangle(check).to_bytes(2, "big")


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_CRC32C_POLY if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """CRC32c, Castagnoli's polynomial; stored in little-endian order."""
    crc = 0xFFFFFFFF
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
