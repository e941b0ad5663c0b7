# SPDX-License-Identifier: Apache-2.0
"""ct() and ct_clear on the shipped programs: what a packet's key and the
packet itself are afterwards, and the connection."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ct_cases as c
import ctframes
import pytest
from ctframes import (
    ACK,
    FIN,
    GRE,
    SYN,
    TCP,
    UDP,
    UDPLITE,
    Flow,
    icmp,
    init,
    sctp,
    tcp,
    udp,
)
from harness import Datapath
from lists import clone, compiled, nla, push_vlan, recirc, set_masked
from lists import userspace as to_user
from oracle_key import Meta, extract
from oracle_sctp import crc32c

from dpif_bpf import abi, abi_ct
from dpif_bpf.abi import DropReason
from dpif_bpf.core.conntrack.expect import ExpectTable
from dpif_bpf.core.conntrack.hashing import Hash
from dpif_bpf.core.conntrack.helpers.model import (
    Expectation,
    Expected,
    Follow,
    Master,
)
from dpif_bpf.core.conntrack.memory import MAPPED, CtMemory
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.ct_tuple import CtTuple

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


@pytest.fixture
def t(dp: Datapath) -> Iterator[Tracked]:
    made = Tracked(dp)
    made.flush()
    yield made
    made.flush()


FLOWS = [pytest.param(V4, id="v4"), pytest.param(V6, id="v6")]


@pytest.mark.parametrize("flow", FLOWS)
def test_states(t: Tracked, flow: Flow) -> None:
    """New until it is committed and answered; zone, mark and labels are of
    the connection, and both directions have its original tuple."""
    labels = bytes(range(1, 17))
    there, back = udp(flow), udp(flow.back())
    assert t.send(there, ct()).state == TRK | NEW
    assert t.send(back, ct()).state == TRK | NEW
    seen = t.send(there, ct(COMMIT, c.mark(0x15, 0xff), nla(
        u.OVS_CT_ATTR_LABELS, labels + b"\xff" * 16), zone=7))
    assert (seen.state, seen.field("ct_zone"), seen.field("ct_mark"),
            seen.raw("ct_labels")) == (TRK | NEW, 7, 0x15, labels)
    assert seen.packet == there
    assert t.send(there, ct()).state == TRK | NEW	# of another zone
    assert t.send(there, ct(zone=7)).state == TRK | NEW
    seen = t.send(back, ct(zone=7))
    assert seen.state == TRK | EST | RPL
    assert seen.field("ct_mark") == 0x15 and seen.raw("ct_labels") == labels
    for frame in (there, back):
        seen = t.send(frame, ct(zone=7))
        assert seen.raw("ct_orig_tp_src") == b"\3\xe8"
        assert seen.raw("ct_orig_tp_dst") == b"\0\x50"
        assert seen.field("ct_orig_proto") == UDP
        tuple_ = seen.raw("ct_orig_ipv6_src") + seen.raw("ct_orig_ipv6_dst")
        addresses = there[22:54] if flow.v6 else there[26:34] + bytes(24)
        assert tuple_ == addresses
    assert t.send(there, ct(zone=7)).state == TRK | EST
    record, = t.records()
    assert struct.unpack("=2Q", record["packets"]) == (4, 2)


def test_clear(t: Tracked) -> None:
    there = udp(V4)
    t.send(there, ct(COMMIT, c.mark(5, 0xff)))
    seen = t.send(there, ct(), CLEAR)
    assert not any(seen.raw(name)[0] or any(seen.raw(name)) for name in (
        "ct_state", "ct_zone", "ct_mark", "ct_labels", "ct_orig_ipv6_src",
        "ct_orig_ipv6_dst", "ct_orig_proto", "ct_orig_tp_src"))
    # It is looked for anew, and counted.
    t.send(there, ct(), CLEAR, ct())
    record, = t.records()
    assert struct.unpack("=2Q", record["packets"])[0] == 4


def test_a_later_packet_has_nothing_of_it(t: Tracked) -> None:
    t.send(udp(V4), ct(COMMIT, c.mark(5, 0xff)))
    for actions in ((), (CLEAR,)):
        seen = t.send(udp(V4), *actions)
        assert not seen.state and not seen.field("ct_mark")
        assert not any(seen.raw("ct_orig_ipv6_src"))


def test_is_looked_for_once_in_a_zone(t: Tracked) -> None:
    """Also after recirculation, and in several zones."""
    there = udp(V4)
    seen = t.send(there, ct(COMMIT), recirc(1),
                  rest=ct() + ct(COMMIT, c.mark(1, 1)))
    assert seen.state == TRK | NEW and seen.field("ct_mark") == 1
    record, = t.records()
    assert struct.unpack("=2Q", record["packets"]) == (1, 0)
    t.send(there, ct(), ct(zone=5), ct(zone=5), ct(zone=5))
    assert struct.unpack("=2Q", t.records()[0]["packets"]) == (2, 0)
    t.send(there, ct(), ct(zone=5), ct())
    assert struct.unpack("=2Q", t.records()[0]["packets"]) == (4, 0)


def test_many_in_a_list(t: Tracked) -> None:
    """More than there may be tail calls in a row: the packet goes on
    later."""
    zones = [ct(COMMIT, zone=zone) for zone in range(1, 41)]
    seen = t.send(udp(V4), *zones)
    assert seen.field("ct_zone") == 40 and seen.state == TRK | NEW
    assert len(t.records()) == 40


@pytest.mark.parametrize("copies", [1, 3])
def test_copies(t: Tracked, copies: int) -> None:
    """What a clone commits is there, and the packet's key is its own."""
    seen = t.all(udp(V4), ct(), *(clone(ct(COMMIT, c.mark(n + 1, 0xff),
                                           zone=n + 1), USER)
                                  for n in range(copies)), ct(zone=9))
    marks = sorted(one.field("ct_mark") for one in seen)
    assert marks == [0, *range(1, copies + 1)]
    assert len(t.records()) == copies


def test_force(t: Tracked) -> None:
    """A forced commit ends the connection that begins at the other end."""
    t.send(udp(V4), ct(COMMIT, c.mark(1, 1)))
    assert t.send(udp(V4.back()), ct(), ct(COMMIT)).state == TRK | EST | RPL
    seen = t.send(udp(V4.back()), ct(), ct(FORCE))
    assert seen.state == TRK | NEW and not seen.field("ct_mark")
    record, = t.records()
    assert record["orig"][:4] == bytes((10, 2, 0, 1))
    # In the direction in which it is, nothing happens.
    assert t.send(udp(V4.back()), ct(FORCE)).state == TRK | NEW
    assert len(t.records()) == 1


def test_marks_are_masked(t: Tracked) -> None:
    there = udp(V4)
    labels = nla(u.OVS_CT_ATTR_LABELS, b"\x11" * 16 + b"\xf0" * 8
                 + b"\x01" * 8)
    t.send(there, ct(COMMIT, c.mark(0xab, 0xff), nla(
        u.OVS_CT_ATTR_LABELS, b"\x22" * 16 + b"\xff" * 16)))
    seen = t.send(there, ct(COMMIT, c.mark(0x100, 0xf00), labels))
    assert seen.field("ct_mark") == 0x1ab
    assert seen.raw("ct_labels") == b"\x12" * 8 + b"\x23" * 8
    seen = t.send(there, ct())
    assert seen.field("ct_mark") == 0x1ab
    assert seen.raw("ct_labels") == b"\x12" * 8 + b"\x23" * 8


def test_limit(t: Tracked) -> None:
    t.ct.zones[2 * 3 + 1] = 1
    t.send(udp(V4), ct(COMMIT, zone=3))
    assert t.dropped(udp(V4.ports(2)), ct(COMMIT, zone=3)) == (
        DropReason.CONNTRACK)
    assert t.send(udp(V4.ports(2)), ct(zone=3)).state == TRK | NEW
    t.send(udp(V4), ct(COMMIT, zone=3))


def test_what_cannot_be_tracked(t: Tracked) -> None:
    bad = tcp(V4, SYN | 1, 1)
    assert t.send(bad, ct(zone=4)).state == TRK | INV
    assert t.send(bad, ct(zone=4)).field("ct_zone") == 4
    assert t.send(bad, ct(COMMIT)).state == TRK | INV
    assert not t.records()


def test_fragments_are_handed_over(t: Tracked) -> None:
    """To the provider, with what it needs to let the packet go on; nothing
    else sees them."""
    fragment = udp(V4)[:20] + b"\x20\0" + udp(V4)[22:]
    for actions in ((ct(zone=3),), (ct(zone=1), ct(zone=3))):
        before = t.dp.drops()
        t.dp.clear()
        parsed = extract(fragment, Meta(in_port=1))
        assert parsed is not None
        code = compiled(b"".join(actions) + USER, fragment, parsed)
        t.dp.add_flow(code)
        t.dp.run(fragment)
        up, = t.dp.poll(1)
        assert up.cmd == abi.OVS_UPCALL_FRAGMENT and up.packet == fragment
        word = t.dp.acts[int(up.fields["desc"])]
        assert word & 0xff == abi.Op.CT and word >> 16 & 0xffff == (
            3 if len(actions) == 1 else 1)
        assert t.dp.drops() == before
        assert not t.records()


def helper(name: str) -> bytes:
    return nla(u.OVS_CT_ATTR_HELPER, name.encode() + b"\0")


def handed(t: Tracked, frame: bytes, *actions: bytes) -> int:
    """Where the packet goes on, of one that goes to its helper; 0: it is not
    handed over."""
    dp = t.dp
    dp.clear()
    parsed = extract(frame, Meta(in_port=1))
    assert parsed is not None
    dp.add_flow(compiled(b"".join(actions) + USER, frame, parsed))
    dp.run(frame)
    up, = dp.poll(1)
    assert up.packet == frame
    return int(up.fields["desc"]) if up.cmd == abi.OVS_UPCALL_HELP else 0


def only(t: Tracked) -> int:
    """The number of the one connection that there is."""
    record, = t.records()
    size = abi_ct.CT.size
    data = t.ct.records.cast("B")
    return next(at // size for at in range(0, len(data), size)
                if data[at:at + 4] == struct.pack("=I", abi_ct.OVS_CT_LIVE)
                and abi_ct.CT.struct.unpack(data[at:at + size]) == tuple(
                    record.values()))


@pytest.mark.parametrize("flow", FLOWS)
def test_what_helpers_see(t: Tracked, flow: Flow) -> None:
    """Data of FTP, once both directions were seen; all that comes when
    sequence numbers are shifted.  It goes on behind the action."""
    back = flow.back()
    commit = ct(COMMIT, helper("ftp"))
    assert not handed(t, tcp(flow, SYN, 1), commit)
    record, = t.records()
    assert record["helper"] == abi_ct.OVS_CT_HELPER_FTP
    assert record["status"] & abi_ct.OVS_CT_S_HELPER
    assert not handed(t, tcp(back, SYN | ACK, 1, 2), ct())
    assert not handed(t, tcp(flow, ACK, 2, 2), ct())
    for frame in (tcp(flow, ACK, 2, 2, data=b"x"),
                  tcp(back, ACK, 2, 3, data=b"x")):
        for actions, following in (
                ((ct(),), abi.Op.USERSPACE), ((commit,), abi.Op.USERSPACE),
                ((ct(), ct(), commit), abi.Op.CT)):
            pc = handed(t, frame, *actions)
            assert pc and t.dp.acts[pc] & 0xff == following
    word = only(t) * abi_ct.CT.size + abi_ct.CT["status"].offset
    t.ct.records[word // 8] |= abi_ct.OVS_CT_S_SEQ_ADJUST
    assert handed(t, tcp(flow, ACK, 3, 3), ct())


def test_helper_of_a_later_commit(t: Tracked) -> None:
    """It sees the packet that brings it; another one does not take its
    place."""
    t.send(tcp(V4, SYN, 1), ct(COMMIT))
    t.send(tcp(V4.back(), SYN | ACK, 1, 2), ct())
    data = tcp(V4, ACK, 2, 2, data=b"x")
    assert not handed(t, data, ct())
    assert handed(t, data, ct(COMMIT, helper("ftp")))
    assert handed(t, data, ct(), ct(COMMIT))
    record, = t.records()
    assert record["helper"] == abi_ct.OVS_CT_HELPER_FTP


@pytest.mark.parametrize("flow", FLOWS)
def test_requests_of_tftp(t: Tracked, flow: Flow) -> None:
    commit = ct(COMMIT, helper("tftp"))
    for opcode, seen in ((1, True), (2, True), (3, False), (0x100, False)):
        frame = udp(flow.ports(2000 + opcode),
                    opcode.to_bytes(2, "big") + b"x")
        assert bool(handed(t, frame, commit)) == seen
    assert not handed(t, udp(flow.ports(9), b"\0"), commit)
    assert not handed(t, udp(flow.ports(8), b"\0\1"), ct(COMMIT))


@pytest.mark.parametrize("flow", FLOWS)
def test_expected_connections(t: Tracked, flow: Flow) -> None:
    """Related, with the master's mark, labels and original tuple, and with its
    NAT where the action has some."""
    labels = bytes(range(1, 17))
    t.send(tcp(flow, SYN, 1), ct(COMMIT, c.mark(7, 0xff), nla(
        u.OVS_CT_ATTR_LABELS, labels + b"\xff" * 16)))
    number = only(t)
    record, = t.records()
    gen = record["word"] >> 32
    data = Flow(flow.dst, flow.src, 20, 1029)
    family = socket.AF_INET6 if flow.v6 else socket.AF_INET
    src, dst = (socket.inet_pton(family, end)
                for end in (data.src, data.dst))
    inside = dst[:-1] + b"\x63"
    expects = ExpectTable(
        t.ct.expects, t.ct.use,
        Hash(t.ct.conf.tobytes(), 1), lambda *_: True, lambda: 0)
    master = Master(number, gen, 0, (
        CtTuple(family, TCP, dst, src, 1000, 80),
        CtTuple(family, TCP, src, dst, 80, 1000)))
    wish = Expectation(CtTuple(family, TCP, src, dst, 0, 1029),
                       Follow(src, inside, 4000))
    now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
    expects._clock = lambda: now
    assert expects.expect(master, wish) is Expected.DONE
    try:
        seen = t.send(tcp(data, SYN, 1), ct())
        assert seen.state == TRK | NEW | REL
        assert seen.field("ct_mark") == 7
        assert seen.raw("ct_labels") == labels
        assert seen.raw("ct_orig_tp_src") == struct.pack(">H", flow.sport)
        seen = t.send(tcp(data, SYN, 1), ct(), ct(COMMIT, NAT))
        assert seen.state == TRK | NEW | REL | abi_ct.OVS_CT_DST_NAT | (
            abi_ct.OVS_CT_SRC_NAT)
        assert seen.raw("ct_labels") == labels
        at = 38 if flow.v6 else 30
        assert seen.packet[at:at + len(dst)] == inside
        assert fields(seen.packet)[1] == struct.pack(">H", 4000)
        other = data.ports(21)
        assert t.send(tcp(other, SYN, 1), ct()).state == TRK | NEW
    finally:
        expects.unexpect(master)


@pytest.mark.parametrize("flow", FLOWS)
def test_padding_is_taken_off(t: Tracked, flow: Flow) -> None:
    short = udp(flow, b"")
    seen = t.send(short + bytes(9), ct(COMMIT))
    assert seen.packet == short and seen.state == TRK | NEW


# NAT


def fields(frame: bytes) -> tuple[bytes, bytes]:
    """Source and destination port of a key, of TCP and UDP."""
    v6 = frame[12:14] == b"\x86\xdd"
    at = 54 if v6 else 34
    return frame[at:at + 2], frame[at + 2:at + 4]


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


def test_a_changed_packet_is_looked_for_again(t: Tracked) -> None:
    """One whose addresses were set belongs to another connection."""
    t.send(udp(V4), ct(COMMIT))
    other = set_masked(u.OVS_KEY_ATTR_IPV4, bytes((10, 7, 7, 7)) + bytes(8),
                       b"\xff" * 4 + bytes(8))
    seen = t.send(udp(V4), ct(), other, ct(COMMIT, c.mark(3, 3)))
    assert len(t.records()) == 2
    assert seen.raw("ct_orig_ipv6_src")[:4] == bytes((10, 7, 7, 7))
