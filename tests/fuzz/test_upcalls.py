# SPDX-License-Identifier: Apache-2.0
"""Random records of the upcall ring: all are counted, none raises anything.

Packets of all layers with lengths, offsets, types and sizes of segments that
somebody chose who means no good.  --fuzz-seed and --fuzz-seconds as for
test_requests.py.
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Sequence

import pytest
from oracle_key import Meta, extract
from scapy.contrib.mpls import MPLS
from scapy.contrib.nsh import NSH
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN

from dpif_bpf import abi
from dpif_bpf.core.actions.insn import Desc, PsampleDesc, UserspaceDesc
from dpif_bpf.core.upcall import SEGMENTS, Upcalls
from dpif_bpf.wire import gso
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import (
    NLA_PAYLOAD_MAX,
    iter_attrs,
    iter_messages,
    nla_string,
    nla_u32,
)
from tests.fake_plane import FakeProvider, Peer
from tests.fuzz.conftest import Rounds

RECORDS = 4000
"""Of a run that is not told how long to take."""
ROOM = 65664
"""Bytes of packet in the largest record."""
MESSAGE_MAX = NLA_PAYLOAD_MAX + 2000
PID = 31

E = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4, V6 = IP(id=7), IPv6()
PACKETS = [
    E / V4 / TCP(options=[("Timestamp", (1, 2))]), E / V6 / TCP(),
    E / V4 / UDP(), E / V6 / IPv6ExtHdrHopByHop() / UDP(), E / V4 / SCTP(),
    E / V6 / SCTP(), E / Dot1AD() / Dot1Q() / V4 / TCP(),
    E / V4 / UDP(chksum=0) / VXLAN() / E / V4 / TCP(),
    E / V6 / UDP() / VXLAN() / E / V6 / UDP(), E / V4 / GRE() / V4 / TCP(),
    E / V4 / V4 / TCP(), E / MPLS(s=0) / MPLS(s=1) / V4 / TCP(),
    E / NSH(mdtype=2, length=2, nextproto=3) / E / V4 / TCP(),
    E / NSH(mdtype=2, length=2, nextproto=1) / V4 / UDP(),
]
TYPES = (1, 2, 4, 8, 16, *(getattr(gso, name) for name in dir(gso)
                           if name.startswith("SKB_GSO_")),
         abi.OVS_SKB_GSO_SCTP)
SIZES = (0, 1, 2, 3, 7, 8, 9, 100, 536, 1448, 9000, 32000, 65000, 65535)
LENGTHS = (0, 0, 1, 2, 100, 1460, 3000, 9000, 40000, 65400, 65480, 65500,
           65520, 65535, ROOM)


@functools.cache
def known() -> list[tuple[bytes, bytes]]:
    """Packets with their keys."""
    found = []
    for packet in PACKETS:
        parsed = extract(bytes(packet), Meta(in_port=1))
        assert parsed is not None
        found.append((bytes(packet), parsed.key[:abi.OVS_KEY_BASE * 8]))
    return found


class Records:
    """Makes records.

    :param descs: numbers of the descriptors that there are
    """

    def __init__(self, rng: random.Random, descs: Sequence[int]) -> None:
        self._rng = rng
        self._descs = descs
        self._known = known()

    def make(self) -> bytes:
        """One that the programs could write, whatever they were sent."""
        rng = self._rng
        packet, key = rng.choice(self._known)
        packet = self._spoil(packet + bytes(rng.choice(LENGTHS)))[:ROOM]
        if rng.random() < .05:
            packet = packet[:rng.randrange(1, 60)]
        gso_size = rng.choice(SIZES)
        gso_type = 0
        if gso_size:
            for _ in range(rng.choice((1, 1, 2, 3))):
                gso_type |= rng.choice(TYPES)
            if rng.random() < .05:
                gso_type = rng.getrandbits(32)
        cutlen = rng.choice((0, 0, 0, 1, 20, len(packet), 65535,
                             max(len(packet) - 14, 0), 0xffffffff))
        pkt_len = len(packet)
        if cutlen and not gso_size and cutlen < 1 << 30:
            pkt_len += rng.choice((0, cutlen))
        parts = b""
        if gso_type & abi.OVS_SKB_GSO_SCTP:
            parts = self._parts(len(packet))
        tag = rng.choice((bytes(4), bytes(4), b"\x81\0\0\5", b"\x88\xa8\xff"
                          b"\xff", rng.randbytes(4)))
        return abi.UPCALL.struct.pack(
            len(packet), pkt_len, rng.choice((
                u.OVS_PACKET_CMD_MISS, u.OVS_PACKET_CMD_ACTION)),
            rng.randrange(4), *self._checksum(len(packet)), gso_size,
            gso_type, rng.choice((*self._descs, 4711)), rng.getrandbits(32),
            rng.randrange(4), rng.choice((0, 0, 1280)),
            rng.randrange(1 << 10), rng.randrange(3),
            tag[2:], tag[:2], cutlen, self._key(key)) + parts + packet

    def _checksum(self, size: int) -> tuple[int, int]:
        rng = self._rng
        if rng.random() < .5:
            return rng.choice((34, 54, 84)), rng.choice((6, 8, 16))
        return (rng.choice((0, size - 1 & 0xffff, size & 0xffff, 65535)),
                rng.choice((0, 1, 8, 16, 65535)))

    def _spoil(self, packet: bytes) -> bytes:
        rng = self._rng
        data = bytearray(packet)
        for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
            at = rng.randrange(min(len(data), 120))
            data[at] = rng.choice((0, 0xff, rng.randrange(256)))
        return bytes(data)

    def _parts(self, size: int) -> bytes:
        rng = self._rng
        left, parts = max(size - 46, 0), []
        while left > 0 and len(parts) < abi.OVS_UPCALL_PARTS:
            part = min(left, 65535, rng.choice((1, 500, 1400, 65535, left)))
            parts.append(part)
            left -= part
        if rng.random() < .2:
            parts.append(rng.randrange(65536))
        parts = parts[:abi.OVS_UPCALL_PARTS]
        return abi.UPCALL_PARTS.struct.pack(
            struct.pack(f"={len(parts)}H", *parts))

    def _key(self, key: bytes) -> bytes:
        """A key that need not go with the packet."""
        rng = self._rng
        kind = rng.random()
        data = bytearray(key)
        if kind < .3:
            for field in ("eth_type", "ip_proto", "ip_frag", "mac_proto",
                          "nsh_mdtype", "vlan_tci", "cvlan_tci"):
                if rng.random() < .2:
                    place = abi.KEY[field]
                    data[place.slice] = rng.randbytes(place.size)
            data[abi.KEY["mpls_labels"].offset] = rng.choice((0, 1, 3, 7))
        if kind < .4:
            data[abi.KEY["in_port"].slice] = struct.pack(
                "=H", rng.choice((0, 1, 65535)))
        return bytes(data)


class Bench:
    """A datapath whose peers take some of what they are sent."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        provider = FakeProvider()
        provider.psample.id = 30
        peer = Peer(provider)
        peer.do(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_NEW,
                nla_string(u.OVS_DP_ATTR_NAME, "dp"),
                nla_u32(u.OVS_DP_ATTR_UPCALL_PID, PID),
                nla_u32(u.OVS_DP_ATTR_USER_FEATURES, rng.choice((
                    u.OVS_DP_F_VPORT_PIDS,
                    u.OVS_DP_F_DISPATCH_UPCALL_PER_CPU))))
        (self.dp,) = provider.dps
        self.dp.per_cpu_pids = (PID, PID)
        provider.ports.add_device("p1")
        self.dp.ports.make("p1", u.OVS_VPORT_TYPE_NETDEV, 1, (PID, PID))
        descs: list[Desc] = [
            UserspaceDesc(PID), UserspaceDesc(PID, b"", b""),
            UserspaceDesc(PID, bytes(NLA_PAYLOAD_MAX), bytes(16)),
            PsampleDesc(1, None, 5), PsampleDesc(2, bytes(16), 0xffffffff)]
        self.records = Records(rng, [self.dp.descs.add(d) for d in descs])
        self.upcalls = Upcalls(self.dp, self.send)
        self.psample = provider.psample
        self.sent = 0

    def send(self, pid: int, message: bytes) -> bool:
        assert pid == PID
        (parsed,) = iter_messages(message)
        assert parsed.type == u.OVS_PACKET_ID
        attrs = {kind: stop - start
                 for kind, start, stop in iter_attrs(message, 24)}
        assert {u.OVS_PACKET_ATTR_PACKET, u.OVS_PACKET_ATTR_KEY,
                u.OVS_PACKET_ATTR_HASH} <= set(attrs)
        if self.rng.random() < .01:
            return False
        self.sent += 1
        return True

    def counts(self) -> tuple[int, ...]:
        samples = self.dp.samples
        return (self.upcalls.sent, self.dp.lost, self.upcalls.malformed,
                self.upcalls.too_big, samples.sent, samples.lost)

    def handle(self, record: bytes, expected: bool) -> None:
        """One record.

        :param expected: whether the programs could write it: then it is
            not by an exception that it is found to be malformed
        """
        before = self.counts()
        if expected:
            for _ in self.upcalls._handle(memoryview(record)):
                pass
        else:
            self.upcalls.handle(memoryview(record))
            while self.upcalls.busy:
                self.upcalls.go_on()
        after = self.counts()
        sent, lost, malformed, too_big, *samples = (
            now - then for now, then in zip(after, before, strict=True))
        assert self.upcalls.sent == self.sent
        assert 0 <= sent <= SEGMENTS
        assert lost in (0, 1) and malformed + too_big <= lost
        # Fragments and control packets are for the reassembly to count.
        assert (sent or lost or sum(samples) == 1
                or record[abi.UPCALL["cmd"].offset] >= abi.OVS_UPCALL_FRAGMENT)
        for message in self.psample.messages:
            (parsed,) = iter_messages(message)
            assert len(message) <= 65535
            for _ in iter_attrs(parsed.raw, 20):
                pass
        self.psample.messages.clear()


def test_upcalls(rounds: Rounds) -> None:
    for rng, go_on in rounds(RECORDS, 1000):
        bench = Bench(rng)
        while go_on():
            bench.handle(bench.records.make(), True)
        assert all(bench.counts()[:4]), bench.counts()


def test_records_that_no_program_writes(rounds: Rounds) -> None:
    for rng, go_on in rounds(RECORDS, 1000):
        bench = Bench(rng)
        while go_on():
            record = bytearray(bench.records.make())
            if rng.random() < .2:
                place = abi.UPCALL["key"]
                record[place.slice] = rng.randbytes(place.size)
            for _ in range(rng.choice((1, 1, 4))):
                at = rng.randrange(min(len(record), abi.UPCALL.size))
                record[at] = rng.randrange(256)
            if rng.random() < .2:
                del record[rng.randrange(len(record)):]
            bench.handle(bytes(record), False)


@pytest.mark.parametrize("packet", PACKETS)
def test_packets_are_what_they_are_said_to_be(packet: object) -> None:
    """None of them is refused for itself."""
    rng = random.Random(1)
    bench = Bench(rng)
    data = bytes(packet)  # type: ignore[call-overload]
    bench.rng.random = lambda: .5  # type: ignore[method-assign]
    bench.handle(abi.UPCALL.struct.pack(
        len(data), len(data), u.OVS_PACKET_CMD_MISS, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, bytes(2), bytes(2), 0, dict(known())[data]) + data, True)
    assert bench.counts() == (1, 0, 0, 0, 0, 0)
