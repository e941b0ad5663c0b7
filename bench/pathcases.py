# SPDX-License-Identifier: Apache-2.0
"""What is measured against the kernel module: flows and their packets.

Flows are in ovs-dpctl's words, as ovs-vswitchd makes them; port 1 is where
packets come in, 2 to 4 where they go out.  Packets are UDP over IPv4 in
frames of 60 bytes, or TCP (bench.pathct).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from bench.pathct import (
    NEW,
    OPENING,
    SOURCE_NAT,
    TTL,
    acknowledgements,
    handshake,
)
from dpif_bpf.wire.checksum import checksum

SEED = 20180919
MANY = 10000
"""Flows where there are many, or as many as whole rules have."""
SRC_MAC, DST_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
SIZE = 60
"""Bytes of a frame, of UDP."""

_MATCH = f"recirc_id(0),in_port(1),eth(src={SRC_MAC},dst={DST_MAC})," \
    "eth_type(0x0800)"
_SET = "set(eth(src=02:00:00:00:01:01,dst=02:00:00:00:01:02))," \
    f"set(ipv4(ttl={TTL - 1}))"
_PUSH_VLAN = "push_vlan(vid=7,pcp=0)"
_HEADERS = struct.Struct("!BBHHHBBH4s4sHH")


class Sent(Protocol):
    """A packet of any kind."""

    def headers(self) -> bytes:
        """What follows the Ethernet header, as far as packets differ."""
        ...


@dataclass(frozen=True, slots=True)
class Packet:
    """What packets of UDP differ in: addresses and ports."""

    src: int
    dst: int
    sport: int
    dport: int

    def headers(self) -> bytes:
        """The IPv4 header and the ports of UDP's."""
        def pack(check: int) -> bytes:
            return _HEADERS.pack(
                0x45, 0, SIZE - 14, 0, 0x4000, TTL, 17, check,
                self.src.to_bytes(4, "big"), self.dst.to_bytes(4, "big"),
                self.sport, self.dport)

        return pack(checksum(pack(0)[:20]))


@dataclass(frozen=True, slots=True)
class Flow:
    """A match on the key, and a packet that has it, or none by itself.

    :param actions: its own, in place of the case's
    """

    match: str
    packet: Sent | None
    actions: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement.

    :param flows: all that are installed
    :param masks: how many different ones they have
    :param spread: all of them get packets; otherwise the last one does
    :param outputs: ports that get a copy of each packet
    :param hash: packets carry a hash, as from a NIC, so that nobody has to
        compute one
    :param shared: the generator keeps a reference to each packet, as it does
        when it is not told otherwise; who receives one must copy it before
        anything else, or do with what a packet allows that is not its own
    :param before: packets that are sent first, once
    :param packets: that are sent, in place of those of the flows
    :param size: of a frame, bytes
    :param vary: each packet has other ports than all before, and so is of
        a connection of its own: bytes of the transport header that say so
    """

    what: str
    flows: Callable[[], list[Flow]]
    actions: str = "2"
    masks: int = 1
    spread: bool = False
    outputs: tuple[int, ...] = (2,)
    hash: bool = False
    shared: bool = False
    before: tuple[Sent, ...] = ()
    packets: tuple[Sent, ...] = ()
    size: int = SIZE
    vary: int = 0

    @property
    def kind(self) -> str:
        """Of its packets, as those of the cases that it is compared with."""
        if self.shared:
            return "packets are shared"
        if self.size != SIZE or self.vary:
            return f"{'each of another tuple, ' * bool(self.vary)}" \
                f"{self.size} bytes{', with a hash' * self.hash}"
        return "packets have a hash" if self.hash else "plain"

    def sent(self, flows: list[Flow]) -> list[Sent]:
        """The packets, again and again: one of each flow, in any order."""
        if self.packets:
            return list(self.packets)
        packets = [flow.packet for flow in
                   (flows if self.spread else flows[-1:]) if flow.packet]
        random.Random(SEED).shuffle(packets)
        return packets


def _plain(extra: str = "frag=no") -> Callable[[], list[Flow]]:
    """One flow, as of a learning switch."""
    return lambda: [Flow(f"{_MATCH},ipv4({extra})",
                         Packet(0x0A000001, 0x0A000002, 1000, 2000))]


def _addresses() -> list[Flow]:
    """MANY flows under one mask."""
    return [Flow(f"{_MATCH},ipv4(dst={IPv4Address(0x0B000000 + i)},frag=no)",
                 Packet(0x0A000001, 0x0B000000 + i, 1000, 2000))
            for i in range(MANY)]


def _prefixes(masks: int, flows: int) -> Callable[[], list[Flow]]:
    """Flows by prefixes of two fields, whose lengths make `masks` masks.

    They are those of everything that an ACL's rule on one address and port
    does not allow (bench.flowsets.explosion()), which is the worst that a
    table can be given; each destination has such a rule.
    """
    across = int(masks ** .5)

    def make() -> list[Flow]:
        return list(_of_rules(across, max(1, flows // masks)))

    return make


def _of_rules(across: int, rules: int) -> Iterator[Flow]:
    rng = random.Random(SEED)
    for rule in range(rules):
        dst = 0x0B000000 + rule
        src, port = rng.getrandbits(32), rng.getrandbits(16)
        for i in range(1, across + 1):
            for j in range(1, across + 1):
                other = src ^ 1 << 32 - i ^ rng.getrandbits(32 - i)
                dport = port ^ 1 << 16 - j ^ rng.getrandbits(16 - j)
                ones, bits = _ones(32, i), _ones(16, j)
                yield Flow(
                    f"{_MATCH},ipv4(src={IPv4Address(other & ones)}/"
                    f"{IPv4Address(ones)},dst={IPv4Address(dst)},proto=17,"
                    f"frag=no),udp(dst={dport & bits}/{bits:#x})",
                    Packet(other, dst, rng.getrandbits(16), dport))


def _ones(bits: int, prefix: int) -> int:
    """A field's mask with so many leading bits."""
    return (1 << bits) - (1 << bits - prefix)


def _group(nat: str = "", source: str = "") -> Callable[[], list[Flow]]:
    """Those of a security group: new connections and established ones.

    :param nat: of the first ct()
    :param source: of the one that commits
    """
    def state(what: str) -> str:
        return _MATCH.replace("recirc_id(0)", "recirc_id(1)") \
            + f",ct_state({what}),ipv4(frag=no)"

    return lambda: [
        Flow(f"{_MATCH},ipv4(frag=no)", OPENING, f"ct(zone=1{nat}),recirc(1)"),
        Flow(state("-new+est-inv+trk"), None),
        Flow(state("+new-est-inv+trk"), None, f"ct(commit,zone=1{source}),2"),
    ]


_SOURCE = f",nat(src={IPv4Address(SOURCE_NAT)})"

CASES = {
    "output": Case("output", _plain()),
    "output-hash": Case("output, packets have a hash", _plain(), hash=True),
    "output-shared": Case("output, packets are shared", _plain(),
                          shared=True),
    "set": Case("set MACs, dec_ttl", _plain(f"ttl={TTL},frag=no"),
                f"{_SET},2"),
    "vlan": Case("push_vlan", _plain(), f"{_PUSH_VLAN},2"),
    "copies": Case("push_vlan, set MACs, dec_ttl, three outputs",
                   _plain(f"ttl={TTL},frag=no"),
                   f"{_PUSH_VLAN},{_SET},2,3,4", outputs=(2, 3, 4)),
    "masks-16": Case("16 masks", _prefixes(16, 1), masks=16),
    "masks-16-shared": Case("16 masks, packets are shared", _prefixes(16, 1),
                            masks=16, shared=True),
    "masks-256": Case("256 masks", _prefixes(256, 1), masks=256),
    "flows": Case("10,000 flows", _addresses, spread=True),
    "flows-masks-16": Case("10,000 flows, 16 masks", _prefixes(16, MANY),
                           masks=16, spread=True),
    "flows-masks-256": Case("9,984 flows, 256 masks", _prefixes(256, MANY),
                            masks=256, spread=True),
    "ct-established": Case(
        "ct, established TCP", _group(), masks=2, size=66,
        before=handshake(), packets=acknowledgements()),
    "ct-established-hash": Case(
        "ct, established TCP, packets have a hash", _group(), masks=2,
        size=66, before=handshake(), packets=acknowledgements(), hash=True),
    "ct-snat": Case(
        "ct, established TCP, SNAT", _group(",nat", _SOURCE), masks=2,
        size=66, before=handshake(SOURCE_NAT), packets=acknowledgements()),
    "ct-new": Case(
        "ct, a new connection of TCP each", _group(), masks=2, size=74,
        packets=(NEW,), vary=8),
    "ct-new-snat": Case(
        "ct, a new connection of TCP each, SNAT", _group(",nat", _SOURCE),
        masks=2, size=74, packets=(NEW,), vary=8),
    "ct-commit": Case(
        "ct(commit) alone, a new connection of UDP each", _plain(),
        "ct(commit,zone=1),2", vary=4),
}
