# SPDX-License-Identifier: Apache-2.0
"""Compiles the actions that have lists of actions in them, and those that
steer how the list goes on: sample, clone, check_pkt_len, dec_ttl, trunc, hash.

Checks are those of Linux net/openvswitch/flow_netlink.c
(``validate_and_copy_sample()`` and its like).  What is known of the packet
after a block is what was known before it.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from struct import Struct

from dpif_bpf.abi import Op
from dpif_bpf.core.actions.insn import (
    ALWAYS,
    CheckPktLen,
    Context,
    DecTtl,
    Insn,
    Sample,
    bad,
)
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.netlink import NLA_HDRLEN, iter_attrs

_U16 = Struct("=H")
_U32 = Struct("=I")
_ETH_HLEN = 14

Span = tuple[int, int]
"""Where a payload starts and stops."""


def _check_list(name: str, span: Span | None) -> Span:
    """A list is empty or has at least one attribute's header."""
    if span is None:
        raise bad(f"{name} is missing")
    size = span[1] - span[0]
    if size and size < NLA_HDRLEN:
        raise bad(f"{name} has {size} bytes")
    return span


def _once(context: Context, start: int, stop: int, most: int, name: str,
          lenient: bool = False) -> dict[int, Span]:
    """Attributes of types 1 to `most`, each at most once, all padded.

    :param lenient: those of higher types are passed over
    """
    found: dict[int, Span] = {}
    end = start
    for kind, first, end in iter_attrs(context.actions, start, stop):
        if kind > most and lenient:
            continue
        if not 0 < kind <= most or kind in found:
            raise bad(f"{name}: attribute type {kind} is unknown or there"
                      " twice")
        found[kind] = first, end
    if end + 3 & ~3 > stop:
        raise bad(f"{name}: the last attribute is not padded")
    return found


def compile_sample(context: Context, start: int, stop: int) -> None:
    """OVS_ACTION_ATTR_SAMPLE."""
    found = _once(context, start, stop, uapi.OVS_SAMPLE_ATTR_ACTIONS,
                  "OVS_ACTION_ATTR_SAMPLE")
    first, end = found.get(uapi.OVS_SAMPLE_ATTR_PROBABILITY, (0, 0))
    if end - first != 4:
        raise bad(f"OVS_SAMPLE_ATTR_PROBABILITY has {end - first} bytes"
                  " instead of 4")
    block = _check_list("OVS_SAMPLE_ATTR_ACTIONS",
                        found.get(uapi.OVS_SAMPLE_ATTR_ACTIONS))
    probability = _U32.unpack_from(context.actions, first)[0]
    context.insns.append(Sample(probability, replace(
        context, rate=probability).block(*block)))


def compile_clone(context: Context, start: int, stop: int) -> None:
    """OVS_ACTION_ATTR_CLONE."""
    block = _check_list("OVS_ACTION_ATTR_CLONE", (start, stop))
    context.insns.append(Sample(ALWAYS, context.block(*block)))


def compile_check_pkt_len(context: Context, start: int, stop: int) -> None:
    """OVS_ACTION_ATTR_CHECK_PKT_LEN, as nla_parse_deprecated_strict(): short
    is ERANGE, long is let pass, and the last one of a type counts."""
    found: dict[int, Span] = {}
    for kind, first, end in iter_attrs(context.actions, start, stop):
        if not 0 < kind <= uapi.OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_LESS_EQUAL:
            raise bad(f"check_pkt_len attribute type {kind} is unknown")
        size = end - first
        least = NLA_HDRLEN
        if kind == uapi.OVS_CHECK_PKT_LEN_ATTR_PKT_LEN:
            least = 2
        elif not size:
            least = 0
        if size < least:
            raise RequestError(errno.ERANGE, f"check_pkt_len attribute type"
                               f" {kind} has {size} bytes instead of {least}")
        found[kind] = first, end
    where = found.get(uapi.OVS_CHECK_PKT_LEN_ATTR_PKT_LEN)
    greater = found.get(uapi.OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_GREATER)
    less = found.get(uapi.OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_LESS_EQUAL)
    length = _U16.unpack_from(context.actions, where[0])[0] if where else 0
    if not length:
        raise bad("OVS_CHECK_PKT_LEN_ATTR_PKT_LEN is missing or 0")
    if greater is None or less is None:
        raise bad("OVS_CHECK_PKT_LEN_ATTR_ACTIONS_* are not both there")
    less_equal = context.block(*less)
    context.insns.append(CheckPktLen(length, context.block(*greater),
                                     less_equal))


def compile_dec_ttl(context: Context, start: int, stop: int) -> None:
    """OVS_ACTION_ATTR_DEC_TTL."""
    found = _once(context, start, stop, uapi.OVS_DEC_TTL_ATTR_ACTION,
                  "OVS_ACTION_ATTR_DEC_TTL", lenient=True)
    block = _check_list("OVS_DEC_TTL_ATTR_ACTION",
                        found.get(uapi.OVS_DEC_TTL_ATTR_ACTION))
    context.insns.append(DecTtl(context.block(*block)))


def compile_trunc(context: Context, start: int, _stop: int) -> None:
    """OVS_ACTION_ATTR_TRUNC."""
    length: int = uapi.OVS_ACTION_TRUNC.unpack_from(context.actions, start)[0]
    if length < _ETH_HLEN:
        raise bad(f"OVS_ACTION_ATTR_TRUNC to {length} bytes")
    context.insns.append(Insn(Op.TRUNC, imm=length))


def compile_hash(context: Context, start: int, _stop: int) -> None:
    """OVS_ACTION_ATTR_HASH."""
    algorithm, basis = uapi.OVS_ACTION_HASH.unpack_from(context.actions,
                                                        start)
    if algorithm != uapi.OVS_HASH_ALG_L4:
        raise bad(f"OVS_ACTION_ATTR_HASH with algorithm {algorithm}")
    context.insns.append(Insn(Op.HASH, imm=basis))
