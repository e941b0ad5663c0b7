# SPDX-License-Identifier: Apache-2.0
"""What holds of every action that changes headers, on packets whose checksum
or size is left to the device."""

from __future__ import annotations

import pytest
from devices import Vnet
from harness import Datapath
from lists import output
from scapy.layers.inet import TCP, UDP
from test_offload import (
    BIG,
    PAYLOAD,
    TCPV4,
    TCPV6,
    UDP_L4,
    USO,
    V4,
    V6,
    add,
    finished,
    l4_is_right,
    partial,
)

from dpif_bpf.abi import DropReason

SIZE = 1200
"""Of the segments."""

EACH_KIND = pytest.mark.parametrize(("packet", "kind"), [
    (V4 / TCP(flags="A", seq=7) / BIG, TCPV4),
    (V6 / TCP(flags="A", seq=7) / BIG, TCPV6),
    pytest.param(V4 / UDP() / BIG, UDP_L4, marks=USO),
], ids=["tcp4", "tcp6", "udp4"])
"""Big packets and their types."""


def check_unfinished(dp: Datapath, actions: bytes, more: int) -> None:
    """The device is still told what to finish, `more` bytes further on."""
    frame, (start, offset) = partial(V4 / TCP() / PAYLOAD)
    add(dp, actions + output(2), frame)
    dp.ports[1].send(frame, Vnet((start, offset)))
    (_, data, vnet), = dp.outputs(1)
    assert len(data) == len(frame) + more
    assert vnet.csum == (start + more, offset)
    inner = finished(data, vnet.csum)[14 + more:]
    assert l4_is_right(bytes(V4)[:14] + inner)


def send_to_device(dp: Datapath, actions: bytes, frame: bytes, vnet: Vnet,
                   count: int) -> list[tuple[int, bytes, Vnet]]:
    """What goes out, `count` packets, when port 2 is no veth."""
    dp.set_port(2, dp.ports[2].ifindex, flags=0)
    add(dp, actions, frame)
    dp.ports[1].send(frame, vnet)
    sent = dp.outputs(count)
    dp.set_port(2, dp.ports[2].ifindex)
    return sent


def check_dropped(dp: Datapath, frame: bytes, vnet: Vnet,
                  reason: DropReason) -> None:
    """Nothing goes out, and it is counted why."""
    before = dp.drops().get(reason, 0)
    dp.ports[1].send(frame, vnet)
    dp.outputs(0, .2)
    assert dp.drops()[reason] == before + 1
