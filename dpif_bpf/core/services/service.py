# SPDX-License-Identifier: Apache-2.0
"""What a service is, and what services have in common.

A service answers the messages of one netlink family: it tells the router by
which message types it is found, and for each message what is to be called.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, TypeVarTuple

from dpif_bpf.core.conntrack.tracker import Conntrack
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.vport import Vport
from dpif_bpf.errors import BackendError, DpifError, RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import ATTRS_POS, DatapathRequest
from dpif_bpf.wire.netlink import (
    NETLINK_GENERIC,
    NETLINK_NETFILTER,
    NLMSG_HDRLEN,
    Message,
)
from dpif_bpf.wire.nfnetlink import ATTRS_POS as NF_ATTRS_POS
from dpif_bpf.wire.nfnetlink import is_dump

DUMP_BYTES = 32768
"""Messages of a dump are gathered into datagrams of at most this size, as
the kernel does (NLMSG_GOODSIZE)."""

LATER = b""
"""In place of a datagram: there is more to come, but not in this turn."""

RECLAIMS = 4
"""Tries to find room.  What was removed is freed in parts, and each may be of
another kind."""

Serve = Callable[[Message], Iterator[bytes]]
"""A request → its replies, which are made as they are taken."""

Clock = Callable[[], int]
"""ms, monotonic."""

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


class Registry(Protocol):
    """The datapaths of the provider."""

    def datapaths(self) -> list[Datapath]:
        """All of them."""

    def make(self, request: DatapathRequest) -> Datapath:
        """OVS_DP_CMD_NEW.

        :raises RequestError: EEXIST
        :raises BackendError: what keeps one of an earlier provider from
            being taken over
        """

    def remove(self, dp: Datapath) -> None:
        """OVS_DP_CMD_DEL."""

    def absent(self, name: str) -> str | None:
        """Why a datapath of an earlier provider is not taken over; None
        when there is no such."""

    def discard(self, name: str) -> bool:
        """OVS_DP_CMD_DEL of one that is not taken over; False when there is
        no such."""

    def notify(self, group: int, message: bytes) -> None:
        """Sends a notification to the members of a multicast group."""

    def changes(self) -> Iterator[tuple[Datapath, Vport, bool]]:
        """Ports whose devices have changed since the last call, or with
        which they have ended (True); all that has happened so far."""

    def conntrack(self) -> Conntrack | None:
        """The connections of all datapaths; None when there is none."""

    def reclaim(self) -> bool:
        """Waits until what was removed can be used again, or some of it;
        whether there was anything."""

    def refused(self, dp: Datapath, error: DpifError) -> None:
        """There was no room for a flow, or for other actions of it."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is to be called for a message.

    :param name: of the command, for people
    :param reads: it changes nothing
    :param dump: the replies end with NLMSG_DONE
    """

    name: str
    serve: Serve
    reads: bool = False
    dump: bool = False


class Service(Protocol):
    """One netlink family.

    :ivar protocol: NETLINK_GENERIC or NETLINK_NETFILTER
    :ivar types: of the messages that are for it (nlmsg_type)
    """

    @property
    def protocol(self) -> int: ...

    @property
    def types(self) -> Collection[int]: ...

    def find(self, message: Message) -> Call:
        """What is to be called, before attributes are looked at.

        :raises RequestError: EINVAL without the family's headers,
            EOPNOTSUPP when there is no such command
        """


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a generic netlink family, as its struct genl_ops in
    the kernel.

    :param serve: without NLM_F_DUMP
    :param dump: with NLM_F_DUMP; None where it has none
    :param reads: it changes nothing; a dump never does
    """

    serve: Serve
    dump: Serve | None = None
    reads: bool = False


class GenericService:
    """A generic netlink family, by its commands' table.

    Its requests begin with genlmsghdr and struct ovs_header.

    :param family: OVS_*_ID
    :param commands: by OVS_*_CMD_*
    """

    protocol = NETLINK_GENERIC

    def __init__(self, family: int, commands: Mapping[int, Command]) -> None:
        self.types = (family,)
        self._name = uapi.FAMILIES[family]
        self._calls: dict[tuple[int, bool], Call] = {}
        for cmd, command in commands.items():
            name = f"command {cmd} of {self._name}"
            self._calls[cmd, False] = Call(name, command.serve,
                                           command.reads)
            if command.dump is not None:
                self._calls[cmd, True] = Call(name, command.dump, True, True)

    def find(self, message: Message) -> Call:
        """As genl_rcv_msg() of the kernel."""
        if len(message.raw) < ATTRS_POS:
            raise RequestError(errno.EINVAL,
                               "no room for genlmsghdr and struct ovs_header")
        cmd = message.raw[NLMSG_HDRLEN]
        call = self._calls.get((cmd, message.is_dump))
        if call is None:
            what = "has no dump" if (cmd, False) in self._calls else (
                "is not supported")
            raise RequestError(errno.EOPNOTSUPP,
                               f"command {cmd} of {self._name} {what}")
        return call


class NetfilterService:
    """A subsystem of NETLINK_NETFILTER, by its commands' table.

    Its requests begin with struct nfgenmsg.

    :param subsystem: NFNL_SUBSYS_*
    :param name: for people
    :param commands: by the lower byte of the message type; `serve` and `dump`
        may be one and the same
    """

    protocol = NETLINK_NETFILTER

    def __init__(self, subsystem: int, name: str,
                 commands: Mapping[int, Command]) -> None:
        self.types = range(subsystem << 8, subsystem + 1 << 8)
        self._name = name
        self._calls: dict[tuple[int, bool], Call] = {}
        for cmd, command in commands.items():
            text = f"message {cmd} of {name}"
            self._calls[cmd, False] = self._calls[cmd, True] = Call(
                text, command.serve, command.reads)
            if command.dump is not None:
                self._calls[cmd, True] = Call(text, command.dump,
                                              command.reads, True)

    def find(self, message: Message) -> Call:
        """As nfnetlink_rcv_msg() of the kernel."""
        if len(message.raw) < NF_ATTRS_POS:
            raise RequestError(errno.EINVAL, "no room for struct nfgenmsg")
        cmd = message.type & 0xff
        call = self._calls.get((cmd, is_dump(message)))
        if call is None:
            raise RequestError(errno.EINVAL,
                               f"message {cmd} of {self._name} is unknown")
        return call


def connections(registry: Registry) -> Conntrack:
    """Those of all datapaths.

    :raises RequestError: ENODEV
    """
    found = registry.conntrack()
    if found is None:
        raise RequestError(errno.ENODEV, "there is no datapath, and so there"
                           " are no connections")
    return found


def numbered(registry: Registry, dp_ifindex: int) -> Datapath:
    """The datapath of a number.

    :raises RequestError: ENODEV
    """
    for dp in registry.datapaths():
        if dp.dp_ifindex == dp_ifindex:
            return dp
    raise RequestError(errno.ENODEV, "no such datapath")


def with_room(registry: Registry, call: Callable[[*_Args], _Result],
              *args: *_Args) -> _Result:
    """A call that does nothing when it raises ENOSPC: once more, or a few
    times, if room can be had of what was removed recently."""
    for _ in range(RECLAIMS):
        try:
            return call(*args)
        except BackendError as error:
            if error.errno != errno.ENOSPC or not registry.reclaim():
                raise
    return call(*args)


def until(done: Callable[[], bool]) -> Iterator[bytes]:
    """Lets others be served until something is done."""
    while not done():
        yield LATER


def gather(messages: Iterator[bytes]) -> Iterator[bytes]:
    """Joins messages into datagrams of at most DUMP_BYTES, if they fit.
    LATER comes through."""
    parts: list[bytes] = []
    size = 0
    for message in messages:
        if not message:
            yield message
            continue
        if size + len(message) > DUMP_BYTES and parts:
            yield b"".join(parts)
            parts.clear()
            size = 0
        parts.append(message)
        size += len(message)
    if parts:
        yield b"".join(parts)
