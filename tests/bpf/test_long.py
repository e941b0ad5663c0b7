# SPDX-License-Identifier: Apache-2.0
"""Lists of actions that are as long as a netlink attribute can be."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable

import oracle
import pytest
from cases import tcp4
from harness import Datapath
from lists import (
    POP_VLAN,
    check_pkt_len,
    clone,
    compiled,
    dec_ttl,
    output,
    pop_mpls,
    push_mpls,
    push_vlan,
    recirc,
    sample,
    set_masked,
    trunc,
    userspace,
)
from oracle_key import Meta, extract
from test_actions import IN_PORT, check

from dpif_bpf import abi
from dpif_bpf.abi import DropReason
from dpif_bpf.wire import uapi

SO_RCVBUFFORCE = 33
MOST = 0xffff - 4
"""Bytes of actions in OVS_FLOW_ATTR_ACTIONS."""
OUTPUTS = 700
"""Packets that a list sends: no more than a CPU's backlog holds, which veths
put them into (netdev_max_backlog, 1000)."""
LSE = bytes((0, 1, 0x31, 64))

Step = Callable[[random.Random, int], bytes]


def ports(rng: random.Random) -> bytes:
    return set_masked(uapi.OVS_KEY_ATTR_TCP, rng.randbytes(4), b"\xff" * 4)


def tag(rng: random.Random) -> bytes:
    return push_vlan(0x8100, rng.getrandbits(16))


def mixed(rng: random.Random, number: int) -> bytes:
    """Leaves the packet without tags or labels."""
    return rng.choice((
        userspace(number),
        ports(rng) + userspace(number),
        set_masked(uapi.OVS_KEY_ATTR_ETHERNET, rng.randbytes(12),
                   rng.randbytes(12)),
        tag(rng) + userspace(number) + POP_VLAN,
        tag(rng) + tag(rng) + POP_VLAN + userspace(number) + POP_VLAN,
        clone(ports(rng), tag(rng), userspace(number)),
        sample(0xffffffff, ports(rng), userspace(number)),
        sample(0, userspace(number)),
        sample(0xfffffffe, ports(rng), clone(tag(rng), userspace(number))),
        check_pkt_len(rng.choice((10, 9000)), ports(rng) + userspace(number),
                      tag(rng) + userspace(number)),
        trunc(100) + userspace(number),
        recirc(number),
    ))


STEPS: dict[str, Step] = {
    "upcalls": lambda rng, number: userspace(number),
    "upcalls and fields": lambda rng, number: ports(rng) + userspace(number),
    "copies": lambda rng, number: clone(tag(rng), userspace(number)),
    "recirculations": lambda rng, number: recirc(number),
    "recirculations of changed packets": lambda rng, number: (
        ports(rng) + tag(rng) + recirc(number) + POP_VLAN),
    "mixed": mixed,
}


@pytest.fixture
def dp(dp: Datapath) -> Datapath:
    """Its ports' sockets take what one list sends, and there is room for all
    its upcalls, which are more than a port's share."""
    dp.upcall_use(abi.OVS_UPCALL_ALL, 1 << 20)
    for port in dp.ports.values():
        port.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    return dp


def agree(dp: Datapath, actions: bytes) -> int:
    """Of how many events programs and oracle agree."""
    frame, meta = bytes(tcp4()), Meta(in_port=IN_PORT)
    parsed = extract(frame, meta)
    assert parsed is not None
    expected = oracle.execute(frame, actions, meta)
    check(dp, frame, actions, parsed, expected)
    assert not dp.slots_armed()
    assert dp.level() == 0
    return len(expected.events)


def filled(rng: random.Random, step: Step, most: int) -> bytes:
    actions, number = b"", 1
    while True:
        more = step(rng, number)
        if len(actions) + len(more) > most:
            return actions
        actions, number = actions + more, number + 1


@pytest.mark.parametrize("name", STEPS)
def test_as_long_as_can_be(dp: Datapath, name: str) -> None:
    end = output(2)
    actions = filled(random.Random(1), STEPS[name], MOST - len(end)) + end
    assert len(actions) > 0xff00
    assert agree(dp, actions) > 500


def test_labels(dp: Datapath) -> None:
    """What is below a label is told by the flow's key, not by the packet."""
    rng = random.Random(2)

    def step(_rng: random.Random, number: int) -> bytes:
        return (push_mpls(LSE, 0x8847)
                + set_masked(uapi.OVS_KEY_ATTR_MPLS, rng.randbytes(4),
                             b"\0\0\xf0\xff")
                + userspace(number) + push_mpls(LSE, 0x8848)
                + pop_mpls(0x8847) + userspace(10000 + number))

    end = pop_mpls(0x8847) + output(2)
    start = push_mpls(LSE, 0x8847)
    room = 3000
    actions = start + filled(rng, step, room - len(start + end)) + end
    agree(dp, actions)


@pytest.mark.parametrize("seed", range(3))
def test_outputs(dp: Datapath, seed: int) -> None:
    """Those that change the packet, and those that cut it off."""
    rng = random.Random(seed)
    actions = b""
    for number in range(OUTPUTS):
        to = output(rng.choice((2, 3, 4)))
        actions += rng.choice((
            to,
            ports(rng) + to,
            trunc(100) + to,
            clone(ports(rng), tag(rng), to),
            tag(rng) + to + POP_VLAN,
            sample(0xffffffff, trunc(90), to),
            userspace(number) + to,
        ))
    agree(dp, actions)


def test_rest_that_finds_no_slot(dp: Datapath) -> None:
    """The packet goes on where it is, and what is lost is counted."""
    frame, meta = bytes(tcp4()), Meta(in_port=IN_PORT)
    parsed = extract(frame, meta)
    assert parsed is not None
    copies = 20
    actions = clone(POP_VLAN, output(3)) * copies + output(2)
    view = dp.mapped("ovs_slots")
    states = range(abi.OVS_EXEC_SLOTS * abi.SLOT.size, len(view),
                   abi.SLOT.size)
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> 20
    for at in states:
        struct.pack_into("=Q", view, at, now << abi.OVS_SLOT_TIME_SHIFT
                         | abi.OVS_SLOT_ARMED)
    before = dp.drops().get(DropReason.DEFER_FULL, 0)
    try:
        dp.add_flow(compiled(actions, frame, parsed))
        dp.ports[IN_PORT].send(frame)
        (port, packet, _), = dp.outputs(1)
    finally:
        for at in states:
            struct.pack_into("=Q", view, at, abi.OVS_SLOT_FREE)
    assert (port, packet) == (2, frame)
    assert dp.drops()[DropReason.DEFER_FULL] == before + copies


def test_the_ttl_runs_down(dp: Datapath) -> None:
    """A list of more hops than the packet has."""
    agree(dp, dec_ttl(userspace(9), output(3)) * 300 + output(2))
