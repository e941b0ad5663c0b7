# SPDX-License-Identifier: Apache-2.0
"""Expected connections: the provider fills in, programs take."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from ctframes import SYN, TCP, UDP, Flow, tcp, udp
from ctobject import COMMIT, NS, SOURCES, STEAL, CtObject, Found
from objects import compile_object
from test_ct import Compiled, both, check, handshake

from dpif_bpf import abi_ct as a
from dpif_bpf.core.conntrack.expect import ExpectTable
from dpif_bpf.core.conntrack.hashing import Hash
from dpif_bpf.core.conntrack.helpers.model import (
    TIMEOUT,
    Expectation,
    Expected,
    Follow,
    Master,
)
from dpif_bpf.core.conntrack.tuples import pack_tuple
from dpif_bpf.edge import bpfprog
from dpif_bpf.wire.ct_tuple import CtTuple

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SIZE = 1024
NOW = 100
CONTROL = Flow("10.1.0.1", "10.2.0.1", 1000, 21)
CONTROL6 = Flow("fd01::1", "fd02::1", 1000, 21)
DATA = Flow("10.2.0.1", "10.1.0.1", 20, 1029)
DATA6 = Flow("fd02::1", "fd01::1", 20, 1029)
NEW = a.OVS_CT_TRACKED | a.OVS_CT_NEW
EXPECTED = NEW | a.OVS_CT_RELATED
RELATED = a.OVS_CT_TRACKED | a.OVS_CT_RELATED
RPL = (a.OVS_CT_TRACKED | a.OVS_CT_RELATED | a.OVS_CT_ESTABLISHED
       | a.OVS_CT_REPLY)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    directory: Path = tmp_path_factory.mktemp("ct")
    return {hook: compile_object(source, directory)
            for hook, source in SOURCES.items()}


class World:
    """A table, and what is expected by the provider of it."""

    def __init__(self, ct: CtObject) -> None:
        self.ct, self.now = ct, NOW
        self.open()

    def open(self) -> None:
        """Another provider begins."""
        memory = self.ct.memory
        self.table = ExpectTable(
            memory["ovs_ct_expect"].cast("Q"), memory["ovs_ct_use"].cast("Q"),
            Hash(memory["ovs_ct_conf"].tobytes(), 1), self.lives,
            lambda: self.now)

    def lives(self, number: int, gen: int) -> bool:
        return (self.ct.get(number, "word") == gen << 32 | a.OVS_CT_LIVE
                and self.ct.expiry(number) > self.now
                and self.ct.get(number, "zone_gen") == self.ct.zone(0)[0])

    def master(self, flow: Flow = CONTROL, zone: int = 0) -> Master:
        found = handshake(self.ct, flow, self.now, zone)
        return Master(found.id, found.gen, zone, (
            tuple_of(flow, TCP), tuple_of(flow.back(), TCP)))

    def expect(self, master: Master, flow: Flow = DATA, proto: int = TCP,
               follow: Follow | None = None) -> Expected:
        return self.table.expect(master, Expectation(
            tuple_of(flow.ports(0), proto), follow))

    def send(self, frame: bytes, flags: int = COMMIT, zone: int = 0) -> Found:
        return self.ct.run(frame, self.now, zone, flags)


@pytest.fixture
def world(compiled: Compiled) -> Iterator[World]:
    with CtObject(compiled["tc"], SIZE) as made:
        yield World(made)
        check(made)


def tuple_of(flow: Flow, proto: int) -> CtTuple:
    family = socket.AF_INET6 if flow.v6 else socket.AF_INET
    return CtTuple(int(family), proto, socket.inet_pton(family, flow.src),
                   socket.inet_pton(family, flow.dst), flow.sport,
                   flow.dport)


@pytest.mark.parametrize(("control", "data"), [
    (CONTROL, DATA), (CONTROL6, DATA6)], ids=["v4", "v6"])
@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_expected(world: World, control: Flow, data: Flow,
                  proto: int) -> None:
    """Found as often as it is looked for, taken when it is committed: it is
    related, and has its master's mark and labels."""
    ct, master = world.ct, world.master(control)
    record = ct.record(master.id)
    record[a.CT["mark"].slice] = struct.pack("=I", 77)
    record[a.CT["labels"].slice] = bytes(range(16))
    assert world.expect(master, data, proto) is Expected.DONE
    frame = tcp(data, SYN, 1) if proto == TCP else udp(data)
    for _ in range(3):
        found = world.send(frame, flags=0)
        assert (found.verdict, found.state, found.id) == (
            a.Verdict.NEW, EXPECTED, 0)
        assert found.fresh("mark") == 77
    found = world.send(frame)
    assert (found.state, found.made) == (EXPECTED, a.Made.DONE)
    assert ct.get(found.id, "status") == (a.OVS_CT_S_EXPECTED
                                          | a.OVS_CT_S_CONFIRMED)
    assert ct.get(found.id, "mark") == 77
    assert bytes(ct.record(found.id)[a.CT["labels"].slice]) == bytes(
        range(16))
    assert ct.get(found.id, "master") == master.id
    assert ct.get(found.id, "master_gen") == master.gen & 0xffff
    assert world.send(frame).state == RELATED
    if proto == UDP:
        assert world.send(udp(data.back())).state == RPL
    assert ct.stats()[a.Stat.EXPECTED] == 1
    # It was for one.
    other = data.ports(21)
    again = tcp(other, SYN, 1) if proto == TCP else udp(other)
    assert world.send(again).state == NEW


def test_not_quite_expected(world: World) -> None:
    world.expect(world.master())
    for frame, zone in (
            (tcp(DATA.ports(20, 1030), SYN, 1), 0), (udp(DATA), 0),
            (tcp(Flow("10.2.0.2", DATA.dst, 20, 1029), SYN, 1), 0),
            (tcp(Flow(DATA.src, "10.1.0.2", 20, 1029), SYN, 1), 0),
            (tcp(DATA.back(), SYN, 1), 0), (tcp(DATA, SYN, 1), 1)):
        assert world.send(frame, zone=zone).state == NEW
    assert world.send(tcp(DATA.ports(9), SYN, 1)).state == EXPECTED


def test_expected_with_nat(world: World) -> None:
    """It is translated as its master is: to the client that is hidden."""
    follow = Follow(socket.inet_aton("10.2.0.1"),
                    socket.inet_aton("192.168.0.5"), 4000)
    world.expect(world.master(), follow=follow)
    ct = world.ct
    found = world.send(tcp(DATA, SYN, 1))
    assert found.state == EXPECTED
    back = Flow("192.168.0.5", "10.2.0.1", 4000, 20)
    reply = bytes(ct.record(found.id)[a.CT["reply"].slice])
    want = tuple_of(back, TCP)
    assert reply[:4] + reply[16:20] == want.src + want.dst
    assert reply[32:36] == struct.pack(">HH", 4000, 20)
    assert ct.get(found.id, "status") == (
        a.OVS_CT_S_EXPECTED | a.OVS_CT_S_CONFIRMED | a.OVS_CT_S_DST_NAT
        | a.OVS_CT_S_DST_NAT_DONE | a.OVS_CT_S_SRC_NAT_DONE)
    answer = world.send(tcp(back, SYN | 16, 1, 2))
    assert (answer.id, answer.state) == (found.id, RPL)
    # Both: it comes from a virtual address.
    world.expect(world.master(CONTROL.ports(1001)), DATA.ports(0, 1030),
                 follow=Follow(socket.inet_aton("10.2.0.88"),
                               socket.inet_aton("192.168.0.5"), 4001))
    found = world.send(tcp(DATA.ports(20, 1030), SYN, 1))
    assert ct.get(found.id, "status") & (
        a.OVS_CT_S_DST_NAT | a.OVS_CT_S_SRC_NAT) == (
            a.OVS_CT_S_DST_NAT | a.OVS_CT_S_SRC_NAT)


def test_one_of_each_master(world: World) -> None:
    """Another one takes its place; others' places it does not get."""
    first, second = world.master(), world.master(CONTROL.ports(1001))
    assert world.expect(first) is Expected.DONE
    assert world.expect(first) is Expected.DONE
    assert world.expect(second) is Expected.BUSY
    assert world.expect(first, DATA.ports(0, 1030)) is Expected.DONE
    assert world.send(tcp(DATA, SYN, 1), flags=0).state == NEW
    assert world.expect(second) is Expected.DONE
    assert len(world.table) == world.ct.use("expects") == 2
    world.table.unexpect(first)
    assert world.send(tcp(DATA.ports(20, 1030), SYN, 1)).state == NEW
    assert world.send(tcp(DATA, SYN, 1)).state == EXPECTED
    world.table.upkeep()
    assert len(world.table) == world.ct.use("expects") == 0


def test_expired(world: World) -> None:
    world.expect(world.master())
    world.now += TIMEOUT - 1
    assert world.send(tcp(DATA, SYN, 1), flags=0).state == EXPECTED
    world.now += 1
    assert world.send(tcp(DATA, SYN, 1), flags=0).state == NEW
    world.table.upkeep()
    assert world.ct.use("expects") == 0


def test_master_has_gone(world: World) -> None:
    """Ended, or flushed: nobody is expected any more."""
    first, second = world.master(), world.master(CONTROL.ports(1001))
    world.expect(first)
    world.ct.run(tcp(CONTROL, 4, 1001), NOW)
    assert world.send(tcp(DATA, SYN, 1), flags=0).state == EXPECTED
    world.now += 11
    assert world.send(tcp(DATA, SYN, 1), flags=0).state == NEW
    # Whose place it had does not count any more.
    assert world.expect(second) is Expected.DONE
    assert world.send(tcp(DATA, SYN, 1), flags=0).state == EXPECTED
    world.ct.flush(0)
    assert world.send(tcp(DATA, SYN, 1), flags=0).state == NEW
    world.table.upkeep()
    assert len(world.table) == 0
    world.ct.sweep(world.now)


def test_full_bucket(world: World) -> None:
    """Of what one bucket takes; the others are counted, not expected."""
    made = []
    for port in range(1, 65536):
        master = Master(1, port, 0, ())  # type: ignore[arg-type]
        flow = DATA.ports(0, port)
        if 0 in world.table._bucket(_wanted(flow)):
            made.append((master, flow))
        if len(made) == a.OVS_CT_EXPECT_WAYS + 1:
            break
    world.table._lives = lambda number, gen: True
    results = [world.expect(master, flow) for master, flow in made]
    assert results == [Expected.DONE] * a.OVS_CT_EXPECT_WAYS + [
        Expected.FULL]
    assert world.table.full == 1
    world.table.unexpect(made[3][0])
    assert world.expect(*made[-1]) is Expected.DONE
    # One that it has there already makes room for itself.
    assert world.expect(made[0][0], made[0][1]) is Expected.DONE


def _wanted(flow: Flow) -> bytes:
    return pack_tuple(tuple_of(flow, TCP), 0)


def test_next_provider(world: World) -> None:
    """What was expected stays so, and is still one of each master."""
    master = world.master()
    world.expect(master)
    world.open()
    assert len(world.table) == 1
    assert world.send(tcp(DATA, SYN, 1), flags=0).state == EXPECTED
    assert world.expect(master, DATA.ports(0, 1030)) is Expected.DONE
    assert world.send(tcp(DATA, SYN, 1), flags=0).state == NEW
    assert len(world.table) == 1


def test_without_expectations_nothing_is_looked_for(world: World) -> None:
    world.expect(world.master())
    world.ct.set_use("expects", 0)
    assert world.send(tcp(DATA, SYN, 1), flags=0).state == NEW


def test_taken_between_find_and_commit(world: World) -> None:
    """Begins like any other, without a trace of the master."""
    master = world.master()
    record = world.ct.record(master.id)
    record[a.CT["mark"].slice] = struct.pack("=I", 77)
    record[a.CT["labels"].slice] = bytes(range(16))
    world.expect(master, follow=Follow(bytes(4), bytes(4), 1))
    found = world.send(tcp(DATA, SYN, 1), flags=STEAL | COMMIT)
    assert (found.state, found.made) == (NEW, a.Made.DONE)
    assert world.ct.get(found.id, "status") == a.OVS_CT_S_CONFIRMED
    for name in ("mark", "master", "master_gen"):
        assert not world.ct.get(found.id, name)
    assert not any(world.ct.record(found.id)[a.CT["labels"].slice])
    assert bytes(world.ct.record(found.id)[a.CT["reply"].slice])[:4] == (
        socket.inet_aton(DATA.dst))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_two_cpus_take_the_same(compiled: Compiled) -> None:
    """Each is taken once, and by whom is seen in both records."""
    rounds, count = int(os.environ.get("CT_ROUNDS", "3")), 2000
    with CtObject(compiled["tc"], 1 << 16) as ct:
        world = World(ct)
        world.table._lives = lambda number, gen: True
        whole = udp(Flow("10.0.0.0", "10.2.0.1", 1, 1029))
        rush = ct.obj.prog_fd("t_rush")
        for turn in range(rounds):
            done = 0
            master = world.master(CONTROL, zone=turn)
            for number in range(count):
                # As if each had its own; the program asks for the record.
                tag = Master(master.id, master.gen, turn, master.tuples)
                world.table._of.clear()
                addr = socket.inet_ntoa(struct.pack(">I",
                                                    0x0a000000 + number))
                done += world.expect(tag, Flow(addr, "10.2.0.1", 0, 1029),
                                     UDP) is Expected.DONE
            assert done > count * .9
            ct.set_use("expects", done)
            ct.memory["t_out"].cast("Q")[:] = memoryview(
                bytes(len(ct.memory["t_out"]))).cast("Q")
            ct.arg(now=NOW * NS, zone=turn)
            before = ct.stats()[a.Stat.EXPECTED]
            both(lambda: bpfprog.test_run(rush, whole, b"", count))
            assert ct.stats()[a.Stat.EXPECTED] - before == done
            taken = [bytes(ct.record(number)[a.CT["orig"].slice])[:4]
                     for number in ct.live()
                     if ct.get(number, "status") & a.OVS_CT_S_EXPECTED
                     and struct.unpack_from(
                         "=H", ct.record(number)[a.CT["orig"].slice],
                         a.TUPLE["zone"].offset)[0] == turn]
            assert len(taken) == len(set(taken)) == done
        assert sum(1 for _ in ct.live()) == rounds * (2 * count + 1)
        check(ct)
