# SPDX-License-Identifier: Apache-2.0
"""A datapath that is full, and what is removed from it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator

import pytest
from switch import MAX_FLOWS, UPCALL_PID, Switch

from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import nla, nla_u32

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

MASK = (nla_u32(u.OVS_KEY_ATTR_IN_PORT, 0xffffffff)
        + nla(u.OVS_KEY_ATTR_ETHERNET, bytes(6) + b"\xff" * 6)
        + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\xff\xff"))


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch({1: 1500, 2: 1500}, {1, 2}) as made:
        yield made


def put(switch: Switch, number: int, actions: bytes = nla_u32(
        u.OVS_ACTION_ATTR_OUTPUT, 2)) -> int:
    """A flow to an address; its errno."""
    key = (nla_u32(u.OVS_KEY_ATTR_IN_PORT, 1)
           + nla(u.OVS_KEY_ATTR_ETHERNET, bytes(6) + number.to_bytes(6))
           + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\x88\xcc"))
    return switch.put(key, MASK, actions)[0]


def fill(switch: Switch, first: int) -> int:
    """Flows until no more find room; how many."""
    count = 0
    while not (error := put(switch, first + count)):
        count += 1
    assert error == errno.ENOSPC
    return count


def test_room_of_what_was_removed(switch: Switch) -> None:
    """No turn of the provider is between: the request waits for the grace
    period itself."""
    count = fill(switch, 0)
    assert count == MAX_FLOWS
    for turn in (1, 2, 3):
        switch.flush()
        assert fill(switch, turn * count) == count
    assert len(switch.instance.dp.flows) == count


def test_upcalls_of_what_was_removed(switch: Switch) -> None:
    """Those that are queued are read before their flow's actions go."""
    put(switch, 0, nla(
        u.OVS_ACTION_ATTR_USERSPACE,
        nla_u32(u.OVS_USERSPACE_ATTR_PID, UPCALL_PID)
        + nla(u.OVS_USERSPACE_ATTR_USERDATA, b"some data")))
    switch.ports[1].send(bytes(12) + b"\x88\xcc" + bytes(50))
    flows = switch.instance.dp.flows
    end = time.monotonic() + 10
    while not flows.stats(flows.snapshot())[0][0]:
        assert time.monotonic() < end, "the packet has not come"
    fill(switch, 1)
    assert switch.messages == []	# no turn, and nothing to reclaim
    for _ in range(2):	# there are more ids than there may be flows
        switch.flush()
        fill(switch, 1)
    message, = switch.messages
    assert message.cmd == u.OVS_PACKET_CMD_ACTION
    assert message.attrs[u.OVS_PACKET_ATTR_USERDATA] == b"some data"
