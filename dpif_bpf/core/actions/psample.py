# SPDX-License-Identifier: Apache-2.0
"""Compiles OVS_ACTION_ATTR_PSAMPLE, checked as validate_psample() of Linux
net/openvswitch/flow_netlink.c does."""

from __future__ import annotations

import errno
import sys
from struct import Struct

from dpif_bpf.abi import Op
from dpif_bpf.core.actions.insn import Context, Insn, PsampleDesc, bad
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.netlink import (
    NLA_F_NESTED,
    Policy,
    binary,
    exactly,
    parse_attrs,
)

_U32 = Struct("=I")
_ALL = 0xffffffff

_POLICY: Policy = {
    uapi.OVS_PSAMPLE_ATTR_GROUP: exactly("OVS_PSAMPLE_ATTR_GROUP", 4),
    uapi.OVS_PSAMPLE_ATTR_COOKIE: binary("OVS_PSAMPLE_ATTR_COOKIE"),
}


def compile_psample(context: Context, start: int, stop: int) -> None:
    """OVS_ACTION_ATTR_PSAMPLE; where the kernel has no psample family it is
    refused, as by a kernel that does not know it."""
    if not context.psample():
        raise bad("OVS_ACTION_ATTR_PSAMPLE without a psample family")
    data = context.actions
    kind = int.from_bytes(data[start - 2:start], sys.byteorder)
    if not kind & NLA_F_NESTED:
        raise bad("OVS_ACTION_ATTR_PSAMPLE without NLA_F_NESTED")
    found = parse_attrs(data, start, stop, _POLICY, strict=True)
    group = found.get(uapi.OVS_PSAMPLE_ATTR_GROUP)
    if group is None:
        raise bad("OVS_PSAMPLE_ATTR_GROUP is missing")
    cookie = None
    if uapi.OVS_PSAMPLE_ATTR_COOKIE in found:
        first, end = found[uapi.OVS_PSAMPLE_ATTR_COOKIE]
        cookie = data[first:end]
        if len(cookie) > uapi.OVS_PSAMPLE_COOKIE_MAX_SIZE:
            raise RequestError(
                errno.ERANGE, f"OVS_PSAMPLE_ATTR_COOKIE has {len(cookie)}"
                f" bytes of {uapi.OVS_PSAMPLE_COOKIE_MAX_SIZE}")
    context.insns.append(Insn(Op.USERSPACE, desc=PsampleDesc(
        _U32.unpack_from(data, group[0])[0], cookie, context.rate or _ALL)))
