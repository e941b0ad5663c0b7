# SPDX-License-Identifier: Apache-2.0
"""Entry, stages, slots and counters."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator

import numpy as np
import pytest
from devices import ip
from harness import (
    BRIDGE,
    STAGES,
    TC_ACT_REDIRECT,
    TC_ACT_SHOT,
    Datapath,
    insn,
    key_words,
)
from oracle_key import Meta, extract
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Dot1Q, Ether

from dpif_bpf import abi
from dpif_bpf.abi import DropReason, Op, Stage
from dpif_bpf.edge import bpfsys
from dpif_bpf.wire.uapi import OVS_PACKET_CMD_ACTION, OVS_PACKET_CMD_MISS

U32 = struct.Struct("=I")
SYN = bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
            / IP(src="192.0.2.1", dst="192.0.2.2") / TCP(flags="S"))
ACK = bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
            / IP(src="192.0.2.1", dst="192.0.2.2") / TCP(flags="A"))


def mask_of(*fields: str) -> bytes:
    mask = bytearray(abi.KEY.size)
    for field in fields:
        mask[abi.KEY[field].slice] = b"\xff" * abi.KEY[field].size
    return bytes(mask)


def recirc_key(recirc_id: int) -> bytes:
    return bytes(4) + U32.pack(recirc_id)


def count(dp: Datapath, reason: DropReason) -> int:
    return dp.drops().get(reason, 0)


def meta_key(**fields: int | bytes) -> bytes:
    """A key image with some fields; numbers are 32 bits."""
    key = bytearray(abi.KEY.size)
    for name, value in fields.items():
        key[abi.KEY[name].slice] = (U32.pack(value) if isinstance(value, int)
                                    else value)
    return bytes(key)


# Counters


def test_flow_statistics(dp: Datapath) -> None:
    flow = dp.add_flow(insn(Op.OUTPUT_LAST, 2))
    tagged = bytes(Ether(SYN[:12] + b"\x81\0\0\5" + SYN[12:]))
    dp.ports[1].send(SYN)
    dp.ports[1].send(ACK)
    dp.ports[1].send(tagged)
    assert len(dp.outputs(3)) == 3
    packets, size, used, flags = dp.flow_stats(flow)
    assert (packets, size, flags) == (3, len(SYN) * 3 + 4, 0x12)
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert 0 <= now - used < 200_000_000
    time.sleep(.1)
    dp.ports[1].send(ACK)
    assert dp.outputs(1)
    assert dp.flow_stats(flow)[2] - used > 50_000_000


def test_shared_stripes_count_atomically(shipped_object: None) -> None:
    with Datapath(shared_stats=True) as dp:
        flow = dp.add_flow(insn(Op.OUTPUT_LAST, 2))
        for cpu in os.sched_getaffinity(0):
            before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {cpu})
            dp.run(SYN, repeat=1000)
            os.sched_setaffinity(0, before)
        packets, size, _, flags = dp.flow_stats(flow)
        cpus = len(os.sched_getaffinity(0))
        assert (packets, size, flags) == (1000 * cpus,
                                          1000 * cpus * len(SYN), 2)
        view = dp.mapped("ovs_flow_stats")
        assert struct.unpack_from("=Q", view, flow * 32)[0] == packets


def test_datapath_statistics(dp: Datapath, one_cpu: None) -> None:
    before = dp.dp_stats()
    dp.run(SYN)
    dp.add_flow(insn(Op.OUTPUT_LAST, 2))
    dp.run(SYN)
    dp.run(SYN)
    dp.run(SYN)
    after = dp.dp_stats()
    assert {k: after[k] - before[k] for k in before} == {
        "exact": 2, "missed": 1, "lost": 0, "cache_hit": 0,
        "steps": 2, "more": 0}		# a root that is a leaf: no probe
    assert len(dp.poll(1)) == 1


def test_a_full_ring_loses_and_counts(dp: Datapath) -> None:
    before, lost = dp.dp_stats(), count(dp, DropReason.UPCALL_FULL)
    frame = SYN + bytes(3700 - len(SYN))
    room = dp.obj.map_info("ovs_upcalls").max_entries
    runs = room // 9216 + 100

    def fill() -> None:
        """With a port that has no share; what is read gives it back."""
        for _ in range(runs):
            dp.run(frame)
            for i in (1, abi.OVS_UPCALL_ALL):
                dp.upcall_use(i, dp.upcall_use(i)[0])

    fill()
    after = dp.dp_stats()
    gone = after["lost"] - before["lost"]
    assert 90 < gone < runs
    assert count(dp, DropReason.UPCALL_FULL) - lost == gone
    assert after["missed"] - before["missed"] == runs
    assert len(dp.poll(runs - gone)) == runs - gone
    # an action's copy that is lost does not end the list
    fill()
    lost = count(dp, DropReason.UPCALL_FULL)
    dp.add_flow(insn(Op.USERSPACE, 3) + insn(Op.OUTPUT_LAST, 2))
    assert dp.run(frame).retval == TC_ACT_REDIRECT
    assert count(dp, DropReason.UPCALL_FULL) == lost + 1
    assert dp.upcall_use(1)[0] == 0, "nor does it take of a share"


# Shares of the way to user space


@pytest.fixture
def shares(dp: Datapath) -> Iterator[Datapath]:
    """All of the way is free."""
    def free() -> None:
        dp.poll()
        for i in (1, 2, 3, 4, abi.OVS_UPCALL_ALL):
            dp.upcall_use(i, dp.upcall_use(i)[0])
    free()
    yield dp
    free()


def flood(dp: Datapath, port: int, packet: bytes = SYN,
          repeat: int = abi.OVS_UPCALL_UNITS) -> int:
    """Units that a port has under way after it sent as much as it could."""
    dp.run(packet, port=port, repeat=repeat)
    return dp.upcall_use(port)[0]


def test_a_port_that_floods_leaves_room_for_the_others(
        shares: Datapath) -> None:
    dp = shares
    before, refused = dp.dp_stats()["lost"], dp.upcall_use(1)[1]
    dropped = count(dp, DropReason.UPCALL_SHARE)
    half = abi.OVS_UPCALL_UNITS // 2
    assert flood(dp, 1) == half
    # What is lost is counted: by reason, in the statistics, of the port.
    assert count(dp, DropReason.UPCALL_SHARE) - dropped == half
    assert dp.dp_stats()["lost"] - before == half
    assert dp.upcall_use(1)[1] - refused == half
    assert flood(dp, 1, repeat=1) == half
    for port in (2, 3, 4):
        assert flood(dp, port, repeat=10) == 10
    assert count(dp, DropReason.UPCALL_SHARE) - dropped == half + 1
    # As they are read, the port may have more.
    assert len(dp.poll(half + 30)) == half + 30
    assert dp.upcall_use(abi.OVS_UPCALL_ALL)[0] == 0
    assert flood(dp, 1, repeat=1) == 1


def test_ports_that_flood_share(shares: Datapath) -> None:
    dp = shares
    for _ in range(4):
        for port in (1, 2, 3):
            flood(dp, port)
    under_way = [dp.upcall_use(port)[0] for port in (1, 2, 3)]
    assert sum(under_way) == dp.upcall_use(abi.OVS_UPCALL_ALL)[0]
    assert abi.OVS_UPCALL_UNITS - sum(under_way) >= 200
    assert flood(dp, 4, repeat=20) == 20


def test_large_packets_take_more_of_a_share(shares: Datapath) -> None:
    frame = SYN + bytes(3700 - len(SYN))
    flood(shares, 1, frame)
    assert len(shares.poll()) == abi.OVS_UPCALL_UNITS // 2 // 8


# Entry and stages


def test_a_device_that_is_no_port(dp: Datapath) -> None:
    devs, key = dp.obj.map_fd("ovs_devs"), U32.pack(dp.ports[4].ifindex)
    dp.add_flow(insn(Op.OUTPUT_LAST, 2))
    assert dp.run(SYN, port=4).retval == TC_ACT_REDIRECT
    view = dp.mapped("ovs_ports")
    at = 4 * abi.PORT.size
    saved = bytes(view[at:at + abi.PORT.size])
    view[at:at + abi.PORT.size] = bytes(abi.PORT.size)
    bpfsys.map_delete(devs, key)
    before = count(dp, DropReason.UNKNOWN_PORT)
    assert dp.run(SYN, port=4).retval == TC_ACT_SHOT
    assert count(dp, DropReason.UNKNOWN_PORT) == before + 1
    view[at:at + abi.PORT.size] = saved
    bpfsys.map_update(devs, key, U32.pack(4))


def test_a_port_with_another_number(dp: Datapath) -> None:
    """What the entry keeps of the device is not believed any more."""
    dp.run(SYN, port=4)
    ifindex = dp.ports[4].ifindex
    view = dp.mapped("ovs_ports")
    view[4 * 16:5 * 16] = bytes(16)
    dp.set_port(30000, ifindex)
    dp.run(SYN, port=4)
    view[30000 * 16:30001 * 16] = bytes(16)
    dp.set_port(4, ifindex)
    dp.run(SYN, port=4)
    assert [key_words(u.key)[0] for u in dp.poll(3)] == [4, 30000, 4]


def test_nesting(dp: Datapath, one_cpu: None) -> None:
    """Five levels, as in the kernel's OVS_RECURSION_LIMIT."""
    fd, info = dp.obj.map_fd("ovs_cpu"), dp.obj.map_info("ovs_cpu")
    dp.add_flow(insn(Op.OUTPUT_LAST, 2))
    before = count(dp, DropReason.NESTING)
    for level, verdict in ((4, TC_ACT_REDIRECT), (5, TC_ACT_SHOT)):
        values = [U32.pack(level) + v[4:]
                  for v in bpfsys.map_lookup_percpu(fd, 0, info)]
        bpfsys.map_update(fd, U32.pack(0), b"".join(values))
        assert dp.run(SYN).retval == verdict
        assert dp.level() == level * len(values)
    assert count(dp, DropReason.NESTING) == before + 1
    values = [bytes(4) + v[4:]
              for v in bpfsys.map_lookup_percpu(fd, 0, info)]
    bpfsys.map_update(fd, U32.pack(0), b"".join(values))


@pytest.mark.parametrize("stage", STAGES.keys() - {Stage.ACT_SHARED})
def test_a_stage_that_is_missing(dp: Datapath, one_cpu: None,
                                 stage: Stage) -> None:
    route = insn(Op.SET_ETH, data=bytes(32)) + insn(Op.OUTPUT_LAST, 2)
    code = {Stage.LOOKUP: insn(Op.RECIRC_LAST, 9),
            Stage.ROUTE: route, Stage.ROUTE_OWN: route,
            Stage.CT: insn(Op.CT, 1) + insn(Op.OUTPUT_LAST, 2),
            Stage.ACT: insn(Op.TRUNC) + insn(Op.OUTPUT_LAST, 2),
            Stage.ACT_OWN: insn(Op.TRUNC) + insn(Op.OUTPUT_LAST, 2)}
    dp.add_flow(code.get(stage, insn(Op.OUTPUT_LAST, 2)))
    progs = dp.obj.map_fd("ovs_progs")
    if code.get(stage) == route:
        assert dp.run(SYN).retval == TC_ACT_REDIRECT  # now it is known
    bpfsys.map_delete(progs, U32.pack(stage))
    before = count(dp, DropReason.TAIL_CALL)
    assert dp.run(SYN).retval == TC_ACT_SHOT
    assert count(dp, DropReason.TAIL_CALL) == before + 1
    assert dp.level() == 0
    bpfsys.map_update(progs, U32.pack(stage),
                      U32.pack(dp.obj.prog_fd(STAGES[stage])))


def test_lists_of_a_shared_packet(dp: Datapath) -> None:
    """What leaves the packet as it is, is done; the rest ends the list.

    ovs_act would choose this program for packets that somebody holds.
    """
    progs = dp.obj.map_fd("ovs_progs")
    stage = U32.pack(Stage.ACT)
    bpfsys.map_update(progs, stage, U32.pack(
        dp.obj.prog_fd("ovs_act_shared")))
    before = count(dp, DropReason.SHARED)
    zeros = bytes(8)
    leaving = (insn(Op.SET_MARK, 5, data=struct.pack("=Q", 0xffffffff))
               + insn(Op.USERSPACE, 3) + insn(Op.HASH, 1)
               + insn(Op.TRUNC, 0) + insn(Op.JUMP, 0))
    changing = (insn(Op.OUTPUT, 3), insn(Op.RECIRC, 4),
                insn(Op.CLONE, 0), insn(Op.PUSH_VLAN, 5, 0x81),
                insn(Op.POP_VLAN), insn(Op.SET_ETH, data=zeros * 4),
                insn(Op.SET_IPV4, data=zeros * 3),
                insn(Op.SET_IPV6, data=zeros * 10),
                insn(Op.SET_TP, arg=6, data=zeros), insn(Op.HEADER),
                insn(Op.DEC_TTL, data=zeros), insn(Op.TRUNC, 20))
    dp.add_flow(leaving + insn(Op.OUTPUT_LAST, 2))
    assert dp.run(SYN).retval == TC_ACT_REDIRECT
    for number, code in enumerate(changing, 1):
        dp.clear()
        dp.add_flow(leaving + code + insn(Op.OUTPUT_LAST, 2))
        run = dp.run(SYN)
        assert (run.retval, run.data) == (TC_ACT_SHOT, SYN)
        assert count(dp, DropReason.SHARED) == before + number
        assert len(dp.poll(1)) == 1
    bpfsys.map_update(progs, stage, U32.pack(dp.obj.prog_fd("ovs_act")))


def test_stages_need_the_entry(dp: Datapath) -> None:
    """But for stage ROUTE, whose packets have no state."""
    for name in {name for stage, name in STAGES.items()
                 if stage not in (Stage.ROUTE, Stage.ROUTE_OWN)}:
        assert dp.run(SYN, name).retval == TC_ACT_SHOT
    assert dp.poll() == []


def test_an_instruction_that_is_none(dp: Datapath) -> None:
    before = count(dp, DropReason.BAD_INSN)
    dp.add_flow(struct.pack("=BBHI", abi.OVS_OP_MAX, 0, 0, 0))
    assert dp.run(SYN).retval == TC_ACT_SHOT
    dp.clear()
    dp.add_flow(b"")
    dp.acts[1] = 0
    dp.clear()
    end = len(dp.acts) - 1
    dp.acts[end] = struct.unpack("=Q", insn(Op.SET_PRIORITY, 0))[0]
    flow = dp.add_flow(b"")
    struct.pack_into("=I", dp.mapped("ovs_flows"), flow * 64
                     + abi.FLOW["acts"].offset, end)
    assert dp.run(SYN).retval == TC_ACT_SHOT
    assert count(dp, DropReason.BAD_INSN) == before + 2


# Recirculation, deferred copies and executes


def test_recirculation_as_the_last_action(dp: Datapath) -> None:
    mask = mask_of("recirc_id")
    first = dp.add_flow(insn(Op.PUSH_VLAN, arg=0x81, imm=0x0710)
                        + insn(Op.RECIRC_LAST, 5), recirc_key(0), mask)
    second = dp.add_flow(insn(Op.POP_VLAN) + insn(Op.OUTPUT_LAST, 3),
                         recirc_key(5), mask)
    dp.ports[1].send(SYN)
    (port, data, _), = dp.outputs(1)
    assert (port, data) == (3, SYN)
    assert dp.flow_stats(first)[:2] == (1, len(SYN))
    assert dp.flow_stats(second)[:2] == (1, len(SYN) + 4)


def test_recirculation_of_a_copy(dp: Datapath) -> None:
    mask = mask_of("recirc_id")
    dp.add_flow(insn(Op.SET_MARK, 77, data=struct.pack("=Q", 0xffffffff))
                + insn(Op.SET_PRIORITY, 88,
                       data=struct.pack("=Q", 0xffffffff))
                + insn(Op.RECIRC, 5) + insn(Op.OUTPUT_LAST, 2),
                recirc_key(0), mask)
    dp.add_flow(insn(Op.USERSPACE, 6) + insn(Op.OUTPUT_LAST, 3),
                recirc_key(5), mask)
    dp.ports[1].send(SYN)
    assert [(port, data) for port, data, _ in dp.outputs(2)] == [
        (2, SYN), (3, SYN)]
    upcall, = dp.poll(1)
    wanted = extract(SYN, Meta(in_port=1, recirc_id=5, skb_mark=77,
                               skb_priority=88))
    assert wanted is not None
    assert upcall.key == wanted.key[:len(upcall.key)]


@pytest.mark.parametrize("actions", [
    insn(Op.RECIRC_LAST, 5), insn(Op.RECIRC, 5) + insn(Op.END)],
    ids=["of the packet", "of copies"])
def test_recirculation_has_a_limit(dp: Datapath, actions: bytes) -> None:
    """And tail calls have none: on the way the packet is deferred."""
    before = count(dp, DropReason.RECIRC_LIMIT)
    tail_calls = count(dp, DropReason.TAIL_CALL)
    flow = dp.add_flow(actions)
    dp.ports[1].send(SYN)
    deadline = time.monotonic() + 2
    while (count(dp, DropReason.RECIRC_LIMIT) == before
           and time.monotonic() < deadline):
        pass
    assert count(dp, DropReason.RECIRC_LIMIT) == before + 1
    assert count(dp, DropReason.TAIL_CALL) == tail_calls
    assert dp.flow_stats(flow)[0] == 1 + abi.OVS_MAX_RECIRC


def arm(dp: Datapath, slot: int, pc: int, key: bytes, generation: int = 0,
        ) -> int:
    """Fills a slot as the provider does; the mark that names it."""
    view = dp.mapped("ovs_slots")
    abi.SLOT.struct.pack_into(
        view, slot * abi.SLOT.size,
        abi.OVS_SLOT_ARMED | generation << abi.OVS_SLOT_GEN_SHIFT, pc,
        BRIDGE, *bytes(10), bytes(6), key, bytes(abi.TUNNEL.size))
    return generation << abi.OVS_SLOT_BITS | slot + 1


def test_execute(dp: Datapath) -> None:
    """Metadata comes from the slot, the rest from the packet."""
    pc = dp.code(insn(Op.USERSPACE, 4) + insn(Op.OUTPUT, 2)
                 + insn(Op.OUTPUT_LAST, 3))
    labels = bytes(range(16))
    key = meta_key(in_port=3, recirc_id=8, skb_mark=5, skb_priority=6,
                   dp_hash=7, ct_mark=9, ct_labels=labels, ct_state=b"\x21",
                   ct_zone=b"\x03\0", eth_type=b"\x86\xdd")
    mark = arm(dp, 17, pc, key, 3)
    assert dp.run(SYN, "ovs_inject", mark=mark).retval == TC_ACT_REDIRECT
    assert dp.slots_armed() == []
    assert [(p, d) for p, d, _ in dp.outputs(1)] == [(2, SYN)]
    upcall, = dp.poll(1)
    wanted = extract(SYN, Meta(in_port=3, recirc_id=8, skb_mark=5,
                               skb_priority=6, dp_hash=7))
    assert wanted is not None
    image = bytearray(wanted.key)
    for name, value in (("ct_mark", U32.pack(9)), ("ct_labels", labels),
                        ("ct_state", b"\x21"), ("ct_zone", b"\3\0")):
        image[abi.KEY[name].slice] = value
    assert upcall.key == image[:len(upcall.key)]
    assert upcall.cmd == OVS_PACKET_CMD_ACTION
    # nothing of it is left for the next packet
    dp.run(SYN)
    clean = extract(SYN, Meta(in_port=1))
    assert clean is not None
    assert dp.poll(1)[0].key == clean.key[:len(upcall.key)]


def test_execute_with_a_lookup(dp: Datapath) -> None:
    dp.add_flow(insn(Op.OUTPUT_LAST, 2), meta_key(in_port=3),
                mask_of("in_port"))
    mark = arm(dp, 0, 0, meta_key(in_port=3))
    assert dp.run(SYN, "ovs_inject", mark=mark).retval == TC_ACT_REDIRECT
    mark = arm(dp, 0, 0, meta_key(in_port=4))
    assert dp.run(SYN, "ovs_inject", mark=mark).retval == TC_ACT_SHOT
    assert dp.poll(1)[0].cmd == OVS_PACKET_CMD_MISS


def test_a_slot_that_is_not_armed(dp: Datapath) -> None:
    pc = dp.code(insn(Op.OUTPUT_LAST, 2))
    before = count(dp, DropReason.SLOT)
    mark = arm(dp, 5, pc, meta_key(), 2)
    late = arm(dp, 6, pc, meta_key(), 9) - (1 << abi.OVS_SLOT_BITS)
    wrong = (0, late, 7, 1 << abi.OVS_SLOT_BITS | 6,
             abi.OVS_SLOTS + 1, 0x1fff, 0xffffffff)
    for value in wrong:
        assert dp.run(SYN, "ovs_inject", mark=value).retval == TC_ACT_SHOT
    assert count(dp, DropReason.SLOT) == before + len(wrong)
    assert dp.slots_armed() == [5, 6]
    assert dp.run(SYN, "ovs_inject", mark=mark).retval == TC_ACT_REDIRECT
    assert dp.run(SYN, "ovs_inject", mark=mark).retval == TC_ACT_SHOT
    assert dp.slots_armed() == [6]
    arm(dp, 6, 0, meta_key())
    view = dp.mapped("ovs_slots")
    view[6 * abi.SLOT.size] = 0


def put_in_flight(dp: Datapath, pc: int = 0, **fields: int) -> None:
    """Makes this the state of a packet at the first level, on all CPUs; no
    packet is in flight without fields."""
    info = dp.obj.map_info("ovs_cpu")
    value = bytearray(info.slot_size)
    if fields:
        state = bytearray(abi.PKT.size)
        for name, number in fields.items():
            state[abi.PKT[name].slice] = U32.pack(number)
        at = abi.PKT["list"].offset + abi.PKT_LIST["pc"].offset
        U32.pack_into(state, at, pc)
        abi.CPU.struct.pack_into(value, 0, 1, *bytes(14), b"", state)
    bpfsys.map_update(dp.obj.map_fd("ovs_cpu"), bytes(4),
                      bytes(value) * bpfsys.possible_cpus())


@pytest.mark.parametrize("taken", [False, True])
def test_a_late_packet_frees_its_own_slot(dp: Datapath, taken: bool) -> None:
    """And not that of the packet which got the slot meanwhile, because the
    late one counted as lost."""
    pc = dp.code(insn(Op.OUTPUT_LAST, 2))
    slot = abi.OVS_EXEC_SLOTS + 7
    mark = arm(dp, slot, pc, meta_key(), 3)
    if taken:
        arm(dp, slot, pc, meta_key(), 4)
    put_in_flight(dp, pc, bridge=BRIDGE, slot=mark)
    try:
        verdict = dp.run(SYN, "ovs_act_own").retval
        assert verdict == TC_ACT_REDIRECT
        assert dp.slots_armed() == ([slot] if taken else [])
    finally:
        put_in_flight(dp)
        dp.mapped("ovs_slots")[slot * abi.SLOT.size] = 0


def arm_all(dp: Datapath, age: int | None) -> None:
    """Arms the programs' slots `age` times 2^20 ns ago, or frees them."""
    words = np.frombuffer(dp.mapped("ovs_slots"), dtype=np.uint64)
    stride = abi.SLOT.size // 8
    state = 0
    if age is not None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> 20
        state = now - age << abi.OVS_SLOT_TIME_SHIFT | abi.OVS_SLOT_ARMED
    words[abi.OVS_EXEC_SLOTS * stride::stride] = state


def test_slots_of_lost_packets_are_taken_again(dp: Datapath) -> None:
    """All are armed; those armed long ago count as lost."""
    mask = mask_of("recirc_id")
    dp.add_flow(insn(Op.RECIRC, 5) + insn(Op.END), recirc_key(0), mask)
    dp.add_flow(insn(Op.OUTPUT_LAST, 2), recirc_key(5), mask)
    before = count(dp, DropReason.DEFER_FULL)
    arm_all(dp, 0)
    dp.ports[1].send(SYN)
    assert dp.outputs(1, .2) == []
    assert count(dp, DropReason.DEFER_FULL) == before + 1
    arm_all(dp, 2000)
    dp.ports[1].send(SYN)
    assert len(dp.outputs(1)) == 1
    assert len(dp.slots_armed()) == abi.OVS_DEFER_SLOTS - 1
    arm_all(dp, None)


def test_a_copy_that_cannot_be_put_off(shipped_object: None) -> None:
    """The inject device is down."""
    with Datapath() as dp:
        ip(f"link set {dp.inject_name} down")
        dp.add_flow(insn(Op.RECIRC, 5) + insn(Op.OUTPUT_LAST, 2))
        dp.ports[1].send(SYN)
        assert len(dp.outputs(1)) == 1
        assert dp.drops() == {DropReason.REDIRECT: 1}
        assert dp.slots_armed() == []


def test_output_to_a_device_that_has_gone(shipped_object: None) -> None:
    with Datapath() as dp:
        ip(f"link del {dp.ports[3].near}")
        dp.add_flow(insn(Op.OUTPUT, 3) + insn(Op.OUTPUT_LAST, 2))
        dp.ports[1].send(SYN)
        assert [port for port, _, _ in dp.outputs(1)] == [2]
        assert dp.drops() == {DropReason.REDIRECT: 1}


def test_hooks_let_nothing_through(dp: Datapath) -> None:
    """Whatever comes in, the near end's stack sees none of it."""
    dp.add_flow(insn(Op.OUTPUT, 2) + insn(Op.USERSPACE, 1) + insn(Op.END))
    frame = bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src="02:00:00:00:00:09")
                  / Dot1Q(vlan=3) / IP(dst="255.255.255.255"))
    with dp.watch(dp.ports[1].near) as seen:
        dp.ports[1].send(frame)
        dp.ports[1].send(SYN)
        assert len(dp.outputs(2)) == 2
        assert seen() == 0
