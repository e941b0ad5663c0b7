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

from dpif_bpf.core.edges import Poller
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
EVENTS_PER_RUN = 128


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
        self._seq += 1
        reply = self._ask(rtnl.get_link(self._seq, index, name, nsid))
        return None if reply is None else rtnl.parse_link(reply)

    def dump(self) -> list[rtnl.LinkInfo]:
        """All devices of our namespace."""
        self._seq += 1
        self._sock.send(rtnl.dump_links(self._seq))
        links: list[rtnl.LinkInfo] = []
        while True:
            for message in netlink.iter_messages(
                    self._sock.recv(RECV_BYTES)):
                if message.type == netlink.NLMSG_DONE:
                    return links
                if message.type == netlink.NLMSG_ERROR:
                    raise BackendError(netlink.parse_error(message)[0],
                                       "devices could not be listed")
                links.append(rtnl.parse_link(message))

    def stats(self, index: int,
              nsid: int | None = None) -> tuple[int, ...] | None:
        """See rtnl.parse_stats(); None when the device has gone, or its
        namespace, or may not be looked into."""
        self._seq += 1
        if nsid is None:
            request = rtnl.get_stats(self._seq, index)
        else:
            request = rtnl.get_link(self._seq, index, nsid=nsid, stats=True)
        try:
            reply = self._ask(request)
        except BackendError:
            return None
        return None if reply is None else rtnl.parse_stats(reply)

    def own_nsid(self) -> int:
        """The id that our own namespace has in itself, or NSID_NONE."""
        self._seq += 1
        reply = self._ask(rtnl.get_nsid(self._seq, os.getpid()))
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

    def _ask(self, request: bytes) -> netlink.Message | None:
        """Sends one request and returns what answers it, None for ENODEV."""
        self._sock.send(request)
        reply = next(netlink.iter_messages(self._sock.recv(RECV_BYTES)))
        if reply.type != netlink.NLMSG_ERROR:
            return reply
        error = netlink.parse_error(reply)[0]
        if error != errno.ENODEV:
            raise BackendError(error, "a device could not be read")
        return None


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
        """Reads up to EVENTS_PER_RUN datagrams.

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
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return changed, left, True
            if flags & socket.MSG_TRUNC:
                return changed, left, True
            for message in netlink.iter_messages(data):
                index = rtnl.link_index(message)
                changed.add(index)
                if message.type == rtnl.RTM_DELLINK and self._is_ours(cmsgs):
                    left.add(index)
        return changed, left, False

    def _is_ours(self, cmsgs: list[tuple[int, int, bytes]]) -> bool:
        """Whether a message is of our namespace: it has no id then, or the
        one that it has been given in itself."""
        for level, kind, value in cmsgs:
            if level == SOL_NETLINK and kind == NETLINK_LISTEN_ALL_NSID:
                return int(struct.unpack("=i", value)[0]) == self._own_nsid()
        return True


def perform(what: str, call: Callable[[], object]) -> None:
    """Calls pyroute2 and turns its errors into ours."""
    try:
        call()
    except NetlinkError as error:
        raise BackendError(error.code or errno.EIO, what) from error
    except OSError as error:
        raise BackendError(error.errno or errno.EIO, what) from error


@contextlib.contextmanager
def ignoring(*codes: int) -> Iterator[None]:
    """Swallows a BackendError of one of these errnos."""
    try:
        yield
    except BackendError as error:
        if error.errno not in codes:
            raise
