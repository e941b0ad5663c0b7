# SPDX-License-Identifier: Apache-2.0
"""How ``dpif_bpf.abi`` and ``dpif_bpf.abi_ct`` write C structures down."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Field:
    """Where a field lies in its structure, in bytes."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """Offset of the first byte after the field."""
        return self.offset + self.size

    @property
    def slice(self) -> slice:
        """The field's bytes in the structure's bytes."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True, slots=True)
class Record:
    """A C structure.

    :param name: its tag
    :param struct: all fields in order, native byte order, no hidden padding;
        network-order fields are ``bytes``
    :param fields: name to place, in order; padding is named ``pad*``
    :param aliases: other members of unions
    """

    name: str
    struct: struct.Struct
    fields: Mapping[str, Field]
    aliases: Mapping[str, Field]

    @property
    def size(self) -> int:
        """sizeof."""
        return self.struct.size

    def __getitem__(self, name: str) -> Field:
        place = self.fields.get(name)
        return self.aliases[name] if place is None else place


def record(name: str, members: str, unions: str = "") -> Record:
    """Make a Record of lines ``field format`` and ``alias first size``.

    An alias lies at the offset of the field `first`, or at that many bytes
    after it when written ``first+n``.
    """
    fields: dict[str, Field] = {}
    codes: list[str] = []
    offset = 0
    for line in members.split("\n"):
        if not line.strip():
            continue
        field, code = line.split()
        size = struct.calcsize("=" + code)
        fields[field] = Field(offset, size)
        codes.append(code)
        offset += size
    aliases: dict[str, Field] = {}
    for line in unions.split("\n"):
        if not line.strip():
            continue
        alias, first, length = line.split()
        base, _, more = first.partition("+")
        start = fields[base].offset + int(more or 0)
        aliases[alias] = Field(start, int(length))
    return Record(name, struct.Struct("=" + "".join(codes)),
                  MappingProxyType(fields), MappingProxyType(aliases))
