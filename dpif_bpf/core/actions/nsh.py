# SPDX-License-Identifier: Apache-2.0
"""Compiles the actions that push, pop and write network service headers.

When push and pop are accepted is as in Linux net/openvswitch/flow_netlink.c
(``__ovs_nla_copy_actions``, ``nsh_key_put_from_nlattr``), with two
differences: what was pushed can be popped, or be written to, and nothing
below it can; and a pop is refused while there is an Ethernet header in front.

The kernel never got to write the fields (Linux 6.18 says so and refuses it);
here the messages that ovs-vswitchd has for that are understood, with the
effect of its own datapath (``odp_set_nsh`` of OVS lib/odp-execute.c).
"""

from __future__ import annotations

from struct import Struct

from dpif_bpf.abi import SET_NSH, Header, Op
from dpif_bpf.core.actions.insn import Context, Insn, bad
from dpif_bpf.wire import uapi
from dpif_bpf.wire.facts import MAC_PROTO_ETHERNET, MAC_PROTO_NONE, KeyFacts
from dpif_bpf.wire.key.attrs import NSH_M_TYPE1
from dpif_bpf.wire.netlink import (
    NLA_HDRLEN,
    NLA_TYPE_MASK,
    NLATTR,
    iter_attrs,
)
from dpif_bpf.wire.protocols import (
    ETH_P_IP,
    ETH_P_IPV6,
    ETH_P_MPLS_UC,
    ETH_P_NSH,
    ETH_P_TEB,
)

_M_TYPE2 = 2
_BASE_SIZE = uapi.OVS_NSH_KEY_BASE.size
_MD1_SIZE = uapi.OVS_NSH_KEY_MD1.size
_MD2_MAX = 248
"""NSH_CTX_HDRS_MAX_LEN of <net/nsh.h>."""
_WORDS_MAX = 63
"""Words of a header that its length field can say."""

_NP_ETHERNET = 3
_NEXT = {ETH_P_IP: 1, ETH_P_IPV6: 2, ETH_P_TEB: _NP_ETHERNET, ETH_P_NSH: 4,
         ETH_P_MPLS_UC: 5}
"""Next protocols by Ethernet type: TUN_P_* of <net/tun_proto.h>."""

_HEADER = Struct("!HBB4s")
"""Flags, TTL and length; metadata type; next protocol; path."""

Span = tuple[int, int]
"""Where a payload starts and stops."""


def _fields(flags: int, ttl: int) -> int:
    """Bits in the first two bytes of a header; what is more is cut off."""
    return (flags & 3) << 12 | (ttl & 0x3F) << 6


def _key(context: Context, start: int, stop: int) -> Span:
    """The OVS_KEY_ATTR_NSH that is the whole payload of an action."""
    if stop - start < NLA_HDRLEN:
        raise bad("OVS_ACTION_ATTR_PUSH_NSH without a key")
    size, kind = NLATTR.unpack_from(context.actions, start)
    if kind & NLA_TYPE_MASK != uapi.OVS_KEY_ATTR_NSH:
        raise bad(f"OVS_ACTION_ATTR_PUSH_NSH with key type {kind}")
    if size < NLA_HDRLEN or size + 3 & ~3 != stop - start:
        raise bad(f"OVS_ACTION_ATTR_PUSH_NSH has {stop - start} bytes with"
                  f" nla_len {size} in them")
    return start + NLA_HDRLEN, start + size


def _attrs(context: Context, start: int, stop: int,
           times: int) -> dict[int, bytes]:
    """OVS_NSH_KEY_ATTR_*; of two that are alike, the last counts.

    :param times: 2 when masks follow the values
    """
    sizes = {uapi.OVS_NSH_KEY_ATTR_BASE: _BASE_SIZE,
             uapi.OVS_NSH_KEY_ATTR_MD1: _MD1_SIZE}
    found: dict[int, bytes] = {}
    for kind, first, end in iter_attrs(context.actions, start, stop):
        if kind == uapi.OVS_NSH_KEY_ATTR_MD2:
            if not 0 < end - first <= _MD2_MAX:
                raise bad(f"OVS_NSH_KEY_ATTR_MD2 has {end - first} bytes")
        elif kind not in sizes:
            raise bad(f"NSH attribute type {kind} is unknown")
        elif end - first != times * sizes[kind]:
            raise bad(f"NSH attribute type {kind} has {end - first} bytes"
                      f" instead of {times * sizes[kind]}")
        found[kind] = context.actions[first:end]
    return found


def compile_push_nsh(context: Context, start: int, stop: int) -> None:
    """OVS_ACTION_ATTR_PUSH_NSH: an OVS_KEY_ATTR_NSH."""
    name = "OVS_ACTION_ATTR_PUSH_NSH"
    facts = context.facts
    below = _NP_ETHERNET
    if facts.mac_proto != MAC_PROTO_ETHERNET:
        below = _NEXT.get(facts.eth_type, 0)
        if not below:
            raise bad(f"{name} on packets of Ethernet type"
                      f" {facts.eth_type:#06x}")
    found = _attrs(context, *_key(context, start, stop), times=1)
    base = found.get(uapi.OVS_NSH_KEY_ATTR_BASE)
    types = {uapi.OVS_NSH_KEY_ATTR_MD1: NSH_M_TYPE1,
             uapi.OVS_NSH_KEY_ATTR_MD2: _M_TYPE2}
    metadata = [kind for kind in types if kind in found]
    if base is None or len(metadata) != 1:
        raise bad(f"{name} without base, or with metadata of no or of both"
                  " types")
    flags, ttl, mdtype, _, path = uapi.OVS_NSH_KEY_BASE.unpack(base)
    if mdtype != types[metadata[0]]:
        raise bad(f"{name}: other metadata than of type {mdtype}")
    # As by the kernel, of which only whole words get into the packet.
    words = (_BASE_SIZE + len(found[metadata[0]])) // 4
    if words > _WORDS_MAX:
        raise bad(f"{name}: a header of {4 * words} bytes")
    header = _HEADER.pack(_fields(flags, ttl) | words, mdtype, 0, path)
    header = (header + found[metadata[0]])[:4 * words]
    context.facts = KeyFacts(
        eth_type=ETH_P_NSH, mac_proto=MAC_PROTO_NONE,
        tun_proto=facts.tun_proto, nsh_mdtype=mdtype, nsh_np=below)
    context.insns.append(Insn(Op.HEADER, Header.PUSH_NSH, len(header),
                              header + bytes(-len(header) % 8)))


def compile_pop_nsh(context: Context, _start: int, _stop: int) -> None:
    """OVS_ACTION_ATTR_POP_NSH.

    Of what was below, nothing is known until the packet is looked up again.
    The type stays, as it does in the kernel: a header can be pushed again.
    """
    name = "OVS_ACTION_ATTR_POP_NSH"
    facts = context.facts
    _need_nsh(facts, name)
    if facts.nsh_np not in _NEXT.values():
        raise bad(f"{name} to next protocol {facts.nsh_np}")
    if facts.mac_proto == MAC_PROTO_ETHERNET:
        raise bad(f"{name} on packets that have an Ethernet header before it")
    context.facts = KeyFacts(
        eth_type=ETH_P_NSH, tun_proto=facts.tun_proto,
        mac_proto=(MAC_PROTO_ETHERNET if facts.nsh_np == _NP_ETHERNET
                   else MAC_PROTO_NONE))
    context.insns.append(Insn(Op.HEADER, Header.POP_NSH))


def compile_set_nsh(context: Context, start: int, stop: int,
                    masked: bool) -> None:
    """The payload of OVS_KEY_ATTR_NSH in a set.

    Each attribute in it has its mask behind its value when `masked`.  The
    type of metadata and the next protocol cannot be written.  Context is
    written to packets with metadata of type 1; others do not have it.
    """
    name = "OVS_KEY_ATTR_NSH"
    facts = context.facts
    _need_nsh(facts, name)
    found = _attrs(context, start, stop, times=2 if masked else 1)
    if uapi.OVS_NSH_KEY_ATTR_MD2 in found or not found:
        raise bad(f"{name} has nothing that can be written")
    base, base_mask = _halves(found, uapi.OVS_NSH_KEY_ATTR_BASE, _BASE_SIZE,
                              masked)
    md1, md1_mask = _halves(found, uapi.OVS_NSH_KEY_ATTR_MD1, _MD1_SIZE,
                            masked)
    flags, ttl, mdtype, np, path = uapi.OVS_NSH_KEY_BASE.unpack(base)
    (flags_mask, ttl_mask, mdtype_mask, np_mask,
     path_mask) = uapi.OVS_NSH_KEY_BASE.unpack(base_mask)
    wrong = ((mdtype_mask, np_mask) != (0, 0) if masked
             else (mdtype, np) != (facts.nsh_mdtype, facts.nsh_np))
    if wrong:
        raise bad(f"{name} would change the type of metadata or the next"
                  " protocol")
    if (uapi.OVS_NSH_KEY_ATTR_MD1 in found and facts.nsh_mdtype
            and facts.nsh_mdtype != NSH_M_TYPE1):
        raise bad(f"{name}: context of packets with metadata of type"
                  f" {facts.nsh_mdtype}")
    value_bits = _HEADER.pack(_fields(flags, ttl), 0, 0, path)
    mask_bits = _HEADER.pack(_fields(flags_mask, ttl_mask), 0, 0, path_mask)
    if any(mask_bits + md1_mask):
        context.insns.append(Insn(
            Op.HEADER, Header.SET_NSH, data=SET_NSH.struct.pack(
                value_bits, md1, mask_bits, md1_mask)))


def _halves(found: dict[int, bytes], kind: int, size: int,
            masked: bool) -> tuple[bytes, bytes]:
    """Value and mask; zeros for what is not given."""
    data = found.get(kind)
    if data is None:
        return bytes(size), bytes(size)
    if not masked:
        return data, b"\xff" * size
    value, mask = data[:size], data[size:]
    if int.from_bytes(value, "big") & ~int.from_bytes(mask, "big"):
        raise bad(f"NSH attribute type {kind} has bits outside of its mask")
    return value, mask


def _need_nsh(facts: KeyFacts, name: str) -> None:
    if facts.eth_type != ETH_P_NSH:
        raise bad(f"{name} on packets of Ethernet type"
                  f" {facts.eth_type:#06x}")
