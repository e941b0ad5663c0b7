# SPDX-License-Identifier: Apache-2.0
"""What a list of actions does to a packet, in plain Python.

A second reading of ``<linux/openvswitch.h>`` and of what the kernel datapath
does, independent of ``dpif_bpf.core``: it takes the netlink bytes of
OVS_FLOW_ATTR_ACTIONS and the bytes of a packet, and tells what leaves.  It
expects a list that the datapath accepts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from oracle_encap import KEY_MPLS, Refused, encap, set_mpls
from oracle_encap import KINDS as ENCAPS
from oracle_key import (
    CFI,
    ETH_P_8021AD,
    ETH_P_8021Q,
    ICMPV6,
    TCP,
    UDP,
    Extract,
    Meta,
    be16,
    extract,
)

from dpif_bpf.abi import DropReason

OUTPUT, USERSPACE, SET, PUSH_VLAN, POP_VLAN = 1, 2, 3, 4, 5
PUSH_ETH, POP_ETH = 14, 15
SAMPLE, RECIRC, SET_MASKED, TRUNC, CLONE = 6, 7, 11, 13, 20
CHECK_PKT_LEN, DEC_TTL, DROP = 21, 23, 24
TAGS = {ETH_P_8021Q, ETH_P_8021AD}
KEY_PRIORITY, KEY_ETHERNET, KEY_IPV4, KEY_IPV6 = 2, 4, 7, 8
KEY_TCP, KEY_UDP, KEY_MARK = 9, 10, 15


@dataclass(frozen=True, slots=True)
class Output:
    """A packet that leaves by a port."""

    port: int
    packet: bytes
    priority: int = 0
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Upcall:
    """OVS_PACKET_CMD_ACTION."""

    pid: int
    userdata: bytes | None
    actions: bool
    packet: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Recirc:
    """A packet that is looked up again under another recirculation id."""

    recirc_id: int
    packet: bytes
    key: bytes


Event = Output | Upcall | Recirc


@dataclass(slots=True)
class Result:
    """Events in order, and the reason when the packet itself is dropped.

    :param lost: reasons for which outputs failed
    :param copies: the reasons of copies that blocks dropped
    """

    events: list[Event] = field(default_factory=list)
    drop: DropReason = DropReason.NONE
    lost: list[DropReason] = field(default_factory=list)
    copies: list[DropReason] = field(default_factory=list)

    @property
    def drops(self) -> dict[DropReason, int]:
        """How often each reason is counted."""
        reasons = [*self.lost, *self.copies, self.drop]
        return {reason: reasons.count(reason) for reason in reasons
                if reason is not DropReason.NONE}

    @property
    def outputs(self) -> list[tuple[int, bytes]]:
        """(port, bytes) of each output."""
        return [(event.port, event.packet) for event in self.events
                if isinstance(event, Output)]


class Undefined(Exception):
    """The kernel would write over unrelated bytes: no one may rely on it."""


class _Ended(Exception):
    """The list is over, and the packet taken care of."""


class _Failure(Exception):
    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each netlink attribute."""
    at = 0
    while at < len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        assert 4 <= length <= len(data) - at, "malformed list"
        yield kind & 0x3fff, data[at + 4:at + length]
        at += (length + 3) & ~3


def execute(packet: bytes, actions: bytes, meta: Meta | None = None) -> Result:
    """Run a list of actions on a packet.

    A sample's probability decides: above one half it happens.
    """
    meta = meta or Meta()
    result = Result()
    parsed = extract(packet, meta)
    if parsed is None:
        result.drop = DropReason.MALFORMED
        return result
    state = _State(packet, meta, parsed)
    try:
        _run(actions, state, result)
    except _Failure as failure:
        result.drop = failure.reason
        return result
    except Refused:
        result.drop = DropReason.ENCAP
        return result
    except _Ended:
        pass
    if not result.events and not result.lost:
        result.drop = DropReason.EXPLICIT
    return result


@dataclass(slots=True)
class _State:
    """A packet between two actions.

    :param parsed: offsets of its headers, which stay known however many tags
        are pushed, and the protocol
    :param cutlen: bytes that a truncation takes from the next output
    """

    packet: bytes
    meta: Meta
    parsed: Extract
    cutlen: int = 0

    @property
    def length(self) -> int:
        """Without the outer tag, which the kernel keeps elsewhere."""
        return len(self.packet) - self.outer

    @property
    def outer(self) -> int:
        """Bytes of the outer tag."""
        return (4 if self.meta.protocol is None
                and be16(self.packet, 12) in TAGS else 0)

    def cut(self, least: int) -> bytes:
        """The packet as the next output has it."""
        if not self.cutlen:
            return self.packet
        keep = max(self.length - self.cutlen, least)
        self.cutlen = 0
        return self.packet[:keep + self.outer]

    def move(self, by: int) -> None:
        """Tags of so many bytes were put before the headers."""
        self.parsed = replace(
            self.parsed, l3=self.parsed.l3 + by,
            l4=self.parsed.l4 + by if self.parsed.l4 else 0)


def _key(packet: bytes, meta: Meta) -> bytes:
    parsed = extract(packet, meta)
    if parsed is None:
        raise _Failure(DropReason.MALFORMED)
    return parsed.key


def _run(actions: bytes, state: _State, result: Result) -> None:
    todo = list(attributes(actions))
    for number, (kind, payload) in enumerate(todo, 1):
        last = number == len(todo)
        if kind in {SAMPLE, CLONE, CHECK_PKT_LEN}:
            block = _choose(kind, payload, state)
            if last:
                _run(block, state, result)
            else:
                _run_copy(block, state, result)
        elif kind == DEC_TTL:
            _dec_ttl(payload, state, result)
        else:
            _step(kind, payload, state, result)


def _run_copy(actions: bytes, state: _State, result: Result) -> None:
    copy = replace(state)
    try:
        _run(actions, copy, result)
    except _Failure as failure:
        result.copies.append(failure.reason)
    except Refused:
        result.copies.append(DropReason.ENCAP)
    except _Ended:
        pass


def _choose(kind: int, payload: bytes, state: _State) -> bytes:
    """The list of a block, empty when it does not happen."""
    if kind == CLONE:
        return payload
    found = dict(attributes(payload))
    if kind == SAMPLE:
        return found[2] if _u32(found[1]) > 1 << 31 else b""
    longest, = struct.unpack_from("=H", found[1])
    return found[2] if state.length > longest else found[3]


def _dec_ttl(payload: bytes, state: _State, result: Result) -> None:
    data, l3 = bytearray(state.packet), state.parsed.l3
    protocol = state.meta.protocol
    if protocol is None:
        protocol = be16(data, 12 + state.outer)
    sizes = {0x0800: (20, 8), 0x86dd: (40, 7)}
    if protocol not in sizes:
        return
    if state.parsed.eth_type != protocol:
        raise Undefined("a header behind tags that were not parsed")
    size, at = sizes[protocol]
    if len(data) < l3 + size:
        raise _Failure(DropReason.SET)
    if not state.parsed.l4:
        raise Undefined("a header that flow extract refuses")
    if data[l3 + at] <= 1:
        block = dict(attributes(payload))[1]
        if not block:
            raise _Failure(DropReason.TTL)
        _run(block, state, result)
        raise _Ended
    at += l3
    old = bytes(data[at:at + 2])
    data[at] -= 1
    if protocol == 0x0800:
        _patch(data, l3 + 10, old, bytes(data[at:at + 2]))
    state.packet = bytes(data)


def _step(kind: int, payload: bytes, state: _State, result: Result) -> None:
    packet, meta = state.packet, state.meta
    if kind == OUTPUT and meta.protocol is not None:
        result.lost.append(DropReason.LAYER3)
        state.cutlen = 0
    elif kind == OUTPUT:
        result.events.append(Output(_u32(payload), state.cut(14),
                                    meta.skb_priority, meta.skb_mark))
    elif kind == USERSPACE:
        key = _key(packet, meta)
        result.events.append(_userspace(payload, state.cut(0), key))
    elif kind == TRUNC:
        if state.length > _u32(payload):
            state.cutlen = state.length - _u32(payload)
    elif kind == RECIRC:
        new = replace(meta, recirc_id=_u32(payload))
        result.events.append(Recirc(new.recirc_id, packet,
                                    _key(packet, new)))
    elif kind == DROP:
        raise _Failure(DropReason.ACTION_ERROR if _u32(payload)
                       else DropReason.ACTION)
    elif kind == PUSH_VLAN:
        tci = be16(payload, 2) & ~CFI
        state.packet = (packet[:12] + payload[:2] + struct.pack("!H", tci)
                        + packet[12:])
        state.move(4)
    elif kind == POP_VLAN:
        state.packet = _pop_vlan(packet)
        state.move(len(state.packet) - len(packet))
    elif kind in {SET, SET_MASKED}:
        _set(kind == SET_MASKED, payload, state)
    elif kind in ENCAPS:
        state.packet, protocol, l3 = encap(kind, payload, packet,
                                           meta.protocol)
        state.meta = replace(meta, protocol=protocol)
        if kind in {PUSH_ETH, POP_ETH}:
            state.move(14 if kind == PUSH_ETH else -14)
        else:
            state.parsed = replace(state.parsed, l3=l3, l4=0)
    else:
        raise AssertionError(f"unknown action {kind}")


def _u32(data: bytes) -> int:
    value: int = struct.unpack_from("=I", data)[0]
    return value


def _userspace(payload: bytes, packet: bytes, key: bytes) -> Upcall:
    found = dict(attributes(payload))
    return Upcall(_u32(found[1]), found.get(2), 4 in found, packet, key)


def _pop_vlan(packet: bytes) -> bytes:
    if be16(packet, 12) not in TAGS:
        return packet
    rest = packet[:12] + packet[16:]
    if len(packet) < 18 or (be16(rest, 12) in TAGS
                            and len(rest) < 18):
        raise _Failure(DropReason.VLAN)
    return rest


def _set(masked: bool, payload: bytes, state: _State) -> None:
    meta, parsed = state.meta, state.parsed
    (kind, body), = attributes(payload)
    if masked:
        half = len(body) // 2
        value, mask = body[:half], body[half:2 * half]
    else:
        value, mask = body, b"\xff" * len(body)
    data = bytearray(state.packet)
    if kind == KEY_PRIORITY:
        state.meta = replace(meta, skb_priority=_merge_u32(
            meta.skb_priority, value, mask))
    elif kind == KEY_MARK:
        state.meta = replace(meta, skb_mark=_merge_u32(
            meta.skb_mark, value, mask))
    elif kind == KEY_ETHERNET:
        # struct ovs_key_ethernet: source, then destination
        _merge(data, 6, value[:6], mask[:6])
        _merge(data, 0, value[6:12], mask[6:12])
    elif kind == KEY_IPV4:
        _set_ipv4(data, parsed, value, mask)
    elif kind == KEY_IPV6:
        _set_ipv6(data, parsed, value, mask)
    elif kind == KEY_MPLS:
        if not set_mpls(data, parsed.l3, value, mask):
            raise _Failure(DropReason.SET)
    elif kind in {KEY_TCP, KEY_UDP}:
        _set_ports(data, parsed, TCP if kind == KEY_TCP else UDP,
                   value, mask)
    else:
        raise AssertionError(f"unknown key {kind}")
    state.packet = bytes(data)


def _merge_u32(old: int, value: bytes, mask: bytes) -> int:
    return old & ~_u32(mask) | _u32(value)


def _merge(data: bytearray, at: int, value: bytes, mask: bytes) -> bool:
    """Write the bits under a mask; True: something changed."""
    old = bytes(data[at:at + len(value)])
    new = bytes(o & ~m & 0xff | v
                for o, v, m in zip(old, value, mask, strict=True))
    data[at:at + len(value)] = new
    return new != old


def update_checksum(check: int, old: bytes, new: bytes) -> int:
    """RFC 1624: the checksum of data of which `old` became `new`.

    The result is never 0xffff: the sum that is complemented is never zero.
    """
    total = ~check & 0xffff
    for i in range(0, len(old), 2):
        total += (~be16(old, i) & 0xffff) + be16(new, i)
    return -total % 0xffff


def _patch(data: bytearray, at: int, old: bytes, new: bytes) -> None:
    check = update_checksum(be16(data, at), old, new)
    data[at:at + 2] = check.to_bytes(2, "big")


def _patch_l4(data: bytearray, l4: int, proto: int, old: bytes,
              new: bytes) -> None:
    """Carry a change of an address into the transport checksum."""
    room = len(data) - l4
    if proto == TCP and room >= 20:
        _patch(data, l4 + 16, old, new)
    elif proto == ICMPV6 and room >= 8:
        _patch(data, l4 + 2, old, new)
    elif proto == UDP and room >= 8 and any(data[l4 + 6:l4 + 8]):
        _patch(data, l4 + 6, old, new)
        if not any(data[l4 + 6:l4 + 8]):
            data[l4 + 6:l4 + 8] = b"\xff\xff"


def _set_ipv4(data: bytearray, parsed: Extract, value: bytes,
              mask: bytes) -> None:
    """struct ovs_key_ipv4: src, dst, proto, tos, ttl, frag."""
    l3, l4 = parsed.l3, parsed.l4
    if len(data) < l3 + 20:
        raise _Failure(DropReason.SET)
    if not l4:
        raise Undefined("IPv4 header that flow extract refuses")
    later = be16(data, l3 + 6) & 0x1fff
    for at, start in ((l3 + 12, 0), (l3 + 16, 4)):
        old = bytes(data[at:at + 4])
        if _merge(data, at, value[start:start + 4], mask[start:start + 4]):
            new = bytes(data[at:at + 4])
            if not later and data[l3 + 9] in {TCP, UDP}:
                _patch_l4(data, l4, data[l3 + 9], old, new)
            _patch(data, l3 + 10, old, new)
    for at, start in ((l3 + 1, 9), (l3 + 8, 10)):
        if mask[start]:
            word = l3 + (at - l3 & ~1)
            old = bytes(data[word:word + 2])
            _merge(data, at, value[start:start + 1], mask[start:start + 1])
            _patch(data, l3 + 10, old, bytes(data[word:word + 2]))


def _routing_ahead(data: bytearray, l3: int) -> bool:
    """A routing header with segments left: the destination is not final."""
    proto, at = data[l3 + 6], l3 + 40
    while proto in {0, 43, 44, 51, 60} and len(data) >= at + 4:
        if proto == 43 and data[at + 3]:
            return True
        if proto == 44:
            if be16(data, at + 2) & 0xfff8:
                return False
            size = 8
        elif proto == 51:
            size = (data[at + 1] + 2) * 4
        else:
            size = (data[at + 1] + 1) * 8
        proto, at = data[at], at + size
    return False


def _set_ipv6(data: bytearray, parsed: Extract, value: bytes,
              mask: bytes) -> None:
    """struct ovs_key_ipv6: src, dst, label, proto, tclass, hlimit, frag."""
    l3 = parsed.l3
    if len(data) < l3 + 40:
        raise _Failure(DropReason.SET)
    proto = parsed.byte("ip_proto") if parsed.l4 else 0
    for at, start, final in ((l3 + 8, 0, True),
                             (l3 + 24, 16, not _routing_ahead(data, l3))):
        old = bytes(data[at:at + 16])
        if (_merge(data, at, value[start:start + 16],
                   mask[start:start + 16]) and final):
            _patch_l4(data, parsed.l4, proto, old, bytes(data[at:at + 16]))
    first = int.from_bytes(data[l3:l3 + 4], "big")
    label, label_mask = (int.from_bytes(part[32:36], "big") & 0xfffff
                         for part in (value, mask))
    first = first & ~(mask[37] << 20) | value[37] << 20
    first = first & ~label_mask | label
    data[l3:l3 + 4] = first.to_bytes(4, "big")
    _merge(data, l3 + 7, value[38:39], mask[38:39])


def _set_ports(data: bytearray, parsed: Extract, proto: int, value: bytes,
               mask: bytes) -> None:
    l4 = parsed.l4
    if not l4 or parsed.byte("ip_frag") == 2:
        raise Undefined("no transport header to write to")
    if len(data) < l4 + (20 if proto == TCP else 8):
        raise _Failure(DropReason.SET)
    check = l4 + (16 if proto == TCP else 6)
    live = proto == TCP or any(data[check:check + 2])
    for at, start in ((l4, 0), (l4 + 2, 2)):
        old = bytes(data[at:at + 2])
        if (_merge(data, at, value[start:start + 2], mask[start:start + 2])
                and live):
            _patch(data, check, old, bytes(data[at:at + 2]))
    if proto == UDP and live and not any(data[check:check + 2]):
        data[check:check + 2] = b"\xff\xff"
