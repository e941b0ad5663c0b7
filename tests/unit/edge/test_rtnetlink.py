# SPDX-License-Identifier: Apache-2.0
"""Answers of the kernel that are no plain answers (edge.ports.rtnetlink)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from pyroute2.netlink.exceptions import (
    NetlinkDecodeError,
    NetlinkDumpInterrupted,
    NetlinkError,
)

from dpif_bpf.edge.ports import rtnetlink
from dpif_bpf.edge.ports.rtnetlink import TRIES, LinkMonitor, Rtnl, perform
from dpif_bpf.errors import BackendError
from dpif_bpf.wire import rtnl as wire
from dpif_bpf.wire.netlink import (
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSGHDR,
    build,
    nla_string,
)

LOOPBACK = 1


class Kernel:
    """A netlink socket whose answers a test gives, in the place of Rtnl's.

    :param answers: sequence number → the datagrams that answer a request,
        one for each
    """

    def __init__(self, *answers: Callable[[int], list[bytes]]) -> None:
        self._answers = list(answers)
        self._waiting: list[bytes] = []
        self.asked = 0

    def send(self, request: bytes) -> None:
        self.asked += 1
        seq = NLMSGHDR.unpack_from(request)[3]
        self._waiting += self._answers.pop(0)(seq)

    def recv(self, _size: int, flags: int) -> bytes:
        assert flags == socket.MSG_DONTWAIT
        if not self._waiting:
            raise BlockingIOError(errno.EAGAIN, "nothing there")
        return self._waiting.pop(0)

    def close(self) -> None:
        pass


def device(seq: int, index: int, name: str, flags: int = 0) -> bytes:
    return build(wire.RTM_NEWLINK, flags, seq, 0, struct.pack(
        "=BxHiII", 0, 1, index, 0, 0) + nla_string(wire.IFLA_IFNAME, name))


def error(seq: int, code: int) -> bytes:
    return build(NLMSG_ERROR, 0, seq, 0, struct.pack("=i", -code) + bytes(16))


def done(seq: int, flags: int = 0, code: int = 0) -> bytes:
    return build(NLMSG_DONE, flags, seq, 0, struct.pack("=i", -code))


@pytest.fixture
def rtnl() -> Iterator[Rtnl]:
    made = Rtnl()
    yield made
    made.close()


def scripted(rtnl: Rtnl, *answers: Callable[[int], list[bytes]]) -> Kernel:
    kernel = Kernel(*answers)
    rtnl._sock.close()
    rtnl._sock = kernel  # type: ignore[assignment]
    return kernel


def test_stale_answers_are_passed_over(rtnl: Rtnl) -> None:
    """Of a request, and of a dump that nobody read to its end."""
    rtnl._sock.send(wire.get_link(4711, LOOPBACK))
    rtnl._sock.send(wire.dump_links(4712))
    assert rtnl.find(index=999999) is None
    rtnl._sock.send(wire.get_link(4713, 999999))
    info = rtnl.find(index=LOOPBACK)
    assert info is not None and info.name == "lo"
    rtnl._sock.send(wire.dump_links(4714))
    assert [one.name for one in rtnl.dump()].count("lo") == 1
    assert rtnl.stats(LOOPBACK) is not None
    assert rtnl.stats(999999) is None


def test_sequence_numbers_wrap(rtnl: Rtnl) -> None:
    rtnl._seq = 0xFFFFFFFE
    for _ in range(4):
        assert rtnl.find(index=LOOPBACK) is not None


@pytest.mark.parametrize("code", [errno.EINTR, errno.EAGAIN])
def test_asked_again(rtnl: Rtnl, code: int) -> None:
    kernel = scripted(rtnl, lambda seq: [error(seq, code)],
                      lambda seq: [device(seq, 7, "v0")])
    info = rtnl.find(index=7)
    assert info is not None and info.name == "v0"
    assert kernel.asked == 2


def test_asked_again_but_not_for_ever(rtnl: Rtnl) -> None:
    scripted(rtnl, *[lambda seq: [error(seq, errno.EINTR)]] * TRIES)
    with pytest.raises(BackendError) as caught:
        rtnl.find(index=7)
    assert caught.value.errno == errno.EINTR


def test_other_errors(rtnl: Rtnl) -> None:
    scripted(rtnl, lambda seq: [error(seq, errno.EBUSY)],
             lambda seq: [error(seq, errno.ENODEV)],
             lambda seq: [],
             lambda seq: [error(seq, errno.EBUSY)])
    with pytest.raises(BackendError) as caught:
        rtnl.find(index=7)
    assert caught.value.errno == errno.EBUSY
    assert rtnl.find(index=7) is None
    with pytest.raises(BackendError):   # and does not wait
        rtnl.find(index=7)
    assert rtnl.stats(7) is None


def test_interrupted_dump_is_asked_for_again(rtnl: Rtnl) -> None:
    broken = wire.NLM_F_DUMP_INTR
    kernel = scripted(
        rtnl,
        lambda seq: [device(seq, 1, "a"), device(seq, 3, "c", broken),
                     done(seq)],
        lambda seq: [device(seq, 1, "a"), done(seq, broken)],
        lambda seq: [device(seq, 1, "a") + device(seq, 2, "b"), done(seq)])
    assert [info.name for info in rtnl.dump()] == ["a", "b"]
    assert kernel.asked == 3


def test_interrupted_dump_is_taken_in_the_end(rtnl: Rtnl) -> None:
    scripted(rtnl, *[lambda seq: [device(seq, 1, "a", wire.NLM_F_DUMP_INTR),
                                  done(seq)]] * TRIES)
    assert [info.name for info in rtnl.dump()] == ["a"]


def test_dump_that_fails(rtnl: Rtnl) -> None:
    scripted(rtnl,
             lambda seq: [device(seq, 1, "a"), error(seq, errno.ENOMEM)],
             lambda seq: [device(seq, 1, "a"), done(seq, code=errno.ENOMEM)])
    for _ in range(2):
        with pytest.raises(BackendError) as caught:
            rtnl.dump()
        assert caught.value.errno == errno.ENOMEM


@pytest.mark.parametrize("raised, code", [
    (NetlinkError(errno.EBUSY), errno.EBUSY),
    (NetlinkDumpInterrupted(), errno.EIO),
    (NetlinkDecodeError(ValueError("no header")), errno.EIO),
    (OSError(errno.ENOBUFS, "full"), errno.ENOBUFS),
    (TimeoutError(), errno.EIO),
    (struct.error("short"), errno.EIO),
    (KeyError("attrs"), errno.EIO),
    (RuntimeError("event loop is closed"), errno.EIO),
])
def test_what_pyroute2_raises(raised: Exception, code: int) -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        raise raised
    with pytest.raises(BackendError) as caught:
        perform("v0 could not be set up", call)
    assert caught.value.errno == code and calls == 1
    assert caught.value.text.startswith("v0 could not be set up")


def test_pyroute2_is_asked_again() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise NetlinkError(errno.EINTR)
    perform("it could not be done", call)
    assert len(calls) == 3


class Deaf:
    """A monitor's socket that has what a test gives."""

    def __init__(self, *datagrams: object) -> None:
        self._datagrams = list(datagrams)

    def recvmsg(self, _size: int, _anc: int
                ) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:
        if not self._datagrams:
            raise BlockingIOError
        one = self._datagrams.pop(0)
        if isinstance(one, Exception):
            raise one
        assert isinstance(one, tuple)
        return one[0], one[1], one[2], None

    def close(self) -> None:
        pass


def monitor(nsid: Callable[[], int], *datagrams: object) -> LinkMonitor:
    made = LinkMonitor(nsid)
    made._sock.close()
    made._sock = Deaf(*datagrams)  # type: ignore[assignment]
    return made


def gone(index: int, nsid: int | None = None) -> tuple[
        bytes, list[tuple[int, int, bytes]], int]:
    message = build(wire.RTM_DELLINK, 0, 0, 0, struct.pack(
        "=BxHiII", 0, 1, index, 0, 0))
    cmsgs = [] if nsid is None else [
        (rtnetlink.SOL_NETLINK, rtnetlink.NETLINK_LISTEN_ALL_NSID,
         struct.pack("=i", nsid))]
    return message, cmsgs, 0


def test_all_that_happened_is_heard() -> None:
    """ovs-vswitchd asks for what it has heard of last."""
    heard = monitor(lambda: 5, *[gone(index) for index in range(1, 1001)])
    changed, left, lost = heard.run()
    assert changed == left == set(range(1, 1001)) and not lost


def test_devices_of_other_namespaces() -> None:
    changed, left, lost = monitor(lambda: 5, gone(1, 5), gone(2, 6)).run()
    assert changed == {1, 2} and left == {1} and not lost


def test_own_namespace_that_cannot_be_told() -> None:
    """A device of that index is looked at as if it had been away."""
    def fail() -> int:
        raise BackendError(errno.EBUSY, "it has no answer")
    assert monitor(fail, gone(2, 6)).run() == ({2}, {2}, False)


@pytest.mark.parametrize("trouble", [
    OSError(errno.ENOBUFS, "lost"), OSError(errno.ENOMEM, "none"),
    (b"", [], socket.MSG_TRUNC)])
def test_events_that_were_lost(trouble: object) -> None:
    changed, left, lost = monitor(lambda: 5, gone(1), trouble).run()
    assert changed == left == {1} and lost
