# SPDX-License-Identifier: Apache-2.0
"""What the provider does to connections that packets have made: it finds the
very records, and what it ends is none for the next packet."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from ct_entries import decode_entry
from ctframes import ACK, GRE, SYN, Flow, frame, icmp, sctp, tcp, udp
from ctframes import init as sctp_init
from ctobject import CtObject
from test_ct import BACK, FLOW, check
from test_ct import compiled as compiled

from dpif_bpf import abi_ct as a
from dpif_bpf.core.conntrack.kept import Kept
from dpif_bpf.core.conntrack.limits import Limits
from dpif_bpf.core.conntrack.policy import Policies
from dpif_bpf.core.conntrack.table import Table
from dpif_bpf.core.conntrack.tuples import unpack_tuple
from dpif_bpf.edge import bpfprog
from dpif_bpf.wire.ct_limit import ZoneLimit
from dpif_bpf.wire.ct_tuple import CtTuple
from dpif_bpf.wire.ctnetlink import ALL, CtFilter, CtName

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

V6 = Flow(src="fd00::1", dst="fd00::2")


@pytest.fixture
def ct(compiled: dict[str, object]) -> Iterator[CtObject]:
    with CtObject(compiled["tc"], 1024) as made:  # type: ignore[arg-type]
        yield made


@pytest.fixture
def table(ct: CtObject) -> Table:
    return ct.table()


def frames() -> dict[str, bytes]:
    return {"tcp": tcp(FLOW, SYN), "udp": udp(FLOW), "udp6": udp(V6),
            "icmp": icmp(FLOW, 8), "icmp6": icmp(V6, 128),
            "sctp": sctp(FLOW, 0, sctp_init(1, 7)),
            "other": frame(FLOW, 99, b"x"), "tcp6": tcp(V6, SYN)}


def shown(table: Table, zero: bool = False) -> list[bytes]:
    """A message of each connection, without its header."""
    return [message for message in table.replies(ALL, lambda *_: b"", zero)
            if message]


def names(ct: CtObject, number: int) -> tuple[CtName, CtName]:
    first, second = (CtName(*unpack_tuple(bytes(
        ct.record(number)[a.CT[side].slice]))) for side in ("orig", "reply"))
    return first, second


def test_found_where_packets_find_it(ct: CtObject, table: Table) -> None:
    """By both tuples, with NAT as well."""
    numbers = [ct.run(data, zone=zone).id for data in frames().values()
               for zone in (0, 65535)]
    numbers += [ct.run(udp(FLOW), zone=5, dst=bytes([10, 9, 9, 9])).id]
    assert len(set(numbers)) == 17
    for number in numbers:
        for name in names(ct, number):
            assert table.find(name) == number
    assert table.total() == 17
    assert len(shown(table)) == 17
    check(ct)


def test_shown_as_it_is(ct: CtObject, table: Table) -> None:
    number = ct.run(tcp(FLOW, SYN, seq=5), zone=9).id
    ct.run(tcp(BACK, SYN | ACK, seq=99, ack=6), zone=9)
    ct.run(tcp(FLOW, ACK, seq=6, ack=100), zone=9)
    entry = table.entry(number)
    assert entry is not None
    assert entry.orig == CtTuple(
        2, 6, bytes(map(int, FLOW.src.split("."))),
        bytes(map(int, FLOW.dst.split("."))), FLOW.sport, FLOW.dport)
    assert entry.reply == entry.orig.reversed()
    assert entry.zone == 9
    assert entry.protoinfo is not None
    assert entry.protoinfo.state == a.TcpState.ESTABLISHED
    assert entry.counters is not None
    assert [packets for packets, _ in entry.counters] == [2, 1]
    assert entry.timeout in range(431998, 432001)
    assert entry.status == (a.OVS_CT_S_CONFIRMED | a.OVS_CT_S_SEEN_REPLY
                            | a.OVS_CT_S_ASSURED)


def test_ended(ct: CtObject, table: Table) -> None:
    """The next packet begins another one, which is not mistaken for it."""
    for data in frames().values():
        first = ct.run(data)
        before = table.entry(first.id)
        assert before is not None
        assert table.delete(first.id, before.id)
        assert not table.delete(first.id, before.id)
        check(ct)
        again = ct.run(data)
        assert again.made == a.Made.DONE and again.id != first.id
        assert not table.delete(again.id, before.id)
        assert table.entry(again.id) is not None
    assert table.total() == len(frames())


def test_a_locked_one_is_not_ended_by_halves(ct: CtObject,
                                             table: Table) -> None:
    number = ct.run(tcp(FLOW, SYN)).id
    entry = table.entry(number)
    assert entry is not None
    words = ct.memory["ovs_ct"].cast("Q")
    index = number * a.CT.size // 8
    words[index] += a.OVS_CT_LOCKED - a.OVS_CT_LIVE
    assert not table.delete(number, entry.id)
    assert list(table.end(ALL)) == [None]
    assert table.entry(number) is not None
    words[index] -= a.OVS_CT_LOCKED - a.OVS_CT_LIVE
    assert table.delete(number, entry.id)
    check(ct)


def test_all_of_a_filter(ct: CtObject, table: Table) -> None:
    for data in frames().values():
        for zone in (0, 7):
            ct.run(data, zone=zone)
    for _ in table.end(CtFilter(family=10)):
        pass
    check(ct)
    assert table.total() == 10
    table.flush(7)
    assert table.total() == 5
    assert len(shown(table)) == 5
    for data in frames().values():
        ct.run(data, zone=7)
    assert table.total() == 13
    table.flush(None)
    assert [*filter(None, table.replies(ALL, lambda *_: b""))] == []
    ct.sweep(ct.clock())
    check(ct)
    assert not list(ct.live())


def test_counted_anew(ct: CtObject, table: Table) -> None:
    for data in (tcp(FLOW, SYN), udp(FLOW)):
        number = ct.run(data).id
        first = table.entry(number, zero=True)
        assert first is not None and first.counters is not None
        assert first.counters[0][0] == 1
        second = table.entry(number, zero=True)
        assert second is not None
        assert second.counters == ((0, 0), (0, 0))
        assert ct.get(number, "word") & 0xffffffff == a.OVS_CT_LIVE


def test_timeouts(ct: CtObject, table: Table) -> None:
    policies = Policies(table, Kept(table.memory.kept))
    assert policies.default(2, 17).timeouts == (30, 120)
    table.set_timeouts(3, 16, (7, 8))
    ct.arg(policy=3)
    found = {}
    for name, data in frames().items():
        bpfprog.test_run(ct.fd, data)
        found[name] = max(ct.live())
    assert {ct.get(number, "policy") for number in found.values()} == {3}
    table.untimeout(17, 3)
    assert {name for name, number in found.items()
            if not ct.get(number, "policy")} == {"udp", "udp6"}
    table.untimeout(255, 3)
    assert not ct.get(found["other"], "policy")
    assert ct.get(found["tcp"], "policy") == 3
    assert ct.run(udp(FLOW)).timeout == 30


def test_limits(ct: CtObject, table: Table) -> None:
    limits = Limits(table, Kept(table.memory.kept))
    limits.set([ZoneLimit(-1, 2), ZoneLimit(7, 1)])
    for zone in (6, 7):
        made = [ct.run(udp(Flow(sport=port)), zone=zone).made
                for port in range(1, 4)]
        assert made.count(a.Made.DONE) == (2 if zone == 6 else 1)
    assert [(one.zone, one.count) for one in limits.get(
        [ZoneLimit(6), ZoneLimit(7)])] == [(6, 2), (7, 1)]
    table.set_most(4)
    assert ct.run(udp(FLOW), zone=1).made == a.Made.DONE
    assert ct.run(udp(FLOW), zone=2).made == a.Made.REFUSED
    assert table.most() == 4
    drops = sum(cpu["drop"] for cpu in table.cpu_stats())
    assert drops == 4
    assert sum(cpu["insert"] for cpu in table.cpu_stats()) == 4


@contextmanager
def flooded(ct: CtObject, repeat: int,
            meanwhile: Callable[[], object] = int) -> Iterator[None]:
    """Somebody makes one connection after the other, and the sweep runs.

    :param meanwhile: done after so many
    """
    ct.arg()
    assert bpfprog.test_run(ct.obj.prog_fd("t_start"), bytes(64)).retval == 0
    stop = threading.Event()
    fd = ct.obj.prog_fd("t_flood")

    def flood() -> None:
        while not stop.is_set():
            bpfprog.test_run(fd, udp(FLOW), repeat=repeat)
            meanwhile()

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_while_packets_come(compiled: dict[str, object]) -> None:
    """Of connections that are ended, counted anew and shown while they are
    made, nothing is left over, and none is shown that there never was."""
    with CtObject(compiled["tc"], 1 << 13) as ct:  # type: ignore[arg-type]
        table = ct.table()
        with flooded(ct, 100):
            seen = 0
            while seen < 12000:
                seen += len(shown(table, seen % 2 == 0))
                for _ in table.end(ALL):
                    pass
        for _ in table.end(ALL):
            pass
        assert not list(ct.live())
        check(ct)
        assert table.total() == 0
        assert not ct.spills()


def test_a_dump_while_others_come(compiled: dict[str, object]) -> None:
    """Who is there all the time is in it, and nobody twice."""
    with CtObject(compiled["tc"], 1 << 15) as ct:  # type: ignore[arg-type]
        table, other = ct.table(), ct.table()
        for port in range(1, 600):
            ct.run(udp(Flow(sport=port)), zone=9)
        before = Counter(map(named, shown(table)))
        assert before.total() == len(before) == 599
        with flooded(ct, 50, lambda: list(other.end(CtFilter(zone=0)))):
            for _ in range(30):
                found = Counter(map(named, shown(table)))
                assert set(found.values()) == {1}
                assert before <= found
        table.flush(9)
        assert table.count(9) == 0


def named(message: bytes) -> tuple[CtTuple, int]:
    """Tuple and zone."""
    entry = decode_entry(message, 2)
    return entry.orig, entry.zone


def test_gre_by_keys(ct: CtObject, table: Table) -> None:
    number = ct.run(frame(FLOW, GRE, b"\x20\0\x08\0\0\0\0\x05" + b"x" * 20)
                    ).id
    for name in names(ct, number):
        assert table.find(name) == number
