# SPDX-License-Identifier: Apache-2.0
"""The connection tracker on frames, by a clock of its own.

What its states should be is for test_ct_kernel.py; here is what the kernel has
not got, or not in this form: table, expiry, limits, zones, two CPUs, and the
cases that users of other trackers met.
"""

from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import ctgen
import pytest
import test_verifier
import verifier
from ctframes import (
    ACK,
    FIN,
    GRE,
    RST,
    SYN,
    TCP,
    UDP,
    UDPLITE,
    Flow,
    addresses,
    frame,
    icmp,
    tcp,
    udp,
)
from ctobject import DROP, MAPS, NS, SOURCES, CtObject, Found
from objects import compile_object

from dpif_bpf import abi_ct as a
from dpif_bpf.edge import bpfprog

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

NEW = a.OVS_CT_TRACKED | a.OVS_CT_NEW
EST = a.OVS_CT_TRACKED | a.OVS_CT_ESTABLISHED
RPL = EST | a.OVS_CT_REPLY
INV = a.OVS_CT_TRACKED | a.OVS_CT_INVALID
SIZE = 1024
FLOW = Flow()
BACK = FLOW.back()

Compiled = dict[str, Path]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    directory = tmp_path_factory.mktemp("ct")
    return {hook: compile_object(source, directory)
            for hook, source in SOURCES.items()}


@pytest.fixture
def ct(compiled: Compiled) -> Iterator[CtObject]:
    with CtObject(compiled["tc"], SIZE) as made:
        yield made
        check(made)


def check(ct: CtObject) -> None:
    """Each connection has its edges, and nothing else has any; the counts
    are right."""
    live = list(ct.live())
    edges = ct.edges()
    assert set(edges) == set(live)
    assert set(edges.values()) <= {1, 2}
    assert ct.use("count") == len(live)
    if ct.size * a.CT.size < 1 << 20:
        tuples = [bytes(ct.record(number)[a.CT[way].slice])
                  for number in live for way in ("orig", "reply")
                  if ct.get(number, "zone_gen") == ct.zone(
                      zone_of(ct, number))[0]]
        assert len(set(tuples)) == len(tuples)


def zone_of(ct: CtObject, number: int) -> int:
    orig = ct.record(number)[a.CT["orig"].slice]
    zone: int = struct.unpack_from("=H", orig, a.TUPLE["zone"].offset)[0]
    return zone


def handshake(ct: CtObject, flow: Flow, now: float = 10,
              zone: int = 0) -> Found:
    """An established connection."""
    back = flow.back()
    ct.run(tcp(flow, SYN, 1000), now, zone)
    ct.run(tcp(back, SYN | ACK, 5000, 1001), now, zone)
    return ct.run(tcp(flow, ACK, 1001, 5001), now, zone)


@pytest.mark.parametrize("hook", SOURCES)
def test_what_the_verifier_says(compiled: Compiled, hook: str) -> None:
    """What is built on top needs stack, too."""
    for name, (stats, depth) in verifier.measure(compiled[hook]).items():
        assert stats.insns <= test_verifier.LIMIT, name
        # 144 bytes are flow extract's, and not below the tracker.
        assert max(sorted(map(int, stats.stack.split("+")))[:-1]) <= 96, name
        assert depth <= test_verifier.STACK, name


# Finding and committing


def test_new_until_a_reply_was_seen(ct: CtObject) -> None:
    """However often the first packet comes (OVS a867c010e, 8e69349f2)."""
    for first, answer in (
            (tcp(FLOW, SYN, 1), tcp(BACK, SYN | ACK, 1, 2)),
            (udp(FLOW), udp(BACK)),
            (icmp(FLOW, 8, 0, 5), icmp(BACK, 0, 0, 5))):
        for _ in range(5):
            assert ct.run(first, 10).state == NEW
        assert ct.run(answer, 10).state == RPL
        assert ct.run(first, 10).state == EST


def test_what_is_not_committed_is_not_there(ct: CtObject) -> None:
    for _ in range(3):
        found = ct.run(udp(FLOW), 10, flags=0)
        assert (found.verdict, found.state, found.id) == (
            a.Verdict.NEW, NEW, 0)
    assert ct.run(udp(BACK), 10, flags=0).state == NEW
    assert not list(ct.live())


def test_zones_are_apart(ct: CtObject) -> None:
    assert ct.run(udp(FLOW), 10, zone=1).state == NEW
    assert ct.run(udp(BACK), 10, zone=2).state == NEW
    assert ct.run(udp(BACK), 10, zone=1).state == RPL
    assert (ct.zone(1), ct.zone(2), ct.zone(3)) == ((0, 1), (0, 1), (0, 0))


def test_the_record(ct: CtObject) -> None:
    found = ct.run(udp(FLOW, b"12345"), 10.5, zone=7)
    ct.run(udp(BACK, b"12"), 11)
    ct.run(udp(BACK, b"12"), 11, zone=7)
    record = dict(zip(a.CT.fields, a.CT.struct.unpack(
        ct.record(found.id)), strict=True))
    both = addresses(FLOW)
    src, dst = both[:4] + bytes(12), both[4:] + bytes(12)
    ports = struct.pack(">HH", FLOW.sport, FLOW.dport)
    tail = struct.pack("=HBB", 7, UDP, 2)
    assert record["orig"] == src + dst + ports + tail
    assert record["reply"] == dst + src + ports[2:] + ports[:2] + tail
    assert record["packets"] == struct.pack("=QQ", 1, 1)
    assert record["bytes"] == struct.pack("=QQ", 33, 30)
    assert record["start"] == 10.5 * NS
    assert record["status"] == (a.OVS_CT_S_CONFIRMED
                                | a.OVS_CT_S_SEEN_REPLY)


def test_padding_of_the_frame_does_not_count(ct: CtObject) -> None:
    """Bytes behind the IP packet are no segment's data."""
    found = handshake(ct, FLOW)
    ct.run(tcp(FLOW, ACK, 1001, 5001, win=100) + bytes(6), 10)
    tcp_state = ct.record(found.id)[a.CT["tcp"].slice]
    assert struct.unpack_from("=I", tcp_state)[0] == 1001


def test_dnat_has_two_edges(ct: CtObject) -> None:
    inside = Flow(FLOW.src, "192.168.0.9", FLOW.sport, 8080)
    found = ct.run(udp(FLOW), 10, dst=addresses(inside)[4:8],
                   dport=struct.pack(">H", 8080))
    assert ct.edges() == {found.id: 2}
    answer = ct.run(udp(inside.back()), 10)
    assert (answer.id, answer.state, answer.dir) == (found.id, RPL, 1)
    assert ct.run(udp(FLOW), 10).id == found.id
    # Its reply's tuple is taken, and whoever wants it does not get it.
    other = FLOW.ports(FLOW.sport, 81)
    clash = ct.run(udp(other), 10, dst=addresses(inside)[4:8],
                   dport=struct.pack(">H", 8080))
    assert clash.made is a.Made.CLASH
    assert list(ct.live()) == [found.id]
    assert ct.zone(0) == (0, 1)


def test_forced_commit_begins_anew(ct: CtObject) -> None:
    first = ct.run(udp(FLOW), 10)
    ct.run(udp(BACK), 10)
    again = ct.run(udp(BACK), 10, flags=1 | DROP)
    assert (again.state, again.dir) == (NEW, 0)
    assert again.id != first.id
    assert ct.run(udp(FLOW), 10).state == RPL


@pytest.mark.parametrize("make", [
    lambda flow: frame(flow, GRE, bytes(8)),
    lambda flow: frame(flow, 103, b"x" * 20),
    lambda flow: frame(flow, 50, b"x" * 20)], ids=["gre", "pim", "esp"])
def test_protocols_without_ports(ct: CtObject,
                                 make: Callable[[Flow], bytes]) -> None:
    for flow in (ctgen.V4, ctgen.V6):
        assert ct.run(make(flow), 10).state == NEW
        assert ct.run(make(flow.back()), 10).state == RPL
        assert ct.run(make(flow), 10).state == EST


def test_gre_lasts_longer_when_it_is_answered(ct: CtObject) -> None:
    there, back = frame(FLOW, GRE, bytes(8)), frame(BACK, GRE, bytes(8))
    assert ct.run(there, 10).timeout == 30
    assert ct.run(back, 10).timeout == 30
    found = ct.run(there, 10)
    assert found.timeout == 180
    assert ct.get(found.id, "status") & a.OVS_CT_S_ASSURED


def test_udplite(ct: CtObject) -> None:
    for said, state in ((0, NEW), (8, NEW), (12, NEW), (13, INV), (7, INV)):
        flow = FLOW.ports(2000 + said)
        assert ct.run(udp(flow, b"1234", said, UDPLITE), 10).state == state


def test_streams_of_udp(ct: CtObject) -> None:
    """Assured is what is answered for more than two seconds."""
    assert ct.run(udp(FLOW), 100).timeout == 30
    assert ct.run(udp(BACK), 101).timeout == 30
    assert ct.run(udp(FLOW), 102).timeout == 30
    found = ct.run(udp(BACK), 102.1)
    assert found.timeout == 120
    assert ct.get(found.id, "status") & a.OVS_CT_S_ASSURED


@pytest.mark.parametrize("cut", range(14, 34 + 20))
def test_short_frames(ct: CtObject, cut: int) -> None:
    """No header, no connection; nothing else happens."""
    whole = tcp(FLOW, SYN, 1)
    if cut >= 34:
        assert ct.run(whole[:cut], 10).state == INV
    assert not list(ct.live())


# TCP beyond the kernel's verdicts


def test_port_used_again(ct: CtObject) -> None:
    """A SYN on TIME_WAIT begins anew with this very packet, and nothing of the
    old connection is left (OVS 72745ab0c; cilium 28597)."""
    first = handshake(ct, FLOW)
    words = ct.record(first.id).cast("Q")
    words[a.CT["status"].offset // 8 + 1] = 77	# mark
    assert ct.get(first.id, "mark") == 77
    ct.run(tcp(FLOW, FIN | ACK, 1001, 5001), 11)
    ct.run(tcp(BACK, FIN | ACK, 5001, 1002), 11)
    ct.run(tcp(FLOW, ACK, 1002, 5002), 11)
    assert ct.get(first.id, "state") == a.TcpState.TIME_WAIT
    again = ct.run(tcp(FLOW, SYN, 77), 12)
    assert (again.state, again.made) == (NEW, a.Made.DONE)
    assert again.id != first.id
    assert ct.get(again.id, "mark") == 0
    assert ct.get(again.id, "status") == a.OVS_CT_S_CONFIRMED
    assert ct.stats()[a.Stat.REOPEN] == 1


def test_reset_without_a_reply_ends_it(ct: CtObject) -> None:
    ct.run(tcp(FLOW, SYN, 1), 10)
    ct.run(tcp(BACK, RST | ACK, 0, 2), 10)
    assert not list(ct.live())
    found = handshake(ct, FLOW)
    assert ct.run(tcp(FLOW, RST, 1001), 10).timeout == 10
    assert ct.get(found.id, "state") == a.TcpState.CLOSE


def test_no_reset_out_of_window(ct: CtObject) -> None:
    found = handshake(ct, FLOW)
    for off in (-(1 << 20), 1 << 20, -1):
        assert ct.run(tcp(FLOW, RST, 1001 + off), 10).state == INV
    assert ct.get(found.id, "state") == a.TcpState.ESTABLISHED


def test_pick_up_in_the_middle(ct: CtObject) -> None:
    ct.set_up(flags=0)
    assert ct.run(tcp(FLOW, ACK, 1, 1), 10).state == INV
    ct.set_up()
    assert ct.run(tcp(FLOW, ACK, 1, 1), 10).state == NEW
    for step in range(20):
        seq = 1 + step * 100000
        assert ct.run(tcp(BACK, ACK, seq, seq), 10).state == RPL
        assert ct.run(tcp(FLOW, ACK, seq, seq), 10).state == EST


def test_liberal_as_the_kernel_datapath(ct: CtObject) -> None:
    """What is established and out of window is not invalid; resets are."""
    far = tcp(FLOW, ACK, 1001 + (1 << 20), 5001)
    handshake(ct, FLOW)
    assert ct.run(far, 10).state == INV
    ct.set_up(flags=a.OVS_CT_F_LOOSE | a.OVS_CT_F_OVS)
    handshake(ct, FLOW.ports(2000))
    assert ct.run(tcp(FLOW.ports(2000), ACK, 1001 + (1 << 20), 5001),
                  10).state == EST
    assert ct.run(tcp(FLOW.ports(2000), RST, 999), 10).state == INV


# Expiry


def test_expired_is_absent(ct: CtObject) -> None:
    first = ct.run(udp(FLOW), 100)
    assert ct.run(udp(FLOW), 129.9).id == first.id
    assert ct.run(udp(FLOW), 159.8).id == first.id
    late = ct.run(udp(FLOW), 192)
    assert (late.state, late.made) == (NEW, a.Made.DONE)
    assert late.id != first.id


def test_the_sweep(ct: CtObject) -> None:
    """Ended, then in limbo, then free: not one of them early."""
    short = ct.run(udp(FLOW), 100)
    long = handshake(ct, FLOW.ports(2), 100)
    ct.sweep(130)
    assert set(ct.live()) == {short.id, long.id}
    ct.sweep(132)
    assert set(ct.live()) == {long.id}
    assert ct.expiry(short.id)
    ct.sweep(133)
    assert ct.expiry(short.id)
    ct.sweep(134)
    assert not ct.expiry(short.id)
    assert ct.zone(0) == (0, 1)
    assert ct.spills() == 0
    ct.sweep(100 + 432002)
    ct.sweep(100 + 432005)
    assert not list(ct.live())
    assert ct.use("count") == 0
    ct.sweep(100 + 432009)
    assert ct.use("idle")


def test_who_ends_while_the_sweep_is_idle(ct: CtObject) -> None:
    """Made and ended between two looks, with nobody else there: a table that
    filled up so stayed full."""
    ct.sweep(100)
    assert ct.use("idle")
    ct.run(tcp(FLOW, SYN, 1000), 100)
    number, = ct.live()
    ct.run(tcp(FLOW, RST, 1001), 100)
    assert not list(ct.live()) and ct.expiry(number)
    ct.sweep(101)
    assert ct.expiry(number) and not ct.use("idle")
    ct.sweep(103)
    assert not ct.expiry(number)
    ct.sweep(104)
    assert ct.use("idle")


def test_an_id_comes_back_as_another(ct: CtObject, one_cpu: None) -> None:
    """Who still knows the old one sees that it has gone.  Each CPU goes over
    the records by itself: here it is one."""
    first, again, seen = _until_it_comes_back(ct)
    assert again.gen == first.gen + 1
    assert len(seen) > SIZE // 2


def _until_it_comes_back(ct: CtObject) -> tuple[Found, Found, set[int]]:
    """The first connection, the next one in its record, and the ids of all
    that there were."""
    now, seen = 100.0, set()
    first = ct.run(udp(FLOW), now)
    ct.sweep(now + 40)
    ct.sweep(now + 45)
    for port in range(1, 2 * SIZE):
        now += 40
        found = ct.run(udp(FLOW.ports(port, 9)), now)
        ct.sweep(now + 35)
        ct.sweep(now + 38)
        seen.add(found.id)
        if found.id == first.id:
            return first, found, seen
    raise AssertionError("never used again")


def test_the_timer(compiled: Compiled) -> None:
    """By the clock, and with nobody but the map that holds it."""
    with CtObject(compiled["tc"], SIZE) as ct:
        policy = ct.memory["ovs_ct_policy"].cast("I")
        policy[a.Timeout.UDP] = 0
        ct.run(udp(FLOW))
        assert bpfprog.test_run(ct.obj.prog_fd("t_start"),
                                bytes(64)).retval == 0
        done = threading.Event()
        for _ in range(200):
            if ct.use("idle"):
                break
            done.wait(.1)
        assert not list(ct.live())
        assert ct.stats()[a.Stat.FREED] == 1
        assert ct.use("sweeps") > 1


def test_the_timer_outlives_the_provider(compiled: Compiled) -> None:
    """It goes on for as long as somebody, or a pin, holds its map."""
    ct = CtObject(compiled["tc"], SIZE)
    handshake(ct, FLOW, ct.clock())
    assert bpfprog.test_run(ct.obj.prog_fd("t_start"),
                            bytes(64)).retval == 0
    held = os.dup(ct.obj.map_fd("ovs_ct_timer"))
    memory = ct.memory["ovs_ct_use"]
    ct.close()
    try:
        use = memory.cast("Q")
        before = use[1]
        done = threading.Event()
        for _ in range(200):
            if use[1] >= before + 2:
                break
            done.wait(.1)
        assert use[1] >= before + 2
    finally:
        os.close(held)


# Limits


def test_full(ct: CtObject) -> None:
    """New ones are refused and counted, old ones stay."""
    made = [ct.run(udp(FLOW.ports(port)), 100)
            for port in range(1, SIZE + 50)]
    done = [found for found in made if found.made is a.Made.DONE]
    assert len(done) == SIZE - 1
    assert {found.made for found in made[SIZE - 1:]} == {a.Made.REFUSED}
    assert ct.stats()[a.Stat.FULL] == 50
    assert ct.zone(0) == (0, SIZE - 1)
    for port in range(1, SIZE):
        assert ct.run(udp(FLOW.ports(port).back()), 100).state == RPL
    check(ct)
    ct.sweep(140)
    ct.sweep(143)
    assert ct.run(udp(FLOW.ports(9)), 143).made is a.Made.DONE


def test_crowded_buckets(compiled: Compiled) -> None:
    """Few buckets: edges spill, are found, and leave nothing behind."""
    with CtObject(compiled["tc"], 256, buckets=32) as ct:
        made = [ct.run(udp(FLOW.ports(port)), 100)
                for port in range(1, 256)]
        done = [found for found in made if found.made is a.Made.DONE]
        assert ct.spills() > 0
        assert len(done) + ct.stats()[a.Stat.BUCKETS] == 255
        assert len(done) > 200
        check(ct)
        for port, found in enumerate(made, 1):
            again = ct.run(udp(FLOW.ports(port).back()), 100, flags=0)
            assert again.id == found.id
            assert bool(found.id) == (found.made is a.Made.DONE)
        ct.sweep(140)
        ct.sweep(143)
        assert ct.spills() == 0
        assert ct.edges() == {}


def test_limits(ct: CtObject) -> None:
    ct.limit(5, 3)
    made = [ct.run(udp(FLOW.ports(port)), 100, zone=5).made
            for port in range(1, 6)]
    assert made == [a.Made.DONE] * 3 + [a.Made.REFUSED] * 2
    assert ct.zone(5) == (0, 3)
    assert ct.run(udp(FLOW), 100, zone=6).made is a.Made.DONE
    ct.set_up(most=5)
    assert ct.run(udp(FLOW.ports(2)), 100).made is a.Made.DONE
    assert ct.run(udp(FLOW.ports(3)), 100).made is a.Made.REFUSED
    assert ct.stats()[a.Stat.LIMIT] == 2
    assert ct.stats()[a.Stat.MAX_CONNS] == 1
    assert ct.use("count") == 5
    ct.sweep(140)
    assert ct.zone(5) == (0, 0)
    assert ct.run(udp(FLOW.ports(4)), 140, zone=5).made is a.Made.DONE


def test_flush_of_a_zone(ct: CtObject) -> None:
    """At once, of this zone alone; the sweep gives the records back."""
    for zone in (0, 1, 2):
        for port in range(1, 21):
            ct.run(udp(FLOW.ports(port)), 100, zone=zone)
    ct.flush(1)
    assert [ct.zone(zone) for zone in (0, 1, 2)] == [(0, 20), (1, 0), (0, 20)]
    for zone, state in ((0, RPL), (1, NEW), (2, RPL)):
        assert ct.run(udp(BACK.ports(80, 5)), 100, zone=zone,
                      flags=0).state == state
    assert ct.run(udp(FLOW.ports(5)), 100, zone=1).state == NEW
    assert ct.zone(1) == (1, 1)
    ct.sweep(101)
    ct.sweep(101)
    assert sorted(zone_of(ct, number) for number in ct.live()) == (
        [0] * 20 + [1] + [2] * 20)
    ct.sweep(104)
    assert ct.use("count") == 41
    ct.flush(0)
    assert ct.run(udp(BACK.ports(80, 5)), 104, zone=2).state == RPL


# Both hooks, and two CPUs


def test_xdp_says_the_same(compiled: Compiled) -> None:
    """Of the same packets, in tables of their own and in one of both."""
    kinds = (ctgen.tcp_steps, ctgen.udp_steps, ctgen.icmp_steps,
             ctgen.error_steps, ctgen.sctp_steps)
    with CtObject(compiled["tc"], SIZE * 4) as tc, \
            CtObject(compiled["xdp"], SIZE * 4) as xdp:
        port = 0
        for number in range(60):
            for steps in kinds:
                port += 1
                rng = random.Random(number)
                base = (ctgen.V4, ctgen.V6)[number % 2]
                for step in steps(rng, base.ports(port), 16):
                    ours, theirs = (ct.run(step.frame, 10 + number)
                                    for ct in (tc, xdp))
                    assert (ours.state, ours.verdict, ours.dir,
                            ours.timeout, ours.made) == (
                        theirs.state, theirs.verdict, theirs.dir,
                        theirs.timeout, theirs.made), step.what
                    if ours.id:
                        one, two = (bytes(ct.record(found.id)[
                            a.CT["orig"].offset:]) for ct, found in (
                            (tc, ours), (xdp, theirs)))
                        assert one == two, step.what
        check(tc)
        check(xdp)


def test_a_connection_of_both_hooks(compiled: Compiled) -> None:
    with CtObject(compiled["tc"], SIZE) as tc, CtObject(
            compiled["xdp"], SIZE,
            {name: tc.obj.map_fd(name) for name in MAPS}) as xdp:
        assert tc.run(tcp(FLOW, SYN, 1), 10).state == NEW
        assert xdp.run(tcp(BACK, SYN | ACK, 1, 2), 10).state == RPL
        found = tc.run(tcp(FLOW, ACK, 2, 2), 10)
        assert found.state == EST
        assert tc.get(found.id, "state") == a.TcpState.ESTABLISHED
        check(tc)


def both(work: Callable[[], object]) -> None:
    """Does it on two CPUs at once."""
    failed: list[BaseException] = []
    start = threading.Barrier(2)

    def thread(cpu: int) -> None:
        try:
            os.sched_setaffinity(threading.get_native_id(), {cpu})
            start.wait()
            work()
        except BaseException as error:
            failed.append(error)

    cpus = sorted(os.sched_getaffinity(0))
    threads = [threading.Thread(target=thread, args=(cpu,))
               for cpu in cpus[:2]]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    if failed:
        raise failed[0]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
@pytest.mark.parametrize("proto", [TCP, UDP], ids=["tcp", "udp"])
def test_two_cpus_begin_the_same(compiled: Compiled, proto: int) -> None:
    """Each of these connections is there once, whoever was first."""
    rounds = int(os.environ.get("CT_ROUNDS", "3"))
    count = 20000
    whole = tcp(FLOW, SYN, 1) if proto == TCP else udp(FLOW)
    with CtObject(compiled["tc"], 1 << 20) as ct:
        flood = ct.obj.prog_fd("t_flood")
        for turn in range(rounds):
            ct.memory["t_out"].cast("Q")[:] = memoryview(
                bytes(len(ct.memory["t_out"]))).cast("Q")
            ct.arg(now=100 * NS, zone=turn)
            both(lambda: bpfprog.test_run(flood, whole, b"", count))
            assert ct.zone(turn) == (0, count)
        stats = ct.stats()
        check(ct)
        assert stats[a.Stat.COMMIT] == rounds * count
        # Who lost has the winner's record, unless that CPU was held up
        # before it made it live: then the packet is lost, and counted.
        size = len(ct.memory["t_out"]) // 64 // 8
        refused = sum(ct.memory["t_out"].cast("Q")[::size])
        assert refused <= stats[a.Stat.CLASH_LOST] < count / 100
        orig = {bytes(ct.record(number)[a.CT["orig"].slice])
                for number in ct.live()}
        assert len(orig) == rounds * count


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_two_cpus_on_one_connection(compiled: Compiled) -> None:
    """No packet of it is invalid, and none is lost from its counters."""
    with CtObject(compiled["tc"], SIZE) as ct:
        found = handshake(ct, FLOW, 100)
        packet = tcp(FLOW, ACK, 1001, 5001)
        ct.arg(now=100 * NS)
        results: list[int] = []
        both(lambda: results.append(
            bpfprog.test_run(ct.fd, packet, b"", 100000).retval))
        assert results == [a.Verdict.FOUND] * 2
        packets = ct.record(found.id)[a.CT["packets"].slice].cast("Q")[0]
        stats = ct.stats()
        assert stats[a.Stat.INVALID] == 0
        assert packets + stats[a.Stat.BUSY] == 2 + 200000
        check(ct)
