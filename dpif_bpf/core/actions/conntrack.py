# SPDX-License-Identifier: Apache-2.0
"""The actions ct and ct_clear.

What is accepted is ``wire.ct_action``'s; here it becomes an instruction of
bpf/lib/act_ct.h.  A timeout policy is a row of ovs_ct_policy, which stays that
policy's for as long as the list is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dpif_bpf import abi
from dpif_bpf.abi import ACT_CT, Op
from dpif_bpf.abi_ct import OVS_CT_HELPER_FTP, OVS_CT_HELPER_TFTP
from dpif_bpf.core.actions.insn import Context, Insn
from dpif_bpf.core.conntrack.policy import Policy
from dpif_bpf.wire.ct_action import (
    CtAction,
    Nat,
    NatType,
    check_ct_clear,
    decode_ct,
)

HELPER_NUMBERS: Mapping[str, int] = {
    "": 0, "ftp": OVS_CT_HELPER_FTP, "tftp": OVS_CT_HELPER_TFTP}
"""As records have them."""


class TimeoutPolicies(Protocol):
    """The timeout policies, as actions have them."""

    def hold(self, name: str, family: int, proto: int) -> Policy | None:
        """The policy that an action has from now on; None: none.

        :param family: AF_INET or AF_INET6
        :param proto: IP protocol of the flow's packets; 0: not known
        """

    def release(self, policy: Policy) -> None:
        """Ends a hold()."""


def compile_ct(context: Context, start: int, stop: int) -> None:
    """OVS_ACTION_ATTR_CT.

    What its flow matches counts, whatever the actions before it made of the
    packet.  An event mask has no effect, as there are no events.
    """
    flow = context.flow
    action = decode_ct(context.actions, start, stop, flow.eth_type,
                       flow.ip_proto)
    row = 0
    if action.timeout:
        row = context.row(action.timeout, action.family, flow.ip_proto)
    flags = _flags(action)
    context.insns.append(Insn(
        Op.CT, action.zone, flags | row << abi.OVS_CTA_POLICY_SHIFT,
        _operand(action) if action.commit else b""))


def compile_ct_clear(context: Context, start: int, stop: int) -> None:
    """OVS_ACTION_ATTR_CT_CLEAR."""
    check_ct_clear(start, stop)
    context.insns.append(Insn(Op.CT_CLEAR))


def _flags(action: CtAction) -> int:
    nat = action.nat or Nat()
    return sum(bit for bit, has in (
        (abi.OVS_CTA_COMMIT, action.commit),
        (abi.OVS_CTA_FORCE, action.force),
        (abi.OVS_CTA_MARK, bool(action.mark_mask)),
        (abi.OVS_CTA_LABELS, any(action.labels_mask)),
        (abi.OVS_CTA_NAT, action.nat is not None),
        (abi.OVS_CTA_NAT_SRC, nat.type is NatType.SRC),
        (abi.OVS_CTA_NAT_DST, nat.type is NatType.DST),
        (abi.OVS_CTA_NAT_IPS, bool(nat.ip_min)),
        (abi.OVS_CTA_NAT_PORTS, nat.port_min is not None),
        (abi.OVS_CTA_NAT_PERSISTENT, nat.persistent),
        (abi.OVS_CTA_NAT_RANDOM, nat.proto_hash or nat.proto_random),
    ) if has)


def _operand(action: CtAction) -> bytes:
    """struct ovs_act_ct."""
    nat = action.nat or Nat()
    labels = bytes(value & mask for value, mask in zip(
        action.labels, action.labels_mask, strict=True))
    return ACT_CT.struct.pack(
        action.mark, action.mark_mask, labels, action.labels_mask,
        nat.ip_min.ljust(16, b"\0"), nat.ip_max.ljust(16, b"\0"),
        nat.port_min or 0, nat.port_max or 0,
        HELPER_NUMBERS[action.helper], 0)
