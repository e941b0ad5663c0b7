# SPDX-License-Identifier: Apache-2.0
"""OVS_ACTION_ATTR_CT and OVS_ACTION_ATTR_CT_CLEAR.

What is refused, with which errno, and what a dump shows, is as in Linux
net/openvswitch/conntrack.c: ovs_ct_copy_action(), parse_ct(), parse_nat()
and ovs_ct_action_to_attr() of 6.1 and 6.12.  Attributes are read in their
order, and that matters:

- NAT with a type needs a commit **before** it; marks and labels need one
  anywhere.
- Of an attribute that comes twice the last counts, but NAT adds to the NAT
  before it: a second type is ERANGE, a second range takes the place of the
  first, and one without a largest address or port makes that the smallest.
- Without a type of NAT nothing else may be in it; behind another NAT it may,
  and has no effect.

What a dump shows has another order and leaves out what says nothing: zone 0
is shown, a largest address or port that is the smallest is not.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct

from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.ct_tuple import AF_INET, AF_INET6
from dpif_bpf.wire.netlink import (
    NLA_HDRLEN,
    U16,
    U32,
    iter_attrs,
    nla,
    nla_flag,
    nla_u16,
    nla_u32,
)
from dpif_bpf.wire.nf_uapi import CTNL_TIMEOUT_NAME_MAX, NF_CT_HELPER_NAME_LEN
from dpif_bpf.wire.protocols import (
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
)

FAMILIES: Mapping[int, int] = {ETH_P_IP: AF_INET, ETH_P_IPV6: AF_INET6}
"""Address families by Ethernet type, of what can be tracked."""

HELPERS: Mapping[str, int] = {"ftp": IPPROTO_TCP, "tftp": IPPROTO_UDP}
"""The helpers that there are, and the IP protocol of which each is."""

_MARK = Struct("=II")
_LABELS = Struct(f"={uapi.OVS_CT_LABELS_LEN}s{uapi.OVS_CT_LABELS_LEN}s")
_NO_LABELS = bytes(uapi.OVS_CT_LABELS_LEN)
_ADDRESS_LEN = {AF_INET: 4, AF_INET6: 16}

_SIZES: Mapping[int, tuple[str, int, int | None]] = {
    uapi.OVS_CT_ATTR_COMMIT: ("OVS_CT_ATTR_COMMIT", 0, 0),
    uapi.OVS_CT_ATTR_FORCE_COMMIT: ("OVS_CT_ATTR_FORCE_COMMIT", 0, 0),
    uapi.OVS_CT_ATTR_ZONE: ("OVS_CT_ATTR_ZONE", 2, 2),
    uapi.OVS_CT_ATTR_MARK: ("OVS_CT_ATTR_MARK", _MARK.size, _MARK.size),
    uapi.OVS_CT_ATTR_LABELS: (
        "OVS_CT_ATTR_LABELS", _LABELS.size, _LABELS.size),
    uapi.OVS_CT_ATTR_HELPER: ("OVS_CT_ATTR_HELPER", 1, NF_CT_HELPER_NAME_LEN),
    uapi.OVS_CT_ATTR_NAT: ("OVS_CT_ATTR_NAT", 0, None),
    uapi.OVS_CT_ATTR_EVENTMASK: ("OVS_CT_ATTR_EVENTMASK", 4, 4),
    uapi.OVS_CT_ATTR_TIMEOUT: (
        "OVS_CT_ATTR_TIMEOUT", 1, CTNL_TIMEOUT_NAME_MAX),
}
"""Name, least and largest number of bytes of each attribute."""

_NAT_FLAGS = {uapi.OVS_NAT_ATTR_PERSISTENT: "persistent",
              uapi.OVS_NAT_ATTR_PROTO_HASH: "proto_hash",
              uapi.OVS_NAT_ATTR_PROTO_RANDOM: "proto_random"}


class NatType(enum.Enum):
    """What ct(nat) asks for: that a NAT which there is be carried out, or
    that a new connection have one of source or destination."""

    EXISTING = 0
    SRC = uapi.OVS_NAT_ATTR_SRC
    DST = uapi.OVS_NAT_ATTR_DST


@dataclass(frozen=True, slots=True)
class Nat:
    """OVS_CT_ATTR_NAT.

    The rest is as by default when `type` is EXISTING.

    :param type: what is to be translated
    :param ip_min: smallest address, of 4 or 16 bytes by the family; empty
        when no address is given
    :param ip_max: largest address, as `ip_min`; below it when the peer wants
        that
    :param port_min: smallest port (or ICMP id), host order; None when no port
        is given
    :param port_max: largest port, as `port_min`
    :param persistent: each client keeps its address
    :param proto_hash: ports by a hash (NF_NAT_RANGE_PROTO_RANDOM)
    :param proto_random: ports at random (NF_NAT_RANGE_PROTO_RANDOM_FULLY)
    """

    type: NatType = NatType.EXISTING
    ip_min: bytes = b""
    ip_max: bytes = b""
    port_min: int | None = None
    port_max: int | None = None
    persistent: bool = False
    proto_hash: bool = False
    proto_random: bool = False


@dataclass(frozen=True, slots=True)
class CtAction:
    """OVS_ACTION_ATTR_CT.

    :param family: AF_INET or AF_INET6, of the flow's packets
    :param zone: conntrack zone, 0 to 65535
    :param commit: new connections are to be kept
    :param force: one in the other direction is replaced; implies `commit`
    :param mark: connection mark, host order
    :param mark_mask: its bits that are written; 0: none
    :param labels: 16 bytes, in the order of the wire
    :param labels_mask: their bits that are written
    :param helper: one of the helpers; empty: none
    :param eventmask: bits 1 << IPCT_* of <linux/netfilter/
        nf_conntrack_common.h>; None when it is not given
    :param timeout: name of a timeout policy, of which there need not be one;
        empty: none
    :param nat: None: no NAT, not even one that there is
    """

    family: int
    zone: int = 0
    commit: bool = False
    force: bool = False
    mark: int = 0
    mark_mask: int = 0
    labels: bytes = _NO_LABELS
    labels_mask: bytes = _NO_LABELS
    helper: str = ""
    eventmask: int | None = None
    timeout: str = ""
    nat: Nat | None = None


def _bad(text: str, start: int, code: int = errno.EINVAL) -> RequestError:
    """Of the attribute whose payload is at `start`."""
    return RequestError(code, text, start - NLA_HDRLEN)


@dataclass(slots=True)
class _Nat:
    """struct ovs_conntrack_info's part of NAT, while attributes are read."""

    family: int
    type: NatType | None = None
    min: bytes = b""
    max: bytes = b""
    has_ip: bool = False
    port_min: int = 0
    port_max: int = 0
    has_port: bool = False
    flags: set[str] = field(default_factory=set)

    def read(self, buf: bytes, start: int, stop: int, commit: bool) -> None:
        """One OVS_CT_ATTR_NAT."""
        given: set[int] = set()
        for kind, first, end in iter_attrs(buf, start, stop):
            self._check(kind, first, end)
            given.add(kind)
            if kind in (uapi.OVS_NAT_ATTR_SRC, uapi.OVS_NAT_ATTR_DST):
                if self.type is not None:
                    raise _bad("OVS_CT_ATTR_NAT has a second type", first,
                               errno.ERANGE)
                self.type = NatType(kind)
            elif kind == uapi.OVS_NAT_ATTR_IP_MIN:
                self.min, self.has_ip = buf[first:end], True
            elif kind == uapi.OVS_NAT_ATTR_IP_MAX:
                self.max, self.has_ip = buf[first:end], True
            elif kind == uapi.OVS_NAT_ATTR_PROTO_MIN:
                self.port_min, self.has_port = U16.unpack_from(
                    buf, first)[0], True
            elif kind == uapi.OVS_NAT_ATTR_PROTO_MAX:
                self.port_max, self.has_port = U16.unpack_from(
                    buf, first)[0], True
            else:
                self.flags.add(_NAT_FLAGS[kind])
        if self.type is None:
            if self.has_ip or self.has_port or self.flags:
                raise _bad("OVS_CT_ATTR_NAT has a range and no type", start)
            self.type = NatType.EXISTING
        elif not commit:
            raise _bad("OVS_CT_ATTR_NAT with a type, without a commit before"
                       " it", start)
        if uapi.OVS_NAT_ATTR_IP_MAX not in given:
            self.max = self.min
        if uapi.OVS_NAT_ATTR_PROTO_MAX not in given:
            self.port_max = self.port_min

    def _check(self, kind: int, start: int, stop: int) -> None:
        if not 0 < kind <= uapi.OVS_NAT_ATTR_PROTO_RANDOM:
            raise _bad(f"NAT attribute type {kind} is unknown", start)
        size = 0
        if kind in (uapi.OVS_NAT_ATTR_IP_MIN, uapi.OVS_NAT_ATTR_IP_MAX):
            size = _ADDRESS_LEN[self.family]
        elif kind in (uapi.OVS_NAT_ATTR_PROTO_MIN,
                      uapi.OVS_NAT_ATTR_PROTO_MAX):
            size = U16.size
        if stop - start != size:
            raise _bad(f"NAT attribute type {kind} has {stop - start} bytes"
                       f" instead of {size}", start)

    def made(self) -> Nat | None:
        """Nat; None when there was no such attribute."""
        if self.type is None:
            return None
        if self.type is NatType.EXISTING:
            return Nat()
        any_ = bytes(_ADDRESS_LEN[self.family])
        return Nat(
            self.type,
            (self.min or any_) if self.has_ip else b"",
            (self.max or any_) if self.has_ip else b"",
            self.port_min if self.has_port else None,
            self.port_max if self.has_port else None,
            **dict.fromkeys(self.flags, True))


def decode_ct(buf: bytes, start: int, stop: int, eth_type: int,
              ip_proto: int, helpers: Mapping[str, int] = HELPERS,
              ) -> CtAction:
    """The payload of OVS_ACTION_ATTR_CT, ``buf[start:stop]``.

    :param eth_type: Ethernet type that the **flow** matches, whatever the
        actions before made of the packet; 0 when it matches none
    :param ip_proto: IP protocol that the flow matches, or 0
    :param helpers: the protocol of each helper by its name
    :raises RequestError: with the offset of the attribute in `buf`; EINVAL,
        and ERANGE for a second type of NAT
    """
    family = FAMILIES.get(eth_type)
    if family is None:
        raise _bad(f"OVS_ACTION_ATTR_CT on packets of Ethernet type"
                   f" {eth_type:#06x}", start)
    zone, commit, force = 0, False, False
    mark, mark_mask, eventmask = 0, 0, None
    labels = labels_mask = _NO_LABELS
    helper: tuple[str, int] | None = None
    timeout = ""
    nat = _Nat(family)
    for kind, first, end in iter_attrs(buf, start, stop):
        name = _check(kind, first, end)
        if kind == uapi.OVS_CT_ATTR_COMMIT:
            commit = True
        elif kind == uapi.OVS_CT_ATTR_FORCE_COMMIT:
            commit = force = True
        elif kind == uapi.OVS_CT_ATTR_ZONE:
            zone = U16.unpack_from(buf, first)[0]
        elif kind == uapi.OVS_CT_ATTR_MARK:
            mark, mark_mask = _MARK.unpack_from(buf, first)
            if not mark_mask:
                raise _bad(f"{name} with an empty mask", first)
        elif kind == uapi.OVS_CT_ATTR_LABELS:
            labels, labels_mask = _LABELS.unpack_from(buf, first)
            if not any(labels_mask):
                raise _bad(f"{name} with an empty mask", first)
        elif kind == uapi.OVS_CT_ATTR_HELPER:
            helper = _text(buf, first, end, name), first
        elif kind == uapi.OVS_CT_ATTR_NAT:
            nat.read(buf, first, end, commit)
        elif kind == uapi.OVS_CT_ATTR_EVENTMASK:
            eventmask = U32.unpack_from(buf, first)[0]
        else:
            timeout = _text(buf, first, end, name)
    if not commit and mark_mask:
        raise _bad("OVS_CT_ATTR_MARK without a commit", start)
    if not commit and any(labels_mask):
        raise _bad("OVS_CT_ATTR_LABELS without a commit", start)
    if helper is not None and (
            not ip_proto or helpers.get(helper[0]) != ip_proto):
        raise _bad(f"there is no helper {helper[0]!r} for IP protocol"
                   f" {ip_proto}", helper[1])
    return CtAction(family, zone, commit, force, mark, mark_mask, labels,
                    labels_mask, helper[0] if helper else "", eventmask,
                    timeout, nat.made())


def _check(kind: int, start: int, stop: int) -> str:
    """Name of an attribute, which is known and has a size that it may."""
    found = _SIZES.get(kind)
    if found is None:
        raise _bad(f"conntrack attribute type {kind} is unknown", start)
    name, least, most = found
    size = stop - start
    if size < least or (most is not None and size > most):
        raise _bad(f"{name} has {size} bytes instead of {least}"
                   + ("" if least == most else f" to {most}"), start)
    return name


def _text(buf: bytes, start: int, stop: int, name: str) -> str:
    """Up to a NUL, which must be there; behind it may be more.  Bytes that
    are no UTF-8 come back as they were."""
    nul = buf.find(b"\0", start, stop)
    if nul < 0:
        raise _bad(f"{name} has no final NUL", start)
    return buf[start:nul].decode(errors="surrogateescape")


def encode_ct(action: CtAction) -> bytes:
    """The whole OVS_ACTION_ATTR_CT, as the kernel shows it."""
    parts: list[bytes] = []
    if action.commit:
        parts.append(nla_flag(uapi.OVS_CT_ATTR_FORCE_COMMIT if action.force
                              else uapi.OVS_CT_ATTR_COMMIT))
    parts.append(nla_u16(uapi.OVS_CT_ATTR_ZONE, action.zone))
    if action.mark_mask:
        parts.append(nla(uapi.OVS_CT_ATTR_MARK,
                         _MARK.pack(action.mark, action.mark_mask)))
    if any(action.labels_mask):
        parts.append(nla(uapi.OVS_CT_ATTR_LABELS,
                         action.labels + action.labels_mask))
    if action.helper:
        parts.append(_put_text(uapi.OVS_CT_ATTR_HELPER, action.helper))
    if action.eventmask is not None:
        parts.append(nla_u32(uapi.OVS_CT_ATTR_EVENTMASK, action.eventmask))
    if action.timeout:
        parts.append(_put_text(uapi.OVS_CT_ATTR_TIMEOUT, action.timeout))
    if action.nat is not None:
        parts.append(nla(uapi.OVS_CT_ATTR_NAT, _encode_nat(action.nat)))
    return nla(uapi.OVS_ACTION_ATTR_CT, b"".join(parts))


def _put_text(kind: int, text: str) -> bytes:
    return nla(kind, text.encode(errors="surrogateescape") + b"\0")


def _encode_nat(nat: Nat) -> bytes:
    if nat.type is NatType.EXISTING:
        return b""
    parts = [nla_flag(nat.type.value)]
    if nat.ip_min:
        parts.append(nla(uapi.OVS_NAT_ATTR_IP_MIN, nat.ip_min))
        if nat.ip_max != nat.ip_min:
            parts.append(nla(uapi.OVS_NAT_ATTR_IP_MAX, nat.ip_max))
    if nat.port_min is not None and nat.port_max is not None:
        parts.append(nla_u16(uapi.OVS_NAT_ATTR_PROTO_MIN, nat.port_min))
        if nat.port_max != nat.port_min:
            parts.append(nla_u16(uapi.OVS_NAT_ATTR_PROTO_MAX, nat.port_max))
    parts += [nla_flag(kind) for kind, name in _NAT_FLAGS.items()
              if getattr(nat, name)]
    return b"".join(parts)


def check_ct_clear(start: int, stop: int) -> None:
    """OVS_ACTION_ATTR_CT_CLEAR has no payload.

    :raises RequestError: EINVAL
    """
    if stop != start:
        raise _bad(f"OVS_ACTION_ATTR_CT_CLEAR has {stop - start} bytes"
                   " instead of 0", start)


def encode_ct_clear() -> bytes:
    return nla_flag(uapi.OVS_ACTION_ATTR_CT_CLEAR)
