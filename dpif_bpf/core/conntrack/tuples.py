# SPDX-License-Identifier: Apache-2.0
"""Tuples as the table has them: struct ovs_ct_tuple of bpf/lib/abi_ct.h."""

from __future__ import annotations

from struct import Struct

from dpif_bpf.wire.ct_tuple import AF_INET, CtTuple

_TUPLE = Struct("=16s16s2s2sHBB")
"""src, dst, sport, dport in network order; zone, proto, family."""

SIZE = _TUPLE.size


def pack_tuple(one: CtTuple, zone: int) -> bytes:
    """What is looked for of a direction, 40 bytes."""
    return _TUPLE.pack(one.src, one.dst, one.sport.to_bytes(2, "big"),
                       one.dport.to_bytes(2, "big"), zone, one.proto,
                       one.family)


def unpack_tuple(data: bytes, offset: int = 0) -> tuple[CtTuple, int]:
    """A tuple and its zone."""
    src, dst, sport, dport, zone, proto, family = _TUPLE.unpack_from(
        data, offset)
    size = 4 if family == AF_INET else 16
    return CtTuple(family, proto, src[:size], dst[:size],
                   int.from_bytes(sport, "big"),
                   int.from_bytes(dport, "big")), zone
