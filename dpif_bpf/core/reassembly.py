# SPDX-License-Identifier: Apache-2.0
"""Packets in fragments, which programs can neither put together nor take
apart: they hand them over as records of ovs_upcalls that are for nobody else.

A fragment that meets ct() waits here (``core.conntrack.fragments``), and the
whole packet goes on where its last fragment was, at that ct().  What was in
fragments goes out in fragments again, unless it fits into one of them: so does
the kernel datapath (handle_fragments() and ovs_fragment()).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from struct import Struct
from typing import Protocol

from dpif_bpf import abi, abi_ct
from dpif_bpf.core.actions.programs import Program, ProgramCache
from dpif_bpf.core.conntrack.control import Controls
from dpif_bpf.core.conntrack.fragments import Fragments, split
from dpif_bpf.core.plane import Executes, Memory
from dpif_bpf.errors import DpifError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.ct_tuple import AF_INET, AF_INET6, CtTuple
from dpif_bpf.wire.facts import KeyFacts
from dpif_bpf.wire.netlink import nla_u32
from dpif_bpf.wire.packet import ETH_HLEN
from dpif_bpf.wire.protocols import (
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_IP,
    ETH_P_IPV6,
)
from dpif_bpf.wire.segment import read_segment, transport_of

_TAGS = (ETH_P_8021Q, ETH_P_8021AD)
_TAG = 4
_OP = 0xff
_CT_STATE = abi.KEY["ct_state"].offset
_CT_ZONE = abi.KEY["ct_zone"].slice
_U16 = Struct("=H")
_ARG_SHIFT = 16


class _Plane(Memory, Executes, Protocol):
    """What is asked of the packet path."""


class Reassembly:
    """What is done about fragments in one datapath.

    :ivar fragments: packets that are not whole yet
    :ivar lost: packets that were whole, or fragments, and could not be sent
    """

    def __init__(self, plane: _Plane, programs: ProgramCache,
                 controls: Controls | None = None) -> None:
        self._controls = controls
        self._plane = plane
        self._programs = programs
        self.fragments = Fragments()
        self.lost = 0

    def take(self, pc: int, bridge: int, key: bytes,
             frames: Iterable[bytes], layer3: bool, now: int) -> None:
        """OVS_UPCALL_FRAGMENT.

        :param pc: of the ct() in ovs_acts
        :param bridge: where the packet is
        :param key: image of its key
        :param frames: it, with its tags; without an Ethernet header if
            `layer3`
        :param now: ms, monotonic
        """
        insn = self._plane.acts[pc]
        if insn & _OP != abi.Op.CT:
            self.lost += 1
            return
        zone = insn >> _ARG_SHIFT & 0xffff
        for frame in frames:
            head, packet = _apart(frame, key, layer3)
            if not packet:
                self.lost += 1
                continue
            whole = self.fragments.add((zone, bridge), packet, now)
            if whole is None:
                continue
            program = self._programs.holding(pc)
            if program is None:	# its flow has gone meanwhile
                self.lost += 1
                continue
            self._send(program, pc, bridge, key, head + whole.packet, now,
                       whole.mru)
            self._programs.release(program)

    def help(self, pc: int, bridge: int, key: bytes, mru: int,
             frames: Iterable[bytes], layer3: bool, now: int) -> None:
        """OVS_UPCALL_HELP: a packet of a control connection, which goes on
        at `pc` as its helper leaves it."""
        program = self._programs.holding(pc)
        if program is None:
            self.lost += 1
            return
        for frame in frames:
            head, packet = _apart(frame, key, layer3)
            helped = self._help(head, packet, key)
            if helped is not None:
                self._send(program, pc, bridge, key, helped, now, mru)
        self._programs.release(program)

    def _help(self, head: bytes, packet: bytes, key: bytes) -> bytes | None:
        whole = head + packet
        at = transport_of(whole, len(head)) if packet else None
        segment = None if at is None else read_segment(whole, len(head), *at)
        if segment is None or self._controls is None:
            return whole
        state = key[_CT_STATE]
        zone, = _U16.unpack(key[_CT_ZONE])
        return self._controls.help(
            _orig_tuple(key, segment.is_ipv4), zone,
            int(bool(state & abi_ct.OVS_CT_REPLY)),
            bool(state & abi_ct.OVS_CT_ESTABLISHED), segment)

    def send(self, port: int, bridge: int, key: bytes, mru: int,
             frames: Iterable[bytes], layer3: bool, now: int) -> None:
        """OVS_UPCALL_SPLIT: to a port, in fragments.

        :param mru: bytes of the largest one, from the network header on
        """
        program = self._programs.get(
            nla_u32(uapi.OVS_ACTION_ATTR_OUTPUT, port), KeyFacts())
        ident = random.getrandbits(32)
        for frame in frames:
            head, packet = _apart(frame, key, layer3)
            parts = list(split(packet, mru, ident)) if packet else []
            if not parts:
                self.lost += 1
            for part in parts:
                self._send(program, program.pc, bridge, key, head + part,
                           now, 0)
        self._programs.release(program)

    def _send(self, program: Program, pc: int, bridge: int, key: bytes,
              frame: bytes, now: int, mru: int) -> None:
        self._programs.hold(program)
        sent = False
        try:
            sent = self._plane.execute(program, pc, bridge, key, frame, now,
                                       mru)
        except DpifError:
            pass
        finally:
            if not sent:
                self._programs.release(program)
                self.lost += 1


def _orig_tuple(key: bytes, is_ipv4: bool) -> CtTuple:
    """What a key says of the packet's connection."""
    src, dst = (key[abi.KEY[name].slice] for name in (
        ("ct_orig_ipv4_src", "ct_orig_ipv4_dst") if is_ipv4
        else ("ct_orig_ipv6_src", "ct_orig_ipv6_dst")))
    sport, dport = (int.from_bytes(key[abi.KEY[name].slice], "big")
                    for name in ("ct_orig_tp_src", "ct_orig_tp_dst"))
    return CtTuple(AF_INET if is_ipv4 else AF_INET6,
                   key[abi.KEY["ct_orig_proto"].offset], src, dst, sport,
                   dport)


def _apart(frame: bytes, key: bytes, layer3: bool) -> tuple[bytes, bytes]:
    """What is before the network header, as programs have it, and the packet
    from there on without padding; empty when it is not IP."""
    if layer3:
        head = bytes(ETH_HLEN - 2) + key[abi.KEY["eth_type"].slice]
        return head, _packet(frame)
    at = ETH_HLEN - 2
    kind = int.from_bytes(frame[at:at + 2], "big")
    while kind in _TAGS:
        at += _TAG
        kind = int.from_bytes(frame[at:at + 2], "big")
    at += 2
    if kind not in (ETH_P_IP, ETH_P_IPV6):
        return frame, b""
    return frame[:at], _packet(frame[at:])


def _packet(data: bytes) -> bytes:
    """Without what fills a short frame up."""
    if len(data) < 20:
        return b""
    if data[0] >> 4 == 4:
        return data[:int.from_bytes(data[2:4], "big")]
    return data[:40 + int.from_bytes(data[4:6], "big")]
