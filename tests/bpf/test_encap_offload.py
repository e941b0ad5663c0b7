# SPDX-License-Identifier: Apache-2.0
"""New headers on packets whose checksum or size is left to the device."""

from __future__ import annotations

import pytest
from devices import Vnet
from frames import LSE, NEW, ether
from harness import Datapath
from lists import (
    POP_ETH,
    POP_VLAN,
    add_mpls,
    add_once,
    output,
    pop_mpls,
    push_eth,
    push_mpls,
    push_vlan,
    recirc,
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
    finished,
    gso,
    l4_is_right,
    partial,
)

from dpif_bpf import abi
from dpif_bpf.abi import DropReason

PUSH = push_mpls(LSE, 0x8847)
ENCAP = add_mpls(LSE, 0x8847, 0) + push_eth(NEW)
DECAP = POP_ETH + pop_mpls(0x6558)


@pytest.mark.parametrize(("actions", "more"), [
    (PUSH, 4), (PUSH + PUSH, 8), (ENCAP, 18), (ENCAP + DECAP, 0),
    (PUSH + pop_mpls(0x0800), 0), (PUSH + PUSH + pop_mpls(0x8847), 4),
], ids=["push", "two", "ethernet", "back", "popped", "one of two"])
def test_unfinished_checksum(dp: Datapath, actions: bytes,
                             more: int) -> None:
    check_unfinished(dp, actions, more)


@EACH_KIND
@pytest.mark.parametrize(("actions", "head"), [
    (PUSH, 18), (PUSH + PUSH, 22), (ENCAP, 32)],
    ids=["push", "two", "ethernet"])
def test_gso_stays_whole(dp: Datapath, packet: Packet, kind: int,
                         actions: bytes, head: int) -> None:
    frame, vnet = gso(packet, kind, SIZE)
    assert vnet.csum is not None
    start, offset = vnet.csum
    add(dp, actions + output(2), frame)
    dp.ports[1].send(frame, vnet)
    (_, data, offload), = dp.outputs(1)
    assert offload.gso[2] == SIZE
    assert offload.csum == (start + head - 14, offset)
    assert data[12:18] == b"\x88\x47" + LSE
    assert len(data) == len(frame) + head - 14
    assert l4_is_right(frame[:14] + finished(data, offload.csum)[head:])


def test_gso_is_for_veths(dp: Datapath) -> None:
    """Other devices get what they know of."""
    frame, vnet = gso(V4 / TCP(flags="A") / BIG, TCPV4, SIZE)
    before = dp.drops().get(DropReason.GSO, 0)
    sent = send_to_device(
        dp, push_vlan(0x8100, 5) + output(2) + POP_VLAN + PUSH + output(2)
        + output(3) + output(2), frame, vnet, 2)
    assert [(port, data[12:14]) for port, data, _ in sent] == [
        (2, b"\x81\0"), (3, b"\x88\x47")]
    assert dp.drops()[DropReason.GSO] == before + 2


@pytest.mark.parametrize("actions", [PUSH + pop_mpls(0x0800), ENCAP + DECAP],
                         ids=["push", "ethernet"])
def test_gso_there_and_back(dp: Datapath, actions: bytes) -> None:
    """Nothing is left that another device would not know of."""
    frame, vnet = gso(V4 / TCP(flags="A") / BIG, TCPV4, SIZE)
    (_, data, offload), = send_to_device(dp, actions + output(2), frame,
                                         vnet, 1)
    assert data == frame
    assert (offload.csum, offload.gso[2]) == (vnet.csum, SIZE)


@pytest.mark.parametrize(("actions", "reason"), [
    (PUSH + PUSH + pop_mpls(0x8847) + output(2), DropReason.GSO),
    # A copy that waits for the inject device comes back as MPLS.
    (PUSH + recirc(5) + output(2), DropReason.GSO),
], ids=["pop to a label", "deferred"])
def test_gso_that_cannot_be(dp: Datapath, actions: bytes,
                            reason: DropReason) -> None:
    frame, vnet = gso(V4 / TCP(flags="A") / BIG, TCPV4, SIZE)
    add_once(dp, actions, frame)
    check_dropped(dp, frame, vnet, reason)


def test_upcall_of_layer_3(dp: Datapath) -> None:
    """The record has room for Ethernet, and csum_start counts it."""
    frame, csum = partial(V4 / TCP() / PAYLOAD)
    add_once(dp, POP_ETH + recirc(9), frame)
    dp.ports[1].send(frame, Vnet(csum))
    upcall, = dp.poll(1)
    assert upcall.key[abi.KEY["mac_proto"].offset] == abi.OVS_MAC_PROTO_NONE
    assert upcall.key[abi.KEY["eth_dst"].slice] == bytes(6)
    assert upcall.packet == frame[14:]
    assert upcall.fields["pkt_len"] == len(frame)
    assert (upcall.fields["csum_start"], upcall.fields["csum_offset"]) == csum
    assert bytes(ether() / IP())[12:14] == upcall.key[
        abi.KEY["eth_type"].slice]
