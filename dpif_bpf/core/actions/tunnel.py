# SPDX-License-Identifier: Apache-2.0
"""Compiles OVS_ACTION_ATTR_SET of OVS_KEY_ATTR_TUNNEL: where the packet goes
when it is sent to a port of a tunnel.

Checks: ``validate_and_copy_set_tun()`` of Linux
net/openvswitch/flow_netlink.c.  The kernel's device is told by
bpf_skb_set_tunnel_key(), which has no flag for OAM: that is refused.
"""

from __future__ import annotations

from dpif_bpf import abi
from dpif_bpf.abi import Header, Op
from dpif_bpf.core.actions.insn import Context, Insn, bad
from dpif_bpf.wire.key.decode import decode_tunnel

_GENEVE_HLEN = 4
_GENEVE_WORDS = 0x1F
_FLAGS = abi.TUNNEL["flags"].slice
_OPTS = abi.TUNNEL["opts"].offset
_OPTS_LEN = abi.TUNNEL["opts_len"].offset


def compile_set_tunnel(context: Context, start: int, stop: int,
                       masked: bool) -> None:
    """OVS_KEY_ATTR_TUNNEL of a set.

    :param start: of its payload
    """
    if masked:
        raise bad("OVS_ACTION_ATTR_SET_MASKED of OVS_KEY_ATTR_TUNNEL")
    tunnel = decode_tunnel(context.actions[start:stop], start)
    flags = int.from_bytes(tunnel[_FLAGS], "big")
    if flags & abi.OVS_TUNNEL_OAM:
        raise bad("OVS_ACTION_ATTR_SET of OVS_TUNNEL_KEY_ATTR_OAM is not"
                  " supported")
    if flags & abi.OVS_TUNNEL_GENEVE_OPT:
        _check_geneve(tunnel[_OPTS:_OPTS + tunnel[_OPTS_LEN]])
    context.insns.append(Insn(Op.HEADER, Header.SET_TUNNEL,
                              len(tunnel) // 8, tunnel))


def _check_geneve(options: bytes) -> None:
    """struct geneve_opt of <net/geneve.h>, one after the other (RFC 8926)."""
    at = 0
    while at < len(options):
        end = at + _GENEVE_HLEN
        if end > len(options):
            break
        at = end + (options[end - 1] & _GENEVE_WORDS) * 4
    if at != len(options):
        raise bad("OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS ends in an option")
