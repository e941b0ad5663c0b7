# SPDX-License-Identifier: Apache-2.0
"""SCTP ports and the checksum over them, bit by bit."""

from __future__ import annotations

POLYNOMIAL = 0x1edc6f41
"""RFC 9260, appendix A."""


def crc32c(data: bytes) -> bytes:
    """The checksum as it is in the packet."""
    register = 0xffffffff
    for byte in data:
        for bit in range(8):
            top = register >> 31 ^ byte >> bit & 1
            register = register << 1 & 0xffffffff
            if top:
                register ^= POLYNOMIAL
    mirrored = int(f"{register ^ 0xffffffff:032b}"[::-1], 2)
    return mirrored.to_bytes(4, "little")


def length(data: bytes | bytearray, l3: int, l4: int) -> int:
    """Bytes of the SCTP packet; all that are there, if IP does not say."""
    if data[l3] >> 4 == 6:
        end = l3 + 40 + int.from_bytes(data[l3 + 4:l3 + 6], "big")
    else:
        end = l3 + int.from_bytes(data[l3 + 2:l3 + 4], "big")
    return (end if l4 + 12 <= end <= len(data) else len(data)) - l4


def set_ports(data: bytearray, l3: int, l4: int, ports: bytes) -> None:
    """Writes both; a checksum that was wrong is wrong by as much."""
    end = l4 + length(data, l3, l4)
    was = bytes(data[l4 + 8:l4 + 12])
    data[l4 + 8:l4 + 12] = bytes(4)
    before = crc32c(bytes(data[l4:end]))
    data[l4:l4 + 4] = ports
    after = crc32c(bytes(data[l4:end]))
    data[l4 + 8:l4 + 12] = bytes(
        a ^ b ^ c for a, b, c in zip(was, before, after, strict=True))
