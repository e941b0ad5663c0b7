# SPDX-License-Identifier: Apache-2.0
"""OVS_ACTION_ATTR_PSAMPLE, from the action to the message."""

from __future__ import annotations

import struct
from errno import EINVAL, ERANGE

import pytest
from oracle_key import Meta, extract
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot3, Ether
from scapy.packet import Raw

from dpif_bpf import abi
from dpif_bpf.core.actions.insn import PsampleDesc
from dpif_bpf.core.actions.programs import compile_actions
from dpif_bpf.core.samples import Samples
from dpif_bpf.core.upcall import Upcalls
from dpif_bpf.edge.psample_group import _parse
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import psample_messages as p
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.facts import KeyFacts
from dpif_bpf.wire.netlink import (
    NLA_F_NESTED,
    iter_attrs,
    iter_messages,
    nla,
    nla_string,
    nla_u16,
    nla_u32,
)
from tests.fake_plane import FakeProvider, FakePsample, Peer

ALL = 0xffffffff
FAMILY = 0x22
OUT = nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 1)
GROUP = nla_u32(u.OVS_PSAMPLE_ATTR_GROUP, 7)
FRAME = bytes(Ether() / IP() / UDP() / Raw(b"x" * 60))


def cookie(size: int) -> bytes:
    return nla(u.OVS_PSAMPLE_ATTR_COOKIE, bytes(range(size)))


def action(*parts: bytes, flag: int = NLA_F_NESTED) -> bytes:
    return nla(u.OVS_ACTION_ATTR_PSAMPLE | flag, b"".join(parts))


def sample(probability: int, *actions: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_SAMPLE,
               nla_u32(u.OVS_SAMPLE_ATTR_PROBABILITY, probability)
               + nla(u.OVS_SAMPLE_ATTR_ACTIONS, b"".join(actions)))


def descs(actions: bytes) -> list[PsampleDesc]:
    found = compile_actions(actions, KeyFacts(), 0, lambda: True).uspace
    return [desc for desc in found if isinstance(desc, PsampleDesc)]


def test_refused_without_a_family() -> None:
    """As ovs-vswitchd asks whether it is there."""
    with pytest.raises(RequestError) as caught:
        compile_actions(action(GROUP, cookie(8)), KeyFacts())
    assert caught.value.errno == EINVAL


@pytest.mark.parametrize(("parts", "error"), [
    ((), EINVAL), ((cookie(8),), EINVAL),
    ((nla(u.OVS_PSAMPLE_ATTR_GROUP, bytes(3)),), EINVAL),
    ((nla(u.OVS_PSAMPLE_ATTR_GROUP, bytes(8)),), EINVAL),
    ((GROUP, cookie(17)), ERANGE), ((GROUP, nla_u32(3, 1)), EINVAL),
    ((GROUP, nla_u32(0, 1)), EINVAL), ((GROUP, b"\0\0"), EINVAL)])
def test_refused(parts: tuple[bytes, ...], error: int) -> None:
    with pytest.raises(RequestError) as caught:
        descs(OUT + action(*parts))
    assert caught.value.errno == error
    assert caught.value.offset is not None
    assert caught.value.offset >= len(OUT)


def test_refused_without_the_flag() -> None:
    with pytest.raises(RequestError) as caught:
        descs(action(GROUP, flag=0))
    assert caught.value.errno == EINVAL


def test_taken() -> None:
    assert descs(action(GROUP)) == [PsampleDesc(7, None, ALL)]
    assert descs(action(cookie(16), GROUP)) == [
        PsampleDesc(7, bytes(range(16)), ALL)]
    assert descs(action(GROUP, nla_u32(u.OVS_PSAMPLE_ATTR_GROUP, 9))) == [
        PsampleDesc(9, None, ALL)]


def test_rates() -> None:
    """That of the innermost sample, which a clone has, too."""
    clone = nla(u.OVS_ACTION_ATTR_CLONE, action(GROUP))
    assert [desc.rate for desc in descs(
        action(GROUP) + sample(100, action(GROUP), sample(
            50, action(GROUP)), clone) + clone + OUT)] == [
                ALL, 100, 50, 100, ALL]


def test_equal_actions_of_unequal_rates() -> None:
    """A program is found again by its descriptors as well."""
    peer, _ = bench()
    programs = peer.provider.dps[0].programs
    one = programs.get(sample(100, action(GROUP)), KeyFacts())
    two = programs.get(sample(101, action(GROUP)), KeyFacts())
    assert one is not two


# Messages

def attrs(message: bytes) -> dict[int, bytes]:
    (found,) = iter_messages(message)
    assert (found.type, found.flags, found.seq, found.pid) == (FAMILY, 0, 0,
                                                              0)
    assert found.raw[16:20] == bytes((0, 1, 0, 0))
    return {kind: found.raw[start:stop]
            for kind, start, stop in iter_attrs(found.raw, 20)}


def bench() -> tuple[Peer, FakePsample]:
    provider = FakeProvider(psample=FakePsample(FAMILY))
    peer = Peer(provider)
    assert peer.do(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_NEW,
                   nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"),
                   nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0))[0] == 0
    provider.ports.add_device("p1")
    provider.dps[0].ports.make("p1", u.OVS_VPORT_TYPE_NETDEV, 1, (0,))
    return peer, provider.psample


def take(peer: Peer, desc: PsampleDesc, frame: bytes = FRAME,
         tag: bytes = bytes(4), cutlen: int = 0, layer3: bool = False,
         port: int = 1, sctp: bool = False) -> None:
    """The record that the programs write for a sample."""
    (dp,) = peer.provider.dps
    found = extract(frame, Meta(in_port=port))
    assert found is not None
    key = bytearray(found.key[:abi.OVS_KEY_BASE * 8])
    if layer3:
        key[abi.KEY["mac_proto"].offset] = abi.OVS_MAC_PROTO_NONE
    size = len(frame)
    parts = (abi.UPCALL_PARTS.struct.pack(struct.pack("=H", size))
             if sctp else b"")
    Upcalls(dp, lambda *_: False).handle(memoryview(abi.UPCALL.struct.pack(
        size, size, u.OVS_PACKET_CMD_ACTION, 0, 0, 0, 0xffff if sctp else 0,
        abi.OVS_SKB_GSO_SCTP if sctp else 0, dp.descs.add(desc), 0, 0, 0, 0, 0,
        tag[2:], tag[:2], cutlen, bytes(key)) + parts + frame))


def test_a_sample() -> None:
    peer, edge = bench()
    take(peer, PsampleDesc(7, b"12345678", 1 << 20))
    got = attrs(edge.messages[0])
    port = peer.provider.dps[0].vports.by_no[1]
    assert got == {
        p.ATTR_IIFINDEX: struct.pack("=H", port.link.ifindex),
        p.ATTR_SAMPLE_RATE: struct.pack("=I", 1 << 20),
        p.ATTR_ORIGSIZE: struct.pack("=I", len(FRAME)),
        p.ATTR_SAMPLE_GROUP: struct.pack("=I", 7),
        p.ATTR_GROUP_SEQ: bytes(4), p.ATTR_PROTO: struct.pack("=H", 0x0800),
        p.ATTR_DATA: FRAME, p.ATTR_USER_COOKIE: b"12345678",
        p.ATTR_SAMPLE_PROBABILITY: b""}
    assert not peer.provider.dps[0].lost


def test_numbers_are_of_groups() -> None:
    peer, edge = bench()
    for group in (7, 8, 7, 7):
        take(peer, PsampleDesc(group, None, ALL))
    found = [attrs(message) for message in edge.messages]
    assert [struct.unpack("=II", got[p.ATTR_SAMPLE_GROUP]
                          + got[p.ATTR_GROUP_SEQ]) for got in found] == [
        (7, 0), (8, 0), (7, 1), (7, 2)]
    assert p.ATTR_USER_COOKIE not in found[0]


@pytest.mark.parametrize(("frame", "more", "protocol", "data"), [
    (FRAME, {"cutlen": 40}, 0x0800, FRAME[:-40]),
    (FRAME, {"tag": b"\x81\0\x10\5"}, 0x0800, FRAME),
    (FRAME, {"layer3": True}, 0x0800, FRAME[14:]),
    (FRAME, {"sctp": True}, 0x0800, FRAME),
    (bytes(Dot3() / Raw(b"\xaa\xaa\3" + bytes(60))), {}, 4, None)])
def test_what_is_in_it(frame: bytes, more: dict[str, object], protocol: int,
                       data: bytes | None) -> None:
    peer, edge = bench()
    take(peer, PsampleDesc(7, None, ALL), frame, **more)  # type: ignore
    got = attrs(edge.messages[0])
    data = frame if data is None else data
    assert got[p.ATTR_DATA] == data
    assert got[p.ATTR_PROTO] == struct.pack("=H", protocol)
    size = len(frame) - (14 if "layer3" in more else 0)
    assert got[p.ATTR_ORIGSIZE] == struct.pack("=I", size)


def test_a_port_that_has_gone() -> None:
    peer, edge = bench()
    take(peer, PsampleDesc(7, None, ALL), port=9)
    assert p.ATTR_IIFINDEX not in attrs(edge.messages[0])


@pytest.mark.parametrize("size", [65000, 65440, 65500, 65536, 70000])
def test_the_longest(size: int) -> None:
    message = p.encode_sample(FAMILY, 1, 2, 3, b"x" * 16, 4, 0x800, size,
                              bytes(size))
    assert len(message) <= 0xffff
    got = attrs(message)
    assert len(got[p.ATTR_DATA]) == size or len(message) > 0xffff - 8
    assert got[p.ATTR_SAMPLE_PROBABILITY] == b""


def test_lost_samples_are_counted() -> None:
    class Full(FakePsample):
        def send(self, message: bytes) -> bool:
            return False

    samples = Samples(Full(FAMILY))
    samples.take(PsampleDesc(1, None, ALL), 0, 0x800, 0, b"")
    assert (samples.sent, samples.lost) == (0, 1)


def test_reading_the_controller() -> None:
    groups = b"".join(
        nla(number, nla_string(1, name) + nla_u32(2, group))
        for number, (name, group) in enumerate(
            [("config", 8), ("packets", 9)], 1))
    raw = bytes(20) + nla_u16(1, 0x1f) + nla_string(2, "psample") + nla(
        7, groups)
    assert _parse(raw, "packets") == (0x1f, 9)
    assert _parse(raw, "others") == (0x1f, 0)
