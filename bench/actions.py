# SPDX-License-Identifier: Apache-2.0
"""What each action costs over a plain output.

A flow for each, on packets with a mark of its own, runs by
BPF_PROG_TEST_RUN in interleaved turns; a cost is the lower quartile of the
turns.  A run leaves the packet as the next one needs it, so that what pushes
is measured with what pops, and what counts down with what sets.

Copies and upcalls go where they go: into a veth and its peer's backlog, into
the ring.
"""

from __future__ import annotations

import statistics
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from socket import IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, if_nametoindex

from bench import forward
from bench.lab import SKB_IFINDEX, SKB_MARK, SKB_SIZE, Lab, lab
from bench.rows import Row
from dpif_bpf.core.actions.compiler import ACTION_NAMES, HANDLERS
from dpif_bpf.edge import bpfprog
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u32

TURNS = 150
REPEAT = 4000
FEW = 100
"""Runs in a turn of what leaves something behind: a backlog has 1000."""

OUTPUT = forward.OUTPUT
RECIRC_ID = 7
METER = 3
_ONES = b"\xff"
_LSE = struct.pack("!I", 16 << 12 | 1 << 8 | 64)
_IPV4 = bytes((10, 0, 0, 1, 10, 0, 0, 2, IPPROTO_UDP, 4, 64, 0))
_IPV6 = forward.ADDRESSES6 + bytes((0, 0, 0, 0, IPPROTO_TCP, 4, 64, 0))


@dataclass(frozen=True, slots=True)
class Packet:
    """A frame, and what its flow matches besides metadata and Ethernet."""

    frame: bytes
    key: bytes
    mask: bytes


def _packet(frame: bytes, flow: tuple[bytes, bytes]) -> Packet:
    """Of a match() of bench.forward, without its first three attributes."""
    skip = 8 + 8 + 16
    return Packet(frame, flow[0][skip:], flow[1][skip:])


def _mpls() -> Packet:
    frame = (forward.ETH + b"\x88\x47" + _LSE
             + forward.IPV4_UDP[14:]).ljust(64, b"\0")
    return Packet(frame, nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\x88\x47")
                  + nla(u.OVS_KEY_ATTR_MPLS, _LSE),
                  nla(u.OVS_KEY_ATTR_ETHERTYPE, _ONES * 2))


UDP4 = _packet(forward.IPV4_UDP, forward.ipv4(IPPROTO_UDP))
TCP4 = _packet(forward.IPV4_TCP, forward.ipv4(IPPROTO_TCP))
TCP6 = _packet(forward.IPV6_TCP, forward.ipv6(IPPROTO_TCP))
SCTP4 = _packet(forward.IPV4_SCTP, forward.ipv4(IPPROTO_SCTP))
MPLS = _mpls()
PACKETS = {"UDP4": UDP4, "TCP4": TCP4, "TCP6": TCP6, "SCTP4, 1,460 bytes":
           SCTP4, "MPLS": MPLS}


@dataclass(frozen=True, slots=True)
class Bench:
    """Actions that go before an output.

    :param what: they are, in ovs-dpctl's words
    :param repeat: runs in one turn
    :param end: the output
    """

    what: str
    actions: bytes
    packet: Packet = UDP4
    repeat: int = REPEAT
    end: bytes = OUTPUT


def _recirc(recirc_id: int) -> bytes:
    return nla_u32(u.OVS_ACTION_ATTR_RECIRC, recirc_id)


def _set(kind: int, value: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_SET, nla(kind, value))


def _masked(kind: int, value: bytes, mask: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_SET_MASKED, nla(kind, value + mask))


def _sample(probability: int, *actions: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_SAMPLE,
               nla_u32(u.OVS_SAMPLE_ATTR_PROBABILITY, probability)
               + nla(u.OVS_SAMPLE_ATTR_ACTIONS, b"".join(actions)))


def _check_pkt_len(length: int, greater: bytes, less: bytes) -> bytes:
    return nla(
        u.OVS_ACTION_ATTR_CHECK_PKT_LEN,
        nla(u.OVS_CHECK_PKT_LEN_ATTR_PKT_LEN, struct.pack("=H", length))
        + nla(u.OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_GREATER, greater)
        + nla(u.OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_LESS_EQUAL, less))


def _ct(zone: int, *attrs: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_CT, nla(
        u.OVS_CT_ATTR_ZONE, struct.pack("=H", zone)) + b"".join(attrs))


_MARK = _masked(u.OVS_KEY_ATTR_SKB_MARK, bytes(4),
                struct.pack("=I", 1 << 31))
_PUSH_VLAN = nla(u.OVS_ACTION_ATTR_PUSH_VLAN, b"\x81\0\x10\1")
_POP_VLAN = nla_flag(u.OVS_ACTION_ATTR_POP_VLAN)
_PUSH_MPLS = nla(u.OVS_ACTION_ATTR_PUSH_MPLS, _LSE + b"\x88\x47\0\0")
_POP_MPLS = nla(u.OVS_ACTION_ATTR_POP_MPLS, b"\x08\0")
_POP_ETH = nla_flag(u.OVS_ACTION_ATTR_POP_ETH)
_PUSH_ETH = nla(u.OVS_ACTION_ATTR_PUSH_ETH, bytes(6) + forward.ETH[:6])
_NSH = u.OVS_NSH_KEY_BASE.pack(0, 63, 1, 0, b"\0\1\2\xff")
_PUSH_NSH = nla(u.OVS_ACTION_ATTR_PUSH_NSH, nla(
    u.OVS_KEY_ATTR_NSH, nla(u.OVS_NSH_KEY_ATTR_BASE, _NSH)
    + nla(u.OVS_NSH_KEY_ATTR_MD1, bytes(16))))
_POP_NSH = nla_flag(u.OVS_ACTION_ATTR_POP_NSH)
_USER = nla(u.OVS_ACTION_ATTR_USERSPACE,
            nla_u32(u.OVS_USERSPACE_ATTR_PID, 1))
_TTL = _masked(u.OVS_KEY_ATTR_IPV4, bytes(10) + b"\x40\0",
               bytes(10) + b"\xff\0")

SETS: dict[int, tuple[Bench, ...]] = {
    u.OVS_KEY_ATTR_PRIORITY: (
        Bench("set(priority)", _set(u.OVS_KEY_ATTR_PRIORITY, bytes(4))),),
    u.OVS_KEY_ATTR_SKB_MARK: (Bench("set(skb_mark)", _MARK),),
    u.OVS_KEY_ATTR_ETHERNET: (
        Bench("set(eth), all", _set(u.OVS_KEY_ATTR_ETHERNET,
                                    forward.ETH[6:] + forward.ETH[:6])),
        Bench("set(eth), destination", _masked(
            u.OVS_KEY_ATTR_ETHERNET, bytes(6) + forward.ETH[:6],
            bytes(6) + _ONES * 6))),
    u.OVS_KEY_ATTR_IPV4: (
        Bench("set(ipv4), all", _set(u.OVS_KEY_ATTR_IPV4, _IPV4)),
        Bench("set(ipv4), addresses that differ", _masked(
            u.OVS_KEY_ATTR_IPV4, _IPV4[4:8] + _IPV4[:4] + bytes(4),
            _ONES * 8 + bytes(4))
            + _masked(u.OVS_KEY_ATTR_IPV4, _IPV4[:8] + bytes(4),
                      _ONES * 8 + bytes(4))),
        Bench("set(ipv4), ttl", _TTL)),
    u.OVS_KEY_ATTR_IPV6: (
        Bench("set(ipv6), all", _set(u.OVS_KEY_ATTR_IPV6, _IPV6), TCP6),
        Bench("set(ipv6), hop limit", _masked(
            u.OVS_KEY_ATTR_IPV6, bytes(38) + b"\x40\0",
            bytes(38) + b"\xff\0"), TCP6)),
    u.OVS_KEY_ATTR_TCP: (
        Bench("set(tcp)", _set(u.OVS_KEY_ATTR_TCP, forward.TCP[:4]), TCP4),),
    u.OVS_KEY_ATTR_UDP: (
        Bench("set(udp)", _set(u.OVS_KEY_ATTR_UDP, forward.UDP[:4])),),
    u.OVS_KEY_ATTR_SCTP: (
        Bench("set(sctp), twice", _set(u.OVS_KEY_ATTR_SCTP, bytes(4))
              + _set(u.OVS_KEY_ATTR_SCTP, forward.UDP[:4]), SCTP4),),
    u.OVS_KEY_ATTR_MPLS: (
        Bench("set(mpls)", _set(u.OVS_KEY_ATTR_MPLS, _LSE), MPLS),),
}
"""By OVS_KEY_ATTR_*: tests/unit/test_bench.py compares with what there is."""

ACTIONS: dict[int, tuple[Bench, ...]] = {
    u.OVS_ACTION_ATTR_OUTPUT: (
        Bench("output, a copy to a veth", nla_u32(
            u.OVS_ACTION_ATTR_OUTPUT, 3), repeat=FEW),
        Bench("output, to a port that is not there", nla_u32(
            u.OVS_ACTION_ATTR_OUTPUT, 99))),
    u.OVS_ACTION_ATTR_USERSPACE: (
        Bench("userspace", _USER, repeat=FEW),),
    u.OVS_ACTION_ATTR_SET: tuple(
        bench for benches in SETS.values() for bench in benches),
    u.OVS_ACTION_ATTR_SET_MASKED: (),  # what the others become, too
    u.OVS_ACTION_ATTR_PUSH_VLAN: (
        Bench("push_vlan, pop_vlan", _PUSH_VLAN + _POP_VLAN),
        Bench("push_vlan, push_vlan, pop_vlan, pop_vlan",
              _PUSH_VLAN * 2 + _POP_VLAN * 2)),
    u.OVS_ACTION_ATTR_POP_VLAN: (
        Bench("pop_vlan, where no tag is", _POP_VLAN),),
    u.OVS_ACTION_ATTR_RECIRC: (
        Bench("recirc, at the end", _recirc(RECIRC_ID), end=b""),
        Bench("recirc, of a copy", _recirc(RECIRC_ID), repeat=FEW)),
    u.OVS_ACTION_ATTR_DROP: (
        Bench("drop", nla_u32(u.OVS_ACTION_ATTR_DROP, 0), end=b""),),
    u.OVS_ACTION_ATTR_PUSH_MPLS: (
        Bench("push_mpls, pop_mpls", _PUSH_MPLS + _POP_MPLS),),
    u.OVS_ACTION_ATTR_ADD_MPLS: (
        Bench("add_mpls before IP, pop_mpls", nla(
            u.OVS_ACTION_ATTR_ADD_MPLS, _LSE + b"\x88\x47"
            + struct.pack("=H", 1)) + _POP_MPLS),
        Bench("add_mpls before Ethernet, pop_mpls", nla(
            u.OVS_ACTION_ATTR_ADD_MPLS, _LSE + b"\x88\x47\0\0")
            + nla(u.OVS_ACTION_ATTR_POP_MPLS, b"\x65\x58"))),
    u.OVS_ACTION_ATTR_POP_MPLS: (),
    u.OVS_ACTION_ATTR_PUSH_ETH: (
        Bench("pop_eth, push_eth", _POP_ETH + _PUSH_ETH),),
    u.OVS_ACTION_ATTR_POP_ETH: (),
    u.OVS_ACTION_ATTR_PUSH_NSH: (
        Bench("push_nsh, pop_nsh", _PUSH_NSH + _POP_NSH),
        Bench("push_nsh, set(nsh), pop_nsh", _PUSH_NSH + _masked(
            u.OVS_KEY_ATTR_NSH, nla(u.OVS_NSH_KEY_ATTR_BASE, bytes(15)
                                    + _ONES), b"") + _POP_NSH)),
    u.OVS_ACTION_ATTR_POP_NSH: (),
    u.OVS_ACTION_ATTR_METER: (
        Bench("meter, that passes", nla_u32(u.OVS_ACTION_ATTR_METER, METER)),
        Bench("meter, that is not there", nla_u32(
            u.OVS_ACTION_ATTR_METER, METER + 1))),
    # For the programs an OVS_ACTION_ATTR_USERSPACE.
    u.OVS_ACTION_ATTR_PSAMPLE: (),
    u.OVS_ACTION_ATTR_TRUNC: (
        Bench("trunc, of nothing", nla_u32(u.OVS_ACTION_ATTR_TRUNC, 1000)),
        Bench("trunc, userspace", nla_u32(u.OVS_ACTION_ATTR_TRUNC, 50)
              + _USER, repeat=FEW)),
    u.OVS_ACTION_ATTR_SAMPLE: (
        Bench("sample at 1/2^32", _sample(1, _USER)),
        Bench("sample at 1/2, of an upcall", _sample(1 << 31, _USER),
              repeat=FEW)),
    u.OVS_ACTION_ATTR_CLONE: (
        Bench("clone, in place", nla(u.OVS_ACTION_ATTR_CLONE, nla_u32(
            u.OVS_ACTION_ATTR_OUTPUT, 99))),
        Bench("clone, deferred", nla(
            u.OVS_ACTION_ATTR_CLONE, _PUSH_VLAN + nla_u32(
                u.OVS_ACTION_ATTR_OUTPUT, 99)), repeat=FEW)),
    u.OVS_ACTION_ATTR_CHECK_PKT_LEN: (
        Bench("check_pkt_len", _check_pkt_len(
            1000, _USER, nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 99))),),
    u.OVS_ACTION_ATTR_HASH: (
        Bench("hash(l4)", nla(u.OVS_ACTION_ATTR_HASH,
                              struct.pack("=II", u.OVS_HASH_ALG_L4, 0))),),
    u.OVS_ACTION_ATTR_DEC_TTL: (
        Bench("dec_ttl, set(ipv4), ttl", nla(
            u.OVS_ACTION_ATTR_DEC_TTL, nla(u.OVS_DEC_TTL_ATTR_ACTION, b""))
            + _TTL),),
    # The first packet of each commits a connection, the others are its.
    u.OVS_ACTION_ATTR_CT: (
        Bench("ct(), of none that is there", _ct(1)),
        Bench("ct(commit), UDP", _ct(2, nla_flag(u.OVS_CT_ATTR_COMMIT))),
        Bench("ct(commit), TCP", _ct(3, nla_flag(u.OVS_CT_ATTR_COMMIT)),
              TCP4),
        Bench("ct(commit,nat(src=10.0.0.9))", _ct(
            4, nla_flag(u.OVS_CT_ATTR_COMMIT), nla(
                u.OVS_CT_ATTR_NAT, nla_flag(u.OVS_NAT_ATTR_SRC)
                + nla(u.OVS_NAT_ATTR_IP_MIN, b"\x0a\0\0\x09"))))),
    u.OVS_ACTION_ATTR_CT_CLEAR: (
        Bench("ct_clear", nla_flag(u.OVS_ACTION_ATTR_CT_CLEAR)),),
}
"""By OVS_ACTION_ATTR_*: tests/unit/test_bench.py compares with what there
is."""


def _add_meter(made: Lab) -> None:
    """One that lets everything pass."""
    band = (nla_u32(u.OVS_BAND_ATTR_TYPE, u.OVS_METER_BAND_TYPE_DROP)
            + nla_u32(u.OVS_BAND_ATTR_RATE, 100_000_000)
            + nla_u32(u.OVS_BAND_ATTR_BURST, 100_000_000))
    made.ask(u.OVS_METER_ID, u.OVS_METER_CMD_SET,
             nla_u32(u.OVS_METER_ATTR_ID, METER),
             nla(u.OVS_METER_ATTR_BANDS, nla(0, band)))


class _Turns:
    """Flows and packets of benches, and their run times."""

    def __init__(self, made: Lab, benches: Sequence[Bench]) -> None:
        (instance,) = made.provider.instances()
        self._entry = instance.plane.gen.bridge(0).entry_fd
        self._ring = instance.ring
        self._contexts: list[bytes] = []
        for mark, bench in enumerate(benches, 1):
            ctx = bytearray(SKB_SIZE)
            struct.pack_into("=I", ctx, SKB_MARK, mark)
            struct.pack_into("=I", ctx, SKB_IFINDEX, if_nametoindex("b1"))
            self._contexts.append(bytes(ctx))
            self._put(made, bench.packet, 0, bench.actions + bench.end, mark)
        self._put(made, UDP4, RECIRC_ID, OUTPUT)
        self._benches = benches
        self.costs: list[list[float]] = [[] for _ in benches]

    @staticmethod
    def _put(made: Lab, packet: Packet, recirc_id: int, actions: bytes,
             mark: int = 0) -> None:
        """A flow for packets of `mark`, or of any mark."""
        bits = 0xffff if mark else 0
        made.add(nla_u32(u.OVS_KEY_ATTR_SKB_MARK, mark)
                 + nla_u32(u.OVS_KEY_ATTR_IN_PORT, 1)
                 + nla_u32(u.OVS_KEY_ATTR_RECIRC_ID, recirc_id)
                 + nla(u.OVS_KEY_ATTR_ETHERNET, bytes(12)) + packet.key,
                 nla_u32(u.OVS_KEY_ATTR_SKB_MARK, bits)
                 + nla_u32(u.OVS_KEY_ATTR_IN_PORT, 0xffffffff)
                 + nla_u32(u.OVS_KEY_ATTR_RECIRC_ID, 0xffffffff)
                 + packet.mask, actions)

    def run(self) -> None:
        """One turn: each once."""
        for bench, ctx, costs in zip(self._benches, self._contexts,
                                     self.costs, strict=True):
            run = bpfprog.test_run(self._entry, bench.packet.frame, ctx,
                                   bench.repeat)
            costs.append(run.duration)
            while self._ring.run():
                pass


def measure() -> list[Row]:
    """ns over a plain output on such a packet; the ratio is to that output.
    """
    plain = {name: Bench(f"output, {name}", b"", packet)
             for name, packet in PACKETS.items()}
    benches = [*plain.values()]
    missing = []
    for kind in HANDLERS.keys() | ACTIONS.keys():
        if kind in ACTIONS:
            benches += ACTIONS[kind]
        else:
            missing.append(Row(ACTION_NAMES[kind], 0, "ns",
                               note="has no benchmark"))
    with lab(3) as made:
        _add_meter(made)
        turns = _Turns(made, benches)
        for _ in range(TURNS):
            turns.run()
        assert made.dp.counters().missed == 0
    costs = [statistics.quantiles(found, n=4)[0] for found in turns.costs]
    bases = {id(bench.packet): cost
             for bench, cost in zip(plain.values(), costs, strict=False)}
    rows = []
    for number, (bench, cost) in enumerate(zip(benches, costs, strict=True)):
        base = bases[id(bench.packet)]
        if number < len(plain):
            rows.append(Row(bench.what, cost, "ns", 1.0))
        else:
            rows.append(Row(bench.what, cost - base, "ns more", cost / base))
    return rows + missing
