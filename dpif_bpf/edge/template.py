# SPDX-License-Identifier: Apache-2.0
"""Instruction bytes with holes, to be filled in for each use.

A hole is a 64-bit load of an immediate (BPF_LD | BPF_IMM | BPF_DW of
<linux/bpf.h>, two instructions) of a value that stands for nothing else: a
map descriptor (source register BPF_PSEUDO_MAP_FD; or BPF_PSEUDO_MAP_VALUE: the
address of an array's only element is loaded) or a constant.  So one
compilation serves many programs, each with its constants in its code.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping

from dpif_bpf.errors import BackendError

_INSN = struct.Struct("=BBhi")
_LD_IMM64 = 0x18
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2

MAP_HOLE = 0x6F767300
"""First of 256 descriptors that no process has."""
CONST_HOLE = 0x6F76730062706600
"""First of 256 constants."""


class Template:
    """A program with holes.

    :param insns: struct bpf_insn, 8 bytes each
    :raises BackendError: EINVAL when they end within an instruction
    """

    def __init__(self, insns: bytes) -> None:
        self._insns = insns
        self._holes: list[tuple[int, int, bool]] = []
        at = 0
        while at < len(insns):
            try:
                opcode, registers, _, low = _INSN.unpack_from(insns, at)
                if opcode != _LD_IMM64:
                    at += 8
                    continue
                _, _, _, high = _INSN.unpack_from(insns, at + 8)
            except struct.error as error:
                raise BackendError(errno.EINVAL,
                                   "incomplete instruction") from error
            value = (high & 0xffffffff) << 32 | low & 0xffffffff
            source = registers >> 4
            if (source in (_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE)
                    and value & ~0xff == MAP_HOLE):
                self._holes.append((at, low, True))
            elif source == 0 and value & ~0xff == CONST_HOLE:
                self._holes.append((at, value, False))
            at += 16

    @property
    def holes(self) -> frozenset[int]:
        """What is to be filled in."""
        return frozenset(hole for _, hole, _ in self._holes)

    def fill(self, values: Mapping[int, int]) -> bytes:
        """The program with a value in each hole.

        :param values: hole to descriptor or 64-bit constant
        :raises BackendError: EINVAL when a hole has no value
        """
        code = bytearray(self._insns)
        for at, hole, is_map in self._holes:
            value = values.get(hole)
            if value is None:
                raise BackendError(errno.EINVAL,
                                   f"no value for hole {hole:#x}")
            struct.pack_into("=I", code, at + 4, value & 0xffffffff)
            struct.pack_into("=I", code, at + 12,
                             0 if is_map else value >> 32)
        return bytes(code)
