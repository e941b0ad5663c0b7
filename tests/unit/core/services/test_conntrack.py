# SPDX-License-Identifier: Apache-2.0
"""Connections, timeout policies and limits, as OVS's second instance of
netlink-conntrack.c asks for them."""

from __future__ import annotations

import errno
from dataclasses import replace

import ct_limits
import ct_requests as r
import ct_timeouts as t
import pytest
from ct_entries import decode_entry, entries, entry

from dpif_bpf.core.conntrack import table as module
from dpif_bpf.core.services.service import DUMP_BYTES, LATER
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.ct_entry import CtEntry
from dpif_bpf.wire.ct_settings import SET_MAX, SUBSYS
from dpif_bpf.wire.ct_tuple import AF_INET
from dpif_bpf.wire.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    iter_messages,
    nla,
    nla_string,
    nla_u32,
    parse_error,
)
from dpif_bpf.wire.nfnetlink import ATTRS_POS, nla_be16, nla_be32
from tests.fake_plane import FakeProvider, Peer

TIMEOUT = nf.NFNL_SUBSYS_CTNETLINK_TIMEOUT


def add_dp(peer: Peer, name: str = "ovs-bpf") -> None:
    assert peer.do(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_NEW,
                   nla_string(u.OVS_DP_ATTR_NAME, name),
                   nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0)) == (0, None)


@pytest.fixture
def peer() -> Peer:
    """Of a datapath with a connection of each kind."""
    peer = Peer(FakeProvider())
    add_dp(peer)
    tracker = peer.provider.planes[0].tracker
    for one in entries().values():
        tracker.add(replace(one, counters=((1, 2), (3, 4)), start=1 << 60))
    return peer


def datagrams(peer: Peer, cmd: int, family: int = 0, payload: bytes = b"",
              flags: int = NLM_F_ACK, subsys: int = r.CT) -> list[bytes]:
    return list(peer.router.serve(r.message(
        cmd, family, payload, flags, subsys=subsys).raw, NETLINK_NETFILTER))


def ask(peer: Peer, cmd: int, family: int = 0, payload: bytes = b"",
        flags: int = NLM_F_ACK, subsys: int = r.CT) -> list[Message]:
    """Replies; an error is raised as what it says."""
    found = [message for one in datagrams(peer, cmd, family, payload, flags,
                                          subsys)
             for message in iter_messages(one)]
    last = found.pop()
    if last.type == NLMSG_ERROR:
        code, text = parse_error(last)[:2]
        if code:
            assert text
            raise OSError(code, text)
    else:
        assert last.type == NLMSG_DONE
        assert flags & NLM_F_DUMP
    return found


def dump(peer: Peer, payload: bytes = b"") -> list[CtEntry]:
    return [decode_entry(one.raw[ATTRS_POS:], one.raw[16]) for one in ask(
        peer, r.GET, 0, payload, NLM_F_DUMP)]


def test_a_dump(peer: Peer) -> None:
    assert len(dump(peer)) == len(entries())
    assert {one.zone for one in dump(peer, nla_be16(nf.CTA_ZONE, 7))} == {7}
    one = entries()["udp"]
    (found,) = ask(peer, r.GET, AF_INET, r.name(one.orig, 0))
    assert decode_entry(found.raw[ATTRS_POS:], AF_INET).orig == one.orig
    ask(peer, r.DELETE, AF_INET, r.name(one.orig, 0))
    for cmd in (r.GET, r.DELETE):
        with pytest.raises(OSError) as caught:
            ask(peer, cmd, AF_INET, r.name(one.orig, 0))
        assert caught.value.errno == errno.ENOENT
    ask(peer, r.DELETE, 0, r.mark(0xdeadbeef))
    assert len(dump(peer)) == len(entries()) - 2
    ask(peer, r.DELETE)
    assert dump(peer) == []


def test_others_are_served_meanwhile(
        peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long dump, one that finds little, and a long deletion."""
    monkeypatch.setattr(module, "SLICE", 100)
    monkeypatch.setattr(module, "SCAN", 200)
    tracker = peer.provider.planes[0].tracker
    for port in range(1000):
        tracker.add(replace(entry(17, 1, port), counters=((1, 2), (3, 4)),
                            start=1 << 60))
    parts = datagrams(peer, r.GET, flags=NLM_F_DUMP)
    assert parts.count(LATER) >= 10
    assert max(map(len, parts)) <= DUMP_BYTES
    assert max(map(len, parts)) > DUMP_BYTES // 2
    parts = datagrams(peer, r.GET, 0, nla_be16(nf.CTA_ZONE, 7), NLM_F_DUMP)
    assert parts.count(LATER) >= 5
    assert len(parts) - parts.count(LATER) == 2
    parts = datagrams(peer, r.DELETE, 0, r.mark(0))
    assert parts.count(LATER) >= 10
    assert [one.zone for one in dump(peer)] == [7]


def test_who_changes_something(peer: Peer) -> None:
    """What fails unexpectedly and has changed nothing ends nothing."""
    table = peer.provider.tracker
    assert table is not None
    for cmd, flags in ((r.GET, NLM_F_DUMP),
                       (nf.IPCTNL_MSG_CT_GET_STATS, 0)):
        peer.provider.tracker = 5  # type: ignore[assignment]
        with pytest.raises(OSError):
            ask(peer, cmd, flags=flags)
        assert peer.router.broken is None
    with pytest.raises(OSError):
        ask(peer, r.DELETE)
    assert peer.router.broken is not None


def test_what_there_is_not(peer: Peer) -> None:
    for cmd, code in ((r.NEW, errno.EOPNOTSUPP), (8, errno.EINVAL),
                      (255, errno.EINVAL)):
        with pytest.raises(OSError) as caught:
            ask(peer, cmd)
        assert caught.value.errno == code
    short = r.message(r.GET).raw[:16]
    (reply,) = peer.router.serve(b"\x10" + short[1:], NETLINK_NETFILTER)
    assert parse_error(*iter_messages(reply))[0] == errno.EINVAL
    with pytest.raises(OSError) as caught:
        ask(peer, 9, subsys=TIMEOUT)
    assert caught.value.errno == errno.EINVAL


def test_numbers(peer: Peer) -> None:
    (found,) = ask(peer, nf.IPCTNL_MSG_CT_GET_STATS)
    values = [int.from_bytes(found.raw[at:at + 4], "big")
              for at in (ATTRS_POS + 4, ATTRS_POS + 12)]
    assert values == [len(entries()), 4096]
    assert len(ask(peer, nf.IPCTNL_MSG_CT_GET_STATS_CPU,
                   flags=NLM_F_DUMP)) == 2
    assert ask(peer, nf.IPCTNL_MSG_CT_GET_UNCONFIRMED,
               flags=NLM_F_DUMP) == []


def test_how_many_there_may_be(peer: Peer) -> None:
    def most(payload: bytes) -> None:
        ask(peer, SET_MAX, 0, payload, subsys=SUBSYS)

    table = peer.provider.tracker.table
    most(nla_be32(2, 77))
    assert table.most() == 77
    for payload, code in ((b"", errno.EINVAL), (nla(2, b"\1"), errno.ERANGE),
                          (nla_be32(2, 1 << 30), errno.EINVAL),
                          (nla_be32(1, 5), errno.EINVAL)):
        with pytest.raises(OSError) as caught:
            most(payload)
        assert caught.value.errno == code
    with pytest.raises(OSError) as caught:
        ask(peer, 1, 0, nla_be32(2, 5), subsys=SUBSYS)
    assert caught.value.errno == errno.EINVAL
    assert table.most() == 77
    most(nla_be32(2, 0))
    assert table.most() == 4096 + 15


def test_policies(peer: Peer) -> None:
    dp = peer.provider.dps[0]
    for name, proto in (("a", 6), ("b", 17)):
        ask(peer, t.NEW, 0, t.policy(name, proto, t1=5), t.OVS | NLM_F_ACK,
            TIMEOUT)
    assert len(ask(peer, t.GET, flags=NLM_F_DUMP, subsys=TIMEOUT)) == 2
    held = dp.timeouts.hold("a", AF_INET, 6)
    assert held is not None
    with pytest.raises(OSError) as caught:
        ask(peer, t.DELETE, 0, t.name("a"), subsys=TIMEOUT)
    assert caught.value.errno == errno.EBUSY
    (found,) = ask(peer, t.GET, 0, t.name("a"), subsys=TIMEOUT)
    assert b"\0\0\0\2" in found.raw
    with pytest.raises(OSError, match=r"policy \\udcff") as caught:
        ask(peer, t.GET, 0, nla(nf.CTA_TIMEOUT_NAME, b"\xff\0"),
            subsys=TIMEOUT)
    assert caught.value.errno == errno.ENOENT
    # Others still have the table, and nobody what was of this datapath.
    add_dp(peer, "other")
    other = peer.provider.dps[1]
    assert other.timeouts.hold("b", AF_INET, 17) is not None
    peer.provider.remove(dp)
    ask(peer, t.DELETE, 0, t.name("a"), subsys=TIMEOUT)
    with pytest.raises(OSError) as caught:
        ask(peer, t.DELETE, 0, t.name("b"), subsys=TIMEOUT)
    assert caught.value.errno == errno.EBUSY


def test_limits(peer: Peer) -> None:
    (reply,) = peer.send(ct_limits.message(
        ct_limits.SET, ct_limits.zone_limits((-1, 5), (7, 9))).raw)
    assert reply.type == u.OVS_CT_LIMIT_ID
    (reply,) = peer.send(ct_limits.message(ct_limits.GET, b"").raw)
    assert [*u.OVS_ZONE_LIMIT.iter_unpack(reply.raw[28:])] == [
        (-1, 5, 0), (7, 9, 1)]
    (reply,) = peer.send(ct_limits.message(
        ct_limits.DEL, ct_limits.zone_limits((7, 0))).raw)
    zones = peer.provider.planes[0].tracker.words["ovs_ct_zones"]
    assert zones[15] == 5


def test_without_a_datapath() -> None:
    peer = Peer(FakeProvider())
    for cmd, subsys in ((r.GET, r.CT), (t.GET, TIMEOUT)):
        with pytest.raises(OSError) as caught:
            ask(peer, cmd, flags=NLM_F_DUMP, subsys=subsys)
        assert caught.value.errno == errno.ENODEV
    (reply,) = peer.send(ct_limits.message(ct_limits.GET, b"").raw)
    assert parse_error(reply)[0] == errno.ENODEV
