# SPDX-License-Identifier: Apache-2.0
"""Compiles OVS_ACTION_ATTR_SET and OVS_ACTION_ATTR_SET_MASKED.

Both become masked sets, as in the kernel (validate_set() in Linux
net/openvswitch/flow_netlink.c).  Structures: struct ovs_key_* of
<linux/openvswitch.h> in, struct ovs_set_* of bpf/lib/abi.h out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from dpif_bpf.abi import SET_ETH, SET_IPV4, SET_IPV6, SET_TP, Header, Op
from dpif_bpf.core.actions.insn import Context, Insn, bad
from dpif_bpf.core.actions.nsh import compile_set_nsh
from dpif_bpf.core.actions.tunnel import compile_set_tunnel
from dpif_bpf.wire import uapi
from dpif_bpf.wire.facts import MAC_PROTO_ETHERNET, KeyFacts
from dpif_bpf.wire.netlink import NLA_HDRLEN, NLA_TYPE_MASK, NLATTR
from dpif_bpf.wire.protocols import (
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
)

_MPLS = {0x8847, 0x8848}
_LABEL_BITS = 0xFFFFF

_U32 = Struct("=I")
_WORD = Struct("=Q")
_PORTS = Struct("=2s2s")

KEY_NAMES = {value: name for name, value in vars(uapi).items()
             if name.startswith("OVS_KEY_ATTR_")}


@dataclass(frozen=True, slots=True)
class _Set:
    """What is written: `value` under `mask`.

    :param masked: whether this was OVS_ACTION_ATTR_SET_MASKED; otherwise the
        mask is all ones
    """

    value: bytes
    mask: bytes
    masked: bool


def compile_set(context: Context, start: int, stop: int) -> None:
    """OVS_ACTION_ATTR_SET."""
    _compile(context, start, stop, masked=False)


def compile_set_masked(context: Context, start: int, stop: int) -> None:
    """OVS_ACTION_ATTR_SET_MASKED."""
    _compile(context, start, stop, masked=True)


def _compile(context: Context, start: int, stop: int, masked: bool) -> None:
    data = context.actions
    action = "OVS_ACTION_ATTR_SET_MASKED" if masked else "OVS_ACTION_ATTR_SET"
    if stop - start < NLA_HDRLEN:
        raise bad(f"{action} without a key")
    size, kind = NLATTR.unpack_from(data, start)
    kind &= NLA_TYPE_MASK
    if size < NLA_HDRLEN or size + 3 & ~3 != stop - start:
        raise bad(f"{action} has {stop - start} bytes with nla_len {size}"
                  " in them, which is not one key")
    name = KEY_NAMES.get(kind, f"key type {kind}")
    if kind == uapi.OVS_KEY_ATTR_NSH:
        compile_set_nsh(context, start + NLA_HDRLEN, start + size, masked)
        return
    if kind == uapi.OVS_KEY_ATTR_TUNNEL:
        compile_set_tunnel(context, start + NLA_HDRLEN, start + size, masked)
        return
    field = FIELDS.get(kind)
    if field is None:
        raise bad(f"{action} of {name} is not supported")
    length = size - NLA_HDRLEN
    if masked:
        # An odd byte at the end is overlooked, as by the kernel.
        length //= 2
    if length != field.size:
        raise bad(f"{name} has {size - NLA_HDRLEN} bytes instead of"
                  f" {field.size * 2 if masked else field.size}")
    start += NLA_HDRLEN
    value = data[start:start + length]
    mask = (data[start + length:start + 2 * length] if masked
            else b"\xff" * length)
    if int.from_bytes(value, "big") & ~int.from_bytes(mask, "big"):
        raise bad(f"{name} has bits outside of its mask")
    insn = field.compile(context.facts, _Set(value, mask, masked))
    if any(mask):
        context.insns.append(insn)


def _priority(_facts: KeyFacts, this: _Set) -> Insn:
    return _metadata(Op.SET_PRIORITY, this)


def _mark(_facts: KeyFacts, this: _Set) -> Insn:
    return _metadata(Op.SET_MARK, this)


def _metadata(op: Op, this: _Set) -> Insn:
    value, mask = (_U32.unpack(part)[0] for part in (this.value, this.mask))
    return Insn(op, imm=value, data=_WORD.pack(mask))


def _ethernet(facts: KeyFacts, this: _Set) -> Insn:
    if facts.mac_proto != MAC_PROTO_ETHERNET:
        raise bad("OVS_KEY_ATTR_ETHERNET on packets without an Ethernet"
                  " header")
    src, dst = uapi.OVS_KEY_ETHERNET.unpack(this.value)
    src_mask, dst_mask = uapi.OVS_KEY_ETHERNET.unpack(this.mask)
    return Insn(Op.SET_ETH, data=SET_ETH.struct.pack(
        dst, b"", src, b"", dst_mask, b"", src_mask, b""))


def _need_ip(facts: KeyFacts, eth_type: int, name: str) -> None:
    if facts.eth_type != eth_type:
        raise bad(f"{name} on packets of Ethernet type"
                  f" {facts.eth_type:#06x}")


def _check_fixed(facts: KeyFacts, this: _Set, name: str,
                 fixed: tuple[int, int], masks: tuple[int, int]) -> None:
    """The protocol and the fragment type cannot be written.

    :param fixed: their values: of the packet, in an unmasked set
    :param masks: their masks: 0, in a masked set
    """
    wrong = (masks != (0, 0) if this.masked
             else fixed != (facts.ip_proto, facts.ip_frag))
    if wrong:
        raise bad(f"{name} would change the protocol or the fragment type")


def _ipv4(facts: KeyFacts, this: _Set) -> Insn:
    name = "OVS_KEY_ATTR_IPV4"
    _need_ip(facts, ETH_P_IP, name)
    src, dst, proto, tos, ttl, frag = uapi.OVS_KEY_IPV4.unpack(this.value)
    (src_mask, dst_mask, proto_mask, tos_mask, ttl_mask,
     frag_mask) = uapi.OVS_KEY_IPV4.unpack(this.mask)
    _check_fixed(facts, this, name, (proto, frag), (proto_mask, frag_mask))
    return Insn(Op.SET_IPV4, data=SET_IPV4.struct.pack(
        src, dst, src_mask, dst_mask, tos, tos_mask, ttl, ttl_mask, 0))


def _ipv6(facts: KeyFacts, this: _Set) -> Insn:
    name = "OVS_KEY_ATTR_IPV6"
    _need_ip(facts, ETH_P_IPV6, name)
    (src, dst, label, proto, tclass, hlimit,
     frag) = uapi.OVS_KEY_IPV6.unpack(this.value)
    (src_mask, dst_mask, label_mask, proto_mask, tclass_mask, hlimit_mask,
     frag_mask) = uapi.OVS_KEY_IPV6.unpack(this.mask)
    _check_fixed(facts, this, name, (proto, frag), (proto_mask, frag_mask))
    writable = int.from_bytes(label_mask, "big")
    if not this.masked:
        writable &= _LABEL_BITS
    if (int.from_bytes(label, "big") | writable) & ~_LABEL_BITS:
        raise bad(f"{name} has a flow label of more than 20 bits")
    return Insn(Op.SET_IPV6, data=SET_IPV6.struct.pack(
        src, dst, src_mask, dst_mask, label, writable.to_bytes(4, "big"),
        tclass, tclass_mask, hlimit, hlimit_mask, 0))


def _ports(facts: KeyFacts, this: _Set, proto: int, name: str) -> bytes:
    if (facts.eth_type not in {ETH_P_IP, ETH_P_IPV6}
            or facts.ip_proto != proto):
        raise bad(f"{name} on packets of Ethernet type"
                  f" {facts.eth_type:#06x}, protocol {facts.ip_proto}")
    src, dst = _PORTS.unpack(this.value)
    src_mask, dst_mask = _PORTS.unpack(this.mask)
    return SET_TP.struct.pack(src, dst, src_mask, dst_mask)


def _tcp(facts: KeyFacts, this: _Set) -> Insn:
    return Insn(Op.SET_TP, IPPROTO_TCP, data=_ports(
        facts, this, IPPROTO_TCP, "OVS_KEY_ATTR_TCP"))


def _udp(facts: KeyFacts, this: _Set) -> Insn:
    return Insn(Op.SET_TP, IPPROTO_UDP, data=_ports(
        facts, this, IPPROTO_UDP, "OVS_KEY_ATTR_UDP"))


def _sctp(facts: KeyFacts, this: _Set) -> Insn:
    return Insn(Op.HEADER, Header.SET_SCTP, data=_ports(
        facts, this, IPPROTO_SCTP, "OVS_KEY_ATTR_SCTP"))


def _mpls(facts: KeyFacts, this: _Set) -> Insn:
    """The outermost label.  (The kernel takes any number of entries and
    writes the first.)"""
    if facts.eth_type not in _MPLS:
        raise bad("OVS_KEY_ATTR_MPLS on packets of Ethernet type"
                  f" {facts.eth_type:#06x}")
    value, mask = (_U32.unpack(part)[0] for part in (this.value, this.mask))
    return Insn(Op.HEADER, Header.SET_MPLS, value, _WORD.pack(mask))


@dataclass(frozen=True, slots=True)
class _Field:
    size: int
    compile: Callable[[KeyFacts, _Set], Insn]


FIELDS: dict[int, _Field] = {
    uapi.OVS_KEY_ATTR_PRIORITY: _Field(4, _priority),
    uapi.OVS_KEY_ATTR_SKB_MARK: _Field(4, _mark),
    uapi.OVS_KEY_ATTR_ETHERNET: _Field(12, _ethernet),
    uapi.OVS_KEY_ATTR_IPV4: _Field(12, _ipv4),
    uapi.OVS_KEY_ATTR_IPV6: _Field(40, _ipv6),
    uapi.OVS_KEY_ATTR_TCP: _Field(4, _tcp),
    uapi.OVS_KEY_ATTR_UDP: _Field(4, _udp),
    uapi.OVS_KEY_ATTR_SCTP: _Field(4, _sctp),
    uapi.OVS_KEY_ATTR_MPLS: _Field(4, _mpls),
}
"""By OVS_KEY_ATTR_*: what can be set, beside OVS_KEY_ATTR_NSH and
OVS_KEY_ATTR_TUNNEL."""
