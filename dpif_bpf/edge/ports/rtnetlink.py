# SPDX-License-Identifier: Apache-2.0
"""Reads and changes devices, and hears of changes.

Changes go through pyroute2, in the calling thread: its IPRoute runs an event
loop of its own for the time of a call (0.6 to 2 ms).  Reads are plain
sockets with the parser of ``dpif_bpf.wire.rtnl`` (10 to 50 us).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from dpif_bpf.core.devices import Poller
from dpif_bpf.errors import BackendError
from dpif_bpf.wire import netlink, rtnl

AF_NETLINK = 16
NETLINK_ROUTE = 0
SOL_NETLINK = 270
SO_RCVBUFFORCE = 33
NETLINK_LISTEN_ALL_NSID = 8
RTMGRP_LINK = 1
RECV_BYTES = 1 << 16
RCVBUF_BYTES = 1 << 20
EVENTS_PER_RUN = 4096
"""More than RCVBUF_BYTES has room for, so that a run reads all there is."""
TRIES = 4
AGAIN = (errno.EINTR, errno.EAGAIN)
"""Errors of requests that are simply made again, TRIES times at most."""


class Rtnl:
    """Requests to the namespace of the calling process."""

    def __init__(self) -> None:
        self._sock = socket.socket(AF_NETLINK, socket.SOCK_RAW,
                                   NETLINK_ROUTE)
        self._sock.bind((0, 0))
        self._seq = 0
        self.iproute = IPRoute()

    def close(self) -> None:
        self.iproute.close()
        self._sock.close()

    def find(self, index: int = 0, name: str = "",
             nsid: int | None = None) -> rtnl.LinkInfo | None:
        """The device of that index or name.

        :param nsid: id of the namespace to look in, None for our own
        :returns: None when there is no such device
        :raises BackendError: any errno but ENODEV
        """
        reply = self._ask(lambda seq: rtnl.get_link(seq, index, name, nsid))
        return None if reply is None else rtnl.parse_link(reply)

    def dump(self) -> list[rtnl.LinkInfo]:
        """All devices of our namespace, as of one moment if it can be had:
        a dump during which devices change may lack some that stay."""
        self._drain()           # one dump at a time, or EBUSY
        for _ in range(TRIES):
            links: list[rtnl.LinkInfo] = []
            whole = True
            for message in self._exchange(rtnl.dump_links):
                whole &= not message.flags & rtnl.NLM_F_DUMP_INTR
                if message.type == netlink.NLMSG_DONE:
                    error = rtnl.parse_done(message)
                    break
                if message.type == netlink.NLMSG_ERROR:
                    error = netlink.parse_error(message)[0]
                    break
                links.append(rtnl.parse_link(message))
            if error:
                raise BackendError(error, "devices could not be listed")
            if whole:
                break
        return links

    def _drain(self) -> None:
        """Reads what is left of earlier answers."""
        with contextlib.suppress(OSError):
            while True:
                self._sock.recv(RECV_BYTES, socket.MSG_DONTWAIT)

    def stats(self, index: int,
              nsid: int | None = None) -> tuple[int, ...] | None:
        """See rtnl.parse_stats(); None when the device has gone, or its
        namespace, or may not be looked into."""
        try:
            if nsid is None:
                reply = self._ask(lambda seq: rtnl.get_stats(seq, index))
            else:
                reply = self._ask(lambda seq: rtnl.get_link(
                    seq, index, nsid=nsid, stats=True))
        except BackendError:
            return None
        return None if reply is None else rtnl.parse_stats(reply)

    def source_to(self, address: bytes) -> bytes:
        """The address from which a packet to this one goes, or none."""
        try:
            reply = self._ask(lambda seq: rtnl.get_route(seq, address))
        except BackendError:
            return b""
        return b"" if reply is None else rtnl.parse_source(reply)

    def own_nsid(self) -> int:
        """The id that our own namespace has in itself, or NSID_NONE."""
        reply = self._ask(lambda seq: rtnl.get_nsid(seq, os.getpid()))
        return rtnl.NSID_NONE if reply is None else rtnl.parse_nsid(reply)

    def change(self, what: str, command: str, /, **attrs: Any) -> None:
        """pyroute2's ``link(command, **attrs)``.

        :param what: for the error's text: "br0 could not be created"
        :raises BackendError: with the kernel's errno
        """
        perform(what, lambda: self.iproute.link(command, **attrs))

    def set_flags(self, what: str, index: int, flags: int,
                  mask: int) -> None:
        """Sets the IFF_* bits of `mask` to those of `flags`."""
        self.change(what, "set", index=index, flags=flags, change=mask)

    def _ask(self, build: Callable[[int], bytes]) -> netlink.Message | None:
        """What answers a request, None for ENODEV.

        :param build: makes it of a sequence number
        """
        error = 0
        for _ in range(TRIES):
            reply = next(self._exchange(build))
            if reply.type != netlink.NLMSG_ERROR:
                return reply
            error = netlink.parse_error(reply)[0]
            if error not in AGAIN:
                break
        if error != errno.ENODEV:
            raise BackendError(error, "a device could not be read")
        return None

    def _exchange(self,
                  build: Callable[[int], bytes]) -> Iterator[netlink.Message]:
        """Sends a request and receives what answers it, without an end.

        The kernel has answered when send() returns.  What is left of an
        earlier answer, that was not read to its end, is passed over.
        """
        self._seq = self._seq + 1 & 0xFFFFFFFF
        seq = self._seq
        try:
            self._sock.send(build(seq))
            while True:
                for message in netlink.iter_messages(
                        self._sock.recv(RECV_BYTES, socket.MSG_DONTWAIT)):
                    if message.seq == seq:
                        yield message
        except OSError as error:
            raise BackendError(error.errno or errno.EIO,
                               "devices could not be read") from error


class LinkMonitor:
    """Hears which devices change, here and in namespaces that have an id.

    Hearing of other namespaces takes CAP_NET_BROADCAST; without it changes
    there stay unknown until the port is looked at for another reason.
    """

    def __init__(self, own_nsid: Callable[[], int]) -> None:
        self._own_nsid = own_nsid
        self._sock = socket.socket(AF_NETLINK, socket.SOCK_RAW,
                                   NETLINK_ROUTE)
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE,
                                  RCVBUF_BYTES)
            self._sock.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
        except PermissionError:
            pass
        self._sock.bind((0, RTMGRP_LINK))
        self._sock.setblocking(False)

    def close(self) -> None:
        self._sock.close()

    def wait(self, poller: Poller) -> None:
        poller.fd_wait(self._sock.fileno(), select.POLLIN)

    def run(self) -> tuple[set[int], set[int], bool]:
        """Reads what has been heard since the last call.

        :returns: indexes of devices that changed in any namespace; indexes
            of those that left ours; whether events were lost
        """
        changed: set[int] = set()
        left: set[int] = set()
        for _ in range(EVENTS_PER_RUN):
            try:
                data, cmsgs, flags, _addr = self._sock.recvmsg(
                    RECV_BYTES, socket.CMSG_SPACE(4))
            except BlockingIOError:
                return changed, left, False
            except OSError:
                # ENOBUFS, and whatever else there may be.
                break
            if flags & socket.MSG_TRUNC:
                break
            for message in netlink.iter_messages(data):
                index = rtnl.link_index(message)
                changed.add(index)
                if message.type == rtnl.RTM_DELLINK and self._is_ours(cmsgs):
                    left.add(index)
        return changed, left, True

    def _is_ours(self, cmsgs: list[tuple[int, int, bytes]]) -> bool:
        """Whether a message is of our namespace: it has no id then, or the
        one that it has been given in itself.  In doubt it is."""
        for level, kind, value in cmsgs:
            if level == SOL_NETLINK and kind == NETLINK_LISTEN_ALL_NSID:
                with ignoring():
                    return bool(struct.unpack("=i", value)[0]
                                == self._own_nsid())
        return True


def perform(what: str, call: Callable[[], object]) -> None:
    """Calls pyroute2 and turns its errors into ours, whatever they are: its
    parsers and its event loop have more than the two that it tells of."""
    for left in reversed(range(TRIES)):
        try:
            call()
            return
        except NetlinkError as error:
            if error.code not in AGAIN or not left:
                # NetlinkDumpInterrupted has -1.
                raise BackendError(error.code if error.code > 0
                                   else errno.EIO, what) from error
        except OSError as error:
            raise BackendError(error.errno or errno.EIO, what) from error
        except Exception as error:
            raise BackendError(errno.EIO, f"{what}: {error!r}") from error


@contextlib.contextmanager
def ignoring(*codes: int) -> Iterator[None]:
    """Swallows a BackendError of one of these errnos, of all without."""
    try:
        yield
    except BackendError as error:
        if codes and error.errno not in codes:
            raise
