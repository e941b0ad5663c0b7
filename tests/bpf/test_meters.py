# SPDX-License-Identifier: Apache-2.0
"""OVS_OP_METER against the kernel's algorithm, at the times that the program
saw."""

from __future__ import annotations

import os
import random
import struct
import threading
import time

import pytest
from cases import ether, tcp4
from harness import TC_ACT_REDIRECT, TC_ACT_SHOT, Datapath, Vnet
from lists import (
    POP_ETH,
    add_once,
    clone,
    meter,
    output,
    push_eth,
    push_vlan,
    sample,
    set_masked,
    userspace,
)
from oracle_meter import DROP, Band, Meter
from scapy.layers.inet import IP, TCP
from scapy.packet import Raw
from test_offload import TCPV4, partial

from dpif_bpf import abi
from dpif_bpf.abi import DropReason
from dpif_bpf.core.meters import Meters
from dpif_bpf.wire import uapi
from dpif_bpf.wire.meter_messages import Band as BandRequest
from dpif_bpf.wire.meter_messages import MeterRequest
from dpif_bpf.wire.netlink import Message

M64 = (1 << 64) - 1
NOTHING = Message(0, 0, 0, 0, b"")


def msec() -> int:
    return time.monotonic_ns() // 1000000


class Table:
    """ovs_meters: written as the provider does, read by itself."""

    def __init__(self, dp: Datapath) -> None:
        self._view = dp.mapped("ovs_meters")
        self._view[:] = bytes(len(self._view))
        self.meters = Meters(self._view.cast("Q"), msec)

    def set(self, number: int, *bands: tuple[int, int, int],
            kbps: bool = False) -> None:
        """(type, rate, burst) of each band."""
        self.meters.set(MeterRequest(
            NOTHING, uapi.OVS_METER_CMD_SET, 1, number, kbps,
            bands=tuple(BandRequest(*band) for band in bands)))

    def places(self, number: int) -> list[int]:
        """Where the bands of a meter are."""
        found = [number % abi.OVS_METERS]
        while following := self.get(found[-1], "next"):
            found.append(abi.OVS_METERS + following)
        return found

    def get(self, place: int, name: str) -> int:
        at = place * abi.METER.size
        return dict(zip(abi.METER.fields, abi.METER.struct.unpack_from(
            self._view, at), strict=True))[name]

    def put(self, place: int, name: str, value: int) -> None:
        field = abi.METER[name]
        at = place * abi.METER.size + field.offset
        self._view[at:at + field.size] = (value & M64).to_bytes(
            field.size, "little")

    def age(self, number: int, ms: int) -> None:
        """As if so much more time had passed."""
        for place in self.places(number):
            self.put(place, "spent", self.get(place, "spent")
                     - ms * self.get(place, "rate"))
        head = number % abi.OVS_METERS
        self.put(head, "used", max(self.get(head, "used") - ms, 0))

    def bucket(self, place: int, now: int) -> int:
        rate, burst = self.get(place, "rate"), self.get(place, "burst")
        return min(now * rate - self.get(place, "spent") & M64, burst * 1000)


@pytest.fixture
def table(dp: Datapath) -> Table:
    return Table(dp)


def bands(rng: random.Random) -> list[tuple[int, int, int]]:
    """Bands where the kernel neither rounds nor wraps: see act_meter.h."""
    found = []
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
        burst = rng.choice((0, 1, 2, 3, 10, 1000, 100000))
        rates = [rate for rate in (1, 2, 5, 8, 10, 100, 1000, 40000)
                 if rate <= 1000 * burst] or [1]
        found.append((rng.choice((DROP, DROP, DROP, 0, 7)),
                      rng.choice(rates), burst))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_the_kernel(dp: Datapath, table: Table,
                                seed: int) -> None:
    rng = random.Random(seed)
    frames = [bytes(ether() / IP() / TCP() / Raw(bytes(n)))
              for n in (10, 100, 1000, 1400)]
    number = rng.choice((0, 1, 77, 0xffffffff))
    add_once(dp, meter(number) + output(2), frames[0])
    for _ in range(60):
        kbps, chosen = rng.random() < .5, bands(rng)
        table.set(number, *chosen, kbps=kbps)
        places = table.places(number)
        model = Meter(kbps, [Band(*band) for band in chosen],
                      table.get(places[0], "used"))
        ahead = drops = 0
        before = dp.drops().get(DropReason.METER, 0)
        for _ in range(rng.choice((1, 20))):
            pause = rng.choice((0, 0, 0, 1, 3, 100, 5000, 10 ** 7))
            table.age(number, pause)
            ahead += pause
            frame = rng.choice(frames)
            run = dp.run(frame)
            now = table.get(places[0], "used")
            dropped = model.execute(now + ahead, len(frame))
            drops += dropped
            assert run.retval == (TC_ACT_SHOT if dropped
                                  else TC_ACT_REDIRECT)
            assert [table.bucket(place, now) for place in places[
                :len(chosen)]] == [band.bucket for band in model.bands]
        stats = table.meters.get(number)
        assert stats.stats == (model.packets, model.bytes)
        assert stats.bands == tuple((band.packets, band.bytes)
                                    for band in model.bands)
        assert dp.drops().get(DropReason.METER, 0) - before == drops


def test_one_that_there_is_not(dp: Datapath, table: Table) -> None:
    """Neither it nor one whose place another has, nor one that has gone."""
    frame = bytes(tcp4())
    table.set(5, (DROP, 1, 0))
    table.set(6, (DROP, 1, 0))
    table.meters.delete(6)
    for number, verdict in ((5, TC_ACT_SHOT), (6, TC_ACT_REDIRECT),
                            (7, TC_ACT_REDIRECT),
                            (5 + abi.OVS_METERS, TC_ACT_REDIRECT)):
        dp.clear()
        add_once(dp, meter(number) + output(2), frame)
        assert dp.run(frame).retval == verdict
    assert table.meters.get(5).stats == (1, len(frame))


@pytest.mark.parametrize(("rate", "burst"), [
    (1, 1), (1000, 1), (0xffffffff, 1), (1, 0xffffffff),
    (0xffffffff, 0xffffffff)])
def test_extremes(dp: Datapath, table: Table, rate: int, burst: int) -> None:
    """The kernel's 32 bits wrap here.  A bucket is full after any pause that
    is long enough, and empty when it is in debt."""
    frame = bytes(tcp4())
    add_once(dp, meter(1) + output(2), frame)
    table.set(1, (DROP, rate, burst))
    for pause in (burst * 1000 // rate + 1000, (1 << 62) // rate):
        table.put(1, "spent", msec() * rate)
        table.age(1, pause)
        assert dp.run(frame).retval == TC_ACT_REDIRECT
        now = table.get(1, "used")
        assert table.bucket(1, now) == (burst - 1) * 1000
    table.put(1, "spent", (msec() + 60000) * rate)
    assert dp.run(frame).retval == TC_ACT_SHOT
    assert table.meters.get(1).bands == ((1, len(frame)),)


def test_what_is_counted(dp: Datapath, table: Table) -> None:
    """skb->len: a GSO packet is one, a tag beside the packet is not in it,
    nor is the room of a layer-3 packet."""
    frame = bytes(tcp4())
    for actions, length in (
            (push_vlan(0x8100, 1), len(frame)),
            (push_vlan(0x8100, 1) + push_vlan(0x8100, 2), len(frame) + 4),
            (POP_ETH, len(frame) - 14),
            (POP_ETH + push_eth(bytes(12)), len(frame))):
        dp.clear()
        table.set(1, (DROP, 1000, 1000), kbps=True)
        add_once(dp, actions + meter(1) + userspace(1), frame)
        dp.run(frame)
        assert table.meters.get(1).stats == (1, length)
        assert (table.bucket(1, table.get(1, "used"))
                == 1000000 - 8 * length)
    dp.clear()
    table.set(1, (DROP, 1, 1000), kbps=True)
    data, csum = partial(ether() / IP() / TCP() / Raw(b"x" * 4000))
    add_once(dp, meter(1) + output(2), data)
    dp.ports[1].send(data, Vnet(csum, (TCPV4, 54, 1000)))
    assert len(dp.outputs(1)) == 1
    assert table.meters.get(1).stats == (1, len(data))


SET_MARK = set_masked(uapi.OVS_KEY_ATTR_SKB_MARK, bytes((1, 0, 0, 0)),
                      b"\xff" * 4)


@pytest.mark.parametrize(("actions", "ports", "counted"), [
    (meter(1) + output(2), [], {DropReason.METER: 1}),
    (output(2) + meter(1) + output(3), [2], {DropReason.METER: 1}),
    (output(2) + meter(1), [2], {DropReason.METER: 1}),
    (output(2) + meter(9), [2], {}),
    (meter(9), [], {DropReason.EXPLICIT: 1}),
    # Run by the packet itself, which goes on.
    (clone(meter(1), output(2)) + output(3), [3], {DropReason.METER: 1}),
    (clone(output(4), meter(1), output(2)) + output(3), [3, 4],
     {DropReason.METER: 1}),
    (sample(0xffffffff, meter(9), output(4), clone(meter(1), output(2)))
     + output(3), [3, 4], {DropReason.METER: 1}),
    (clone(meter(1), userspace(5)) + meter(9) + output(3), [3],
     {DropReason.METER: 1}),
    # Run by a copy.
    (clone(SET_MARK, meter(1), output(2)) + output(3), [3],
     {DropReason.METER: 1}),
    # The last block is the packet's.
    (output(3) + clone(meter(1), output(2)), [3], {DropReason.METER: 1}),
])
def test_what_is_dropped(dp: Datapath, table: Table, actions: bytes,
                         ports: list[int],
                         counted: dict[DropReason, int]) -> None:
    """Meter 1 is always exceeded; meter 9 is none."""
    frame = bytes(tcp4())
    table.set(1, (DROP, 1, 0))
    add_once(dp, actions, frame)
    before = dp.drops()
    dp.ports[1].send(frame)
    assert sorted(port for port, _, _ in dp.outputs(len(ports))) == ports
    assert not dp.poll(0)
    after = dp.drops()
    assert {reason: count - before.get(reason, 0) for reason, count
            in after.items() if count != before.get(reason, 0)} == counted
    assert table.meters.get(1).bands[0][0] == counted.get(
        DropReason.METER, 0)


def test_no_token_is_lost_between_cpus(dp: Datapath, table: Table) -> None:
    """What passed is what was taken, whoever met whom."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    frame = bytes(tcp4())
    add_once(dp, meter(1) + output(2), frame)
    tokens, rate, runs = 20000, 1000, 30000
    # The bucket never is full: nothing runs over.
    table.set(1, (DROP, rate, 1 << 31))
    start = msec()
    spent = start * rate - tokens * 1000
    table.put(1, "spent", spent)
    before = dp.drops().get(DropReason.METER, 0)

    def load(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        dp.run(frame, repeat=runs)

    threads = [threading.Thread(target=load, args=(cpu,))
               for cpu in cpus[:4]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = runs * len(threads)
    stats = table.meters.get(1)
    assert stats.stats == (total, total * len(frame))
    over = stats.bands[0][0]
    assert dp.drops()[DropReason.METER] - before == over
    passed = total - over
    assert table.get(1, "spent") - spent == passed * 1000
    due = tokens + (table.get(1, "used") - start) * rate // 1000
    assert min(tokens, total) <= passed <= due + 20


def test_the_provider_changes_it_meanwhile(dp: Datapath,
                                           table: Table) -> None:
    """A bucket is never left with what went with another rate."""
    frame = bytes(tcp4())
    add_once(dp, meter(1) + output(2), frame)
    table.set(1, (DROP, 1, 1000))
    end = threading.Event()

    def load() -> None:
        while not end.is_set():
            dp.run(frame, repeat=1000)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for n in range(3000):
            rate = (1, 10 ** 6, 1000)[n % 3]
            table.set(1, (DROP, rate, 1000000))
            has = msec() * rate - table.get(1, "spent") & M64
            if has > M64 >> 1:
                has -= 1 << 64
            assert 0 <= has <= 10 ** 9 + 60000 * rate
    finally:
        end.set()
        thread.join()


def test_unused_fields_stay(dp: Datapath, table: Table) -> None:
    """Programs leave alone what is the provider's."""
    frame = bytes(tcp4())
    add_once(dp, meter(3) + output(2), frame)
    table.set(3, (DROP, 9, 8), (DROP, 7, 6))
    names = ("id", "next", "flags", "rate", "burst")
    before = [[table.get(place, name) for name in names]
              for place in table.places(3)]
    dp.run(frame, repeat=10)
    assert [[table.get(place, name) for name in names]
            for place in table.places(3)] == before
    assert struct.calcsize("=IHHIIQQQQQQ") == abi.METER.size
