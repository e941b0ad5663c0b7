# SPDX-License-Identifier: Apache-2.0
"""NSH and SCTP on packets whose checksum or size is left to the device."""

from __future__ import annotations

import pytest
from cases_nsh import PUSH, SET_BOTH, outer, sctp
from devices import Vnet
from frames import NEW, ether
from harness import Datapath
from lists import (
    POP_ETH,
    POP_NSH,
    add_once,
    clone,
    nsh_base,
    output,
    push_eth,
    recirc,
    set_nsh,
)
from offloads import (
    EACH_KIND,
    SIZE,
    check_dropped,
    check_unfinished,
    send_to_device,
)
from scapy.layers.inet import IP, TCP
from scapy.packet import Packet
from test_offload import (
    BIG,
    PAYLOAD,
    TCPV4,
    V4,
    add,
    gso,
    l4_is_right,
    partial,
    ports,
)

from dpif_bpf.abi import OVS_CSUM_PARTIAL, DropReason
from dpif_bpf.wire.checksum import finish_partial
from dpif_bpf.wire.packet import upcall_packets

ENCAP = PUSH + push_eth(NEW)
HEAD = 14 + 24
FRONT = bytes(outer())


@pytest.mark.parametrize(("actions", "more"), [
    (ENCAP, HEAD), (ENCAP + POP_ETH + POP_NSH, 0),
    (PUSH + set_nsh(nsh_base(0, 3) + nsh_base(0, 255)) + POP_NSH, 0),
    (POP_ETH + ENCAP, 24), (PUSH + ENCAP, HEAD + 24)],
    ids=["push", "back", "written", "layer 3", "two"])
def test_unfinished_checksum(dp: Datapath, actions: bytes,
                             more: int) -> None:
    check_unfinished(dp, actions, more)


@pytest.mark.parametrize("tagged", [False, True])
def test_unfinished_checksum_out_of_nsh(dp: Datapath, tagged: bool) -> None:
    """It came so, which is the fast way."""
    inner, (start, offset) = partial(V4 / TCP() / PAYLOAD)
    if tagged:
        inner = inner[:12] + b"\x81\0\0\7" + inner[12:]
        start += 4
    frame = FRONT + inner
    add(dp, POP_ETH + POP_NSH + output(2), frame)
    dp.ports[1].send(frame, Vnet((start + HEAD, offset)))
    (_, data, vnet), = dp.outputs(1)
    assert data == inner
    # The kernel's numbers count from behind the tag that is beside the
    # frame; harness put it back.
    assert vnet.csum == (start - 4 * tagged, offset)


@EACH_KIND
def test_gso_stays_whole(dp: Datapath, packet: Packet, kind: int) -> None:
    frame, vnet = gso(packet, kind, SIZE)
    assert vnet.csum is not None
    start, offset = vnet.csum
    add(dp, ENCAP + output(2), frame)
    dp.ports[1].send(frame, vnet)
    (_, data, offload), = dp.outputs(1)
    assert offload.gso[2] == SIZE
    assert offload.csum == (start + HEAD, offset)
    assert data == FRONT + frame


@pytest.mark.parametrize("actions", [
    ENCAP + POP_ETH + POP_NSH, clone(ENCAP, output(3))],
    ids=["there and back", "a clone's"])
def test_gso_is_as_before(dp: Datapath, actions: bytes) -> None:
    """Nothing is left that another device would not know of."""
    frame, vnet = gso(V4 / TCP(flags="A") / BIG, TCPV4, SIZE)
    sent = send_to_device(dp, actions + output(2), frame, vnet,
                          2 if actions[2] == 20 else 1)
    (_, data, offload), = [one for one in sent if one[0] == 2]
    assert data == frame
    assert (offload.csum, offload.gso[2]) == (vnet.csum, SIZE)


def test_gso_is_for_veths(dp: Datapath) -> None:
    frame, vnet = gso(V4 / TCP(flags="A") / BIG, TCPV4, SIZE)
    before = dp.drops().get(DropReason.GSO, 0)
    sent = send_to_device(dp, ENCAP + output(2) + output(3), frame, vnet, 1)
    assert [port for port, _, _ in sent] == [3]
    assert dp.drops()[DropReason.GSO] == before + 1


def test_gso_out_of_nsh(dp: Datapath) -> None:
    """It came as such: the inject device, like a veth, has forgotten all."""
    frame, vnet = gso(V4 / TCP(flags="A") / BIG, TCPV4, SIZE)
    (_, data, offload), (_, other, _) = send_to_device(
        dp, PUSH + clone(POP_NSH, output(2)) + push_eth(NEW) + output(3),
        frame, vnet, 2)
    assert data == frame
    assert (offload.csum, offload.gso[2]) == (vnet.csum, SIZE)
    assert other == FRONT + frame


def test_gso_whose_headers_end_unknown(dp: Datapath) -> None:
    frame, vnet = gso(V4 / TCP(flags="A") / BIG, TCPV4, SIZE)
    add(dp, PUSH + PUSH + POP_NSH + output(2), frame)
    check_dropped(dp, frame, vnet, DropReason.GSO)


def test_gso_upcall(dp: Datapath) -> None:
    """The provider cuts what has an NSH before it."""
    frame, vnet = gso(V4 / TCP(flags="A") / BIG, TCPV4, SIZE)
    add_once(dp, PUSH + recirc(9), frame)
    dp.ports[1].send(frame, vnet)
    upcall, = dp.poll(1)
    fields = [int(upcall.fields[name]) for name in (
        "ip_summed", "csum_start", "csum_offset", "gso_size", "gso_type")]
    assert fields[0] == OVS_CSUM_PARTIAL
    parts = list(upcall_packets(
        memoryview(bytes(12) + b"\x89\x4f" + upcall.packet), *fields,
        bytes(2), bytes(2), layer3=True))
    assert len(parts) == -(-len(BIG) // SIZE)
    for part in parts:
        assert part[:24] == FRONT[14:]
        assert l4_is_right(part[24:])


def test_sctp_that_is_not_finished(dp: Datapath) -> None:
    """The ports change, and the device does the rest."""
    frame = bytearray(bytes(sctp(ether() / IP())))
    frame[42:46] = bytes(4)
    add(dp, SET_BOTH + output(2), bytes(frame))
    dp.ports[1].send(bytes(frame), Vnet((34, 8)))
    (_, data, vnet), = dp.outputs(1)
    assert vnet.csum == (34, 8)
    assert data == bytes(frame[:34]) + ports(9, 10) + bytes(frame[38:])
    whole = bytearray(data)
    finish_partial(whole, *vnet.csum)
    assert bytes(whole) == bytes(sctp(ether() / IP(), 9, 10))
