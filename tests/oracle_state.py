# SPDX-License-Identifier: Apache-2.0
"""A packet between two actions, and netlink attributes, for the oracle."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from oracle_key import ETH_P_8021AD, ETH_P_8021Q, Extract, Meta, be16

TAGS = {ETH_P_8021Q, ETH_P_8021AD}


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each netlink attribute."""
    at = 0
    while at < len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        assert 4 <= length <= len(data) - at, "malformed list"
        yield kind & 0x3fff, data[at + 4:at + length]
        at += (length + 3) & ~3


def u32(data: bytes) -> int:
    value: int = struct.unpack_from("=I", data)[0]
    return value


@dataclass(slots=True)
class State:
    """A packet between two actions.

    :param parsed: offsets of its headers, which stay known however many tags
        are pushed, and the protocol
    :param cutlen: bytes that a truncation takes from the next output
    :param waited: that truncation is of a list before recirculation
    """

    packet: bytes
    meta: Meta
    parsed: Extract
    cutlen: int = 0
    waited: bool = False

    @property
    def length(self) -> int:
        """Without the outer tag, which the kernel keeps elsewhere."""
        return len(self.packet) - self.outer

    @property
    def outer(self) -> int:
        """Bytes of the outer tag."""
        return (4 if self.meta.protocol is None
                and be16(self.packet, 12) in TAGS else 0)

    def cut(self, least: int) -> bytes:
        """The packet as the next output has it."""
        if not self.cutlen:
            return self.packet
        keep = max(self.length - self.cutlen, least)
        self.cutlen, self.waited = 0, False
        return self.packet[:keep + self.outer]

    def move(self, by: int) -> None:
        """Tags of so many bytes were put before the headers."""
        self.parsed = replace(
            self.parsed, l3=self.parsed.l3 + by,
            l4=self.parsed.l4 + by if self.parsed.l4 else 0)
