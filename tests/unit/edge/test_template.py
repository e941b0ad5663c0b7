# SPDX-License-Identifier: Apache-2.0
"""edge.template: holes in instruction bytes."""

from __future__ import annotations

import struct

import pytest

from dpif_bpf.edge.template import CONST_HOLE, MAP_HOLE, Template
from dpif_bpf.errors import BackendError


def load64(register: int, source: int, value: int) -> bytes:
    return (struct.pack("=BBhI", 0x18, source << 4 | register, 0,
                        value & 0xffffffff)
            + struct.pack("=BBhI", 0, 0, 0, value >> 32))


EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)


def test_maps_and_constants_are_filled_in() -> None:
    code = (load64(1, 1, MAP_HOLE + 3) + load64(2, 0, CONST_HOLE)
            + load64(3, 2, MAP_HOLE + 3) + EXIT)
    template = Template(code)
    assert template.holes == {MAP_HOLE + 3, CONST_HOLE}
    filled = template.fill({MAP_HOLE + 3: 41, CONST_HOLE: 7 << 40 | 9})
    assert filled == (load64(1, 1, 41) + load64(2, 0, 7 << 40 | 9)
                      + load64(3, 2, 41) + EXIT)
    assert template.fill({MAP_HOLE + 3: 5, CONST_HOLE: 0})[:16] == load64(
        1, 1, 5)


def test_what_looks_alike_stays() -> None:
    code = (load64(1, 0, MAP_HOLE)            # a number, no map
            + load64(2, 1, 17)                # a map that has a descriptor
            + load64(3, 3, MAP_HOLE)          # another kind of load
            + load64(4, 0, CONST_HOLE + 256)  # beyond the holes
            # The second half of a load is no instruction.
            + load64(5, 0, 0x18 | 3 << 32))
    template = Template(code)
    assert template.holes == set()
    assert template.fill({}) == code


def test_a_hole_without_value() -> None:
    template = Template(load64(1, 1, MAP_HOLE) + EXIT)
    with pytest.raises(BackendError, match="0x6f767300"):
        template.fill({MAP_HOLE + 1: 3})


@pytest.mark.parametrize("cut", [4, 8, 12])
def test_incomplete_code(cut: int) -> None:
    with pytest.raises(BackendError):
        Template(EXIT + load64(1, 1, MAP_HOLE)[:cut])
