# SPDX-License-Identifier: Apache-2.0
"""core.services: operations that there are not, and what nobody expected.

What generic netlink answers: Linux net/netlink/genetlink.c
(``genl_family_rcv_msg``) and af_netlink.c (``netlink_rcv_skb``).
"""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Iterator

import pytest

from dpif_bpf.core.actions import compiler
from dpif_bpf.core.services import ovs_flow
from dpif_bpf.core.services.families import make_router
from dpif_bpf.core.services.ovs_datapath import DatapathService
from dpif_bpf.core.services.router import REPORT_INTERVAL, Router
from dpif_bpf.core.services.service import Call
from dpif_bpf.errors import InternalError, RequestError, decoder
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import (
    NETLINK_GENERIC,
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    build,
    iter_messages,
    nla,
    nla_string,
    nla_u32,
    parse_error,
)
from tests.fake_plane import FakeProvider, Peer

DP, VPORT, FLOW, PACKET, METER = (
    u.OVS_DATAPATH_ID, u.OVS_VPORT_ID, u.OVS_FLOW_ID, u.OVS_PACKET_ID,
    u.OVS_METER_ID)
DUMPS = {(DP, u.OVS_DP_CMD_GET), (VPORT, u.OVS_VPORT_CMD_GET),
         (FLOW, u.OVS_FLOW_CMD_GET)}
COMMANDS = {DP: 4, VPORT: 4, FLOW: 4, PACKET: 3, METER: 4}
"""The largest command of each family; those of PACKET below are no
requests."""
KEY = nla(u.OVS_FLOW_ATTR_KEY, nla(u.OVS_KEY_ATTR_ETHERNET, bytes(12)))
DROP = nla(u.OVS_FLOW_ATTR_ACTIONS, b"")


class Reporter:
    """What was reported, with the exception that was handled."""

    def __init__(self) -> None:
        self.said: list[tuple[str, BaseException | None]] = []

    def __call__(self, text: str) -> None:
        self.said.append((text, sys.exc_info()[1]))


class Asker(Peer):
    """A peer of a router that reports, at a time of the test's."""

    def __init__(self) -> None:
        super().__init__(FakeProvider())
        self.now = 1000
        self.reporter = Reporter()
        self.router = make_router(self.provider, lambda: self.now,
                                     self.reporter)


@pytest.fixture
def peer() -> Asker:
    peer = Asker()
    assert peer.do(DP, u.OVS_DP_CMD_NEW, nla_string(u.OVS_DP_ATTR_NAME, "dp"),
                   nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0)) == (0, None)
    return peer


def counted(peer: Asker) -> tuple[int, int]:
    counters = peer.router.counters
    return counters["netlink_malformed"], counters["netlink_internal_error"]


def still_serves(peer: Asker) -> None:
    (reply,) = peer.ask(DP, u.OVS_DP_CMD_GET)
    assert reply.type == DP


def put(peer: Asker) -> tuple[int, str | None]:
    return peer.do(FLOW, u.OVS_FLOW_CMD_NEW, KEY, DROP)


# Operations that there are not

@pytest.mark.parametrize("family", COMMANDS)
@pytest.mark.parametrize("flags", [NLM_F_DUMP, NLM_F_DUMP | NLM_F_ACK])
def test_dump_of_every_command(peer: Asker, family: int, flags: int) -> None:
    """There are three; a request that says nothing else has an answer to
    each, and the names of ports are not needed for it."""
    for cmd in range(COMMANDS[family] + 3):
        *_, last = peer.ask(family, cmd, flags=flags)
        if (family, cmd) in DUMPS:
            assert last.type == NLMSG_DONE
        else:
            assert parse_error(last)[0] == errno.EOPNOTSUPP
        still_serves(peer)
    assert counted(peer) == (0, 0)


@pytest.mark.parametrize("cmd", [u.OVS_VPORT_CMD_SET, u.OVS_VPORT_CMD_DEL])
def test_dump_of_a_port_that_is_not_named(peer: Asker, cmd: int) -> None:
    (reply,) = peer.ask(VPORT, cmd, flags=NLM_F_DUMP)
    assert parse_error(reply)[:2] == (
        errno.EOPNOTSUPP, f"command {cmd} of ovs_vport has no dump")


@pytest.mark.parametrize("family", COMMANDS)
def test_commands_are_looked_up_before_attributes_are_read(
        peer: Asker, family: int) -> None:
    junk = b"\xff" * 9
    for cmd in (0, COMMANDS[family] + 1, 255):
        assert peer.do(family, cmd, junk)[0] == errno.EOPNOTSUPP


@pytest.mark.parametrize("family", COMMANDS)
@pytest.mark.parametrize("flags", [0, NLM_F_ACK, NLM_F_DUMP])
def test_without_room_for_headers(peer: Asker, family: int,
                                  flags: int) -> None:
    for size in range(8):
        (reply,) = peer.send(build(family, NLM_F_REQUEST | flags, 5, 6,
                                   bytes((3,) * size)))
        assert parse_error(reply)[0] == errno.EINVAL
        assert (reply.seq, reply.pid) == (5, 6)


@pytest.mark.parametrize(("type_", "flags"), [
    (DP, 0), (FLOW, NLM_F_DUMP), (0x77, 0), (1, NLM_F_REQUEST),
    (NLMSG_ERROR, NLM_F_REQUEST), (NLMSG_DONE, NLM_F_REQUEST | NLM_F_DUMP)])
def test_what_asks_for_nothing(peer: Asker, type_: int, flags: int) -> None:
    """It is acknowledged if that is asked for, and passed over."""
    assert not peer.send(build(type_, flags, 5, 6, b""))
    (ack,) = peer.send(build(type_, flags | NLM_F_ACK, 5, 6, b""))
    assert parse_error(ack)[0] == 0 and ack.seq == 5


# Services of other protocols

class Echo:
    """A service of NETLINK_NETFILTER, whose dumps are told by the message
    type, as those of ctnetlink are."""

    protocol = NETLINK_NETFILTER
    types = (DP, 0x401)

    def find(self, message: Message) -> Call:
        if message.type == DP:
            raise RequestError(errno.EINVAL, "not this one")
        return Call("echo", self.serve, dump=not message.flags & NLM_F_ACK)

    def serve(self, message: Message) -> Iterator[bytes]:
        yield message.raw


def test_services_are_found_by_protocol_and_type() -> None:
    generic = make_router(FakeProvider(), lambda: 0)
    both = Router([Echo(), DatapathService(FakeProvider(), lambda: 0)],
                  lambda: 0)
    asked = build(0x401, NLM_F_REQUEST, 1, 2, b"1234")
    (reply,) = generic.serve(asked, NETLINK_NETFILTER)
    assert parse_error(*iter_messages(reply))[:2] == (
        errno.EOPNOTSUPP, "message type 0x401 is not supported")
    (reply,) = generic.serve(build(DP, NLM_F_REQUEST, 1, 2, bytes(8)),
                             NETLINK_NETFILTER)
    assert parse_error(*iter_messages(reply))[:2] == (
        errno.EOPNOTSUPP, f"message type {DP:#x} is not supported")

    reply, done = both.serve(asked, NETLINK_NETFILTER)
    (message,) = iter_messages(done)
    assert reply == asked and message.type == NLMSG_DONE
    asked = build(0x401, NLM_F_REQUEST | NLM_F_ACK, 1, 2, b"1234")
    reply, ack = both.serve(asked, NETLINK_NETFILTER)
    assert reply == asked and parse_error(*iter_messages(ack))[0] == 0
    for protocol, error in ((NETLINK_NETFILTER, errno.EINVAL),
                            (NETLINK_GENERIC, errno.EOPNOTSUPP)):
        (reply,) = both.serve(build(DP, NLM_F_REQUEST, 1, 2, bytes(8)),
                              protocol)
        assert parse_error(*iter_messages(reply))[0] == error


@pytest.mark.parametrize("family", u.FAMILIES)
def test_what_is_not_supported_names_its_family(peer: Asker,
                                                family: int) -> None:
    error, text = peer.do(family, 0)
    assert error == errno.EOPNOTSUPP
    assert text is not None and u.FAMILIES[family] in text


# What nobody expected

def test_finding_fails() -> None:
    """Nothing is half changed by then."""
    class Broken(Echo):
        def find(self, message: Message) -> Call:
            raise KeyError(message.type)

    router = Router([Broken()], lambda: 0)
    (reply,) = router.serve(build(0x401, NLM_F_REQUEST, 1, 2, b""),
                            NETLINK_NETFILTER)
    assert parse_error(*iter_messages(reply))[:2] == (
        errno.EIO, "a message of type 0x401 failed unexpectedly")
    assert router.broken is None


def test_reading_fails(peer: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """EINVAL, counted and told; nothing has changed."""
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "_list", lambda _: [][0])
        error, text = put(peer)
    assert (error, text) == (errno.EINVAL, "the request cannot be read")
    assert counted(peer) == (1, 0)
    assert peer.router.broken is None
    ((told, raised),) = peer.reporter.said
    assert "IndexError" in told
    assert raised is not None and isinstance(raised.__cause__, IndexError)
    still_serves(peer)
    assert put(peer) == (0, None)


@pytest.mark.parametrize("raised", [
    KeyError(3), struct.error("H format"), RecursionError(), MemoryError(),
    AssertionError(), UnicodeDecodeError("utf-8", b"", 0, 0, "")])
def test_serving_fails(peer: Asker, monkeypatch: pytest.MonkeyPatch,
                       raised: Exception) -> None:
    """An errno, and the daemon learns that state may be half changed; the
    next one is served, also of the same datagram."""
    def fail(*_: object) -> None:
        raise raised

    flows = peer.provider.dps[0].flows
    with monkeypatch.context() as patch:
        patch.setattr(flows, "put", fail)
        first, second = peer.send(
            peer.message(FLOW, u.OVS_FLOW_CMD_NEW, KEY, DROP)
            + peer.message(DP, u.OVS_DP_CMD_GET))
    assert parse_error(first)[0] == errno.EIO
    assert second.type == DP
    assert counted(peer) == (0, 1)
    broken = peer.router.broken
    assert isinstance(broken, InternalError) and broken.__cause__ is raised
    assert "command 1 of ovs_flow" in broken.text
    assert put(peer) == (0, None)


def test_the_first_failure_is_kept(peer: Asker,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = iter((KeyError(1), KeyError(2)))

    def fail(*_: object) -> None:
        raise next(reasons)

    monkeypatch.setattr(peer.provider.dps[0].flows, "put", fail)
    for _ in range(2):
        assert put(peer)[0] == errno.EIO
    broken = peer.router.broken
    assert broken is not None and broken.__cause__ is not None
    assert broken.__cause__.args == (1,)
    assert counted(peer) == (0, 2)


@pytest.mark.parametrize("flags", [0, NLM_F_DUMP])
def test_devices_fail_while_one_asks(
        peer: Asker, monkeypatch: pytest.MonkeyPatch, flags: int) -> None:
    """What has happened to them is acted upon, whatever is asked."""
    def changes(_self: object) -> list[object]:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(type(peer.provider), "changes", changes)
    (got,) = peer.ask(VPORT, u.OVS_VPORT_CMD_GET, nla_u32(
        u.OVS_VPORT_ATTR_PORT_NO, 0), flags=flags)
    assert parse_error(got)[0] == errno.EIO
    broken = peer.router.broken
    assert isinstance(broken, InternalError)
    assert isinstance(broken.__cause__, ZeroDivisionError)


def test_asking_fails(peer: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes nothing leaves nothing half changed: no restart.  A dump
    may have begun."""
    monkeypatch.setattr(peer.provider.dps[0].vports, "by_no",
                        {1: None} | peer.provider.dps[0].vports.by_no)
    assert put(peer) == (0, None)
    (got,) = peer.ask(VPORT, u.OVS_VPORT_CMD_GET, flags=NLM_F_DUMP)
    assert parse_error(got)[0] == errno.EIO

    def stats(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ovs_flow, "DUMP_FLOWS", 1)
    for number in range(2):
        attr = nla(u.OVS_KEY_ATTR_ETHERNET, bytes((1, number)) + bytes(10))
        assert peer.do(FLOW, u.OVS_FLOW_CMD_NEW, nla(
            u.OVS_FLOW_ATTR_KEY, attr), DROP)[0] == 0
    replies = peer.router.serve(
        peer.message(FLOW, u.OVS_FLOW_CMD_GET, flags=NLM_F_DUMP))
    next(replies)
    monkeypatch.setattr(peer.provider.dps[0].flows, "stats", stats)
    (last,) = replies
    assert parse_error(Message(2, 0x300, 0, 0, last))[0] == errno.EIO
    assert counted(peer) == (0, 2)
    assert peer.router.broken is None


def test_failures_are_told_now_and_then(
        peer: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_list", lambda _: [][0])
    for wait in (0, 1, REPORT_INTERVAL - 2, 1, 1):
        peer.now += wait
        put(peer)
    assert len(peer.reporter.said) == 2
    assert counted(peer) == (5, 0)


def test_decoder_lets_errors_pass() -> None:
    @decoder
    def read(value: int, *, more: int = 0) -> int:
        if value:
            raise RequestError(errno.ERANGE, "too large")
        return more

    assert read(0, more=3) == 3
    with pytest.raises(RequestError) as info:
        read(1)
    assert info.value.errno == errno.ERANGE
