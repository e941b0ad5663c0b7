# SPDX-License-Identifier: Apache-2.0
"""Requests of all families, as trees of attributes.

Most are such as OVS makes, with few names, keys and numbers, so that they
meet what earlier ones have made.  tests/fuzz/damage.py spoils them.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import action_cases
import keys as k

from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import (
    GENLMSGHDR,
    NLATTR,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_ECHO,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    NLMSGHDR,
    PADDING,
)

PID = 4711
"""nlmsg_pid of the peer."""
PORTS = (1, 1, 1, 2, 3, 4, 0)
UFIDS = tuple(bytes((n,)) * 16 for n in range(24))
METERS = (0, 1, 2, 3, (1 << 18) + 1, 0xffffffff)
KINDS = 6
"""Of keys that the flows of one peer have."""
LARGEST = 0xffff - 4
FEW = 2000
"""Bytes of a list of which each attribute may be spoilt; longer ones are
taken as a whole, as there are so many in them."""

_KEYS = [*action_cases.FLOWS.values(), *k.KEYS.values()]
_NESTED_KEYS = {u.OVS_KEY_ATTR_ENCAP, u.OVS_KEY_ATTR_NSH,
                u.OVS_KEY_ATTR_TUNNEL}


@dataclass(slots=True)
class Attr:
    """An attribute.

    :param size: what nla_len says, where that is not the truth
    """

    kind: int
    value: bytes | list[Attr]
    size: int | None = None

    def encode(self) -> bytes:
        data = (self.value if isinstance(self.value, bytes)
                else encode(self.value))
        size = len(data) + 4 if self.size is None else self.size
        return (NLATTR.pack(size & 0xffff, self.kind & 0xffff) + data
                + PADDING[len(data) & 3])


@dataclass(slots=True)
class Request:
    """A request; `tail` follows its attributes."""

    family: int
    cmd: int
    attrs: list[Attr]
    flags: int = NLM_F_REQUEST
    dp: int = 0
    version: int = 1
    reserved: int = 0
    tail: bytes = b""

    def encode(self, seq: int) -> bytes:
        body = (GENLMSGHDR.pack(self.cmd & 0xff, self.version & 0xff,
                                self.reserved & 0xffff)
                + u.OVS_HEADER.pack(self.dp) + encode(self.attrs)
                + self.tail)
        return NLMSGHDR.pack(NLMSGHDR.size + len(body), self.family,
                             self.flags, seq, PID) + body


def encode(attrs: Sequence[Attr]) -> bytes:
    return b"".join(attr.encode() for attr in attrs)


def tree(data: bytes, depth: int = 3) -> list[Attr] | bytes:
    """Attributes, if these bytes can be read as such."""
    attrs = []
    pos = 0
    while len(data) - pos >= 4:
        size, kind = NLATTR.unpack_from(data, pos)
        if not 4 <= size <= len(data) - pos:
            return data
        inner = data[pos + 4:pos + size]
        attrs.append(Attr(kind, tree(inner, depth - 1) if depth else inner))
        pos += size + 3 & ~3
    if pos != len(data) or not attrs:
        return data
    return attrs


def u32(kind: int, *values: int) -> Attr:
    return Attr(kind, struct.pack(f"={len(values)}I", *(
        value & 0xffffffff for value in values)))


def text(kind: int, value: str) -> Attr:
    return Attr(kind, value.encode() + b"\0")


@dataclass(slots=True)
class World:
    """What requests name.

    :param datapaths: names that datapaths may have
    :param devices: names of devices that there may be
    :param indexes: dp_ifindex of the datapaths that there are
    """

    datapaths: tuple[str, ...]
    devices: tuple[str, ...]
    indexes: list[int] = field(default_factory=list)


class Maker:
    """Makes requests.

    :param rare: of how many requests of the datapath family one makes or
        ends a datapath
    """

    def __init__(self, rng: random.Random, world: World,
                 rare: int = 5) -> None:
        self._rng = rng
        self._world = world
        self._rare = rare
        self._keys = rng.sample(_KEYS, KINDS)
        self._actions = sorted({
            case.actions for section in action_cases.SECTIONS
            for case in action_cases.cases(section)})

    def request(self) -> Request:
        """One of any family."""
        (make,) = self._rng.choices(
            (self.flow, self.packet, self.vport, self.meter, self.datapath),
            (10, 3, 3, 3, 1))
        request = make()
        rng = self._rng
        if rng.random() < .7:
            request.flags |= NLM_F_ACK
        if rng.random() < .3:
            request.flags |= NLM_F_ECHO
        if not request.dp and rng.random() < .97 and self._world.indexes:
            request.dp = rng.choice(self._world.indexes)
        return request

    def _some(self, attrs: list[Attr], of: int = 2) -> list[Attr]:
        """A part of these, in any order."""
        kept = [attr for attr in attrs if not self._rng.randrange(of)]
        self._rng.shuffle(kept)
        return kept

    # ovs_datapath

    def datapath(self) -> Request:
        rng = self._rng
        if not self._rare or not rng.randrange(self._rare):
            return self._make_or_end()
        if rng.random() < .5:
            return Request(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_GET, self._some(
                [text(u.OVS_DP_ATTR_NAME, rng.choice(
                    self._world.datapaths))]),
                self._maybe_dump())
        return Request(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_SET, self._some(
            self._settings()))

    def _make_or_end(self) -> Request:
        rng = self._rng
        name = text(u.OVS_DP_ATTR_NAME, rng.choice(self._world.datapaths))
        if rng.random() < .4:
            return Request(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_DEL, [name])
        request = self.new_datapath()
        request.attrs[0] = name
        request.attrs += self._some(self._settings())
        return request

    def new_datapath(self) -> Request:
        """The first datapath, plainly."""
        return Request(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_NEW, [
            text(u.OVS_DP_ATTR_NAME, self._world.datapaths[0]),
            u32(u.OVS_DP_ATTR_UPCALL_PID, self._rng.randrange(3))])

    def new_port(self, device: str) -> Request:
        """A device that becomes a port, plainly."""
        return Request(u.OVS_VPORT_ID, u.OVS_VPORT_CMD_NEW, [
            text(u.OVS_VPORT_ATTR_NAME, device),
            u32(u.OVS_VPORT_ATTR_TYPE, u.OVS_VPORT_TYPE_NETDEV),
            u32(u.OVS_VPORT_ATTR_UPCALL_PID, 1)],
            dp=self._world.indexes[0])

    def _settings(self) -> list[Attr]:
        rng = self._rng
        return [
            u32(u.OVS_DP_ATTR_USER_FEATURES, rng.choice(
                (0, 1, 2, 3, 8, 11, 4, 1 << 31))),
            u32(u.OVS_DP_ATTR_PER_CPU_PIDS, *self._pids()),
            u32(u.OVS_DP_ATTR_MASKS_CACHE_SIZE, rng.choice(
                (0, 1, 3, 256, 4096, 8192))),
        ]

    def _pids(self) -> list[int]:
        rng = self._rng
        count = rng.choice((1, 1, 2, 8, LARGEST // 4 * (
            rng.random() < .02) or 3))
        return [rng.randrange(1, 9) for _ in range(count)]

    def _maybe_dump(self) -> int:
        return NLM_F_REQUEST | (NLM_F_DUMP if self._rng.random() < .4 else 0)

    # ovs_vport

    def vport(self) -> Request:
        rng = self._rng
        name = text(u.OVS_VPORT_ATTR_NAME, rng.choice(
            self._world.devices + self._world.datapaths))
        number = u32(u.OVS_VPORT_ATTR_PORT_NO, rng.choice(
            (*PORTS, 65534, 65535, 1 << 31)))
        more = [
            u32(u.OVS_VPORT_ATTR_UPCALL_PID, *self._pids()),
            Attr(u.OVS_VPORT_ATTR_OPTIONS, u32(1, 4789).encode() * rng.choice(
                (0, 1, 1, 1, 8191))),
            u32(u.OVS_VPORT_ATTR_TYPE, rng.randrange(6)),
            u32(u.OVS_VPORT_ATTR_IFINDEX, rng.choice((5, 1 << 31))),
            u32(u.OVS_VPORT_ATTR_NETNSID, 1),
        ]
        cmd = rng.randrange(1, 5)
        if cmd == u.OVS_VPORT_CMD_NEW:
            return Request(u.OVS_VPORT_ID, cmd, [
                name, u32(u.OVS_VPORT_ATTR_TYPE, rng.choice((1, 1, 2, 2, 4))),
                more[0], *self._some([number]), *self._some(more[1:], 12)])
        named = rng.choice(([name], [number], [name, number]))
        if cmd == u.OVS_VPORT_CMD_SET:
            return Request(u.OVS_VPORT_ID, cmd, [
                *named, *self._some(more[:1], 1), *self._some(more[1:], 12)])
        flags = (self._maybe_dump() if cmd == u.OVS_VPORT_CMD_GET
                 else NLM_F_REQUEST)
        return Request(u.OVS_VPORT_ID, cmd,
                       self._some(named, 1 if flags == NLM_F_REQUEST else 2),
                       flags)

    # ovs_flow

    def flow(self) -> Request:
        rng = self._rng
        cmd = rng.choice((1, 1, 1, 1, 2, 3, 3, 4))
        key = self.key()
        ufid = Attr(u.OVS_FLOW_ATTR_UFID, rng.choice(UFIDS)[:rng.choice(
            (16, 16, 16, 4))])
        attrs = [Attr(u.OVS_FLOW_ATTR_KEY, key)]
        if rng.random() < .8:
            attrs.append(Attr(u.OVS_FLOW_ATTR_MASK, self.mask(key)))
        if rng.random() < .7:
            attrs.append(ufid)
        if rng.random() < .1:
            attrs.append(u32(u.OVS_FLOW_ATTR_UFID_FLAGS, rng.randrange(9)))
        if cmd == u.OVS_FLOW_CMD_NEW:
            attrs.append(self.actions(u.OVS_FLOW_ATTR_ACTIONS))
            flags = rng.choice((NLM_F_CREATE, NLM_F_CREATE, 0, NLM_F_EXCL))
            return Request(u.OVS_FLOW_ID, cmd, attrs, NLM_F_REQUEST | flags)
        if cmd == u.OVS_FLOW_CMD_SET:
            attrs += [*self._some([self.actions(u.OVS_FLOW_ATTR_ACTIONS)]),
                      *self._some([Attr(u.OVS_FLOW_ATTR_CLEAR, b"")])]
            return Request(u.OVS_FLOW_ID, cmd, attrs)
        if cmd == u.OVS_FLOW_CMD_GET:
            return Request(u.OVS_FLOW_ID, cmd, attrs, self._maybe_dump())
        if rng.random() < .05:
            return Request(u.OVS_FLOW_ID, cmd, [])
        return Request(u.OVS_FLOW_ID, cmd, attrs if rng.random() < .5
                       else [ufid])

    def key(self) -> list[Attr]:
        """A key; two of one kind often differ in a few values only."""
        attrs = tree(self._rng.choice(self._keys))
        assert isinstance(attrs, list)
        for attr in attrs:
            self._vary(attr)
        return attrs

    def _vary(self, attr: Attr) -> None:
        rng = self._rng
        if attr.kind == u.OVS_KEY_ATTR_IN_PORT:
            attr.value = struct.pack("=I", rng.choice(PORTS))
        elif attr.kind == u.OVS_KEY_ATTR_ETHERNET:
            attr.value = k.SRC + k.DST[:5] + bytes((rng.randrange(4),))
        elif attr.kind in _NESTED_KEYS and isinstance(attr.value, list):
            for inner in attr.value:
                self._vary(inner)
        elif isinstance(attr.value, bytes) and rng.random() < .1:
            attr.value = rng.randbytes(len(attr.value))

    def mask(self, key: list[Attr]) -> list[Attr]:
        """A mask of a key: of all its bits, of none or of some."""
        rng = self._rng
        attrs = []
        for attr in key:
            kind = rng.random()
            if isinstance(attr.value, list) and attr.kind in _NESTED_KEYS:
                attrs.append(Attr(attr.kind, self.mask(attr.value)))
            elif kind < .75 or attr.kind == u.OVS_KEY_ATTR_ETHERTYPE:
                attrs.append(Attr(attr.kind, b"\xff" * _size(attr)))
            elif kind < .9:
                attrs.append(Attr(attr.kind, bytes(_size(attr))))
            elif kind < .95:
                attrs.append(Attr(attr.kind, rng.randbytes(_size(attr))))
        return attrs

    def actions(self, kind: int) -> Attr:
        """A list, of those that are accepted and of those that are not."""
        rng = self._rng
        lists = [rng.choice(self._actions)
                 for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
        if rng.random() < .7:
            lists = [action_cases.OUT * rng.choice((1, 1, 2, 500, 8000))]
        data = b"".join(lists)[:LARGEST & ~3]
        return Attr(kind, tree(data) if len(data) < FEW else data)

    # ovs_packet

    def packet(self) -> Request:
        rng = self._rng
        eth_type = rng.choice((b"\x08\0", b"\x86\xdd", b"\x81\0", b"\x89\x4f",
                               b"\x88\x47", b"\x08\x06", b"\0\x40"))
        size = rng.choice((0, 20, 46, 100, 1500, 9000, LARGEST - 14))
        attrs = [
            Attr(u.OVS_PACKET_ATTR_PACKET, k.DST + k.SRC + eth_type
                 + rng.choice((b"", b"\x45" + bytes(8) + b"\x06"))
                 + rng.randbytes(min(size, 64)).ljust(size, b"x")),
            Attr(u.OVS_PACKET_ATTR_KEY, self.key()),
            self.actions(u.OVS_PACKET_ATTR_ACTIONS),
            *self._some([
                Attr(u.OVS_PACKET_ATTR_PROBE, b""),
                Attr(u.OVS_PACKET_ATTR_MRU, rng.randbytes(2)),
                Attr(u.OVS_PACKET_ATTR_HASH, rng.randbytes(8)),
                u32(u.OVS_PACKET_ATTR_UPCALL_PID, 7)], 4)]
        packet = attrs[0].value
        assert isinstance(packet, bytes)
        attrs[0].value = packet[:LARGEST]
        return Request(u.OVS_PACKET_ID, u.OVS_PACKET_CMD_EXECUTE, attrs)

    # ovs_meter

    def meter(self) -> Request:
        rng = self._rng
        cmd = rng.randrange(1, 5)
        attrs = [u32(u.OVS_METER_ATTR_ID, rng.choice(METERS))]
        if cmd == u.OVS_METER_CMD_SET:
            bands: list[Attr] | bytes = [
                self._band() for _ in range(rng.choice((0, 1, 1, 2, 8, 9)))]
            if rng.random() < .02:
                bands = self._band().encode() * 2340
            attrs += [
                Attr(u.OVS_METER_ATTR_BANDS, bands),
                *self._some([
                    Attr(u.OVS_METER_ATTR_KBPS, b""),
                    Attr(u.OVS_METER_ATTR_CLEAR, b""),
                    Attr(u.OVS_METER_ATTR_STATS, rng.randbytes(16))])]
        return Request(u.OVS_METER_ID, cmd, attrs)

    def _band(self) -> Attr:
        rate, burst = self._rng.choices((1, 1, 1000, 0, 0xffffffff), k=2)
        return Attr(0, [u32(u.OVS_BAND_ATTR_TYPE, 1),
                        u32(u.OVS_BAND_ATTR_RATE, rate),
                        u32(u.OVS_BAND_ATTR_BURST, burst)])


def _size(attr: Attr) -> int:
    return len(attr.encode()) - 4 & ~3 if isinstance(attr.value, list) \
        else len(attr.value)
