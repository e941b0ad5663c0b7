# SPDX-License-Identifier: Apache-2.0
"""wire.messages: requests of the four families."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest

from dpif_bpf.errors import RequestError
from dpif_bpf.wire import messages as m
from dpif_bpf.wire import netlink as nl
from dpif_bpf.wire import uapi

UFID = bytes(range(16))
PACKET = b"\2" * 14


def request(family: int, cmd: int, *attrs: bytes, flags: int = 5,
            version: int = 1, dp_ifindex: int = 3) -> nl.Message:
    raw = nl.build(family, flags, 11, 22,
                   nl.GENLMSGHDR.pack(cmd, version, 0)
                   + uapi.OVS_HEADER.pack(dp_ifindex) + b"".join(attrs))
    (message,) = nl.iter_messages(raw)
    return message


def datapath(cmd: int, *attrs: bytes, flags: int = 5) -> m.DatapathRequest:
    return m.decode_datapath(request(uapi.OVS_DATAPATH_ID, cmd, *attrs,
                                     flags=flags, version=2))


def vport(cmd: int, *attrs: bytes, flags: int = 5) -> m.VportRequest:
    return m.decode_vport(request(uapi.OVS_VPORT_ID, cmd, *attrs,
                                  flags=flags))


def flow(cmd: int, *attrs: bytes, flags: int = 5) -> m.FlowRequest:
    return m.decode_flow(request(uapi.OVS_FLOW_ID, cmd, *attrs, flags=flags))


def packet(cmd: int, *attrs: bytes, flags: int = 5) -> m.PacketRequest:
    return m.decode_packet(request(uapi.OVS_PACKET_ID, cmd, *attrs,
                                   flags=flags))


def test_datapath_new() -> None:
    got = datapath(
        uapi.OVS_DP_CMD_NEW,
        nl.nla_string(uapi.OVS_DP_ATTR_NAME, "ovs-bpf"),
        nl.nla_u32(uapi.OVS_DP_ATTR_UPCALL_PID, 0),
        nl.nla_u32(uapi.OVS_DP_ATTR_USER_FEATURES, 0x8000000b),
        nl.nla_u32_array(uapi.OVS_DP_ATTR_PER_CPU_PIDS, (4, 5)),
        nl.nla_u32(uapi.OVS_DP_ATTR_MASKS_CACHE_SIZE, 256),
        nl.nla_u32(uapi.OVS_DP_ATTR_IFINDEX, 77))
    assert got == m.DatapathRequest(
        got.message, uapi.OVS_DP_CMD_NEW, 2, 3, "ovs-bpf", 0, 0x8000000b,
        (4, 5), 256, 77)
    assert (got.message.seq, got.message.pid) == (11, 22)


def test_datapath_get_and_dump() -> None:
    got = datapath(uapi.OVS_DP_CMD_GET, flags=nl.NLM_F_DUMP | 1)
    assert got.message.is_dump
    assert got == m.DatapathRequest(got.message, uapi.OVS_DP_CMD_GET, 2, 3)


def test_vport_new() -> None:
    got = vport(
        uapi.OVS_VPORT_CMD_NEW,
        nl.nla_u32(uapi.OVS_VPORT_ATTR_PORT_NO, 9),
        nl.nla_u32(uapi.OVS_VPORT_ATTR_TYPE, 4),
        nl.nla_string(uapi.OVS_VPORT_ATTR_NAME, "vxlan_sys_4789"),
        nl.nla_u32_array(uapi.OVS_VPORT_ATTR_UPCALL_PID, (1, 2, 3)),
        nl.nla(uapi.OVS_VPORT_ATTR_OPTIONS, nl.nla_u16(1, 4789)),
        nl.nla_u32(uapi.OVS_VPORT_ATTR_IFINDEX, 6),
        nl.nla_u32(uapi.OVS_VPORT_ATTR_NETNSID, 8))
    assert got == m.VportRequest(
        got.message, uapi.OVS_VPORT_CMD_NEW, 3, 9, 4, "vxlan_sys_4789",
        nl.nla_u16(1, 4789), (1, 2, 3), 6, 8)


def test_vport_dump_needs_no_port() -> None:
    assert vport(uapi.OVS_VPORT_CMD_GET, flags=nl.NLM_F_DUMP).port_no is None


def test_flow_new() -> None:
    key, mask, actions = nl.nla_u32(3, 1), nl.nla_u32(3, 2), nl.nla_u32(1, 3)
    got = flow(
        uapi.OVS_FLOW_CMD_NEW,
        nl.nla(uapi.OVS_FLOW_ATTR_UFID, UFID),
        nl.nla(uapi.OVS_FLOW_ATTR_KEY, key),
        nl.nla(uapi.OVS_FLOW_ATTR_MASK, mask),
        nl.nla(uapi.OVS_FLOW_ATTR_ACTIONS, actions),
        nl.nla_u32(uapi.OVS_FLOW_ATTR_UFID_FLAGS, 7),
        nl.nla_flag(uapi.OVS_FLOW_ATTR_CLEAR),
        nl.nla_flag(uapi.OVS_FLOW_ATTR_PROBE))
    assert got == m.FlowRequest(
        got.message, uapi.OVS_FLOW_CMD_NEW, 3, key, mask, actions, UFID, 7,
        True, True, got.key_pos, got.mask_pos, got.actions_pos)
    raw = got.message.raw
    assert raw[got.key_pos:][:8] == key
    assert raw[got.mask_pos:][:8] == mask
    assert raw[got.actions_pos:][:8] == actions


def test_flow_delete_all_and_dump_need_nothing() -> None:
    assert flow(uapi.OVS_FLOW_CMD_DEL).key is None
    assert flow(uapi.OVS_FLOW_CMD_GET, flags=nl.NLM_F_DUMP).ufid is None


def test_flow_by_ufid() -> None:
    got = flow(uapi.OVS_FLOW_CMD_GET, nl.nla(uapi.OVS_FLOW_ATTR_UFID, b"u"))
    assert (got.ufid, got.key, got.ufid_flags) == (b"u", None, 0)


def test_execute() -> None:
    key, actions = nl.nla_u32(3, 1), nl.nla_u32(1, 3)
    got = packet(
        uapi.OVS_PACKET_CMD_EXECUTE,
        nl.nla(uapi.OVS_PACKET_ATTR_PACKET, PACKET),
        nl.nla(uapi.OVS_PACKET_ATTR_KEY, key),
        nl.nla(uapi.OVS_PACKET_ATTR_ACTIONS, actions),
        nl.nla_flag(uapi.OVS_PACKET_ATTR_PROBE),
        nl.nla_u16(uapi.OVS_PACKET_ATTR_MRU, 1400),
        nl.nla_u64(uapi.OVS_PACKET_ATTR_HASH, 1 << 33 | 5),
        nl.nla_u32(uapi.OVS_PACKET_ATTR_UPCALL_PID, 6))
    assert got == m.PacketRequest(
        got.message, 3, PACKET, key, actions, True, 1400, 1 << 33 | 5, 6,
        got.key_pos, got.actions_pos)
    assert got.message.raw[got.key_pos:][:8] == key
    assert got.message.raw[got.actions_pos:][:8] == actions


def test_execute_with_the_least() -> None:
    got = packet(uapi.OVS_PACKET_CMD_EXECUTE,
                 nl.nla(uapi.OVS_PACKET_ATTR_PACKET, PACKET),
                 nl.nla(uapi.OVS_PACKET_ATTR_KEY, b""),
                 nl.nla(uapi.OVS_PACKET_ATTR_ACTIONS, b""))
    assert (got.key, got.actions, got.probe, got.mru, got.hash,
            got.upcall_pid) == (b"", b"", False, 0, None, 0)


Decoder = Callable[..., object]
DP_NAME = nl.nla_string(uapi.OVS_DP_ATTR_NAME, "dp")
VP_NAME = nl.nla_string(uapi.OVS_VPORT_ATTR_NAME, "p0")
VP_TYPE = nl.nla_u32(uapi.OVS_VPORT_ATTR_TYPE, 1)
VP_PIDS = nl.nla_u32(uapi.OVS_VPORT_ATTR_UPCALL_PID, 0)
KEY = nl.nla(uapi.OVS_FLOW_ATTR_KEY, b"")
ACTIONS = nl.nla(uapi.OVS_FLOW_ATTR_ACTIONS, b"")
P_PACKET = nl.nla(uapi.OVS_PACKET_ATTR_PACKET, PACKET)
P_KEY = nl.nla(uapi.OVS_PACKET_ATTR_KEY, b"")
P_ACTIONS = nl.nla(uapi.OVS_PACKET_ATTR_ACTIONS, b"")

# decoder, cmd, attributes, errno, text, offset from the first attribute
REFUSED: list[tuple[Decoder, int, list[bytes], int, str, int | None]] = [
    (datapath, 1, [DP_NAME], errno.EINVAL,
     "OVS_DP_ATTR_UPCALL_PID is missing", None),
    (datapath, 1, [nl.nla_u32(2, 0)], errno.EINVAL,
     "OVS_DP_ATTR_NAME is missing", None),
    (datapath, 3, [nl.nla(1, b"dp")], errno.EINVAL,
     "OVS_DP_ATTR_NAME has no final NUL", 0),
    (datapath, 3, [nl.nla_string(1, "d" * 16)], errno.ERANGE,
     "OVS_DP_ATTR_NAME has 16 characters", 0),
    (datapath, 3, [DP_NAME, nl.nla_u16(2, 0)], errno.ERANGE,
     "OVS_DP_ATTR_UPCALL_PID has 2 bytes", 8),
    (datapath, 4, [nl.nla_u64(5, 0)], errno.EINVAL,
     "OVS_DP_ATTR_USER_FEATURES has 8 bytes", 0),
    (datapath, 4, [nl.nla(8, b"")], errno.EINVAL,
     "OVS_DP_ATTR_PER_CPU_PIDS has 0 bytes", 0),
    (datapath, 4, [nl.nla(8, b"12345")], errno.EINVAL,
     "OVS_DP_ATTR_PER_CPU_PIDS has 5 bytes", 0),
    (datapath, 4, [nl.nla_u32(7, 4097)], errno.ERANGE,
     "OVS_DP_ATTR_MASKS_CACHE_SIZE", 0),
    (datapath, 4, [nl.nla_u32(7, 3)], errno.EINVAL,
     "OVS_DP_ATTR_MASKS_CACHE_SIZE", 0),
    (datapath, 1, [nl.nla_u32(9, 1 << 31)], errno.ERANGE,
     "OVS_DP_ATTR_IFINDEX is negative", 0),
    (datapath, 3, [nl.nla(3, b"\0" * 32)], errno.EINVAL,
     "attribute type 3", 0),
    (vport, 1, [VP_TYPE, VP_PIDS], errno.EINVAL,
     "OVS_VPORT_ATTR_NAME is missing", None),
    (vport, 1, [VP_NAME, VP_PIDS], errno.EINVAL,
     "OVS_VPORT_ATTR_TYPE is missing", None),
    (vport, 1, [VP_NAME, VP_TYPE], errno.EINVAL,
     "OVS_VPORT_ATTR_UPCALL_PID is missing", None),
    (vport, 1, [VP_NAME, VP_TYPE, nl.nla(5, b"")], errno.EINVAL,
     "OVS_VPORT_ATTR_UPCALL_PID has 0 bytes", 16),
    (vport, 3, [nl.nla_u32(1, 65535)], errno.EFBIG,
     "OVS_VPORT_ATTR_PORT_NO 65535", 0),
    (vport, 3, [], errno.EINVAL, "neither OVS_VPORT_ATTR_NAME nor", None),
    (vport, 2, [], errno.EINVAL, "neither OVS_VPORT_ATTR_NAME nor", None),
    (vport, 3, [nl.nla_string(3, "p" * 16)], errno.ERANGE,
     "OVS_VPORT_ATTR_NAME has 16 characters", 0),
    (vport, 4, [VP_NAME, nl.nla_s32(8, -1)], errno.ERANGE,
     "OVS_VPORT_ATTR_IFINDEX is negative", 8),
    (vport, 4, [VP_NAME, nl.nla(6, b"\0" * 64)], errno.EINVAL,
     "attribute type 6", 8),
    (flow, 1, [KEY], errno.EINVAL, "OVS_FLOW_ATTR_ACTIONS is missing", None),
    (flow, 1, [ACTIONS], errno.EINVAL, "OVS_FLOW_ATTR_KEY is missing", None),
    (flow, 3, [], errno.EINVAL, "neither OVS_FLOW_ATTR_KEY nor", None),
    (flow, 4, [ACTIONS], errno.EINVAL, "neither OVS_FLOW_ATTR_KEY", None),
    (flow, 4, [nl.nla(9, UFID), ACTIONS], errno.EINVAL,
     "OVS_FLOW_ATTR_ACTIONS without OVS_FLOW_ATTR_KEY", 20),
    (flow, 3, [nl.nla(9, b"")], errno.ERANGE,
     "OVS_FLOW_ATTR_UFID has 0 bytes", 0),
    (flow, 3, [nl.nla(9, UFID + b"x")], errno.EINVAL,
     "OVS_FLOW_ATTR_UFID has 17 bytes", 0),
    (flow, 3, [KEY, nl.nla_u32(10, 8)], errno.EINVAL,
     "OVS_FLOW_ATTR_UFID_FLAGS has unknown bits 0x8", 4),
    (flow, 4, [KEY, nl.nla_u64(5, 8)], errno.EINVAL,
     "attribute type 5", 4),
    (flow, 4, [KEY, nl.nla_u8(6, 1)], errno.ERANGE,
     "OVS_FLOW_ATTR_CLEAR has 1 bytes", 4),
    (packet, 3, [P_KEY, P_ACTIONS], errno.EINVAL,
     "OVS_PACKET_ATTR_PACKET is missing", None),
    (packet, 3, [P_PACKET, P_ACTIONS], errno.EINVAL,
     "OVS_PACKET_ATTR_KEY is missing", None),
    (packet, 3, [P_PACKET, P_KEY], errno.EINVAL,
     "OVS_PACKET_ATTR_ACTIONS is missing", None),
    (packet, 3, [nl.nla(1, b"p" * 13)], errno.ERANGE,
     "OVS_PACKET_ATTR_PACKET has 13 bytes", 0),
    (packet, 3, [P_KEY, nl.nla_u32(9, 1400)], errno.EINVAL,
     "OVS_PACKET_ATTR_MRU has 4 bytes", 4),
    (packet, 3, [P_KEY, nl.nla_u32(11, 1400)], errno.ERANGE,
     "OVS_PACKET_ATTR_HASH has 4 bytes", 4),
    (packet, 3, [P_KEY, nl.nla(4, b"cookie")], errno.EINVAL,
     "attribute type 4", 4),
]


@pytest.mark.parametrize(
    ("decode", "cmd", "attrs", "code", "text", "offset"), REFUSED)
def test_refused(decode: Decoder, cmd: int, attrs: list[bytes], code: int,
                 text: str, offset: int | None) -> None:
    with pytest.raises(RequestError) as info:
        decode(cmd, *attrs)
    assert info.value.errno == code
    assert text in info.value.text
    assert info.value.offset == (None if offset is None else 24 + offset)


@pytest.mark.parametrize("decode", [
    m.decode_datapath, m.decode_vport, m.decode_flow, m.decode_packet])
def test_short_headers(decode: Callable[[nl.Message], object]) -> None:
    (message,) = nl.iter_messages(
        nl.build(0x20, 1, 1, 1, struct.pack("=BBHHB", 1, 1, 0, 0, 0)))
    with pytest.raises(RequestError) as info:
        decode(message)
    assert info.value.errno == errno.EINVAL
