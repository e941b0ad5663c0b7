# SPDX-License-Identifier: Apache-2.0
"""The shipped programs and their connections: packets that go through a list
of actions, one by one."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

import ct_cases as c
import pytest
from ctframes import Flow
from harness import Datapath
from lists import compiled, nla
from lists import userspace as to_user
from oracle_key import Meta, extract

from dpif_bpf import abi, abi_ct
from dpif_bpf.abi import DropReason
from dpif_bpf.core.conntrack.memory import MAPPED, CtMemory
from dpif_bpf.wire import uapi as u

NEW, EST, REL, RPL, INV, TRK, SNAT, DNAT = (1 << n for n in range(8))
V4 = Flow("10.1.0.1", "10.2.0.1", 1000, 80)
V6 = Flow("fd01::1", "fd02::1", 1000, 80)
COMMIT, FORCE = c.COMMIT, c.FORCE
CLEAR = nla(u.OVS_ACTION_ATTR_CT_CLEAR)
USER = to_user(1)


def ct(*attrs: bytes, zone: int = 0) -> bytes:
    return nla(u.OVS_ACTION_ATTR_CT, c.zone(zone) + b"".join(attrs))


def nat(*attrs: bytes) -> bytes:
    return nla(u.OVS_CT_ATTR_NAT, b"".join(attrs))


def address(text: str, kind: int = u.OVS_NAT_ATTR_IP_MIN) -> bytes:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return nla(kind, socket.inet_pton(family, text))


def ports(low: int, high: int) -> bytes:
    return (nla(u.OVS_NAT_ATTR_PROTO_MIN, struct.pack("=H", low))
            + nla(u.OVS_NAT_ATTR_PROTO_MAX, struct.pack("=H", high)))


NAT = nat()


@dataclass(frozen=True, slots=True)
class Seen:
    """What an upcall tells of a packet."""

    key: bytes
    packet: bytes

    def field(self, name: str) -> int:
        return int.from_bytes(self.key[abi.KEY[name].slice], "little")

    @property
    def state(self) -> int:
        return self.field("ct_state")

    def raw(self, name: str) -> bytes:
        return self.key[abi.KEY[name].slice]


class Tracked:
    """The datapath, and its connections."""

    def __init__(self, dp: Datapath) -> None:
        self.dp = dp
        self.ct = CtMemory(list, list, *(dp.mapped(name).cast("Q")
                                         for name in MAPPED))
        self.ct.set_up(lambda size: bytes(range(1, size + 1)), 0)

    def flush(self) -> None:
        """A store for each zone; the sweep gives the records back."""
        words = self.ct.zones
        for zone in range(1024):
            words[2 * zone] = ((words[2 * zone] >> 32) + 1) << 32
            words[2 * zone + 1] = 0
        self.ct.use[abi_ct.USE["count"].offset // 8] = 0

    def send(self, frame: bytes, *actions: bytes, rest: bytes = b"",
             mark: int = 0) -> Seen:
        """What the packet is after these; it is then in an upcall.

        :param rest: what packets with recirc_id 1 do
        """
        found = self.all(frame, *actions, rest=rest)
        seen, = found
        return seen

    def all(self, frame: bytes, *actions: bytes,
            rest: bytes = b"") -> list[Seen]:
        dp = self.dp
        dp.clear()
        parsed = extract(frame, Meta(in_port=1))
        assert parsed is not None
        mask = b"\xff" * 8
        for recirc_id, data in ((0, b"".join(actions)), (1, rest)):
            dp.add_flow(compiled(data + USER * (not rest or recirc_id),
                                 frame, parsed),
                        struct.pack("=II", 1, recirc_id), mask)
        dp.run(frame)
        return [Seen(up.key, up.packet) for up in dp.poll(timeout=.2)]

    def dropped(self, frame: bytes, *actions: bytes) -> DropReason:
        """Why it did not come through."""
        before = self.dp.drops()
        assert self.all(frame, *actions) == []
        reason, = (reason for reason, count in self.dp.drops().items()
                   if count > before.get(reason, 0))
        return reason

    def records(self) -> list[dict[str, int]]:
        """Connections that are live."""
        size = abi_ct.CT.size
        data = self.ct.records.cast("B")
        zones = self.ct.zones
        found = []
        for at in range(0, len(data), size):
            word = int.from_bytes(data[at:at + 4], "little")
            if word not in (abi_ct.OVS_CT_LIVE, abi_ct.OVS_CT_LOCKED):
                continue
            values = dict(zip(abi_ct.CT.fields, abi_ct.CT.struct.unpack(
                data[at:at + size]), strict=True))
            zone = int.from_bytes(values["orig"][36:38], "little")
            if zones[2 * zone] >> 32 == values["zone_gen"]:
                found.append(values)
        return found


def fields(frame: bytes) -> tuple[bytes, bytes]:
    """Source and destination port of a key, of TCP and UDP."""
    v6 = frame[12:14] == b"\x86\xdd"
    at = 54 if v6 else 34
    return frame[at:at + 2], frame[at + 2:at + 4]


FLOWS = [pytest.param(V4, id="v4"), pytest.param(V6, id="v6")]
