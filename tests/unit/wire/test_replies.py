# SPDX-License-Identifier: Apache-2.0
"""wire.replies: what they carry, and when."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from dpif_bpf.wire import netlink as nl
from dpif_bpf.wire import replies as r
from dpif_bpf.wire import uapi

HEADER = r.ReplyHeader(seq=11, pid=22, multi=True)


def attributes(raw: bytes, family: int, cmd: int, version: int,
               header: r.ReplyHeader = HEADER) -> dict[int, bytes]:
    """Check the headers; give the attributes, of which none is double."""
    (message,) = nl.iter_messages(raw)
    assert len(raw) % 4 == 0
    assert (message.type, message.seq, message.pid) == (
        family, header.seq, header.pid)
    assert message.flags == (nl.NLM_F_MULTI if header.multi else 0)
    assert nl.GENLMSGHDR.unpack_from(raw, 16) == (cmd, version, 0)
    assert uapi.OVS_HEADER.unpack_from(raw, 20) == (3,)
    found = list(nl.iter_attrs(raw, 24))
    assert len({type_ for type_, _, _ in found}) == len(found)
    return {type_: raw[start:end] for type_, start, end in found}


DATAPATH = r.DatapathReply(3, "ovs-bpf", (1, 2, 3, 4), (5, 6, 7), 0, 256)


def test_datapath() -> None:
    got = attributes(r.encode_datapath(HEADER, 1, DATAPATH), 0x20, 1, 2)
    assert got == {
        uapi.OVS_DP_ATTR_NAME: b"ovs-bpf\0",
        uapi.OVS_DP_ATTR_STATS: struct.pack("=4Q", 1, 2, 3, 4),
        uapi.OVS_DP_ATTR_MEGAFLOW_STATS:
            struct.pack("=QIIQQ", 5, 6, 0, 7, 0),
        uapi.OVS_DP_ATTR_USER_FEATURES: struct.pack("=I", 0),
        uapi.OVS_DP_ATTR_MASKS_CACHE_SIZE: struct.pack("=I", 256),
    }


@pytest.mark.parametrize(("features", "sent"), [(3, False), (8, True)])
def test_per_cpu_pids_go_with_their_feature(features: int,
                                            sent: bool) -> None:
    dp = replace(DATAPATH, user_features=features, per_cpu_pids=(8, 9))
    got = attributes(r.encode_datapath(HEADER, 3, dp), 0x20, 3, 2)
    assert (got.get(uapi.OVS_DP_ATTR_PER_CPU_PIDS)
            == struct.pack("=II", 8, 9)) is sent
    assert (uapi.OVS_DP_ATTR_PER_CPU_PIDS in got) is sent


VPORT = r.VportReply(3, 9, 1, "p0", 77, (1, 2, 3, 4, 5, 6, 7, 8), (10, 11),
                     (21, 22))


def test_vport() -> None:
    notification = r.ReplyHeader()
    got = attributes(r.encode_vport(notification, 2, VPORT), 0x21, 2, 1,
                     notification)
    assert got == {
        uapi.OVS_VPORT_ATTR_PORT_NO: struct.pack("=I", 9),
        uapi.OVS_VPORT_ATTR_TYPE: struct.pack("=I", 1),
        uapi.OVS_VPORT_ATTR_NAME: b"p0\0",
        uapi.OVS_VPORT_ATTR_IFINDEX: struct.pack("=I", 77),
        uapi.OVS_VPORT_ATTR_STATS: struct.pack("=8Q", *range(1, 9)),
        uapi.OVS_VPORT_ATTR_UPCALL_STATS: struct.pack(
            "=HHQHHQ", 12, 0, 10, 12, 1, 11),
        uapi.OVS_VPORT_ATTR_UPCALL_PID: struct.pack("=II", 21, 22),
    }


def test_vport_elsewhere_with_options() -> None:
    vport = replace(VPORT, options=nl.nla_u16(1, 4789), netnsid=-1)
    got = attributes(r.encode_vport(HEADER, 3, vport), 0x21, 3, 1)
    assert got[uapi.OVS_VPORT_ATTR_NETNSID] == struct.pack("=i", -1)
    assert got[uapi.OVS_VPORT_ATTR_OPTIONS] == nl.nla_u16(1, 4789)


KEY, MASK, ACTIONS = nl.nla_u32(3, 1), nl.nla_u32(3, 2), nl.nla_u32(1, 3)
UFID = bytes(range(16))
ALL = uapi.OVS_UFID_F_OMIT_KEY | uapi.OVS_UFID_F_OMIT_MASK \
    | uapi.OVS_UFID_F_OMIT_ACTIONS
A_KEY = {uapi.OVS_FLOW_ATTR_KEY: KEY}
A_MASK = {uapi.OVS_FLOW_ATTR_MASK: MASK}
A_ACTIONS = {uapi.OVS_FLOW_ATTR_ACTIONS: ACTIONS}
A_UFID = {uapi.OVS_FLOW_ATTR_UFID: UFID}


@pytest.mark.parametrize(("ufid", "flags", "sent"), [
    (UFID, 0, A_UFID | A_KEY | A_MASK | A_ACTIONS),
    (UFID, uapi.OVS_UFID_F_OMIT_KEY, A_UFID | A_MASK | A_ACTIONS),
    (UFID, uapi.OVS_UFID_F_OMIT_MASK, A_UFID | A_KEY | A_ACTIONS),
    (UFID, uapi.OVS_UFID_F_OMIT_ACTIONS, A_UFID | A_KEY | A_MASK),
    (UFID, ALL, A_UFID),
    (None, 0, A_KEY | A_MASK | A_ACTIONS),
    (None, ALL, A_KEY),
])
def test_flow_parts(ufid: bytes | None, flags: int,
                    sent: dict[int, bytes]) -> None:
    parts = r.flow_parts(KEY, MASK, ACTIONS, ufid)
    body = r.flow_body(parts, flags)
    raw = r.flow_head(HEADER, 3, 3)(len(body), (0, 0, 0, 0)) + body
    assert attributes(raw, 0x22, 3, 1) == sent


def test_flow_without_mask() -> None:
    body = r.flow_body(r.flow_parts(KEY, None, ACTIONS, None), 0)
    raw = r.flow_head(HEADER, 3, 3)(len(body), (0, 0, 0, 0)) + body
    assert attributes(raw, 0x22, 3, 1) == A_KEY | A_ACTIONS


@pytest.mark.parametrize(("tcp_flags", "sent"), [
    (0, None), (0x100, None), (0x112, b"\x12")])
def test_flow_statistics(tcp_flags: int, sent: bytes | None) -> None:
    body = r.flow_body(r.flow_parts(KEY, MASK, ACTIONS, UFID), ALL)
    raw = r.flow_head(HEADER, 1, 3)(
        len(body), (2**63, 2**64 - 1, 12345, tcp_flags)) + body
    expected = A_UFID | {
        uapi.OVS_FLOW_ATTR_USED: struct.pack("=Q", 12345),
        uapi.OVS_FLOW_ATTR_STATS: struct.pack("=QQ", 2**63, 2**64 - 1)}
    if sent is not None:
        expected[uapi.OVS_FLOW_ATTR_TCP_FLAGS] = sent
    assert attributes(raw, 0x22, 1, 1) == expected


@pytest.mark.parametrize("size", [14, 15, 16, 17, nl.NLA_PAYLOAD_MAX])
def test_miss(size: int) -> None:
    raw = r.encode_upcall(uapi.OVS_PACKET_CMD_MISS, 3, KEY, b"p" * size,
                          1 << 32 | 5)
    assert attributes(raw, 0x23, 1, 1, r.ReplyHeader()) == {
        uapi.OVS_PACKET_ATTR_KEY: KEY,
        uapi.OVS_PACKET_ATTR_HASH: struct.pack("=Q", 1 << 32 | 5),
        uapi.OVS_PACKET_ATTR_PACKET: b"p" * size,
    }


def test_action_upcall() -> None:
    raw = r.encode_upcall(uapi.OVS_PACKET_CMD_ACTION, 3, KEY, b"p" * 60, 0,
                          userdata=b"cookie!", egress_tun_key=MASK,
                          actions=ACTIONS, mru=1400, full_len=1500)
    assert attributes(raw, 0x23, 2, 1, r.ReplyHeader()) == {
        uapi.OVS_PACKET_ATTR_KEY: KEY,
        uapi.OVS_PACKET_ATTR_USERDATA: b"cookie!",
        uapi.OVS_PACKET_ATTR_EGRESS_TUN_KEY: MASK,
        uapi.OVS_PACKET_ATTR_ACTIONS: ACTIONS,
        uapi.OVS_PACKET_ATTR_MRU: struct.pack("=H", 1400),
        uapi.OVS_PACKET_ATTR_LEN: struct.pack("=I", 1500),
        uapi.OVS_PACKET_ATTR_HASH: struct.pack("=Q", 0),
        uapi.OVS_PACKET_ATTR_PACKET: b"p" * 60,
    }
