# SPDX-License-Identifier: Apache-2.0
"""Samples, hashes, truncated upcalls, and copies that come too late."""

from __future__ import annotations

import struct
import time

import pytest
from devices import Vnet
from frames import ether, tcp4
from harness import Datapath
from lists import (
    add_once,
    check_pkt_len,
    clone,
    compiled,
    hash_l4,
    output,
    push_vlan,
    recirc,
    sample,
    trunc,
    userspace,
)
from oracle_key import Meta, extract
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Raw
from test_offload import TCPV4, partial

from dpif_bpf import abi
from dpif_bpf.abi import DropReason

TRIES = 2000


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_sample_happens_as_often_as_asked(dp: Datapath, share: float) -> None:
    frame = bytes(tcp4())
    add_once(dp, sample(int(share * 0xffffffff), userspace(1)) + output(2),
             frame)
    dp.run(frame, repeat=TRIES)
    found = len(dp.poll(TRIES, timeout=0.3))
    # More than six standard deviations off: once in a thousand million runs.
    assert abs(found - share * TRIES) < 6 * (TRIES * share * (1 - share)) ** .5


def jhash(word: int, basis: int) -> int:
    """jhash_1word() of <linux/jhash.h>."""
    low = 0xffffffff
    v = [(basis + 0xdeadbeef + 4) & low] * 3
    v[0] = v[0] + word & low
    for to, by, shift in ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16),
                          (0, 2, 4), (1, 0, 14), (2, 1, 24)):
        turned = (v[by] << shift | v[by] >> 32 - shift) & low
        v[to] = (v[to] ^ v[by]) - turned & low
    return v[2]


def test_hash(dp: Datapath) -> None:
    """dp_hash is the packet's own hash, stirred; a flow's is always one."""
    found = set()
    for port in (1, 2, 2):
        frame = bytes(ether() / IP() / UDP(sport=port) / Raw(b"x" * 30))
        dp.clear()
        add_once(dp, hash_l4(77) + userspace(1) + recirc(9), frame)
        dp.ports[1].send(frame)
        upcall, missed = dp.poll(2)
        hashes = {struct.unpack("=I", u.key[abi.KEY["dp_hash"].slice])[0]
                  for u in (upcall, missed)}
        assert hashes == {jhash(int(upcall.fields["hash"]), 77) or 1}
        found |= hashes
    assert len(found) == 2


def test_hash_does_not_stay(dp: Datapath) -> None:
    """The next packet has none; a clone's is its own."""
    frame = bytes(tcp4())
    add_once(dp, clone(hash_l4(1), userspace(1), output(2)) + userspace(2),
             frame)
    dp.ports[1].send(frame)
    dp.ports[1].send(frame)
    assert len(dp.outputs(2)) == 2
    place = abi.KEY["dp_hash"].slice
    got = sorted((int(u.fields["desc"]), any(u.key[place]))
                 for u in dp.poll(4))
    assert got == [(1, True), (1, True), (2, False), (2, False)]


def test_truncated_upcall(dp: Datapath) -> None:
    """It brings what is left; one with work to be done on it brings all."""
    frame = bytes(tcp4())
    add_once(dp, trunc(60) + userspace(1) + userspace(2) + output(2), frame)
    dp.ports[1].send(frame)
    data, csum = partial(tcp4())
    dp.ports[1].send(data, Vnet(csum))
    cut, whole, unfinished, whole2 = dp.poll(4)
    assert cut.packet == frame[:60]
    assert (cut.fields["pkt_len"], cut.fields["cutlen"]) == (
        len(frame), len(frame) - 60)
    for record in (whole, unfinished, whole2):
        assert len(record.packet) == len(frame)
    assert unfinished.fields["cutlen"] == len(frame) - 60
    assert whole.fields["cutlen"] == whole2.fields["cutlen"] == 0
    assert [len(packet) for _, packet, _ in dp.outputs(2)] == [
        len(frame)] * 2


@pytest.mark.parametrize("ports", [(2,), (2, 3), (3, 2, 2)])
def test_truncation_survives_recirculation(dp: Datapath,
                                           ports: tuple[int, ...]) -> None:
    """It is for the first output of the next flow, and of the rest."""
    frame = bytes(tcp4())
    add_once(dp, trunc(60) + recirc(5) + output(4) + output(4), frame)
    key, mask = bytearray(abi.KEY.size), bytearray(abi.KEY.size)
    place = abi.KEY["recirc_id"].slice
    key[place], mask[place] = struct.pack("=I", 5), b"\xff" * 4
    parsed = extract(frame, Meta(in_port=1))
    assert parsed is not None
    dp.add_flow(compiled(b"".join(map(output, ports)), frame, parsed),
                bytes(key), bytes(mask))
    dp.ports[1].send(frame)
    wanted = [(ports[0], 60), *((port, len(frame)) for port in ports[1:]),
              (4, 60), (4, len(frame))]
    assert sorted((port, len(packet)) for port, packet, _ in dp.outputs(
        len(wanted))) == sorted(wanted)


def test_segments_count_not_their_sum(dp: Datapath) -> None:
    """check_pkt_len goes by what leaves the device."""
    packet = ether() / IP() / TCP() / Raw(b"x" * 4000)
    data, csum = partial(packet)
    dp.clear()
    add_once(dp, check_pkt_len(54 + 1000, output(2), output(3)), data)
    for size in (1000, 1001):
        dp.ports[1].send(data, Vnet(csum, (TCPV4, 54, size)))
    assert [(port, vnet.gso[2]) for port, _, vnet in dp.outputs(2)] == [
        (2, 1001), (3, 1000)]


def test_a_copy_that_is_late_is_refused(dp: Datapath) -> None:
    """Its instructions may be gone by then; its slot is free."""
    frame = bytes(tcp4())
    add_once(dp, clone(push_vlan(0x8100, 5), output(2)) + output(3), frame)
    view = dp.mapped("ovs_slots")
    slot = abi.OVS_EXEC_SLOTS
    state = slot * abi.SLOT.size
    struct.pack_into("=I", view, state + abi.SLOT["pc"].offset, 1)
    before = dp.drops()
    try:
        # Armed at the beginning of time.
        struct.pack_into("=Q", view, state, abi.OVS_SLOT_ARMED)
        dp.run(frame, "ovs_inject", mark=slot + 1)
        assert not dp.slots_armed()
    finally:
        struct.pack_into("=Q", view, state, abi.OVS_SLOT_FREE)
    after = dp.drops()
    assert after == {**before, DropReason.SLOT:
                     before.get(DropReason.SLOT, 0) + 1}
    dp.ports[1].send(frame)
    assert len(dp.outputs(2)) == 2


def test_the_rest_of_a_list_is_as_old_as_its_copies(
        shipped_object: None) -> None:
    """So the provider knows when nothing names a program any more."""
    frame = bytes(tcp4())
    copies = clone(push_vlan(0x8100, 5), output(2)) * 10 + output(3)
    with Datapath(hooked=False) as dp:
        pc = dp.code(compiled(copies + output(2), frame, extract(
            frame, Meta(in_port=1))))
        # Looked up again, it finds another list.
        dp.add_flow(compiled(clone(push_vlan(0x8100, 5), output(2))
                             + output(3), frame, extract(
                                 frame, Meta(in_port=1))))
        words = dp.mapped("ovs_slots").cast("Q")
        stride = abi.SLOT.size // 8
        first = abi.OVS_EXEC_SLOTS + 4000
        before = (time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> 20) - 500
        for number, start in ((first, pc), (first + 1, 0)):
            words[number * stride + 1] = start
            words[number * stride] = (
                before << abi.OVS_SLOT_TIME_SHIFT | abi.OVS_SLOT_ARMED)
        found = []
        for number in (first, first + 1):
            dp.run(frame, "ovs_inject", mark=number + 1)
            times = {words[slot * stride] >> abi.OVS_SLOT_TIME_SHIFT
                     for slot in dp.slots_armed()}
            found.append({when - before for when in times} - {0})
            if number == first:
                assert times == {before}
        assert found[0] == set()
        # The programs' clock is a coarse one, some units behind.
        most = (time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> 20) - before
        assert all(450 <= age <= most for age in found[1]) and found[1]
