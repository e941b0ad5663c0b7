# SPDX-License-Identifier: Apache-2.0
"""The cache of exact matches never knows better than the flow table."""

from __future__ import annotations

import os
import random
import struct
import sys

import pytest
from harness import TC_ACT_REDIRECT, TC_ACT_SHOT, Datapath, insn
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from switch import Switch

from dpif_bpf import abi
from dpif_bpf.abi import DropReason, Op
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import nla, nla_u32

MISSES = 2 * abi.OVS_EXACT_LINES
"""After that many the cache is judged: OVS_EXACT_JUDGE of exact.h."""

ETH = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
FRAME = ETH / IP(src="192.0.2.1", dst="192.0.2.2") / TCP(flags="A")
FRAME6 = ETH / IPv6(src="2001:db8::1", dst="2001:db8::2") / TCP(flags="A")
SET_MARK = insn(Op.SET_MARK, 9, data=struct.pack("=Q", 0xffffffff))


def exact(dp: Datapath) -> int:
    return dp.dp_stats()["exact"]


def found(dp: Datapath, frame: bytes, **how: int) -> bool:
    """Whether a packet is found in the cache."""
    before = exact(dp)
    assert dp.run(frame, **how).retval == TC_ACT_REDIRECT
    return exact(dp) > before


def changed(frame: Packet, layer: type[Packet], **fields: object) -> bytes:
    other = frame.copy()
    for name, value in fields.items():
        setattr(other[layer], name, value)
    return bytes(other)


OTHERS = {
    "destination": changed(FRAME, Ether, dst="02:00:00:00:00:03"),
    "source": changed(FRAME, Ether, src="02:00:00:00:00:03"),
    "address": changed(FRAME, IP, src="192.0.2.3"),
    "TTL": changed(FRAME, IP, ttl=63),
    "ToS": changed(FRAME, IP, tos=1),
    "port": changed(FRAME, TCP, sport=21),
    "flags": changed(FRAME, TCP, flags="PA"),
    "protocol": bytes(ETH / IP(src="192.0.2.1", dst="192.0.2.2")
                      / UDP(sport=20, dport=80) / bytes(12)),
    "IPv6": bytes(FRAME6),
    "label": changed(FRAME6, IPv6, fl=5),
    "first half": changed(FRAME6, IPv6, dst="2001:db9::2"),
    "second half": changed(FRAME6, IPv6, dst="2001:db8::3"),
}


@pytest.mark.parametrize("actions", [b"", SET_MARK], ids=["plain", "list"])
def test_every_field_tells(dp: Datapath, one_cpu: None,
                           actions: bytes) -> None:
    """A packet is found again when nothing differs."""
    flow = dp.add_flow(actions + insn(Op.OUTPUT_LAST, 2))
    count = 0
    for name, frame in {"first": bytes(FRAME), **OTHERS}.items():
        for how in ({}, {"mark": 5}, {"priority": 6}, {"port": 2}):
            assert not found(dp, frame, **how), (name, how)
            assert found(dp, frame, **how), (name, how)
            assert found(dp, frame, **how), (name, how)
            count += 3
    packets, _, _, flags = dp.flow_stats(flow)
    assert (packets, flags) == (count, 0x18)


def test_a_hit_is_counted_like_a_lookup(dp: Datapath, one_cpu: None) -> None:
    flow = dp.add_flow(insn(Op.OUTPUT_LAST, 2))
    frame = changed(FRAME, TCP, flags=0x1a7)
    for _ in range(3):
        dp.run(frame)
    packets, size, used, flags = dp.flow_stats(flow)
    assert (packets, size, flags) == (3, 3 * len(frame), 0x1a7)
    assert used


def test_a_tag_beside_the_frame(dp: Datapath, one_cpu: None) -> None:
    flow = dp.add_flow(insn(Op.OUTPUT_LAST, 2))
    plain = bytes(FRAME)
    before = exact(dp)
    for tag in (b"", b"\x81\0\0\5", b"\x88\xa8\0\5", b"\x81\0\0\6"):
        for _ in range(2):
            dp.ports[1].send(plain[:12] + tag + plain[12:])
    assert len(dp.outputs(8)) == 8
    assert exact(dp) - before <= 4
    assert dp.flow_stats(flow)[:2] == (8, 8 * len(plain) + 6 * 4)


def test_what_the_entry_does_not_output(dp: Datapath, one_cpu: None) -> None:
    """It leaves that to stage RX, which knows why."""
    frame = bytes(FRAME) + bytes(400)
    dp.add_flow(insn(Op.OUTPUT_LAST, 3))
    assert dp.run(frame).retval == TC_ACT_REDIRECT
    ifindex = dp.ports[3].ifindex
    view = dp.mapped("ovs_ports")
    at = slice(3 * abi.PORT.size, 4 * abi.PORT.size)
    saved = bytes(view[at])
    for mtu, flags, reason in (
            (0, abi.OVS_PORT_F_L3, DropReason.LAYER3),
            (len(frame) - 15, abi.OVS_PORT_F_VETH, DropReason.MTU),
            (None, 0, DropReason.NO_PORT)):
        before = dp.drops().get(reason, 0)
        if mtu is None:
            view[at] = bytes(abi.PORT.size)
        else:
            dp.set_port(3, ifindex, mtu, flags)
        assert dp.run(frame).retval == TC_ACT_SHOT
        assert dp.drops().get(reason, 0) == before + 1
    dp.set_port(3, ifindex, len(frame) - 14)
    assert found(dp, frame)
    view[at] = saved


def test_it_rests_where_it_does_not_pay(dp: Datapath, one_cpu: None) -> None:
    """And is tried again."""
    dp.add_flow(insn(Op.OUTPUT_LAST, 2))
    fd, info = dp.obj.map_fd("ovs_cpu"), dp.obj.map_info("ovs_cpu")
    cpu, = os.sched_getaffinity(0)

    def preset(**fields: int) -> None:
        values = [bytearray(v) for v in bpfsys.map_lookup_percpu(fd, 0, info)]
        for value in values:
            for name, number in fields.items():
                value[abi.CPU[f"exact_{name}"].slice] = struct.pack(
                    "=I", number)
        bpfsys.map_update(fd, bytes(4), b"".join(values))

    def read(name: str) -> int:
        value = bpfsys.map_lookup_percpu(fd, 0, info)[cpu]
        return int.from_bytes(value[abi.CPU[f"exact_{name}"].slice],
                              sys.byteorder)

    frames = iter([changed(FRAME, IP, dst=f"198.51.100.{n}")
                   for n in range(100)])
    preset(rest=0, hits=MISSES + 1, misses=MISSES - 1, wait=3)
    assert not found(dp, next(frames))
    assert (read("rest"), read("wait"), read("misses")) == (0, 0, 0)
    rests = []
    for _ in range(8):
        preset(rest=0, hits=MISSES - 1, misses=MISSES - 1)
        assert not found(dp, next(frames))
        rests.append(read("rest"))
    assert rests[0] >= MISSES
    assert rests[1:7] == [2 * rest for rest in rests[:6]]
    assert rests[7] == rests[6]
    preset(rest=2)
    again = next(frames)
    assert [found(dp, again) for _ in range(5)] == [False] * 3 + [True] * 2
    preset(rest=0, hits=0, misses=0, wait=0)


# With a provider


SOURCES = [bytes((192, 0, 2, n)) for n in range(1, 7)]


class Model:
    """A switch, and what its flows are to do: source to mark; 0 is an
    output alone."""

    def __init__(self, switch: Switch, rng: random.Random) -> None:
        self._switch = switch
        self._rng = rng
        self._flows: dict[bytes, int] = {}
        self._near = switch.ports[1].near
        self._bridge = 1

    def _key(self, source: bytes) -> tuple[bytes, bytes]:
        key = (nla_u32(u.OVS_KEY_ATTR_RECIRC_ID, 0)
               + nla_u32(u.OVS_KEY_ATTR_IN_PORT, 1)
               + nla(u.OVS_KEY_ATTR_ETHERNET, bytes(12))
               + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\x08\0")
               + nla(u.OVS_KEY_ATTR_IPV4, source + bytes(8)))
        mask = (nla_u32(u.OVS_KEY_ATTR_RECIRC_ID, 0xffffffff)
                + nla_u32(u.OVS_KEY_ATTR_IN_PORT, 0xffffffff)
                + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\xff\xff")
                + nla(u.OVS_KEY_ATTR_IPV4, b"\xff" * 4 + bytes(8)))
        return key, mask

    def put(self, source: bytes) -> None:
        """Adds a flow, or changes what one does."""
        mark = self._rng.choice([0, 0, 1, 2, 3])
        actions = nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2)
        if mark:
            actions = nla(u.OVS_ACTION_ATTR_SET, nla_u32(
                u.OVS_KEY_ATTR_SKB_MARK, mark)) + actions
        key, mask = self._key(source)
        if source in self._flows:
            self._switch.ask(
                u.OVS_FLOW_ID, u.OVS_FLOW_CMD_SET,
                nla(u.OVS_FLOW_ATTR_KEY, key),
                nla(u.OVS_FLOW_ATTR_MASK, mask),
                nla(u.OVS_FLOW_ATTR_ACTIONS, actions))
        else:
            assert self._switch.put(key, mask, actions) == (0, None)
        self._flows[source] = mark

    def delete(self, source: bytes) -> None:
        if self._flows.pop(source, None) is not None:
            self._switch.ask(u.OVS_FLOW_ID, u.OVS_FLOW_CMD_DEL, nla(
                u.OVS_FLOW_ATTR_KEY, self._key(source)[0]))

    def move(self, _source: bytes) -> None:
        """The port goes to another bridge, and its flows with it."""
        self._bridge ^= 3
        near = {n: port.near for n, port in self._switch.ports.items()}
        self._switch.provider.set_bridges({
            "br": frozenset([near[2], *[near[1]] * (self._bridge == 1)]),
            "other": frozenset([near[1]] * (self._bridge == 2))})

    def step(self) -> None:
        source = self._rng.choice(SOURCES)
        self._rng.choices([self.put, self.delete, self.move],
                          [6, 5, 1])[0](source)

    def check(self, source: bytes) -> None:
        """A packet gets what its flow says."""
        gen = self._switch.instance.plane.gen
        ctx = bytearray(192)
        struct.pack_into("=I", ctx, 40, self._switch.ports[1].ifindex)
        run = bpfprog.test_run(
            gen.bridge(self._bridge).entry_fd,
            bytes(ETH / IP(src=".".join(map(str, source)), dst="192.0.2.99")
                  / UDP() / bytes(20)), bytes(ctx))
        mark = self._flows.get(source)
        assert run.retval == (TC_ACT_SHOT if mark is None
                              else TC_ACT_REDIRECT)
        if mark is not None:
            assert struct.unpack_from("=I", run.ctx, 8)[0] == mark


def test_flows_that_change(shipped_object: None, one_cpu: None) -> None:
    """Flows come, change and go, their records are used again, and their
    port moves between bridges; in between packets come again and again."""
    rng = random.Random(4)
    with Switch({1: 1500, 2: 1500}, {1, 2}) as switch:
        model = Model(switch, rng)
        for _ in range(400):
            model.step()
            for source in rng.choices(SOURCES, k=3):
                model.check(source)
                model.check(source)
            switch.turn()
            switch.messages.clear()
        counted = switch.instance.dp.counters()
        assert counted.cache_hit > 400
