# SPDX-License-Identifier: Apache-2.0
"""A datapath that is full, and what is removed from it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest
from switch import MAX_FLOWS, Switch

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


def put(switch: Switch, number: int) -> int:
    """A flow to an address; its errno."""
    key = (nla_u32(u.OVS_KEY_ATTR_IN_PORT, 1)
           + nla(u.OVS_KEY_ATTR_ETHERNET, bytes(6) + number.to_bytes(6))
           + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\x88\xcc"))
    return switch.put(key, MASK, nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2))[0]


def test_room_of_what_was_removed(switch: Switch) -> None:
    """No turn of the provider is between: the request waits for the grace
    period itself."""
    count = 0
    while not (error := put(switch, count)):
        count += 1
    assert error == errno.ENOSPC and count > MAX_FLOWS
    for turn in (1, 2):
        switch.flush()
        for number in range(count):
            assert put(switch, turn * count + number) == 0
        assert put(switch, 0) == errno.ENOSPC
    assert len(switch.instance.dp.flows) == count
