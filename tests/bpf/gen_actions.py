# SPDX-License-Identifier: Apache-2.0
"""Lists of actions for hypothesis, of all that the datapath accepts."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

from hypothesis import strategies as st
from lists import (
    POP_ETH,
    POP_NSH,
    POP_VLAN,
    add_mpls,
    check_pkt_len,
    clone,
    dec_ttl,
    drop,
    hash_l4,
    meter,
    nla,
    nsh_base,
    output,
    pop_mpls,
    push_eth,
    push_mpls,
    push_nsh,
    push_vlan,
    recirc,
    sample,
    set_masked,
    set_nsh,
    set_whole,
    trunc,
    u32,
)
from oracle import EXCEEDED

from dpif_bpf.core.actions.programs import compile_actions
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.facts import KeyFacts

Draw = Callable[[st.SearchStrategy[Any]], Any]

PIDS = (11, 12, 13)
RECIRC_IDS = (1, 2, 3)
NO_PORT = 9
"""A port that there is not."""

_OUT = st.sampled_from([2, 3, 1, 4, 4, NO_PORT])
_LSE = st.sampled_from([bytes.fromhex("00003b40"), bytes.fromhex("fffff7ff"),
                        bytes(4)])
_TYPES = st.sampled_from([0x8847, 0x8848])
_BELOW = st.sampled_from([0x0800, 0x86dd, 0x8847, 0x6558, 0x88cc])
_BYTE = st.integers(0, 255)
_VALUES = st.sampled_from([b"\0", b"\xff", b"\x0a", b"\x01"])


def _userspace(draw: Draw) -> bytes:
    data = u32(uapi.OVS_USERSPACE_ATTR_PID, draw(st.sampled_from(PIDS)))
    if draw(st.booleans()):
        data += nla(uapi.OVS_USERSPACE_ATTR_USERDATA,
                    draw(st.binary(max_size=20)))
    if draw(st.booleans()):
        data += nla(uapi.OVS_USERSPACE_ATTR_ACTIONS)
    return nla(uapi.OVS_ACTION_ATTR_USERSPACE, data)


class Lists:
    """Lists for the packets of one flow.

    :param facts: what the flow matches
    :param least: bytes that truncation leaves, see ovs_trim() in
        bpf/lib/act_output.h
    :param without: kinds of actions that there are not
    """

    def __init__(self, draw: Draw, facts: KeyFacts, least: int,
                 without: Set[str] = frozenset()) -> None:
        self._draw = draw
        self._facts = facts
        self._least = least
        self._kinds = [kind for kind in KINDS if kind not in without]

    def make(self) -> bytes:
        """One list."""
        return self._list(3, b"")

    def _list(self, depth: int, before: bytes) -> bytes:
        """A list of a few actions, blocks `depth` deep.

        :param before: what has been done to the packet in the list around
        """
        draw = self._draw
        actions = b""
        for _ in range(draw(st.sampled_from([1, 2, 3, 5, 7, 0]))):
            kind = draw(st.sampled_from(self._kinds if depth else [
                kind for kind in self._kinds if kind not in BLOCKS]))
            step = STEPS[kind](self, depth, before + actions)
            if self._accepted(before + actions + step):
                actions += step
        if draw(st.integers(0, 9)) < 7:
            actions += output(draw(_OUT))
        elif draw(st.integers(0, 3)) == 0:
            actions += drop(draw(st.sampled_from([0, 5])))
        return actions

    def _accepted(self, actions: bytes) -> bool:
        try:
            compile_actions(actions, self._facts)
        except RequestError:
            return False
        return True

    # One action each.

    def output(self, _depth: int, _before: bytes) -> bytes:
        return output(self._draw(_OUT))

    def userspace(self, _depth: int, _before: bytes) -> bytes:
        return _userspace(self._draw)

    def recirc(self, _depth: int, _before: bytes) -> bytes:
        return recirc(self._draw(st.sampled_from(RECIRC_IDS)))

    def trunc(self, _depth: int, _before: bytes) -> bytes:
        return trunc(self._least + self._draw(st.sampled_from(
            [0, 1, 50, 300])))

    def hash(self, _depth: int, _before: bytes) -> bytes:
        return hash_l4(self._draw(st.integers(0, 3)))

    def meter(self, _depth: int, _before: bytes) -> bytes:
        return meter(self._draw(st.sampled_from([1, EXCEEDED])))

    def push_vlan(self, _depth: int, _before: bytes) -> bytes:
        return push_vlan(self._draw(st.sampled_from([0x8100, 0x88a8])),
                         self._draw(st.sampled_from([5, 0xffff, 0x6007])))

    def pop_vlan(self, _depth: int, _before: bytes) -> bytes:
        return POP_VLAN

    def encap(self, _depth: int, _before: bytes) -> bytes:
        draw = self._draw
        kind = draw(st.integers(0, 5))
        if kind == 0:
            return push_mpls(draw(_LSE), draw(_TYPES))
        if kind == 1:
            return pop_mpls(draw(_BELOW))
        if kind == 2:
            return add_mpls(draw(_LSE), draw(_TYPES), draw(
                st.integers(0, 1)))
        if kind == 3:
            return push_eth(bytes.fromhex("02000000000c02000000000b"))
        if kind == 4:
            return POP_ETH
        return self._set(uapi.OVS_KEY_ATTR_MPLS, 4)

    def nsh(self, _depth: int, _before: bytes) -> bytes:
        draw = self._draw
        kind = draw(st.integers(0, 3))
        if kind == 0:
            mdtype = draw(st.sampled_from([1, 2]))
            size = 16 if mdtype == 1 else draw(st.sampled_from([4, 1, 64]))
            return push_nsh(nsh_base(
                draw(st.sampled_from([1, 0xffffff])), draw(_BYTE),
                draw(st.integers(0, 3)), draw(st.sampled_from([63, 0, 1])),
                mdtype), bytes(range(size)))
        if kind == 1:
            return self._set_nsh()
        return POP_ETH + POP_NSH if kind == 2 else POP_NSH

    def _set_nsh(self) -> bytes:
        draw = self._draw

        def masked(size: int) -> tuple[bytes, bytes]:
            mask = draw(st.one_of(st.just(b"\xff" * size), st.binary(
                min_size=size, max_size=size)))
            value = draw(st.binary(min_size=size, max_size=size))
            return bytes(v & m for v, m in zip(value, mask,
                                               strict=True)), mask

        (base, base_mask), (md1, md1_mask) = masked(8), masked(16)
        fixed = bytes(2)  # the type of metadata and the next protocol
        base = base[:2] + fixed + base[4:]
        base_mask = base_mask[:2] + fixed + base_mask[4:]
        context = md1 + md1_mask if draw(st.booleans()) else b""
        return set_nsh(base + base_mask, context)

    def set(self, _depth: int, _before: bytes) -> bytes:
        draw, facts = self._draw, self._facts
        kinds = [(uapi.OVS_KEY_ATTR_ETHERNET, 12),
                 (uapi.OVS_KEY_ATTR_PRIORITY, 4),
                 (uapi.OVS_KEY_ATTR_SKB_MARK, 4)]
        if facts.eth_type == 0x0800:
            kinds += [(uapi.OVS_KEY_ATTR_IPV4, 12)] * 4
        elif facts.eth_type == 0x86dd:
            kinds += [(uapi.OVS_KEY_ATTR_IPV6, 40)] * 4
        if facts.eth_type == 0x894f and draw(st.booleans()):
            return self._set_nsh()
        ports = {6: uapi.OVS_KEY_ATTR_TCP, 17: uapi.OVS_KEY_ATTR_UDP,
                 132: uapi.OVS_KEY_ATTR_SCTP}
        if facts.ip_proto in ports:
            kinds += [(ports[facts.ip_proto], 4)] * 3
        return self._set(*draw(st.sampled_from(kinds)))

    def _set(self, kind: int, size: int) -> bytes:
        draw = self._draw
        value = draw(st.one_of(_VALUES.map(lambda v: v * size),
                               st.binary(min_size=size, max_size=size)))
        how = draw(st.sampled_from(["masked", "masked", "all", "whole"]))
        mask = (draw(st.binary(min_size=size, max_size=size))
                if how == "masked" else b"\xff" * size)
        value, mask = self._settable(kind, value, mask, how == "whole")
        if how == "whole":
            return set_whole(kind, value)
        return set_masked(kind, value, mask)

    def _settable(self, kind: int, value: bytes, mask: bytes,
                  whole: bool) -> tuple[bytes, bytes]:
        """Protocol and fragment type are the packet's; labels are short."""
        if kind == uapi.OVS_KEY_ATTR_IPV4:
            proto, frag = 8, 11
        elif kind == uapi.OVS_KEY_ATTR_IPV6:
            proto, frag = 36, 39
            value = value[:32] + b"\0" + bytes((value[33] & 15,)) + value[34:]
            mask = mask[:32] + b"\0" + bytes((mask[33] & 15,)) + mask[34:]
        else:
            return value, mask
        new, bits = bytearray(value), bytearray(mask)
        bits[proto] = bits[frag] = 0
        if whole:
            new[proto] = self._facts.ip_proto
            new[frag] = self._facts.ip_frag
        return bytes(new), bytes(bits)

    # Blocks of actions.

    def clone(self, depth: int, before: bytes) -> bytes:
        return clone(self._list(depth - 1, before))

    def sample(self, depth: int, before: bytes) -> bytes:
        # What is neither never nor always is so once in four thousand
        # million packets.
        return sample(self._draw(st.sampled_from(
            [0xffffffff, 0, 0xfffffffe, 1])), self._list(depth - 1, before))

    def check_pkt_len(self, depth: int, before: bytes) -> bytes:
        length = self._draw(st.sampled_from([100, 94, 1, 14, 60, 65535]))
        return check_pkt_len(length, self._list(depth - 1, before),
                             self._list(depth - 1, before))

    def dec_ttl(self, depth: int, before: bytes) -> bytes:
        if self._draw(st.booleans()):
            return dec_ttl(self._list(depth - 1, before))
        return dec_ttl()


STEPS: dict[str, Callable[[Lists, int, bytes], bytes]] = {
    "set": Lists.set, "output": Lists.output, "userspace": Lists.userspace,
    "push_vlan": Lists.push_vlan, "pop_vlan": Lists.pop_vlan,
    "recirc": Lists.recirc, "encap": Lists.encap, "nsh": Lists.nsh,
    "trunc": Lists.trunc, "hash": Lists.hash, "meter": Lists.meter,
    "clone": Lists.clone, "sample": Lists.sample,
    "check_pkt_len": Lists.check_pkt_len, "dec_ttl": Lists.dec_ttl}
BLOCKS = {"clone", "sample", "check_pkt_len", "dec_ttl"}
KINDS = ["output", *["set"] * 4, *["push_vlan", "pop_vlan"] * 2,
         *["encap"] * 3, "nsh", "recirc", "recirc", "trunc", "hash",
         "userspace", "meter", *sorted(BLOCKS)]
