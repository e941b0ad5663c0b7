# SPDX-License-Identifier: Apache-2.0
"""NAT by ct() on the shipped programs: the very frames that ends would send
which are what they are made, and the key."""

from __future__ import annotations

import struct
from collections.abc import Callable

import ct_cases as c
import ctframes
import pytest
from ctframes import (
    ACK,
    FIN,
    GRE,
    SYN,
    UDP,
    UDPLITE,
    Flow,
    icmp,
    init,
    sctp,
    tcp,
    udp,
)
from lists import push_vlan
from oracle_key import Meta, extract
from oracle_sctp import crc32c
from tracked import (
    COMMIT,
    DNAT,
    EST,
    FLOWS,
    NAT,
    NEW,
    REL,
    RPL,
    SNAT,
    TRK,
    V4,
    V6,
    Tracked,
    address,
    ct,
    fields,
    nat,
    ports,
)

from dpif_bpf import abi_ct
from dpif_bpf.abi import DropReason
from dpif_bpf.wire import uapi as u


def udplite(flow: Flow) -> bytes:
    return udp(flow, proto=UDPLITE)


def unsummed(flow: Flow) -> bytes:
    """Without a checksum, which IPv4 allows."""
    frame = bytearray(udp(flow))
    at = 60 if flow.v6 else 40
    frame[at:at + 2] = bytes(2)
    return bytes(frame)


def ping(flow: Flow) -> bytes:
    """The identifier is the source port of the way there."""
    there = flow.src in (V4.src, V6.src, "10.9.0.9", "fd09::9")
    kinds = (128, 129) if flow.v6 else (8, 0)
    return icmp(flow, kinds[not there], 0,
                flow.sport if there else flow.dport)


def summed_sctp(flow: Flow) -> bytes:
    frame = sctp(flow, 0, init(1, 5))
    at = 54 if flow.v6 else 34
    return (frame[:at + 8] + crc32c(
        frame[at:at + 8] + bytes(4) + frame[at + 12:]) + frame[at + 12:])


KINDS = {"tcp": lambda f: tcp(f, SYN, 1), "udp": udp, "udplite": udplite,
         "unsummed": unsummed, "icmp": ping, "sctp": summed_sctp}


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_snat(t: Tracked, flow: Flow, kind: str) -> None:
    """Source address and port, and those of the answer back again: the very
    frames that such ends would send."""
    make = KINDS[kind]
    to = "fd09::9" if flow.v6 else "10.9.0.9"
    outer = Flow(to, flow.dst, 5000, flow.dport)
    how = ct(COMMIT, nat(c.SRC, address(to), ports(5000, 5000)))
    seen = t.send(make(flow), ct(), how)
    assert seen.packet == make(outer)
    assert seen.state == TRK | NEW | SNAT
    parsed = extract(seen.packet, Meta(in_port=1))
    assert parsed is not None
    for name in ("ipv6_src", "ipv6_dst", "tp_src", "tp_dst"):
        assert seen.raw(name) == parsed.field(name), name
    if kind == "sctp":
        return	# an INIT is answered by other chunks
    back = {"tcp": lambda f: tcp(f, SYN | ACK, 1, 2)}.get(kind, make)
    if kind == "icmp":
        kinds = (128, 129) if flow.v6 else (8, 0)
        seen = t.send(icmp(outer.back(), kinds[1], 0, 5000), ct(NAT))
        assert seen.packet == icmp(flow.back(), kinds[1], 0, flow.sport)
    else:
        seen = t.send(back(outer.back()), ct(NAT))
        assert seen.packet == back(flow.back())
    assert seen.state == TRK | EST | RPL | DNAT
    # Without nat() it is known, and stays as it is.
    if kind == "udp":
        seen = t.send(back(outer.back()), ct())
        assert seen.packet == back(outer.back())
        assert seen.state == TRK | EST | RPL
        seen = t.send(back(outer.back()), ct(), ct(NAT))
        assert seen.packet == back(flow.back())
        assert seen.state == TRK | EST | RPL | DNAT
        seen = t.send(make(flow), ct(NAT), ct(NAT))
        assert seen.packet == make(outer) and seen.state == TRK | EST | SNAT
    record, = t.records()
    assert record["status"] & 0x30 == abi_ct.OVS_CT_S_SRC_NAT


@pytest.mark.parametrize("flow", FLOWS)
def test_dnat(t: Tracked, flow: Flow) -> None:
    """The source has a mapping, too, to itself: so packets there are told of
    both (as the kernel does)."""
    to = "fd09::9" if flow.v6 else "10.9.0.9"
    inner = Flow(flow.src, to, flow.sport, 8080)
    how = ct(COMMIT, nat(c.DST, address(to), ports(8080, 8080)))
    seen = t.send(udp(flow), how)
    assert seen.packet == udp(inner) and seen.state == TRK | NEW | SNAT | DNAT
    seen = t.send(udp(inner.back()), ct(NAT))
    assert seen.packet == udp(flow.back())
    assert seen.state == TRK | EST | RPL | SNAT
    seen = t.send(udp(flow), ct(NAT))
    assert seen.packet == udp(inner) and seen.state == TRK | EST | SNAT | DNAT


def test_both(t: Tracked) -> None:
    """Source and destination, each in a zone: the second one finds what the
    first one made."""
    t.send(udp(V4), ct(COMMIT, nat(c.SRC, address("10.9.0.9")), zone=1),
           ct(COMMIT, nat(c.DST, address("10.9.0.8")), zone=2))
    answer = udp(Flow("10.9.0.8", "10.9.0.9", 80, 1000))
    seen = t.send(answer, ct(NAT, zone=2), ct(NAT, zone=1))
    assert seen.packet == udp(V4.back())
    seen = t.send(udp(V4), ct(NAT, zone=1), ct(NAT, zone=2))
    assert seen.packet == udp(Flow("10.9.0.9", "10.9.0.8", 1000, 80))


def test_a_new_one_is_not_translated_by_nat_alone(t: Tracked) -> None:
    """Until it is answered: as in the kernel, where it does not say how."""
    how = nat(c.SRC, address("10.9.0.9"))
    outer = udp(Flow("10.9.0.9", V4.dst, 1000, 80))
    assert t.send(udp(V4), ct(COMMIT, how)).packet == outer
    assert t.send(udp(V4), ct(NAT)).packet == udp(V4)
    assert t.send(udp(V4), ct(COMMIT, how)).packet == outer
    t.send(udp(Flow(V4.dst, "10.9.0.9", 80, 1000)), ct())
    assert t.send(udp(V4), ct(NAT)).packet == outer


def test_a_port_that_is_taken(t: Tracked) -> None:
    """Another one of its class, or of the range; none is left: it is lost."""
    how = ct(COMMIT, nat(c.SRC, address("10.9.0.9")))
    sources = set()
    for n in range(1, 6):
        seen = t.send(udp(Flow(f"10.1.0.{n}", V4.dst, 600, 80)), how)
        port, = struct.unpack("!H", fields(seen.packet)[0])
        assert 600 <= port < 1024
        sources.add(port)
    assert len(sources) == 5 and 600 in sources
    how = ct(COMMIT, nat(c.SRC, address("10.9.0.9"), ports(7000, 7002)))
    sources = set()
    for n in range(1, 4):
        seen = t.send(udp(Flow(f"10.1.0.{n}", V4.dst, 600, 81)), how)
        sources.add(fields(seen.packet)[0])
    assert sources == {struct.pack("!H", 7000 + n) for n in range(3)}
    assert t.dropped(udp(Flow("10.1.0.9", V4.dst, 600, 81)), how) == (
        DropReason.CONNTRACK)
    # To another destination there are all of them.
    t.send(udp(Flow("10.1.0.9", V4.dst, 600, 82)), how)


def test_addresses_of_a_range(t: Tracked) -> None:
    """Of several, some are used; each source has one of its own for ever,
    if it is asked for."""
    def used(*more: bytes, zone: int = 0) -> list[set[bytes]]:
        found = []
        for n in range(1, 9):
            found.append(set())
            for dst in range(1, 9):
                seen = t.send(
                    udp(Flow(f"10.1.0.{n}", f"10.2.0.{dst}", 1000, 80)),
                    ct(COMMIT, nat(c.SRC, address("10.9.0.10"), address(
                        "10.9.0.13", u.OVS_NAT_ATTR_IP_MAX), *more),
                       zone=zone))
                found[-1].add(seen.packet[26:30])
        return found

    all_ = {bytes((10, 9, 0, n)) for n in range(10, 14)}
    found = used()
    assert set().union(*found) == all_ and any(len(one) > 1 for one in found)
    found = used(c.PERSISTENT, zone=1)
    assert all(len(one) == 1 for one in found)
    assert set().union(*found) <= all_ and len(set().union(*found)) > 1


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("kind", ["tcp", "udp", "icmp"])
@pytest.mark.parametrize("what", ["snat", "dnat"])
def test_icmp_errors(t: Tracked, flow: Flow, kind: str, what: str) -> None:
    """About a translated packet: the error goes to whom the packet was from,
    and what is in it is what that one sent."""
    make = KINDS[kind]
    to = "fd09::9" if flow.v6 else "10.9.0.9"
    if what == "snat":
        seen_as = Flow(to, flow.dst, 5000, flow.dport)
        how = nat(c.SRC, address(to), ports(5000, 5000))
    else:
        seen_as = Flow(flow.src, to, flow.sport, 8080)
        how = nat(c.DST, address(to), ports(8080, 8080))
        if kind == "icmp":
            seen_as = Flow(flow.src, to, 8080, 8080)
    t.send(make(flow), ct(COMMIT, how))
    type_ = 1 if flow.v6 else 3
    router = "fd05::5" if flow.v6 else "10.5.0.5"

    def error(about: Flow, length: int) -> bytes:
        inner = make(about)[14:][:length]
        # Who is seen as another one has said it.
        sender = flow.dst if what == "dnat" and about is flow else router
        return icmp(Flow(sender, about.src), type_, 0, 0, inner)

    head = 40 if flow.v6 else 20
    for length in (head + 8, 200):
        seen = t.send(error(seen_as, length), ct(NAT))
        assert seen.state & (TRK | REL | RPL) == TRK | REL | RPL
        if kind == "tcp" and length == head + 8:
            # Its checksum is beyond what is there.
            assert seen.packet == error(flow, length)
            continue
        assert seen.packet == error(flow, length)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("make", [
    lambda f: tcp(f, SYN, 1), udp, lambda f: sctp(f, 0, init(1, 5)),
    lambda f: gre(f, 0)], ids=["tcp", "udp", "sctp", "gre"])
@pytest.mark.parametrize("length", [4, 8])
def test_an_error_about_too_little(t: Tracked, flow: Flow,
                                   make: Callable[[Flow], bytes],
                                   length: int) -> None:
    """With less than eight bytes of the transport header it is related, and
    cannot be translated."""
    to = "fd09::9" if flow.v6 else "10.9.0.9"
    t.send(make(flow), ct(COMMIT, nat(c.SRC, address(to))))

    def error(about: Flow) -> bytes:
        inner = make(about)[14:][:(40 if flow.v6 else 20) + length]
        router = "fd05::5" if flow.v6 else "10.5.0.5"
        return icmp(Flow(router, about.src), 1 if flow.v6 else 3, 0, 0, inner)

    outer = error(Flow(to, flow.dst, flow.sport, flow.dport))
    assert t.send(outer, ct()).state == TRK | REL | RPL
    if length < 8:
        assert t.dropped(outer, ct(NAT)) == DropReason.CONNTRACK
    else:
        assert t.send(outer, ct(NAT)).packet == error(flow)


def gre(flow: Flow, version: int, length: int = 12) -> bytes:
    head = struct.pack("!HHQ", version, 0x880b, 0)
    return ctframes.frame(flow, GRE, head[:length])


@pytest.mark.parametrize("flow", FLOWS)
def test_gre(t: Tracked, flow: Flow) -> None:
    """The destination of versions that nobody knows is not translated, and
    nothing without eight bytes of its header."""
    to = "fd09::9" if flow.v6 else "10.9.0.9"
    snat = ct(COMMIT, nat(c.SRC, address(to)))
    dnat = ct(COMMIT, nat(c.DST, address(to)))
    for version in (0, 1, 2, 7):
        there = flow.ports(version)
        seen_as = Flow(to, flow.dst)
        t.flush()
        assert t.send(gre(there, version), snat).packet == (
            gre(seen_as, version))
        if version == 0:
            assert t.send(gre(seen_as.back(), 0), ct(NAT)).packet == (
                gre(flow.back(), 0))
        elif version != 1:
            assert t.dropped(gre(seen_as.back(), version), ct(NAT)) == (
                DropReason.CONNTRACK)
        t.flush()
        if version > 1:
            assert t.dropped(gre(flow, version), dnat) == (
                DropReason.CONNTRACK)
        else:
            assert t.send(gre(flow, version), dnat).packet == (
                gre(Flow(flow.src, to), version))
    t.flush()
    assert t.dropped(gre(flow, 0, 4), snat) == DropReason.CONNTRACK


def test_an_error_about_node_information(t: Tracked) -> None:
    """RFC 4620; what is at the place of an identifier is none."""
    how = nat(c.SRC, address("fd09::9"), ports(5000, 5000))
    query = icmp(V6, 139, 0, 77)
    outer = icmp(Flow("fd09::9", V6.dst), 139, 0, 77)
    assert t.send(query, ct(COMMIT, how)).packet == outer
    answer = icmp(V6.back(), 140, 0, 77)
    outer = icmp(Flow(V6.dst, "fd09::9"), 140, 0, 77)
    seen = t.send(icmp(V6, 1, 0, 0, answer[14:]), ct(COMMIT, how))
    assert seen.packet == icmp(Flow("fd09::9", V6.dst), 1, 0, 0, outer[14:])


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("proto", [UDP, UDPLITE])
def test_a_checksum_that_becomes_zero(t: Tracked, flow: Flow,
                                      proto: int) -> None:
    """Is 0xffff, as 0 would mean that there is none: RFC 768, RFC 3828; also
    inside an ICMP error."""
    to = "fd09::9" if flow.v6 else "10.9.0.9"
    how = ct(COMMIT, nat(c.SRC, address(to), ports(5000, 5000)))
    at = 60 if flow.v6 else 40

    def zero(about: Flow) -> bytes:
        return udp(about, udp(about, bytes(2), proto=proto)[at:at + 2],
                   proto=proto)

    outer = Flow(to, flow.dst, 5000, flow.dport)
    data = zero(outer)[-2:]
    assert zero(outer)[at:at + 2] == b"\xff\xff"
    there = udp(flow, data, proto=proto)
    assert t.send(there, how).packet == zero(outer)
    router = "fd05::5" if flow.v6 else "10.5.0.5"
    back = zero(flow.back())
    seen_as = udp(outer.back(), back[-2:], proto=proto)
    assert t.send(seen_as, ct(NAT)).packet == back
    # Of what the inner end has got it tells the outer one.
    seen = t.send(icmp(Flow(router, flow.dst), 1 if flow.v6 else 3, 0, 0,
                       udp(flow.back(), data, proto=proto)[14:]), how)
    told = udp(outer.back(), data, proto=proto)
    assert seen.packet[-len(told[14:]):] == told[14:]
    assert told[at:at + 2] == b"\xff\xff"


@pytest.mark.parametrize("flow", FLOWS)
def test_a_port_of_one_that_is_over(t: Tracked, flow: Flow) -> None:
    """Is free for a connection whose sequence numbers lie ahead."""
    to = "fd09::9" if flow.v6 else "10.9.0.9"
    how = ct(COMMIT, nat(c.SRC, address(to), ports(5000, 5000)))
    seen_as = Flow(to, flow.dst, 5000, flow.dport)
    other = flow.ports(2000)
    for number, frames in enumerate((
            (tcp(flow, SYN, 1000), tcp(seen_as.back(), SYN | ACK, 1, 1001)),
            (tcp(flow, ACK, 1001, 2), tcp(seen_as.back(), ACK | FIN, 2,
                                          1001)),
            (tcp(flow, ACK | FIN, 1001, 3), tcp(seen_as.back(), ACK, 3,
                                                1002)))):
        if number:
            assert t.dropped(tcp(other, SYN, 2000), how) == (
                DropReason.CONNTRACK)
        t.send(frames[0], how)
        t.send(frames[1], ct(NAT))
    assert t.dropped(tcp(other, SYN, 900), how) == DropReason.CONNTRACK
    seen = t.send(tcp(other, SYN, 2000), how)
    assert seen.packet == tcp(seen_as, SYN, 2000)
    record, = t.records()
    assert record["orig"][32:34] == struct.pack("!H", 2000)
    seen = t.send(tcp(seen_as.back(), SYN | ACK, 9, 2001), ct(NAT))
    assert seen.packet == tcp(other.back(), SYN | ACK, 9, 2001)


def test_an_error_whose_headers_have_moved(t: Tracked) -> None:
    """It is found, then gets two tags, and then its NAT."""
    outer = Flow("10.9.0.9", V4.dst, 5000, V4.dport)
    t.send(udp(V4), ct(COMMIT, nat(c.SRC, address("10.9.0.9"),
                                   ports(5000, 5000))))
    tags = push_vlan(0x8100, 5), push_vlan(0x88a8, 6)

    def error(about: Flow) -> bytes:
        return icmp(Flow("10.5.0.5", about.src), 3, 0, 0, udp(about)[14:])

    seen = t.send(error(outer), ct(), *tags, ct(NAT))
    told = error(V4)
    assert seen.packet == (told[:12] + b"\x88\xa8\0\6\x81\0\0\5"
                           + told[12:])
    assert seen.state & DNAT
