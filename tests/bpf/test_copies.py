# SPDX-License-Identifier: Apache-2.0
"""How many copies, and lookups of them, one packet may cause."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Mapping

import pytest
from harness import Datapath
from lists import clone, compiled, output, push_vlan, recirc
from oracle_key import Meta, extract
from oracle_path import Flow, Path
from test_long import SO_RCVBUFFORCE
from test_programs import SYN

from dpif_bpf import abi
from dpif_bpf.abi import DropReason

MOST = 20000
"""Lookups that the oracle follows."""
MTUS = dict.fromkeys((1, 2, 3, 4), 9000)

TWINS = {0: recirc(7) + recirc(7), 7: recirc(7) + recirc(7)}
"""Each lookup causes two more."""


@pytest.fixture
def dp(dp: Datapath, one_cpu: None) -> Iterator[Datapath]:
    """All packets go through the backlog of one CPU, and all are received."""
    for port in dp.ports.values():
        port.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    yield dp


def image(in_port: int, recirc_id: int) -> bytes:
    return struct.pack("=II", in_port, recirc_id).ljust(abi.KEY.size, b"\0")


def add(dp: Datapath, lists: Mapping[int, bytes], in_port: int = 1) -> Path:
    """Flows by recirc_id; the same for the oracle."""
    parsed = extract(SYN, Meta(in_port=in_port))
    assert parsed is not None
    mask = b"\xff" * 8 + bytes(abi.KEY.size - 8)
    flows = []
    for recirc_id, actions in lists.items():
        key = image(in_port, recirc_id)
        flows.append(Flow(key, mask, actions))
        dp.add_flow(compiled(actions, SYN, parsed), key, mask)
    return Path(flows, MTUS, most=MOST)


def lookups(dp: Datapath) -> int:
    stats = dp.dp_stats()
    return stats["exact"] + stats["steps"]


def settled(dp: Datapath) -> int:
    """Lookups, when no copy is on its way any more."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        before = lookups(dp), dp.drops()
        if not dp.slots_armed() and (lookups(dp), dp.drops()) == before:
            return before[0]
    raise AssertionError("copies are still on their way")


def drops(dp: Datapath, before: Mapping[DropReason, int],
          ) -> dict[DropReason, int]:
    return {reason: count - before.get(reason, 0)
            for reason, count in dp.drops().items()
            if count > before.get(reason, 0)}


@pytest.mark.parametrize("lists", [
    {0: recirc(7) * 3 + output(2), 7: recirc(7) * 2 + output(2)},
    {0: recirc(7) * 8 + output(2), 7: recirc(7) * 7 + output(2)},
    {0: recirc(7) + recirc(8) + output(2), 7: recirc(8) * 5 + output(2),
     8: recirc(7) * 5 + output(2)},
], ids=["two", "seven", "cycle"])
def test_as_the_oracle(dp: Datapath, lists: Mapping[int, bytes]) -> None:
    """What is too much is counted, and nothing else is lost; whichever copies
    come first."""
    path = add(dp, lists)
    expected = path.receive(SYN, Meta(in_port=1))
    assert expected.drops[DropReason.COPIES]
    counted, dropped = lookups(dp), dp.drops()
    dp.ports[1].send(SYN)
    assert settled(dp) - counted == len(path.lookups)
    assert drops(dp, dropped) == expected.drops
    assert len(dp.outputs(len(expected.outputs))) == len(expected.outputs)


@pytest.mark.parametrize("lists", [
    TWINS,
    {0: recirc(7) * 100, 7: recirc(7) * 100},
    {0: clone(push_vlan(0x8100, 1), recirc(7)) * 40 + recirc(7),
     7: clone(push_vlan(0x8100, 1), recirc(7)) * 40 + recirc(7)},
], ids=["twins", "recirc", "clone"])
def test_what_goes_on_and_on_has_a_bound(dp: Datapath,
                                 lists: Mapping[int, bytes]) -> None:
    """Where it counts which copies come first, the oracle cannot tell."""
    add(dp, lists)
    counted, dropped = lookups(dp), dp.drops()
    dp.ports[1].send(SYN)
    done = settled(dp) - counted
    own = 1 + abi.OVS_MAX_RECIRC
    assert done <= own + own * 100 + abi.OVS_COPY_BUDGET
    assert DropReason.COPIES in drops(dp, dropped)
    assert drops(dp, dropped).keys() <= {DropReason.COPIES,
                                         DropReason.RECIRC_LIMIT}


def test_as_many_as_the_kernel_makes(dp: Datapath) -> None:
    """Three levels of lists of seven."""
    path = add(dp, {0: recirc(1) * 7, 1: recirc(2) * 7, 2: recirc(3) * 7,
                    3: output(2)})
    expected = path.receive(SYN, Meta(in_port=1))
    assert len(expected.outputs) == 7 ** 3 and not expected.drops
    dropped = dp.drops()
    dp.ports[1].send(SYN)
    assert len(dp.outputs(7 ** 3)) == 7 ** 3
    assert not drops(dp, dropped)


def test_bystanders_lose_nothing(dp: Datapath) -> None:
    """One burst after the other: a slow machine's backlog overflows with
    more, whoever fills it."""
    add(dp, TWINS)
    add(dp, {0: clone(push_vlan(0x8100, 1), output(4)) + output(4)}, 3)
    dropped = dp.drops()
    for _ in range(10):
        dp.ports[1].send(SYN)
        for _ in range(10):
            dp.ports[3].send(SYN)
        settled(dp)
    assert len(dp.outputs(200)) == 200
    assert drops(dp, dropped).keys() <= {DropReason.COPIES,
                                         DropReason.RECIRC_LIMIT}


def test_each_packet_has_a_budget(dp: Datapath) -> None:
    path = add(dp, {0: recirc(7) + output(2), 7: recirc(7) * 2 + output(2)})
    expected = path.receive(SYN, Meta(in_port=1))
    assert expected.drops[DropReason.COPIES]
    for _ in range(3):
        counted = lookups(dp)
        dp.ports[1].send(SYN)
        assert settled(dp) - counted == len(path.lookups)
