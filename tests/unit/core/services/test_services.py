# SPDX-License-Identifier: Apache-2.0
"""core.services: requests of four families against a plane in memory.

What is expected is what Linux net/openvswitch/datapath.c does."""

from __future__ import annotations

import errno
import struct
from itertools import count as counting
from typing import Any

import keys as k
import numpy as np
import pytest

from dpif_bpf import abi
from dpif_bpf.core import restore
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.plane import ANY_BRIDGE
from dpif_bpf.core.services.service import DUMP_BYTES
from dpif_bpf.errors import BackendError
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_ECHO,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    iter_attrs,
    iter_messages,
    nla,
    nla_flag,
    nla_string,
    nla_u32,
    nla_u32_array,
)
from tests.fake_plane import FakePlane, FakeProvider, Peer
from tests.faults import Faults

DP, VPORT, FLOW, PACKET = (u.OVS_DATAPATH_ID, u.OVS_VPORT_ID, u.OVS_FLOW_ID,
                           u.OVS_PACKET_ID)
FEATURES = u.OVS_DP_F_UNALIGNED | u.OVS_DP_F_DISPATCH_UPCALL_PER_CPU
HEADERS = 24
UFID = nla(u.OVS_FLOW_ATTR_UFID, bytes(range(16)))
OTHER_UFID = nla(u.OVS_FLOW_ATTR_UFID, bytes(range(1, 17)))
OUTPUT = nla(u.OVS_FLOW_ATTR_ACTIONS, nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2))
DROP = nla(u.OVS_FLOW_ATTR_ACTIONS, b"")


def eth_key(in_port: int, dst: bytes = bytes(6),
            eth_type: int = 0x88CC) -> bytes:
    """A key that any frame of an EtherType without more headers has."""
    return (nla_u32(u.OVS_KEY_ATTR_IN_PORT, in_port)
            + nla(u.OVS_KEY_ATTR_ETHERNET, bytes(6) + dst)
            + nla(u.OVS_KEY_ATTR_ETHERTYPE, struct.pack("!H", eth_type)))


def key(*args: object) -> bytes:
    return nla(u.OVS_FLOW_ATTR_KEY, eth_key(*args))  # type: ignore[arg-type]


def mask(dst: bytes = b"\xff" * 6) -> bytes:
    return nla(u.OVS_FLOW_ATTR_MASK,
               nla_u32(u.OVS_KEY_ATTR_IN_PORT, 0xFFFFFFFF)
               + nla(u.OVS_KEY_ATTR_ETHERNET, bytes(6) + dst)
               + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\xff\xff"))


def attrs(message: Message) -> dict[int, bytes]:
    return {kind: message.raw[start:stop]
            for kind, start, stop in iter_attrs(message.raw, HEADERS)}


@pytest.fixture
def peer() -> Peer:
    """A peer of a provider with a datapath and ports p1 (1) and p2 (2)."""
    peer = Peer(FakeProvider())
    assert peer.do(DP, u.OVS_DP_CMD_NEW,
                   nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"),
                   nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0),
                   nla_u32(u.OVS_DP_ATTR_USER_FEATURES, FEATURES)) == (
                       0, None)
    for name in ("p1", "p2"):
        peer.provider.ports.add_device(name)
        assert add_port(peer, name) == (0, None)
    return peer


def add_port(peer: Peer, name: str, *more: bytes,
             kind: int = u.OVS_VPORT_TYPE_NETDEV) -> tuple[int, str | None]:
    return peer.do(VPORT, u.OVS_VPORT_CMD_NEW,
                   nla_string(u.OVS_VPORT_ATTR_NAME, name),
                   nla_u32(u.OVS_VPORT_ATTR_TYPE, kind),
                   nla_u32_array(u.OVS_VPORT_ATTR_UPCALL_PID, (5,)), *more)


def the_dp(peer: Peer) -> Datapath:
    return peer.provider.dps[0]


def the_plane(peer: Peer) -> FakePlane:
    return peer.provider.planes[0]


def put(peer: Peer, *more: bytes, flags: int = NLM_F_CREATE,
        ) -> tuple[int, str | None]:
    return peer.do(FLOW, u.OVS_FLOW_CMD_NEW, *more, flags=flags)


def dump(peer: Peer, family: int, cmd: int,
         *more: bytes) -> list[dict[int, bytes]]:
    *replies, done = peer.ask(family, cmd, *more, flags=NLM_F_DUMP)
    assert done.type == NLMSG_DONE
    return [attrs(reply) for reply in replies]


# ovs_datapath

def test_unknown_feature_is_refused_and_nothing_is_made() -> None:
    peer = Peer(FakeProvider())
    error, text = peer.do(
        DP, u.OVS_DP_CMD_NEW, nla_string(u.OVS_DP_ATTR_NAME, "x"),
        nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0),
        nla_u32(u.OVS_DP_ATTR_USER_FEATURES, FEATURES | 1 << 31))
    assert error == errno.EOPNOTSUPP
    assert text is not None and "0x80000000" in text
    assert not peer.provider.dps


def test_set_of_unsupported_feature_keeps_the_old_ones(peer: Peer) -> None:
    error, _ = peer.do(
        DP, u.OVS_DP_CMD_SET, nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"),
        nla_u32(u.OVS_DP_ATTR_USER_FEATURES, u.OVS_DP_F_TC_RECIRC_SHARING))
    assert error == errno.EOPNOTSUPP
    assert the_dp(peer).user_features == FEATURES


def _cache(peer: Peer) -> int:
    (got,) = dump(peer, DP, u.OVS_DP_CMD_GET)
    size: int = struct.unpack("I", got[u.OVS_DP_ATTR_MASKS_CACHE_SIZE])[0]
    return size


def test_size_of_the_cache(peer: Peer) -> None:
    """As the kernel's: 0, or a power of two up to a limit."""
    def change(size: int) -> int:
        error, _ = peer.do(
            DP, u.OVS_DP_CMD_SET, nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"),
            nla_u32(u.OVS_DP_ATTR_USER_FEATURES, FEATURES),
            nla_u32(u.OVS_DP_ATTR_MASKS_CACHE_SIZE, size))
        return error

    assert _cache(peer) == 256
    for size in (0, 1, 256, u.MASKS_CACHE_SIZE_MAX):
        assert change(size) == 0
        assert _cache(peer) == size
        assert the_dp(peer).plane.classifier.cache == 4 * size
    assert change(11) == errno.EINVAL
    assert change(2 * u.MASKS_CACHE_SIZE_MAX) == errno.ERANGE
    assert _cache(peer) == u.MASKS_CACHE_SIZE_MAX
    peer.do(DP, u.OVS_DP_CMD_SET, nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"),
            nla_u32(u.OVS_DP_ATTR_USER_FEATURES, FEATURES))
    assert _cache(peer) == u.MASKS_CACHE_SIZE_MAX


def test_datapath_get_and_dump(peer: Peer) -> None:
    (reply,) = peer.ask(DP, u.OVS_DP_CMD_GET,
                        nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"), dp=0)
    got = attrs(reply)
    assert got[u.OVS_DP_ATTR_NAME] == b"ovs-bpf\0"
    assert struct.unpack("I", got[u.OVS_DP_ATTR_USER_FEATURES]) == (
        FEATURES,)
    assert dump(peer, DP, u.OVS_DP_CMD_GET) == [got]


def test_datapath_of_a_name_or_number_that_is_not_there(peer: Peer) -> None:
    for request in ((nla_string(u.OVS_DP_ATTR_NAME, "other"),), ()):
        assert peer.do(DP, u.OVS_DP_CMD_GET, *request,
                       dp=4711)[0] == errno.ENODEV


def test_datapath_del_takes_its_devices(peer: Peer) -> None:
    assert peer.do(DP, u.OVS_DP_CMD_DEL)[0] == 0
    assert not peer.provider.dps
    assert set(peer.provider.ports.devices) == {"p1", "p2"}
    assert not the_plane(peer).hooks


def test_families_without_an_answer(peer: Peer) -> None:
    assert peer.do(0x77, 1)[0] == errno.EOPNOTSUPP
    for family, request in (
            (DP, b""), (FLOW, UFID), (PACKET, b""),
            (VPORT, nla_string(u.OVS_VPORT_ATTR_NAME, "p1"))):
        assert peer.do(family, 99, request)[0] == errno.EOPNOTSUPP


# ovs_vport

def test_port_add_tells_the_group_and_hooks(peer: Peer) -> None:
    peer.provider.events.clear()
    peer.provider.ports.add_device("p3")
    (reply,) = peer.ask(
        VPORT, u.OVS_VPORT_CMD_NEW, nla_string(u.OVS_VPORT_ATTR_NAME, "p3"),
        nla_u32(u.OVS_VPORT_ATTR_TYPE, u.OVS_VPORT_TYPE_NETDEV),
        nla_u32_array(u.OVS_VPORT_ATTR_UPCALL_PID, (5, 6)),
        flags=NLM_F_ECHO)
    got = attrs(reply)
    assert struct.unpack("I", got[u.OVS_VPORT_ATTR_PORT_NO]) == (3,)
    assert got[u.OVS_VPORT_ATTR_UPCALL_PID] == struct.pack("2I", 5, 6)
    ((group, event),) = peer.provider.events
    assert group == u.OVS_VPORT_MCGROUP_ID
    assert event[HEADERS:] == reply.raw[HEADERS:]
    link = the_dp(peer).vports.by_no[3].link
    assert the_plane(peer).hooks[link.hook_ifindex] == ANY_BRIDGE
    assert the_plane(peer).ports[3].ifindex == link.hook_ifindex


@pytest.mark.parametrize("more, kind, error", [
    ((nla_u32(u.OVS_VPORT_ATTR_PORT_NO, 1),), 1, errno.EBUSY),
    ((nla_u32(u.OVS_VPORT_ATTR_PORT_NO, 65535),), 1, errno.EFBIG),
    ((nla_u32(u.OVS_VPORT_ATTR_IFINDEX, 5),), 1, errno.EOPNOTSUPP),
    ((nla(u.OVS_VPORT_ATTR_OPTIONS, nla_u32(1, 4789)),), 1, errno.EINVAL),
    ((), u.OVS_VPORT_TYPE_VXLAN, errno.EAFNOSUPPORT),
    ((), 0, errno.EAFNOSUPPORT),
])
def test_port_that_cannot_be_added(peer: Peer, more: tuple[bytes, ...],
                                   kind: int, error: int) -> None:
    peer.provider.ports.add_device("p3")
    before = dict(the_plane(peer).ports)
    assert add_port(peer, "p3", *more, kind=kind)[0] == error
    assert the_plane(peer).ports == before
    assert "p3" not in the_dp(peer).vports.by_name


def test_port_twice_and_port_of_no_device(peer: Peer) -> None:
    assert add_port(peer, "p1")[0] == errno.EEXIST
    assert add_port(peer, "p9")[0] == errno.ENODEV


def test_local_port_cannot_be_deleted(peer: Peer) -> None:
    assert peer.do(VPORT, u.OVS_VPORT_CMD_DEL,
                   nla_u32(u.OVS_VPORT_ATTR_PORT_NO, 0))[0] == errno.EINVAL


def test_port_del(peer: Peer) -> None:
    index = the_dp(peer).vports.by_no[1].link.hook_ifindex
    assert peer.do(VPORT, u.OVS_VPORT_CMD_DEL,
                   nla_u32(u.OVS_VPORT_ATTR_PORT_NO, 1))[0] == 0
    assert index not in the_plane(peer).hooks
    assert 1 not in the_plane(peer).ports
    assert peer.do(VPORT, u.OVS_VPORT_CMD_GET,
                   nla_string(u.OVS_VPORT_ATTR_NAME, "p1"))[0] == (
                       errno.ENODEV)


def test_port_whose_device_goes(peer: Peer) -> None:
    peer.provider.ports.vanish("p1")
    peer.provider.events.clear()
    for event in peer.provider.ports.run():
        port = the_dp(peer).ports.link_changed(event)
        assert port is not None and port.name == "p1"
    assert "p1" not in the_dp(peer).vports.by_name
    assert 1 not in the_plane(peer).ports


def test_other_end_of_an_internal_port(peer: Peer) -> None:
    """It is hooked as well, as long as it can be."""
    dp, plane = the_dp(peer), the_plane(peer)
    local = dp.vports.by_no[0].link
    assert plane.ends == {local.hook_ifindex: local.ifindex}
    peer.provider.ports.change(local.name, netnsid=3)
    for event in peer.provider.ports.run():
        dp.ports.link_changed(event)
    assert plane.ends == {local.hook_ifindex: None}


def test_other_end_that_cannot_be_hooked_at_once(peer: Peer) -> None:
    dp, plane = the_dp(peer), the_plane(peer)
    local = dp.vports.by_no[0].link
    faults = Faults()
    faults.watch(plane, "attach_end")
    peer.provider.ports.change(local.name, netnsid=3)
    (event,) = peer.provider.ports.run()
    faults.arm(1, errno.EIO)
    with pytest.raises(BackendError):
        dp.ports.link_changed(event)
    assert plane.ends == {local.hook_ifindex: local.ifindex}
    dp.ports.mend()
    assert plane.ends == {local.hook_ifindex: None}


def test_port_set_pids(peer: Peer) -> None:
    assert peer.do(VPORT, u.OVS_VPORT_CMD_SET,
                   nla_string(u.OVS_VPORT_ATTR_NAME, "p1"),
                   nla_u32_array(u.OVS_VPORT_ATTR_UPCALL_PID,
                                 (8, 9)))[0] == 0
    assert the_dp(peer).vports.by_no[1].upcall_pids == (8, 9)


# ovs_flow

def test_flow_put_get_del(peer: Peer) -> None:
    assert put(peer, key(1), mask(), OUTPUT, UFID) == (0, None)
    assert put(peer, key(1), mask(), OUTPUT, UFID)[0] == errno.EEXIST
    (got,) = dump(peer, FLOW, u.OVS_FLOW_CMD_GET)
    assert got[u.OVS_FLOW_ATTR_KEY] == eth_key(1)
    assert got[u.OVS_FLOW_ATTR_UFID] == bytes(range(16))
    assert u.OVS_FLOW_ATTR_STATS not in got
    (terse,) = dump(peer, FLOW, u.OVS_FLOW_CMD_GET, nla_u32(
        u.OVS_FLOW_ATTR_UFID_FLAGS, u.OVS_UFID_F_OMIT_KEY
        | u.OVS_UFID_F_OMIT_MASK | u.OVS_UFID_F_OMIT_ACTIONS))
    assert set(terse) == {u.OVS_FLOW_ATTR_UFID}
    assert peer.do(FLOW, u.OVS_FLOW_CMD_DEL, UFID)[0] == 0
    assert peer.do(FLOW, u.OVS_FLOW_CMD_DEL, UFID)[0] == errno.ENOENT
    assert dump(peer, FLOW, u.OVS_FLOW_CMD_GET) == []


def test_flows_are_dumped_in_datagrams_that_peers_can_take(
        peer: Peer) -> None:
    """Of short flows, of long ones after them, and of one that is longer
    than a datagram should be."""
    wanted = []
    for number, count in enumerate([1] * 200 + [80] * 200 + [5000, 1, 1]):
        match = key(1, number.to_bytes(6, "big"))
        acts = nla(u.OVS_FLOW_ATTR_ACTIONS,
                   nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2) * count)
        assert put(peer, match, mask(b"\xff" * 6), acts)[0] == 0
        wanted.append(eth_key(1, number.to_bytes(6, "big")))
    *datagrams, _done = peer.router.serve(
        peer.message(FLOW, u.OVS_FLOW_CMD_GET, flags=NLM_F_DUMP))
    parts = [list(iter_messages(datagram)) for datagram in datagrams]
    assert [attrs(message)[u.OVS_FLOW_ATTR_KEY]
            for part in parts for message in part] == wanted
    long = [len(part) for datagram, part in zip(datagrams, parts, strict=True)
            if len(datagram) > DUMP_BYTES]
    assert long == [1]
    assert max(map(len, parts)) > 50


def test_flow_without_ufid_is_named_by_its_key(peer: Peer) -> None:
    full = key(1, b"\2\0\0\0\0\1")
    assert put(peer, full, mask(bytes(6)), OUTPUT)[0] == 0
    assert peer.do(FLOW, u.OVS_FLOW_CMD_GET,
                   key(1, b"\2\0\0\0\0\2"))[0] == errno.ENOENT
    reply, ack = peer.ask(FLOW, u.OVS_FLOW_CMD_GET, full, flags=NLM_F_ACK)
    assert ack.type == NLMSG_ERROR
    assert attrs(reply)[u.OVS_FLOW_ATTR_KEY] == eth_key(1, b"\2\0\0\0\0\1")
    assert peer.do(FLOW, u.OVS_FLOW_CMD_DEL, full)[0] == 0


def test_flow_new_without_create_changes_actions(peer: Peer) -> None:
    assert put(peer, key(1), mask(), OUTPUT, UFID)[0] == 0
    (flow,) = the_dp(peer).flows.snapshot()
    before = flow.program.pc
    assert put(peer, key(1), mask(), DROP, UFID, flags=0)[0] == 0
    assert flow.program.pc != before
    (flow_id,) = flow.places.values()
    assert the_plane(peer).classifier.acts(flow_id) == flow.program.pc
    (got,) = dump(peer, FLOW, u.OVS_FLOW_CMD_GET)
    assert got[u.OVS_FLOW_ATTR_ACTIONS] == b""


def test_flow_in_the_way_of_another(peer: Peer) -> None:
    """One whose packets an installed flow takes is refused."""
    assert put(peer, key(1), mask(bytes(6)), OUTPUT, UFID)[0] == 0
    assert put(peer, key(1, b"\2\0\0\0\0\1"), mask(), OUTPUT,
               OTHER_UFID)[0] == errno.EEXIST
    assert put(peer, key(1, b"\2\0\0\0\0\1"), mask(), OUTPUT, OTHER_UFID,
               flags=0)[0] == errno.ENOENT
    assert len(the_dp(peer).flows) == 1


def test_flow_set_and_clear(peer: Peer) -> None:
    put(peer, key(1), mask(), OUTPUT, UFID)
    (flow,) = the_dp(peer).flows.snapshot()
    (flow_id,) = flow.places.values()
    row = np.frombuffer(  # as the programs count
        the_plane(peer).maps["ovs_flow_stats"].view, np.uint64).reshape(
            the_plane(peer).stats._all.shape)
    row[0, flow_id] = (3, 300, 5_000_000, 0x12)
    row[1, flow_id] = (4, 400, 9_000_000, 0x01)
    (got,) = dump(peer, FLOW, u.OVS_FLOW_CMD_GET)
    assert struct.unpack("2Q", got[u.OVS_FLOW_ATTR_STATS]) == (7, 700)
    assert struct.unpack("Q", got[u.OVS_FLOW_ATTR_USED]) == (9,)
    assert got[u.OVS_FLOW_ATTR_TCP_FLAGS] == b"\x13"
    assert peer.do(FLOW, u.OVS_FLOW_CMD_SET, UFID,
                   nla_flag(u.OVS_FLOW_ATTR_CLEAR))[0] == 0
    assert the_dp(peer).flows.stats([flow]) == [(0, 0, 0, 0)]
    row[0, flow_id, 0] += 1
    assert the_dp(peer).flows.stats([flow])[0][0] == 1


def test_flow_flush(peer: Peer) -> None:
    for port in (1, 2):
        put(peer, key(port), mask(), OUTPUT)
    assert peer.do(FLOW, u.OVS_FLOW_CMD_DEL)[0] == 0
    assert not len(the_dp(peer).flows)
    assert not len(the_plane(peer).classifier)


@pytest.mark.parametrize("request_, error", [
    ((key(1), OUTPUT, nla(u.OVS_FLOW_ATTR_MASK, b"\0")), errno.ERANGE),
    ((key(1), mask(), nla(u.OVS_FLOW_ATTR_ACTIONS, nla_u32(99, 1)), UFID),
     errno.EINVAL),
    ((key(1), mask(), UFID), errno.EINVAL),
    ((mask(), OUTPUT, UFID), errno.EINVAL),
    ((key(70000), mask(), OUTPUT, UFID), errno.EINVAL),
])
def test_flow_that_is_refused_leaves_nothing(
        peer: Peer, request_: tuple[bytes, ...], error: int) -> None:
    got, text = put(peer, *request_)
    assert got == error and text
    assert not len(the_dp(peer).flows)
    assert not len(the_plane(peer).classifier)
    assert not len(the_dp(peer).programs)


def test_unknown_datapath(peer: Peer) -> None:
    for family, cmd, request in (
            (FLOW, u.OVS_FLOW_CMD_DEL, UFID),
            (VPORT, u.OVS_VPORT_CMD_GET,
             nla_u32(u.OVS_VPORT_ATTR_PORT_NO, 1))):
        assert peer.do(family, cmd, request, dp=4711)[0] == errno.ENODEV


def test_many_requests_in_a_datagram(peer: Peer) -> None:
    """A bad one among them costs the others nothing."""
    datagram = b"".join((
        peer.message(FLOW, u.OVS_FLOW_CMD_NEW, key(1), mask(), OUTPUT, UFID,
                     flags=NLM_F_CREATE | NLM_F_ACK),
        peer.message(FLOW, u.OVS_FLOW_CMD_NEW, key(1), OUTPUT,
                     nla_u32(77, 1), flags=NLM_F_ACK),
        peer.message(FLOW, u.OVS_FLOW_CMD_NEW, key(2), mask(), OUTPUT,
                     OTHER_UFID, flags=NLM_F_CREATE | NLM_F_ACK)))
    replies = peer.send(datagram)
    assert [peer.result([r])[0] for r in replies] == [0, errno.EINVAL, 0]
    assert [r.seq for r in replies] == [peer.seq - 2, peer.seq - 1, peer.seq]
    assert peer.send(b"\x01\x02\x03") == []


# Bridges

def test_flows_follow_their_port_to_its_bridge(peer: Peer) -> None:
    dp, plane = the_dp(peer), the_plane(peer)
    put(peer, key(1), mask(), OUTPUT, UFID)
    (flow,) = dp.flows.snapshot()
    dp.bridges.set({"br0": frozenset({"p1"})})
    bridge = dp.bridges.by_name["br0"]
    assert list(flow.places) == [bridge]
    hook = dp.vports.by_no[1].link.hook_ifindex
    assert plane.hooks[hook] == bridge
    assert plane.ports[1].bridge == bridge
    packet = flow.match.key
    assert plane.classifier.lookup(bridge, packet) is not None
    # Until a grace period has passed both places have it.
    assert plane.classifier.lookup(ANY_BRIDGE, packet) is not None
    plane.settle()
    assert plane.classifier.lookup(ANY_BRIDGE, packet) is None
    dp.bridges.set({})
    assert list(flow.places) == [ANY_BRIDGE]
    assert plane.hooks[hook] == ANY_BRIDGE
    assert plane.bridges == {ANY_BRIDGE}


def test_flow_for_any_port_is_in_every_bridge(peer: Peer) -> None:
    dp, plane = the_dp(peer), the_plane(peer)
    dp.bridges.set({"br0": frozenset({"p1"})})
    any_port = nla(u.OVS_FLOW_ATTR_MASK, nla(
        u.OVS_KEY_ATTR_ETHERTYPE, b"\xff\xff"))
    assert put(peer, key(1), any_port, OUTPUT, UFID) == (0, None)
    (flow,) = dp.flows.snapshot()
    assert set(flow.places) == {ANY_BRIDGE, dp.bridges.by_name["br0"]}
    dp.bridges.set({"br1": frozenset({"p2"})})
    assert set(flow.places) == {ANY_BRIDGE, dp.bridges.by_name["br1"]}
    assert peer.do(FLOW, u.OVS_FLOW_CMD_DEL, UFID)[0] == 0
    assert not len(plane.classifier)


def no_room_for(patch: pytest.MonkeyPatch, plane: FakePlane,
                number: int) -> None:
    """Lets the classifier refuse a leaf, by its number from now on, and
    those after it."""
    real, placed = plane.classifier._place, counting(1)

    def place(*args: Any) -> None:
        if next(placed) >= number:
            raise BackendError(errno.ENOSPC, "no room")
        real(*args)

    patch.setattr(plane.classifier, "_place", place)


def test_port_whose_flows_find_no_room(
        peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays in its bridge with all of its flows, and goes later."""
    dp, plane = the_dp(peer), the_plane(peer)
    for ufid, dst in ((UFID, b"\1"), (OTHER_UFID, b"\2")):
        put(peer, key(1, bytes(5) + dst), mask(), OUTPUT, ufid)
    with monkeypatch.context() as patch, pytest.raises(BackendError):
        no_room_for(patch, plane, 2)
        dp.bridges.set({"br0": frozenset({"p1"})})
    plane.settle()
    bridge = dp.bridges.by_name["br0"]
    for flow in dp.flows.snapshot():
        assert list(flow.places) == [ANY_BRIDGE]
        assert plane.classifier.lookup(ANY_BRIDGE, flow.match.key) is not None
        assert plane.classifier.lookup(bridge, flow.match.key) is None
    hook = dp.vports.by_no[1].link.hook_ifindex
    assert plane.hooks[hook] == plane.ports[1].bridge == ANY_BRIDGE
    dp.bridges.set({"br0": frozenset({"p1"})})
    assert {tuple(flow.places) for flow in dp.flows.snapshot()} == {(bridge,)}


# Room

def numbered(peer: Peer, i: int) -> int:
    """Puts a flow of a number; its errno."""
    return put(peer, key(1, i.to_bytes(6, "big")), mask(), OUTPUT,
               nla(u.OVS_FLOW_ATTR_UFID, i.to_bytes(16, "big")))[0]


def test_full_table(peer: Peer) -> None:
    """As many flows as there may be, and not one more, are kept for the next
    provider; what has been deleted leaves room at once."""
    dp = the_dp(peer)
    count = 0
    while not (error := numbered(peer, count)):
        count += 1
    assert error == errno.ENOSPC and count == the_plane(peer).max_flows
    assert peer.provider.reports == [
        f"{dp.name}: there are {count} flows, as many as there may be"
        " (No space left on device)"]
    assert len(restore.read(the_plane(peer).nlmem).flows) == count
    assert {f.body for f in dp.flows.snapshot()} == {
        f.message.raw[HEADERS:]
        for _, f in restore.read(the_plane(peer).nlmem).flows}
    peer.do(FLOW, u.OVS_FLOW_CMD_DEL)
    for i in range(count, 2 * count):
        assert numbered(peer, i) == 0
    assert numbered(peer, 0) == errno.ENOSPC


def test_actions_that_find_no_room(peer: Peer) -> None:
    """The old ones stay, in every bridge and for the next provider."""
    dp, plane = the_dp(peer), the_plane(peer)
    dp.bridges.set({"br0": frozenset({"p1"})})
    any_port = nla(u.OVS_FLOW_ATTR_MASK, nla(
        u.OVS_KEY_ATTR_ETHERTYPE, b"\xff\xff"))
    put(peer, key(1), any_port, OUTPUT, UFID)
    (flow,) = dp.flows.snapshot()
    body, programs = flow.body, len(dp.programs)
    many = nla(u.OVS_FLOW_ATTR_ACTIONS,
               nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2) * 4000)
    arena = dp.records._arena
    taken = []		# but for one that has these actions
    while True:
        try:
            taken.append(arena.alloc(8192))
        except BackendError:
            break
    while arena.capacity - arena.used > 4096 + 1024:
        arena.alloc(256)
    assert put(peer, key(1), any_port, many, UFID,
               flags=0)[0] == errno.ENOSPC
    assert (flow.body, len(dp.programs)) == (body, programs)
    assert {plane.classifier.acts(i) for i in flow.places.values()} == {
        flow.program.pc}
    assert {i for i, _ in restore.read(plane.nlmem).flows} == set(
        flow.places.values())
    assert {f.actions for _, f in restore.read(plane.nlmem).flows} == {
        OUTPUT[4:]}
    for offset in taken:
        arena.free_now(offset, 8192)
    assert put(peer, key(1), any_port, many, UFID, flags=0)[0] == 0


# What outlives the provider

def test_replay_gives_the_same_datapath(peer: Peer) -> None:
    dp = the_dp(peer)
    dp.bridges.set({"br0": frozenset({"p1"})})
    put(peer, key(1), mask(), OUTPUT, UFID)
    put(peer, key(2), mask(), DROP)
    put(peer, key(3), mask(), DROP)
    peer.do(FLOW, u.OVS_FLOW_CMD_DEL, key(3))
    kept = restore.read(the_plane(peer).nlmem)
    assert kept.datapath.name == "ovs-bpf"
    assert kept.datapath.user_features == FEATURES
    assert {(p.port_no, p.name, p.upcall_pids) for p in kept.ports} == {
        (0, "ovs-bpf", (0,)), (1, "p1", (5,)), (2, "p2", (5,))}
    plane = FakePlane()
    again = Datapath("ovs-bpf", kept.number, plane,
                     peer.provider.ports.restarted(), lambda: 0,
                     dp.samples)
    again.change(kept.datapath)
    for request in kept.ports:
        again.ports.hook(again.ports.adopt(request))
    for _, flow in kept.flows:
        again.flows.put(flow)
    assert again.dp_ifindex == dp.dp_ifindex
    before = {f.body for f in dp.flows.snapshot()}
    assert {f.body for f in again.flows.snapshot()} == before
    assert len(before) == 2


# ovs_packet

def test_execute(peer: Peer) -> None:
    frame = b"\2" * 12 + b"\x88\xcc" + bytes(50)
    in_port = nla(u.OVS_PACKET_ATTR_KEY, nla_u32(u.OVS_KEY_ATTR_IN_PORT, 1))
    actions = nla(u.OVS_PACKET_ATTR_ACTIONS,
                  nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2))
    packet = nla(u.OVS_PACKET_ATTR_PACKET, frame)
    assert peer.do(PACKET, u.OVS_PACKET_CMD_EXECUTE, packet, in_port,
                   actions) == (0, None)
    ((_, bridge, image, sent),) = the_plane(peer).executed
    assert (bridge, sent) == (ANY_BRIDGE, frame)
    assert image[:4] == struct.pack("I", 1)
    bad = nla(u.OVS_PACKET_ATTR_ACTIONS, nla_u32(99, 2))
    assert peer.do(PACKET, u.OVS_PACKET_CMD_EXECUTE, packet, in_port,
                   bad)[0] == errno.EINVAL
    assert len(the_plane(peer).executed) == 1


def test_execute_of_what_is_tracked(peer: Peer) -> None:
    """The packet's key has what it says; an original tuple has to be of the
    packet's family, and no neighbour discovery has one."""
    ether = bytes(12)
    udp = ether + b"\x08\0\x45" + bytes(8) + b"\x11" + bytes(18)
    udp6 = (ether + b"\x86\xdd\x60" + bytes(5) + b"\x11" + bytes(33)
            + bytes(8))
    nd = udp6[:20] + b"\x3a" + udp6[21:54] + b"\x87" + bytes(23)
    ping = nd[:54] + b"\x80" + nd[55:]
    key = k.join(k.in_port(), k.ct())
    for frame, tuples, error in (
            (udp, b"", 0), (udp, k.ct_tuple(), 0), (udp6, k.ct_tuple6(), 0),
            (ping, k.ct_tuple6(), 0), (udp, k.ct_tuple6(), errno.EINVAL),
            (udp6, k.ct_tuple(), errno.EINVAL),
            (nd, k.ct_tuple6(), errno.EINVAL), (nd, b"", 0),
            (udp, k.ct_tuple() + k.ct_tuple6(), errno.EINVAL)):
        before = len(the_plane(peer).executed)
        assert peer.do(
            PACKET, u.OVS_PACKET_CMD_EXECUTE,
            nla(u.OVS_PACKET_ATTR_PACKET, frame),
            nla(u.OVS_PACKET_ATTR_KEY, key + tuples),
            nla(u.OVS_PACKET_ATTR_ACTIONS, nla_u32(
                u.OVS_ACTION_ATTR_OUTPUT, 2)))[0] == error
        if not error:
            (*_, image, _) = the_plane(peer).executed[before]
            assert image[abi.KEY["ct_state"].offset] == 0x21
            assert image[abi.KEY["ct_labels"].slice] == bytes(range(16))
            assert any(image[abi.KEY["ct_orig_ipv6_src"].slice]) == bool(
                tuples)


def test_execute_of_layer_3(peer: Peer) -> None:
    """The packet is given the room of an Ethernet header, and its type."""
    data = bytes.fromhex("45") + bytes(19)
    key = nla(u.OVS_PACKET_ATTR_KEY, nla_u32(u.OVS_KEY_ATTR_IN_PORT, 1)
              + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\x08\0"))
    packet = nla(u.OVS_PACKET_ATTR_PACKET, data)
    push = nla(u.OVS_ACTION_ATTR_PUSH_ETH, bytes(12))
    out = nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2)
    assert peer.do(PACKET, u.OVS_PACKET_CMD_EXECUTE, packet, key, nla(
        u.OVS_PACKET_ATTR_ACTIONS, push + out)) == (0, None)
    ((_, _, image, sent),) = the_plane(peer).executed
    assert image[abi.KEY["mac_proto"].offset] == abi.OVS_MAC_PROTO_NONE
    assert sent == bytes(12) + b"\x08\0" + data
    assert peer.do(PACKET, u.OVS_PACKET_CMD_EXECUTE, packet, key, nla(
        u.OVS_PACKET_ATTR_ACTIONS, nla(u.OVS_ACTION_ATTR_POP_ETH, b"")
        + out))[0] == errno.EINVAL
