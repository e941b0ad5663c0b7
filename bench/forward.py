# SPDX-License-Identifier: Apache-2.0
"""The cost of a two-port forward, beside a bare tc redirect.

What counts is the cost above an empty program's: BPF_PROG_TEST_RUN itself
takes longer than a bare redirect.  Cases and, when asked for, another
checkout's take turns; a cost is the lower quartile of the turns.
"""

from __future__ import annotations

import statistics
import struct
from socket import IPPROTO_ICMP, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP

from bench.checkouts import BARE, EMPTY, TOP, Case, checkout, children
from bench.rows import Row
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import nla, nla_u32

_MAC_A, _MAC_B = b"\2\0\0\0\0\1", b"\2\0\0\0\0\2"
_MAC_C, _MAC_D = b"\2\0\0\0\0\3", b"\2\0\0\0\0\4"
_ALL = b"\xff"
_TURNS, _REPEAT = 150, 4000
OUTPUT = nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2)
ETH = _MAC_B + _MAC_A

ADDRESSES4 = bytes((10, 0, 0, 1, 10, 0, 0, 2))
ADDRESSES6 = bytes(15) + b"\1" + bytes(15) + b"\2"
UDP = struct.pack("!HHHH", 1000, 2000, 26, 0) + bytes(18)
TCP = struct.pack("!HHIIBBHHH", 1000, 2000, 0, 0, 0x50, 0x10, 0, 0,
                  0) + bytes(6)


def _ipv4(proto: int, payload: bytes) -> bytes:
    """A frame, in which the checksums play no part."""
    return (ETH + b"\x08\0" + struct.pack(
        "!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, proto, 0)
        + ADDRESSES4 + payload)


IPV4_UDP = _ipv4(IPPROTO_UDP, UDP)
IPV4_TCP = _ipv4(IPPROTO_TCP, TCP)
IPV4_ICMP = _ipv4(IPPROTO_ICMP, b"\x08\0" + bytes(32))
IPV4_SCTP = _ipv4(IPPROTO_SCTP, UDP + bytes(1400))
IPV6_TCP = (ETH + b"\x86\xdd" + struct.pack(
    "!IHBB", 6 << 28, len(TCP), IPPROTO_TCP, 64) + ADDRESSES6 + TCP)


def match(eth_type: bytes, more: bytes = b"",
          more_mask: bytes = b"") -> tuple[bytes, bytes]:
    """Key and mask as a learning switch's megaflow has them."""
    key = (nla_u32(u.OVS_KEY_ATTR_RECIRC_ID, 0)
           + nla_u32(u.OVS_KEY_ATTR_IN_PORT, 1)
           + nla(u.OVS_KEY_ATTR_ETHERNET, _MAC_A + _MAC_B)
           + nla(u.OVS_KEY_ATTR_ETHERTYPE, eth_type) + more)
    mask = (nla_u32(u.OVS_KEY_ATTR_RECIRC_ID, 0xFFFFFFFF)
            + nla_u32(u.OVS_KEY_ATTR_IN_PORT, 0xFFFFFFFF)
            + nla(u.OVS_KEY_ATTR_ETHERNET, _ALL * 12)
            + nla(u.OVS_KEY_ATTR_ETHERTYPE, _ALL * 2) + more_mask)
    return key, mask


def _transport(proto: int) -> bytes:
    """A key must have the header that its protocol says."""
    if proto == IPPROTO_TCP:
        return (nla(u.OVS_KEY_ATTR_TCP, bytes(4))
                + nla(u.OVS_KEY_ATTR_TCP_FLAGS, bytes(2)))
    if proto == IPPROTO_ICMP:
        return nla(u.OVS_KEY_ATTR_ICMP, bytes(2))
    if proto == IPPROTO_SCTP:
        return nla(u.OVS_KEY_ATTR_SCTP, bytes(4))
    return nla(u.OVS_KEY_ATTR_UDP, bytes(4))


def ipv4(proto: int) -> tuple[bytes, bytes]:
    """As above, for IPv4 without fragments."""
    return match(
        b"\x08\0",
        nla(u.OVS_KEY_ATTR_IPV4, bytes(8) + bytes((proto, 0, 0, 0)))
        + _transport(proto),
        nla(u.OVS_KEY_ATTR_IPV4, bytes(8) + b"\xff\0\0\xff"))


def ipv6(proto: int) -> tuple[bytes, bytes]:
    """As above, for IPv6 without fragments."""
    return match(
        b"\x86\xdd",
        nla(u.OVS_KEY_ATTR_IPV6, bytes(36) + bytes((proto, 0, 0, 0)))
        + _transport(proto),
        nla(u.OVS_KEY_ATTR_IPV6, bytes(36) + b"\xff\0\0\xff"))


def _case(what: str, flow: tuple[bytes, bytes], packet: bytes,
          actions: bytes = OUTPUT) -> Case:
    key, mask = flow
    return Case(what, ((key.hex(), mask.hex(), actions.hex()),),
                packet.hex())


def _routed() -> Case:
    """Both addresses and the TTL are set.

    A run has the packet that the one before left: two flows set what the
    other one matches.
    """
    flows = []
    for ttl, macs in ((60, (_MAC_C, _MAC_D)), (59, (_MAC_D, _MAC_C))):
        proto = bytes((IPPROTO_UDP, 0, ttl, 0))
        key = (nla_u32(u.OVS_KEY_ATTR_RECIRC_ID, 0)
               + nla_u32(u.OVS_KEY_ATTR_IN_PORT, 1)
               + nla(u.OVS_KEY_ATTR_ETHERNET, b"".join(macs))
               + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\x08\0")
               + nla(u.OVS_KEY_ATTR_IPV4, bytes(8) + proto)
               + _transport(IPPROTO_UDP))
        mask = (nla_u32(u.OVS_KEY_ATTR_RECIRC_ID, 0xFFFFFFFF)
                + nla_u32(u.OVS_KEY_ATTR_IN_PORT, 0xFFFFFFFF)
                + nla(u.OVS_KEY_ATTR_ETHERNET, _ALL * 12)
                + nla(u.OVS_KEY_ATTR_ETHERTYPE, _ALL * 2)
                + nla(u.OVS_KEY_ATTR_IPV4, bytes(8) + b"\xff\0\xff\xff"))
        actions = (
            nla(u.OVS_ACTION_ATTR_SET, nla(
                u.OVS_KEY_ATTR_ETHERNET, b"".join(reversed(macs))))
            + nla(u.OVS_ACTION_ATTR_SET_MASKED, nla(
                u.OVS_KEY_ATTR_IPV4, bytes(10) + bytes((119 - ttl, 0))
                + bytes(10) + b"\xff\0")) + OUTPUT)
        flows.append((key.hex(), mask.hex(), actions.hex()))
    packet = bytearray(IPV4_UDP)
    packet[:12] = _MAC_D + _MAC_C
    packet[22] = 60
    return Case("route UDP over IPv4", tuple(flows), packet.hex())


def cases() -> list[Case]:
    """What is measured; the flows of all are there at the same time."""
    udp = _case("forward UDP over IPv4", ipv4(IPPROTO_UDP), IPV4_UDP)
    rest = "forward UDP over IPv4, the cache at rest"
    return [udp,
            _case("forward TCP over IPv4", ipv4(IPPROTO_TCP), IPV4_TCP),
            _case("forward TCP over IPv6", ipv6(IPPROTO_TCP), IPV6_TCP),
            Case(rest, (), udp.packet, rests=True),
            _case("forward ICMP over IPv4", ipv4(IPPROTO_ICMP), IPV4_ICMP),
            _routed()]


def measure(against: str | None = None) -> list[Row]:
    """ns a packet above an empty program.

    :param against: a commit or a built checkout to compare with: ratios are
        to it; otherwise they are to the bare redirect
    """
    places = [TOP] + ([checkout(against)] if against else [])
    some = cases()
    costs: list[dict[str, list[float]]] = [{} for _ in places]
    with children(places, some) as made:
        for _ in range(_TURNS):
            for found, child in zip(costs, made, strict=True):
                for what, cost in child.turn(_REPEAT).items():
                    found.setdefault(what, []).append(cost)
    low = [{what: statistics.quantiles(all_, n=4)[0]
            for what, all_ in found.items()} for found in costs]
    base = low[-1] if against else None
    rows = [Row(EMPTY, low[0][EMPTY], "ns")]
    bare = low[0][BARE] - low[0][EMPTY]
    for what in (BARE, *(case.what for case in some)):
        cost = low[0][what] - low[0][EMPTY]
        note = f"{low[0][what]:.0f} ns with it"
        ratio = cost / bare
        if base is not None:
            before = base[what] - base[EMPTY]
            ratio = cost / before
            note += f"; {against}: {before:.0f} and {base[what]:.0f}"
        rows.append(Row(what, cost, "ns above", ratio, note))
    return rows
