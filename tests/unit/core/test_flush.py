# SPDX-License-Identifier: Apache-2.0
"""OVS_FLOW_CMD_DEL of all flows: at once for requests, and for packets before
the next flow is put; in slices for the loop.  So for the flows of a port, and
of a bridge, that has gone."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable, Iterator

import pytest
from forests import KEY_BITS, Forest
from test_services import FLOW, OUTPUT, key, mask, numbered, the_dp, the_plane
from test_services import peer as peer

from dpif_bpf.core import restore
from dpif_bpf.core.classifier.forest import Classifier
from dpif_bpf.core.classifier.sizes import Sizes
from dpif_bpf.core.flow_flush import Flush, Flushes
from dpif_bpf.core.plane import ANY_BRIDGE
from dpif_bpf.core.services.service import LATER
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    iter_messages,
    nla,
    nla_u32,
)
from tests.fake_plane import Peer
from tests.invariants import check_flows

COUNT = 300


@pytest.fixture
def full(peer: Peer) -> Peer:
    for number in range(COUNT):
        assert numbered(peer, number) == 0
    return peer


def serve(peer: Peer, cmd: int, *attrs: bytes,
          flags: int = NLM_F_ACK) -> Iterator[bytes]:
    """The answer to a request as it is made, turn by turn."""
    return peer.router.serve(peer.message(FLOW, cmd, *attrs,
                                              flags=flags))


def ufid(number: int) -> bytes:
    return nla(u.OVS_FLOW_ATTR_UFID, number.to_bytes(16, "big"))


def flow(number: int) -> list[bytes]:
    return [key(1, number.to_bytes(6, "big")), mask(), OUTPUT, ufid(number)]


def result(answer: Iterator[bytes]) -> int:
    ack, = answer
    return Peer.result(iter_messages(ack))[0]


def test_turns_that_each_do_a_part(full: Peer) -> None:
    """The table is empty at once, here and for the next provider; what the
    flows had is freed turn by turn, and then comes the ack."""
    dp, plane = the_dp(full), the_plane(full)
    flushes = dp.flows.flushes
    answer = serve(full, u.OVS_FLOW_CMD_DEL)
    assert next(answer) == LATER
    assert not len(dp.flows) and not restore.read(plane.nlmem).flows
    assert full.do(FLOW, u.OVS_FLOW_CMD_GET, ufid(0))[0] == errno.ENOENT
    steps: list[int] = []
    while flushes.busy:
        assert next(answer) == LATER
        steps.append(flushes.run(64))
        check_flows(dp, plane)
        assert flushes.shown == (sum(steps) <= COUNT)
    assert set(steps[:-1]) == {64} and sum(steps) > 4 * COUNT
    assert result(answer) == 0
    assert not len(dp.programs) and not plane.classifier.masks
    plane.settle()
    assert not any(plane.maps["ovs_buckets"]) and not (
        plane.classifier.quarantine_size)


def test_nobody_finds_a_flow_that_was_flushed(full: Peer) -> None:
    """Those who walk the trees from now on; those who look into caches, which
    know flows by their records, before another flow is put."""
    dp, plane = the_dp(full), the_plane(full)
    stamps = plane.maps["ovs_flows"].cast("Q")
    record = len(stamps) // Sizes.for_flows(plane.max_flows).records
    ids = [flow_id for one in dp.flows.snapshot()
           for flow_id in one.places.values()]
    assert all(stamps[flow_id * record] & 0xffff for flow_id in ids)
    answer = serve(full, u.OVS_FLOW_CMD_DEL)
    next(answer)
    assert not any(plane.maps["ovs_roots"].cast("Q")[1:33])
    again = serve(full, u.OVS_FLOW_CMD_NEW, *flow(0),
                  flags=NLM_F_ACK | NLM_F_CREATE)
    other = serve(full, u.OVS_FLOW_CMD_SET, *flow(0))
    for _ in range(COUNT // 64 + 1):
        assert next(again) == next(other) == LATER and not len(dp.flows)
        dp.flows.flushes.run(64)
    assert result(again) == 0 and len(dp.flows) == 1
    assert result(other) == 0
    assert not any(stamps[flow_id * record] & 0xffff for flow_id in ids)
    # What is freed from now on is none of the new one's.
    while dp.flows.flushes.run(16):
        plane.settle()
        check_flows(dp, plane)
    assert result(answer) == 0 and len(dp.flows) == 1
    for number in range(1, COUNT):
        assert numbered(full, number) == 0
    check_flows(dp, plane)


def test_one_after_the_other(full: Peer) -> None:
    """The second is over when the first is, too, and it itself."""
    dp = the_dp(full)
    answers = [serve(full, u.OVS_FLOW_CMD_DEL)]
    next(answers[0])
    while dp.flows.flushes.shown:
        dp.flows.flushes.run(50)
    for number in range(10):
        assert numbered(full, number) == 0
    answers.append(serve(full, u.OVS_FLOW_CMD_DEL))
    next(answers[1])
    assert dp.flows.flushes.shown and not len(dp.flows)
    while dp.flows.flushes.ended < 1:
        assert next(answers[0]) == next(answers[1]) == LATER
        dp.flows.flushes.run(50)
    assert result(answers[0]) == 0 and next(answers[1]) == LATER
    while dp.flows.flushes.run(50):
        check_flows(dp, the_plane(full))
    assert result(answers[1]) == 0


def test_dump_that_began_before(full: Peer) -> None:
    """What it has not told of yet is not there any more."""
    dp = the_dp(full)
    for number in range(COUNT, 2000):
        assert numbered(full, number) == 0
    dump = serve(full, u.OVS_FLOW_CMD_GET, flags=NLM_F_DUMP)
    told = len(list(iter_messages(next(dump))))
    next(serve(full, u.OVS_FLOW_CMD_DEL))
    told += sum(len(list(iter_messages(data))) for data in dump) - 1
    assert told == 1024
    full.provider.flush()
    assert not len(dp.programs)


def test_datapath_that_goes_meanwhile(full: Peer) -> None:
    dp = the_dp(full)
    answer = serve(full, u.OVS_FLOW_CMD_DEL)
    next(answer)
    dp.flows.flushes.run(COUNT + 10)
    assert full.do(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_DEL) == (0, None)
    assert result(answer) == 0 and not dp.flows.flushes.busy


def test_bridge_and_port_that_go_meanwhile(full: Peer) -> None:
    dp, plane = the_dp(full), the_plane(full)
    dp.bridges.set({"br0": frozenset({"p1"})})
    next(serve(full, u.OVS_FLOW_CMD_DEL))
    dp.flows.flushes.run(COUNT + 10)
    dp.bridges.set({})
    dp.bridges.set({"br1": frozenset({"p1"})})
    assert numbered(full, 5) == 0
    dp.ports.delete(dp.vports.by_name["p1"])
    while dp.flows.flushes.run(16):
        plane.settle()
        check_flows(dp, plane)


@pytest.mark.parametrize("seed", range(8))
def test_forest(seed: int) -> None:
    """Flows of all shapes, with copies that tidying and moves left; what is
    put meanwhile stays, and in the end there is nothing."""
    rng = random.Random(seed)
    made = Forest(Sizes.for_flows(500), seed)
    made.add_root(1)
    made.add_root(2)
    masks = [rng.getrandbits(KEY_BITS) | 0xff for _ in range(12)]

    def insert(count: int) -> None:
        for number in range(count):
            bits = rng.choice(masks)
            made.insert(1 + number % 2, rng.getrandbits(KEY_BITS) & bits,
                        bits)

    insert(150)
    for number in list(made.flows[1])[:20]:
        made.cls.move(number, 2)
    made.cls.tidy(1000)
    kill, free = made.cls.flush()
    flushes = Flushes()
    flushes.add(Flush(kill, free))
    for flows in made.flows.values():
        flows.clear()
    made.check_key(1, rng.getrandbits(KEY_BITS))
    while flushes.shown:
        flushes.run(7)
    insert(100)
    while flushes.run(7):
        made.check_flows(rng)
        made.settle()
    made.settle()
    made.check_flows(rng)
    made.check_shape()
    assert len(made.cls) == 100 and len(set(made.freed)) == 150
    for _ in range(2):
        kill, free = made.cls.flush()
        flushes.add(Flush(kill, free))
        while flushes.run():
            pass
        made.settle()
    made.check_empty()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Flows that are moved from bridge to bridge, added up in it."""
    moved = [0]
    move_all = Classifier.move_all

    def call(self: Classifier, flow_ids: Iterable[int], root: int) -> None:
        ids = list(flow_ids)
        moved[0] += len(ids)
        move_all(self, ids, root)

    monkeypatch.setattr(Classifier, "move_all", call)
    return moved


def test_flows_of_what_has_gone(
        full: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port's stay where they are.  With the bridge a turn moves some, and
    no other bridge has its number until all have left."""
    dp, plane = the_dp(full), the_plane(full)
    flows, steps = dp.flows, 64
    flows.add_bridge(1)
    flows.move_port(1, 1)
    moved = counted(monkeypatch)
    for other in (2, 3):
        flows.move_port(other, 1)
        flows.forget_port(other)
    flows.forget_port(1)
    assert moved == [0] and not flows.flushes.busy
    monkeypatch.setattr(Flushes.run, "__defaults__", (steps,))
    flows.remove_bridge(1)
    turns = 1
    while flows.flushes.busy:
        assert flows.leaving == {1}
        assert 0 < moved[0] <= turns * steps / 4
        check_flows(dp, plane)
        turns += 1
        flows.flushes.run()
    assert not flows.leaving and len(flows) == moved[0] == COUNT
    assert all(set(one.places) == {ANY_BRIDGE} for one in flows.snapshot())
    plane.settle()
    check_flows(dp, plane)
    flows.add_bridge(1)
    flows.move_port(1, 1)
    assert moved == [2 * COUNT]


def test_a_bridge_goes_with_all_flows_flushed(
        full: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    dp, plane = the_dp(full), the_plane(full)
    dp.flows.add_bridge(1)
    dp.flows.move_port(1, 1)
    monkeypatch.setattr(Flushes.run, "__defaults__", (64,))
    dp.flows.remove_bridge(1)
    dp.flows.flush()
    assert numbered(full, 0) == 0
    while dp.flows.flushes.busy:
        dp.flows.flushes.run()
        check_flows(dp, plane)
    assert not dp.flows.leaving and len(dp.flows) == 1


def test_wide_flows_fill_a_table(peer: Peer) -> None:
    """As many flows as there may be, each of more key words than a record
    has."""
    plane = the_plane(peer)
    meta = (u.OVS_KEY_ATTR_PRIORITY, u.OVS_KEY_ATTR_SKB_MARK)
    ones = b"".join(nla(kind, b"\xff" * size) for kind, size in (
        *((kind, 4) for kind in meta), (u.OVS_KEY_ATTR_IN_PORT, 4),
        (u.OVS_KEY_ATTR_ETHERNET, 12), (u.OVS_KEY_ATTR_ETHERTYPE, 2),
        (u.OVS_KEY_ATTR_ICMPV6, 2), (u.OVS_KEY_ATTR_ND, 28)))
    ones += nla(u.OVS_KEY_ATTR_IPV6, b"\xff" * 32 + b"\0\x0f" + b"\xff" * 6)
    head = (b"".join(nla(kind, bytes(4)) for kind in meta)
            + nla_u32(u.OVS_KEY_ATTR_IN_PORT, 1)
            + nla(u.OVS_KEY_ATTR_ETHERNET, bytes(12))
            + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\x86\xdd")
            + nla(u.OVS_KEY_ATTR_ICMPV6, b"\x87\0"))
    for number in range(plane.max_flows + 1):
        attrs = (nla(u.OVS_FLOW_ATTR_KEY, head + nla(
            u.OVS_KEY_ATTR_IPV6, number.to_bytes(16, "big") + bytes(20)
            + b"\x3a\0\xff\0") + nla(u.OVS_KEY_ATTR_ND, bytes(28))),
            nla(u.OVS_FLOW_ATTR_MASK, ones), OUTPUT, ufid(number))
        error, text = peer.do(FLOW, u.OVS_FLOW_CMD_NEW, *attrs,
                              flags=NLM_F_CREATE)
        if number < plane.max_flows:
            assert (error, text) == (0, None)
    assert error == errno.ENOSPC
    assert text == (f"there are {plane.max_flows} flows, as many as there may"
                    " be")
    assert plane.classifier._records.free < plane.flow_ids
    check_flows(the_dp(peer), plane)
