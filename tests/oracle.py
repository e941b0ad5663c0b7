# SPDX-License-Identifier: Apache-2.0
"""What a list of actions does to a packet, in plain Python.

A second reading of ``<linux/openvswitch.h>`` and of what the kernel datapath
does, independent of ``dpif_bpf.core``: it takes the netlink bytes of
OVS_FLOW_ATTR_ACTIONS and the bytes of a packet, and tells what leaves.  It
expects a list that the datapath accepts.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from oracle_encap import KINDS as ENCAPS
from oracle_encap import Refused, encap
from oracle_events import Failure, Output, Recirc, Result, Undefined, Upcall
from oracle_gso import headers
from oracle_key import CFI, Meta, be16, extract
from oracle_nsh import KINDS as NSH_KINDS
from oracle_nsh import encap as nsh_encap
from oracle_set import patch, set_field
from oracle_state import TAGS, State, attributes, u32

from dpif_bpf.abi import DropReason

OUTPUT, USERSPACE, SET, PUSH_VLAN, POP_VLAN = 1, 2, 3, 4, 5
PUSH_ETH, POP_ETH = 14, 15
SAMPLE, RECIRC, HASH, SET_MASKED, TRUNC, CLONE = 6, 7, 8, 11, 13, 20
CHECK_PKT_LEN, DEC_TTL, DROP, METER = 21, 23, 24, 19

EXCEEDED = 0xdead
"""The meter that every packet exceeds; others let all pass."""
HASHED = 0xffffffff
"""A dp_hash of which only the kernel knows what it is: not 0."""


class _Ended(Exception):
    """The list is over, and the packet taken care of."""


def execute(packet: bytes, actions: bytes, meta: Meta | None = None) -> Result:
    """Run a list of actions on a packet; all ports want Ethernet headers.

    A sample's probability decides: above one half it happens.
    """
    meta = meta or Meta()
    parsed = extract(packet, meta)
    if parsed is None:
        return Result(drop=DropReason.MALFORMED)
    result = run_list(actions, State(packet, meta, parsed))
    for event in list(result.events):
        if isinstance(event, Output) and event.layer3:
            result.events.remove(event)
            result.lost.append(DropReason.LAYER3)
    return result


def run_list(actions: bytes, state: State) -> Result:
    """Run a list of actions on a packet that has been parsed."""
    result = Result()
    try:
        _run(actions, state, result)
    except Failure as failure:
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


def _key(packet: bytes, meta: Meta) -> bytes:
    parsed = extract(packet, meta)
    if parsed is None:
        raise Failure(DropReason.MALFORMED)
    return parsed.key


def _seen(kind: int, payload: bytes) -> bool:
    """Whether an action may do more than change the packet."""
    if kind in {OUTPUT, USERSPACE, RECIRC, DROP, DEC_TTL, METER}:
        return True
    if kind == CLONE:
        return any(_seen(*attr) for attr in attributes(payload))
    if kind not in {SAMPLE, CHECK_PKT_LEN}:
        return False
    found = dict(attributes(payload))
    return (kind == CHECK_PKT_LEN or u32(found[1]) > 0) and any(
        _seen(*attr) for block in (2, 3) if block in found
        for attr in attributes(found[block]))


def _run(actions: bytes, state: State, result: Result,
         copy: bool = False) -> None:
    """Runs a list; what follows the last action that can be seen is no
    reason to do anything.

    :param copy: it is that of a block which a copy runs
    """
    todo = list(attributes(actions))
    while todo and not _seen(*todo[-1]):
        todo.pop()
    for number, (kind, payload) in enumerate(todo, 1):
        last = number == len(todo)
        if kind == TRUNC or (not last and kind in {
                SAMPLE, CLONE, CHECK_PKT_LEN, RECIRC}):
            result.late = True
        if kind in {SAMPLE, CLONE, CHECK_PKT_LEN}:
            block = _choose(kind, payload, state)
            if last:
                _run(block, state, result, copy)
            else:
                _run_copy(block, state, result)
        elif kind == DEC_TTL:
            _dec_ttl(payload, state, result)
        else:
            _step(kind, payload, state, result, last and not copy)


def _run_copy(actions: bytes, state: State, result: Result) -> None:
    if state.waited:
        raise Undefined("a limit: the block may take the truncation away")
    result.blocks += 1
    copy = replace(state)
    try:
        _run(actions, copy, result, True)
    except Failure as failure:
        result.copies.append(failure.reason)
    except Refused:
        result.copies.append(DropReason.ENCAP)
    except _Ended:
        pass


def _choose(kind: int, payload: bytes, state: State) -> bytes:
    """The list of a block, empty when it does not happen."""
    if kind == CLONE:
        return payload
    found = dict(attributes(payload))
    if kind == SAMPLE:
        return found[2] if u32(found[1]) > 1 << 31 else b""
    longest, = struct.unpack_from("=H", found[1])
    return found[2] if _longest(state) > longest else found[3]


def _longest(state: State) -> int:
    """Bytes of the packet, or of the longest that it will be cut into."""
    if not state.meta.gso:
        return state.length
    if not state.parsed.l4:
        raise Undefined("a GSO packet behind headers that were pushed")
    *_, payload = headers(state.packet)
    return min(state.length, payload + state.meta.gso - state.outer)


def _dec_ttl(payload: bytes, state: State, result: Result) -> None:
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
        raise Failure(DropReason.SET)
    if not state.parsed.l4:
        raise Undefined("a header that flow extract refuses")
    if data[l3 + at] <= 1:
        block = dict(attributes(payload))[1]
        if not block:
            raise Failure(DropReason.TTL)
        _run(block, state, result)
        raise _Ended
    at += l3
    old = bytes(data[at:at + 2])
    data[at] -= 1
    if protocol == 0x0800:
        patch(data, l3 + 10, old, bytes(data[at:at + 2]))
    state.packet = bytes(data)


def _step(kind: int, payload: bytes, state: State, result: Result,
          last: bool) -> None:
    packet, meta = state.packet, state.meta
    if kind == OUTPUT:
        result.events.append(Output(
            u32(payload), state.cut(0 if meta.protocol else 14),
            meta.skb_priority, meta.skb_mark, meta.protocol is not None))
    elif kind == USERSPACE:
        key = _key(packet, meta)
        length = len(packet) if state.cutlen else 0
        result.events.append(_userspace(payload, state.cut(0), key, length))
    elif kind == TRUNC:
        if state.length > u32(payload):
            state.cutlen = state.length - u32(payload)
            state.waited = False
    elif kind == RECIRC:
        new = replace(meta, recirc_id=u32(payload))
        result.events.append(Recirc(new.recirc_id, packet,
                                    _key(packet, new), meta, state.cutlen,
                                    last))
    elif kind == HASH:
        state.meta = replace(meta, dp_hash=HASHED)
    elif kind == DROP:
        raise Failure(DropReason.ACTION_ERROR if u32(payload)
                       else DropReason.ACTION)
    elif kind == METER:
        if u32(payload) == EXCEEDED:
            raise Failure(DropReason.METER)
    elif kind == PUSH_VLAN:
        tci = be16(payload, 2) & ~CFI
        state.packet = (packet[:12] + payload[:2] + struct.pack("!H", tci)
                        + packet[12:])
        state.move(4)
    elif kind == POP_VLAN:
        state.packet = _pop_vlan(packet)
        state.move(len(state.packet) - len(packet))
    elif kind in {SET, SET_MASKED}:
        set_field(kind == SET_MASKED, payload, state)
    elif kind in ENCAPS | NSH_KINDS:
        change = encap if kind in ENCAPS else nsh_encap
        state.packet, protocol, l3 = change(kind, payload, packet,
                                            meta.protocol)
        state.meta = replace(meta, protocol=protocol)
        if kind in {PUSH_ETH, POP_ETH}:
            state.move(14 if kind == PUSH_ETH else -14)
        else:
            state.parsed = replace(state.parsed, l3=l3, l4=0)
    else:
        raise AssertionError(f"unknown action {kind}")


def _userspace(payload: bytes, packet: bytes, key: bytes,
               length: int) -> Upcall:
    found = dict(attributes(payload))
    return Upcall(u32(found[1]), found.get(2), 4 in found, packet, key,
                  length)


def _pop_vlan(packet: bytes) -> bytes:
    if be16(packet, 12) not in TAGS:
        return packet
    rest = packet[:12] + packet[16:]
    if len(packet) < 18 or (be16(rest, 12) in TAGS
                            and len(rest) < 18):
        raise Failure(DropReason.VLAN)
    return rest
