# SPDX-License-Identifier: Apache-2.0
"""Attributes of each family that are wrong: errno, text, nothing changed.

As Linux net/openvswitch/datapath.c and lib/nlattr.c: too short is ERANGE, and
so is a flag with a payload.  Stricter than those: too long, unknown, and what
only replies have is EINVAL.
"""

from __future__ import annotations

import struct
from errno import EINVAL, ERANGE

import keys as k
import pytest

from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import NLM_F_DUMP, nla, nla_string, nla_u32
from tests.fake_plane import FakeProvider, Peer

DP, VPORT, FLOW, PACKET, METER = (
    u.OVS_DATAPATH_ID, u.OVS_VPORT_ID, u.OVS_FLOW_ID, u.OVS_PACKET_ID,
    u.OVS_METER_ID)
UFID = bytes(range(16))
OUT = nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 1)
BAND = nla(0, nla_u32(u.OVS_BAND_ATTR_TYPE, 1)
           + nla_u32(u.OVS_BAND_ATTR_RATE, 5)
           + nla_u32(u.OVS_BAND_ATTR_BURST, 5))
NESTED = -1

Good = dict[int, bytes]

# family, command: attributes with which it would change something
GOOD: dict[tuple[int, int], Good] = {
    (DP, u.OVS_DP_CMD_NEW): {
        u.OVS_DP_ATTR_NAME: b"another\0", u.OVS_DP_ATTR_UPCALL_PID: bytes(4)},
    (DP, u.OVS_DP_CMD_SET): {
        u.OVS_DP_ATTR_NAME: b"dp\0",
        u.OVS_DP_ATTR_USER_FEATURES: struct.pack("=I", 1)},
    (DP, u.OVS_DP_CMD_DEL): {u.OVS_DP_ATTR_NAME: b"dp\0"},
    (VPORT, u.OVS_VPORT_CMD_NEW): {
        u.OVS_VPORT_ATTR_NAME: b"p2\0",
        u.OVS_VPORT_ATTR_TYPE: struct.pack("=I", u.OVS_VPORT_TYPE_NETDEV),
        u.OVS_VPORT_ATTR_UPCALL_PID: struct.pack("=I", 9)},
    (VPORT, u.OVS_VPORT_CMD_SET): {
        u.OVS_VPORT_ATTR_NAME: b"p1\0",
        u.OVS_VPORT_ATTR_UPCALL_PID: struct.pack("=I", 9)},
    (VPORT, u.OVS_VPORT_CMD_DEL): {u.OVS_VPORT_ATTR_NAME: b"p1\0"},
    (FLOW, u.OVS_FLOW_CMD_NEW): {
        u.OVS_FLOW_ATTR_KEY: k.KEYS["tcp"],
        u.OVS_FLOW_ATTR_MASK: k.ones(k.KEYS["tcp"]),
        u.OVS_FLOW_ATTR_ACTIONS: OUT},
    (FLOW, u.OVS_FLOW_CMD_SET): {
        u.OVS_FLOW_ATTR_UFID: UFID, u.OVS_FLOW_ATTR_KEY: k.KEYS["udp"],
        u.OVS_FLOW_ATTR_MASK: k.ones(k.KEYS["udp"]),
        u.OVS_FLOW_ATTR_ACTIONS: b""},
    (FLOW, u.OVS_FLOW_CMD_DEL): {u.OVS_FLOW_ATTR_UFID: UFID},
    (PACKET, u.OVS_PACKET_CMD_EXECUTE): {
        u.OVS_PACKET_ATTR_PACKET: k.DST + k.SRC + b"\x88\xcc" + bytes(50),
        u.OVS_PACKET_ATTR_KEY: k.KEYS["other type"],
        u.OVS_PACKET_ATTR_ACTIONS: OUT},
    (METER, u.OVS_METER_CMD_SET): {
        u.OVS_METER_ATTR_ID: struct.pack("=I", 2),
        u.OVS_METER_ATTR_BANDS: BAND},
}

# size of the payload of each attribute that requests may have; None: varies
SIZES: dict[int, dict[int, int | None]] = {
    DP: {u.OVS_DP_ATTR_NAME: None, u.OVS_DP_ATTR_UPCALL_PID: 4,
         u.OVS_DP_ATTR_USER_FEATURES: 4, u.OVS_DP_ATTR_MASKS_CACHE_SIZE: 4,
         u.OVS_DP_ATTR_PER_CPU_PIDS: None, u.OVS_DP_ATTR_IFINDEX: 4},
    VPORT: {u.OVS_VPORT_ATTR_PORT_NO: 4, u.OVS_VPORT_ATTR_TYPE: 4,
            u.OVS_VPORT_ATTR_NAME: None, u.OVS_VPORT_ATTR_OPTIONS: NESTED,
            u.OVS_VPORT_ATTR_UPCALL_PID: None,
            u.OVS_VPORT_ATTR_IFINDEX: 4, u.OVS_VPORT_ATTR_NETNSID: 4},
    FLOW: {u.OVS_FLOW_ATTR_KEY: NESTED, u.OVS_FLOW_ATTR_ACTIONS: NESTED,
           u.OVS_FLOW_ATTR_CLEAR: 0, u.OVS_FLOW_ATTR_MASK: NESTED,
           u.OVS_FLOW_ATTR_PROBE: 0, u.OVS_FLOW_ATTR_UFID: None,
           u.OVS_FLOW_ATTR_UFID_FLAGS: 4},
    PACKET: {u.OVS_PACKET_ATTR_PACKET: None, u.OVS_PACKET_ATTR_KEY: NESTED,
             u.OVS_PACKET_ATTR_ACTIONS: NESTED, u.OVS_PACKET_ATTR_PROBE: 0,
             u.OVS_PACKET_ATTR_MRU: 2, u.OVS_PACKET_ATTR_HASH: 8,
             u.OVS_PACKET_ATTR_UPCALL_PID: 4},
    METER: {u.OVS_METER_ATTR_ID: 4, u.OVS_METER_ATTR_KBPS: 0,
            u.OVS_METER_ATTR_STATS: 16, u.OVS_METER_ATTR_BANDS: NESTED,
            u.OVS_METER_ATTR_CLEAR: 0},
}
PREFIXES = {DP: "OVS_DP_ATTR_", VPORT: "OVS_VPORT_ATTR_",
            FLOW: "OVS_FLOW_ATTR_", PACKET: "OVS_PACKET_ATTR_",
            METER: "OVS_METER_ATTR_"}


def sizes_of(family: int, size: int | None) -> list[tuple[int, int]]:
    """Wrong sizes of a payload, and the errno of each."""
    if size is None:
        return []
    if size == NESTED:
        return [(n, ERANGE) for n in (1, 2, 3)]
    if size == 0:
        return [(1, ERANGE), (4, ERANGE)]
    return [(0, ERANGE), (size - 1, ERANGE), (size + 1, EINVAL),
            (2 * size, EINVAL)]


def cases() -> dict[str, tuple[int, int, bytes, int]]:
    """Family, command, attributes, errno."""
    found = {}
    for (family, cmd), good in GOOD.items():
        where = f"{u.FAMILIES[family]} {cmd}"
        known = SIZES[family]
        whole = b"".join(nla(kind, data) for kind, data in good.items())
        for kind, size in known.items():
            rest = b"".join(nla(other, data) for other, data in good.items()
                            if other != kind)
            for wrong, code in sizes_of(family, size):
                found[f"{where}: {wrong} bytes of {kind}"] = (
                    family, cmd, rest + nla(kind, b"\1" * wrong), code)
        last = max(value for name, value in vars(u).items()
                   if name.startswith(PREFIXES[family]))
        for kind in range(last + 4):
            if kind not in known:
                found[f"{where}: attribute {kind}"] = (
                    family, cmd, whole + nla(kind, bytes(4)), EINVAL)
        for name, more in {"stray byte": b"\0", "nla_len 3": b"\3\0\1\0",
                           "nla_len 0": bytes(4),
                           "nla_len 9": b"\x09\0\1\0abcd"}.items():
            found[f"{where}: {name}"] = family, cmd, whole + more, EINVAL
    return found


CASES = cases()


@pytest.fixture
def peer() -> Peer:
    """A datapath with a port and a flow."""
    made = Peer(FakeProvider())
    made.provider.ports.add_device("p1")
    made.provider.ports.add_device("p2")
    for family, cmd, attrs in (
            (DP, u.OVS_DP_CMD_NEW, (nla_string(u.OVS_DP_ATTR_NAME, "dp"),
                                    nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0))),
            (VPORT, u.OVS_VPORT_CMD_NEW, (
                nla_string(u.OVS_VPORT_ATTR_NAME, "p1"),
                nla_u32(u.OVS_VPORT_ATTR_TYPE, u.OVS_VPORT_TYPE_NETDEV),
                nla_u32(u.OVS_VPORT_ATTR_UPCALL_PID, 3))),
            (FLOW, u.OVS_FLOW_CMD_NEW, (
                nla(u.OVS_FLOW_ATTR_KEY, k.KEYS["udp"]),
                nla(u.OVS_FLOW_ATTR_MASK, k.ones(k.KEYS["udp"])),
                nla(u.OVS_FLOW_ATTR_ACTIONS, OUT),
                nla(u.OVS_FLOW_ATTR_UFID, UFID))),
            (METER, u.OVS_METER_CMD_SET, (
                nla_u32(u.OVS_METER_ATTR_ID, 1),
                nla(u.OVS_METER_ATTR_BANDS, BAND)))):
        made.ask(family, cmd, *attrs, flags=0x400)
    made.provider.events.clear()
    return made


def state(peer: Peer) -> list[object]:
    """All that can be asked, and what was told to others."""
    found: list[object] = [list(peer.provider.events)]
    for family, cmd in ((DP, u.OVS_DP_CMD_GET), (VPORT, u.OVS_VPORT_CMD_GET),
                        (FLOW, u.OVS_FLOW_CMD_GET)):
        found.append([message.raw[16:] for message
                      in peer.ask(family, cmd, flags=NLM_F_DUMP)])
    for meter in (1, 2):
        found.append([message.raw[16:] for message in peer.ask(
            METER, u.OVS_METER_CMD_GET, nla_u32(u.OVS_METER_ATTR_ID, meter))
            if message.type != 2])
    found += [len(dp.programs) for dp in peer.provider.dps]
    found += [len(plane.classifier) for plane in peer.provider.planes]
    found += [list(plane.executed) for plane in peer.provider.planes]
    return found


@pytest.mark.parametrize("name", CASES)
def test_refused(peer: Peer, name: str) -> None:
    family, cmd, attrs, code = CASES[name]
    before = state(peer)
    error, text = peer.do(family, cmd, attrs, flags=0x400)
    assert error == code, text
    assert text
    assert state(peer) == before


@pytest.mark.parametrize("request_", GOOD)
def test_good(peer: Peer, request_: tuple[int, int]) -> None:
    """So that what is refused is refused for what is wrong with it."""
    before = state(peer)
    replies = peer.ask(*request_, *(
        nla(kind, data) for kind, data in GOOD[request_].items()),
        flags=0x404)
    assert all(message.type != 2 or peer.result([message])[0] == 0
               for message in replies)
    assert state(peer) != before


def test_every_attribute_is_here() -> None:
    for family, prefix in PREFIXES.items():
        assert SIZES[family].keys() <= {
            value for name, value in vars(u).items()
            if name.startswith(prefix)}
