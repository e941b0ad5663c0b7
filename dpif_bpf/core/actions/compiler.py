# SPDX-License-Identifier: Apache-2.0
"""From lists of OVS_ACTION_ATTR_* to instructions of bpf/lib/abi.h.

What is accepted, and with which errno something is refused, is as in the
kernel datapath (Linux 6.18, net/openvswitch/flow_netlink.c); an action that
there is no instruction for is refused with the EINVAL of a kernel that does
not know it, because ovs-vswitchd finds out by trying what it may use.

Each attribute has a function in a table, which checks the payload, changes
what is known of the packet from there on, and appends instructions.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from struct import Struct

from dpif_bpf.abi import OVS_MAX_PORTS, Op
from dpif_bpf.core.actions.blocks import (
    compile_check_pkt_len,
    compile_clone,
    compile_dec_ttl,
    compile_hash,
    compile_sample,
    compile_trunc,
)
from dpif_bpf.core.actions.conntrack import compile_ct, compile_ct_clear
from dpif_bpf.core.actions.encap import (
    compile_add_mpls,
    compile_pop_eth,
    compile_pop_mpls,
    compile_push_eth,
    compile_push_mpls,
)
from dpif_bpf.core.actions.insn import (
    Compiled,
    Context,
    Insn,
    Node,
    UserspaceDesc,
    bad,
)
from dpif_bpf.core.actions.layout import assemble
from dpif_bpf.core.actions.nsh import compile_pop_nsh, compile_push_nsh
from dpif_bpf.core.actions.psample import compile_psample
from dpif_bpf.core.actions.set import compile_set, compile_set_masked
from dpif_bpf.errors import RequestError, decoder
from dpif_bpf.wire import uapi
from dpif_bpf.wire.facts import MAC_PROTO_ETHERNET, KeyFacts
from dpif_bpf.wire.netlink import NLA_HDRLEN, iter_attrs

_U32 = Struct("=I")
_TPIDS = {0x8100, 0x88A8}
_VLAN_CFI = 0x1000

MAX_DEPTH = 16
"""OVS_COPY_ACTIONS_MAX_DEPTH of the kernel: blocks within blocks."""

ACTION_NAMES = {value: name for name, value in vars(uapi).items()
                if name.startswith("OVS_ACTION_ATTR_")}


def no_samples() -> bool:
    """Whether samples can be sent: no."""
    return False


def no_policy(_name: str, _family: int, _proto: int) -> int:
    """Row of a timeout policy: there is none."""
    return 0


@decoder
def compile_actions(data: bytes, facts: KeyFacts, base: int | None = None,
                    psample: Callable[[], bool] = no_samples,
                    row: Callable[[str, int, int], int] = no_policy,
                    ) -> Compiled:
    """Checks a list of actions and compiles it.

    :param data: payload of OVS_FLOW_ATTR_ACTIONS or OVS_PACKET_ATTR_ACTIONS
    :param facts: of the flow's masked key; of the packet for an execute
    :param base: offset of `data` in the netlink message, for the offset in
        the error
    :param psample: whether samples can be sent
    :param row: the row of a timeout policy, see Context
    :raises RequestError: EINVAL for what is malformed, not supported or not
        possible with these packets; ERANGE for a short attribute of a
        userspace action or check_pkt_len, and for a long cookie; EOVERFLOW
        for blocks that are nested too deep
    """
    context = Context(facts, data, _block, psample, facts, row)
    try:
        _list(context)
    except RequestError as error:
        raise RequestError(error.errno, error.text, None if base is None
                           else base + (error.offset or 0)) from None
    return assemble(context.insns)


def _list(context: Context) -> None:
    """Compiles a list; the offset of an error is within it."""
    where = 0
    try:
        for kind, start, stop in iter_attrs(context.actions):
            where = start - NLA_HDRLEN
            _action(context, kind, start, stop)
    except RequestError as error:
        if error.offset is not None:
            raise
        raise RequestError(error.errno, error.text, where) from None


def _block(around: Context, start: int, stop: int) -> tuple[Node, ...]:
    if around.depth >= MAX_DEPTH:
        raise RequestError(errno.EOVERFLOW, f"actions are nested more than"
                           f" {MAX_DEPTH} deep")
    context = replace(around, actions=around.actions[start:stop],
                      depth=around.depth + 1, insns=[])
    try:
        _list(context)
    except RequestError as error:
        raise RequestError(error.errno, error.text,
                           start + (error.offset or 0)) from None
    return tuple(context.insns)


def _action(context: Context, kind: int, start: int, stop: int) -> None:
    handler = HANDLERS.get(kind)
    if handler is None:
        name = ACTION_NAMES.get(kind)
        raise bad(f"action type {kind} is unknown" if name is None
                  else f"{name} is not supported")
    if handler.size is not None and handler.size != stop - start:
        raise bad(f"{ACTION_NAMES[kind]} has {stop - start} bytes instead of"
                  f" {handler.size}")
    handler.compile(context, start, stop)


def _output(context: Context, start: int, _stop: int) -> None:
    port: int = _U32.unpack_from(context.actions, start)[0]
    if port >= OVS_MAX_PORTS - 1:
        raise bad(f"OVS_ACTION_ATTR_OUTPUT to port {port}: numbers end at"
                  f" {OVS_MAX_PORTS - 2}")
    context.insns.append(Insn(Op.OUTPUT, imm=port))


_USERSPACE_U32 = {
    uapi.OVS_USERSPACE_ATTR_PID: "OVS_USERSPACE_ATTR_PID",
    uapi.OVS_USERSPACE_ATTR_EGRESS_TUN_PORT:
        "OVS_USERSPACE_ATTR_EGRESS_TUN_PORT",
}


def _userspace(context: Context, start: int, stop: int) -> None:
    """As nla_parse_deprecated_strict(): short is ERANGE, long is let pass,
    and the last one of a type counts."""
    data = context.actions
    pid = 0
    userdata = actions = egress = None
    for kind, first, end in iter_attrs(data, start, stop):
        if kind in _USERSPACE_U32 and end - first < 4:
            raise RequestError(errno.ERANGE, f"{_USERSPACE_U32[kind]} has"
                               f" {end - first} bytes instead of 4")
        if kind == uapi.OVS_USERSPACE_ATTR_PID:
            pid = _U32.unpack_from(data, first)[0]
        elif kind == uapi.OVS_USERSPACE_ATTR_USERDATA:
            userdata = data[first:end]
        elif kind == uapi.OVS_USERSPACE_ATTR_ACTIONS:
            actions = data
        elif kind == uapi.OVS_USERSPACE_ATTR_EGRESS_TUN_PORT:
            egress = _U32.unpack_from(data, first)[0]
        else:
            raise bad(f"userspace attribute type {kind} is unknown")
    if not pid:
        raise bad("OVS_USERSPACE_ATTR_PID is missing or 0")
    context.insns.append(Insn(Op.USERSPACE, desc=UserspaceDesc(
        pid, userdata, actions, egress)))


def _recirc(context: Context, start: int, _stop: int) -> None:
    context.insns.append(Insn(Op.RECIRC, imm=_U32.unpack_from(
        context.actions, start)[0]))


def _drop(context: Context, start: int, stop: int) -> None:
    if stop != len(context.actions):
        raise bad("OVS_ACTION_ATTR_DROP is not the last action")
    context.insns.append(Insn(Op.DROP, imm=_U32.unpack_from(
        context.actions, start)[0]))


def _meter(context: Context, start: int, _stop: int) -> None:
    # One that there is not, or not yet, lets everything pass.
    context.insns.append(Insn(Op.METER, imm=_U32.unpack_from(
        context.actions, start)[0]))


def _need_ethernet(context: Context, name: str) -> None:
    if context.facts.mac_proto != MAC_PROTO_ETHERNET:
        raise bad(f"{name} on packets without an Ethernet header")


def _push_vlan(context: Context, start: int, _stop: int) -> None:
    _need_ethernet(context, "OVS_ACTION_ATTR_PUSH_VLAN")
    tpid, tci = uapi.OVS_ACTION_PUSH_VLAN.unpack_from(context.actions, start)
    if tpid not in _TPIDS:
        raise bad(f"OVS_ACTION_ATTR_PUSH_VLAN with TPID {tpid:#06x}")
    if not tci & _VLAN_CFI:
        raise bad("OVS_ACTION_ATTR_PUSH_VLAN without the VLAN_CFI bit")
    context.facts = replace(context.facts, vlan_tci=tci)
    raw = context.actions
    context.insns.append(Insn(
        Op.PUSH_VLAN, int.from_bytes(raw[start:start + 2], sys.byteorder),
        int.from_bytes(raw[start + 2:start + 4], sys.byteorder)))


def _pop_vlan(context: Context, _start: int, _stop: int) -> None:
    _need_ethernet(context, "OVS_ACTION_ATTR_POP_VLAN")
    context.facts = replace(context.facts, vlan_tci=0)
    context.insns.append(Insn(Op.POP_VLAN))


@dataclass(frozen=True, slots=True)
class Handler:
    """How to compile one type of attribute.

    :param size: of its payload in bytes; None when it varies
    :param compile: is given the place of the payload in `actions`
    """

    size: int | None
    compile: Callable[[Context, int, int], None]


HANDLERS: dict[int, Handler] = {
    uapi.OVS_ACTION_ATTR_OUTPUT: Handler(4, _output),
    uapi.OVS_ACTION_ATTR_USERSPACE: Handler(None, _userspace),
    uapi.OVS_ACTION_ATTR_SET: Handler(None, compile_set),
    uapi.OVS_ACTION_ATTR_PUSH_VLAN: Handler(4, _push_vlan),
    uapi.OVS_ACTION_ATTR_POP_VLAN: Handler(0, _pop_vlan),
    uapi.OVS_ACTION_ATTR_RECIRC: Handler(4, _recirc),
    uapi.OVS_ACTION_ATTR_SET_MASKED: Handler(None, compile_set_masked),
    uapi.OVS_ACTION_ATTR_DROP: Handler(4, _drop),
    uapi.OVS_ACTION_ATTR_METER: Handler(4, _meter),
    uapi.OVS_ACTION_ATTR_PSAMPLE: Handler(None, compile_psample),
    uapi.OVS_ACTION_ATTR_PUSH_MPLS: Handler(8, compile_push_mpls),
    uapi.OVS_ACTION_ATTR_POP_MPLS: Handler(2, compile_pop_mpls),
    uapi.OVS_ACTION_ATTR_ADD_MPLS: Handler(8, compile_add_mpls),
    uapi.OVS_ACTION_ATTR_PUSH_ETH: Handler(12, compile_push_eth),
    uapi.OVS_ACTION_ATTR_POP_ETH: Handler(0, compile_pop_eth),
    uapi.OVS_ACTION_ATTR_PUSH_NSH: Handler(None, compile_push_nsh),
    uapi.OVS_ACTION_ATTR_POP_NSH: Handler(0, compile_pop_nsh),
    uapi.OVS_ACTION_ATTR_TRUNC: Handler(4, compile_trunc),
    uapi.OVS_ACTION_ATTR_SAMPLE: Handler(None, compile_sample),
    uapi.OVS_ACTION_ATTR_CLONE: Handler(None, compile_clone),
    uapi.OVS_ACTION_ATTR_CHECK_PKT_LEN: Handler(None, compile_check_pkt_len),
    uapi.OVS_ACTION_ATTR_HASH: Handler(8, compile_hash),
    uapi.OVS_ACTION_ATTR_DEC_TTL: Handler(None, compile_dec_ttl),
    uapi.OVS_ACTION_ATTR_CT: Handler(None, compile_ct),
    uapi.OVS_ACTION_ATTR_CT_CLEAR: Handler(0, compile_ct_clear),
}
"""By OVS_ACTION_ATTR_*: what can be done."""
