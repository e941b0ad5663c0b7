# SPDX-License-Identifier: Apache-2.0
"""The provider's end of the transport: SOCK_SEQPACKET clients.

Each datagram holds netlink messages as OVS wrote them.  The first of a
connection, and one after each change of memberships, is a HELLO (see
``integration/plugin/transport.h``); it is dealt with here, everything else
goes to the handler.

Three kinds of datagrams leave, and each meets a full socket differently:

- *Replies* are never lost.  What a handler returns is pulled only as the
  socket takes it, and a client with replies left is not read from.
- *Upcalls* (:meth:`Server.upcall`) are refused, and who sends them is woken
  when there is room again.  Their sockets are short: what is in one is read
  first come, first served.
- *Events* (:meth:`Server.multicast`) are queued up to a bound.  A member that
  falls behind further is disconnected; its transport reconnects and reports
  ENOBUFS, on which OVS looks at everything afresh.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Protocol, TypeVarTuple

import ovs.vlog

from dpif_bpf.core.devices import Poller
from dpif_bpf.errors import BackendError
from dpif_bpf.limited import Limited, msec
from dpif_bpf.wire.netlink import NETLINK_GENERIC, NETLINK_NETFILTER

HELLO = 0x0E
"""nlmsg_type of the transport's control message."""
VERSION = 1

SNDBUF = 4 << 20
"""Bytes of replies and events that may wait in a client's socket."""
UPCALL_SNDBUF = 64 << 10
"""Bytes of upcalls: the kernel doubles it and counts whole buffers, so that
it holds some 100 small upcalls, of which ovs-vswitchd takes 64 at a time; or
one of the largest."""
MAX_EVENTS = 1024
"""Events that may wait for one member besides."""
MAX_DATAGRAM = 1 << 18
"""Bytes.  A netlink attribute has 64 KiB at most, a flow a few of them."""

ACCEPT_PAUSE = 1000
"""ms until the listener is tried again after it could not be accepted from,
when there is no room for one more descriptor; or until one is closed."""

_ACCEPTS = 1024	# per turn
_CLIENTS = 64		# per turn
_REQUESTS = 16		# per client and turn
_REPLIES = 32		# datagrams per client and turn
_SUN_PATH = 108

_NLMSG_ERROR = 2
_NLM_F_ACK = 4
_HELLO = struct.Struct("=IHHIIIIII")	# nlmsghdr, struct dpif_bpf_hello
_NLMSGERR = struct.Struct("=IHHIIi16s")

_Args = TypeVarTuple("_Args")

vlog = ovs.vlog.Vlog("server")


class Handler(Protocol):
    """Who answers."""

    def message(self, client: Client, data: bytes,
                /) -> Iterable[bytes] | None:
        """The datagrams that answer one datagram.

        An iterator is advanced only when the client's socket has room.  An
        empty one stands for what is not there yet: the next run() asks for
        it again.
        """

    def closed(self, client: Client, /) -> None:
        """The client is gone; it is not found by port id any more."""

    def failed(self, client: Client, /) -> None:
        """Called while an exception is handled that came of message(), or
        of what it returned; the client is disconnected after it."""


class Client:
    """One netlink socket of OVS.

    :ivar port_id: the number under which it asks for upcalls
    :ivar protocol: NETLINK_GENERIC or NETLINK_NETFILTER
    :ivar groups: bit n - 1 is set for a member of multicast group n
    """

    __slots__ = ("_broken", "_ended", "_events", "_full", "_replies",
                 "_sock", "_unsent", "_upcalls", "_watched", "groups",
                 "port_id", "protocol")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._replies: Iterator[bytes] | None = None
        self._unsent: bytes | None = None
        self._events: deque[bytes] = deque()
        self._broken = False
        self._ended = False
        self._upcalls = False
        self._full = False
        self._watched = select.EPOLLIN
        self.port_id = 0
        self.protocol = 0
        self.groups = 0

    @property
    def busy(self) -> bool:
        """Whether something is left to be sent."""
        return (self._replies is not None or self._unsent is not None
                or bool(self._events))

    def send(self, data: bytes) -> bool | None:
        """Sends an upcall.  None when the socket is full for now, False when
        it is gone."""
        if not self._upcalls:
            self._upcalls = True
            _set_sndbuf(self._sock, UPCALL_SNDBUF)
        if not self.busy and not self._broken and self._send(data):
            return True
        if self._broken:
            return False
        self._full = True
        return None

    def _send(self, data: bytes) -> bool:
        try:
            self._sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError as e:
            if e.errno in (errno.ENOBUFS, errno.ENOMEM):
                return False
            # Reading from it will tell the rest.
            self._broken = True
            return False
        return True

    def _flush(self) -> None:
        """Sends what is left, as far as the socket takes it and it is
        there."""
        for _ in range(_REPLIES):
            if self._ended:
                return
            if self._unsent is None:
                if self._replies is not None:
                    self._unsent = next(self._replies, None)
                    if self._unsent is None:
                        self._replies = None
                        continue
                    if not self._unsent:
                        self._unsent = None
                        return
                elif self._events:
                    self._unsent = self._events.popleft()
                else:
                    return
            if not self._send(self._unsent):
                return
            self._unsent = None

    def _event(self, data: bytes) -> bool:
        """Sends or queues an event.  False on overflow."""
        if not self.busy and self._send(data):
            return True
        if len(self._events) >= MAX_EVENTS:
            return False
        self._events.append(data)
        return True

    def _drop(self) -> None:
        replies, self._replies = self._replies, None
        self._unsent = None
        self._events.clear()
        self._sock.close()
        if isinstance(replies, Generator):
            replies.close()


class Server:
    """Listens at a path in the file system and serves who connects.

    :param path: of the socket; created with mode 0600, in the place of a
        stale one
    :param handler: who answers.  What it does may send to any client, or
        be the end of it, the one that is being served among them.
    :param clock: ms, monotonic
    :raises BackendError: EADDRINUSE when another provider answers there, or
        the errno of what failed
    """

    def __init__(self, path: str, handler: Handler,
                 clock: Callable[[], int] = msec) -> None:
        self._path = path
        self._handler = handler
        self._clock = clock
        self._warn = Limited(vlog.warn, clock)
        self._serving: Client | None = None
        self._paused_until = 0
        self._clients: dict[int, Client] = {}
        self._by_port: dict[int, Client] = {}
        self._counters = dict.fromkeys(
            ("server_accept", "server_accept_failed", "server_disconnect",
             "server_bad_hello", "server_datagram", "server_event_overflow"),
            0)
        self._listener, self._inode = _listen(path)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)

    def counters(self) -> dict[str, int]:
        """Events since the start, by name (coverage/show)."""
        return dict(self._counters)

    def clients(self) -> list[Client]:
        """Those that have said HELLO."""
        return list(self._by_port.values())

    def client(self, port_id: int) -> Client | None:
        """The client with that port id."""
        return self._by_port.get(port_id)

    def upcall(self, port_id: int, data: bytes) -> bool | None:
        """Sends an upcall to a client.  None when its socket is full, and
        :meth:`wait` waits for room; False when it is not there."""
        client = self._by_port.get(port_id)
        if client is None or client._ended:
            return False
        taken = client.send(data)
        if taken is None:
            self._watch(client)
        return taken

    def multicast(self, group: int, data: bytes) -> None:
        """Sends an event to the members of a group (1 to 32)."""
        bit = 1 << (group - 1)
        for client in self.clients():
            if client.groups & bit and not client._ended:
                if client._event(data):
                    self._watch(client)
                else:
                    self._counters["server_event_overflow"] += 1
                    self._disconnect(client)

    def run(self) -> None:
        """Accepts, reads and answers: a bounded part of what there is."""
        # Who has connected before a request came is known when it is served.
        self._accept()
        for fd, events in self._epoll.poll(0, _CLIENTS):
            client = self._clients.get(fd)
            if client is not None:
                self._guard(client, self._serve, client, events)

    def wait(self, poller: Poller) -> None:
        """Registers what run() waits for."""
        poller.fd_wait(self._epoll.fileno(), select.POLLIN)
        if self._paused_until:
            poller.timer_wait(self._paused_until - self._clock())

    def close(self) -> None:
        """Disconnects everyone and removes the socket, if it is still ours."""
        for client in list(self._clients.values()):
            self._disconnect(client)
        self._epoll.close()
        self._listener.close()
        with contextlib.suppress(OSError):
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)

    def _accept(self) -> None:
        if self._paused_until:
            if self._clock() < self._paused_until:
                return
            self._resume()
        for _ in range(_ACCEPTS):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as e:
                self._pause(e)
                return
            sock.setblocking(False)
            _set_sndbuf(sock, SNDBUF)
            try:
                self._epoll.register(sock, select.EPOLLIN)
            except OSError as e:
                sock.close()
                self._pause(e)
                return
            self._counters["server_accept"] += 1
            client = Client(sock)
            self._clients[sock.fileno()] = client
            self._guard(client, self._read, client, 1)

    def _pause(self, error: OSError) -> None:
        """Leaves the listener alone, which stays readable."""
        self._counters["server_accept_failed"] += 1
        self._warn(f"cannot accept connections: {error.strerror}")
        self._paused_until = self._clock() + ACCEPT_PAUSE
        self._epoll.unregister(self._listener)

    def _resume(self) -> None:
        self._epoll.register(self._listener, select.EPOLLIN)
        self._paused_until = 0

    def _guard(self, client: Client, work: Callable[[*_Args], object],
               *args: *_Args) -> None:
        """Has a client served.  Its end, whatever brings it about, comes
        after that."""
        self._serving = client
        try:
            work(*args)
        except Exception:
            self._handler.failed(client)
            client._ended = True
        finally:
            self._serving = None
        if client._ended:
            self._disconnect(client)

    def _serve(self, client: Client, events: int) -> None:
        if events & select.EPOLLOUT:
            client._full = False
        if client.busy:
            client._flush()
        if not client.busy and events & ~select.EPOLLOUT:
            self._read(client, _REQUESTS)
        elif client._broken or events & (select.EPOLLHUP | select.EPOLLERR):
            client._ended = True
        self._watch(client)

    def _watch(self, client: Client) -> None:
        wanted = select.EPOLLOUT if client.busy else select.EPOLLIN
        if client._full:
            wanted |= select.EPOLLOUT
        if wanted != client._watched:
            self._epoll.modify(client._sock, wanted)
            client._watched = wanted

    def _read(self, client: Client, limit: int) -> None:
        """Reads up to `limit` datagrams, until one leaves replies behind."""
        for _ in range(limit):
            try:
                data, _, flags, _ = client._sock.recvmsg(MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                data, flags = b"", 0
            if not data or flags & socket.MSG_TRUNC:
                self._disconnect(client)
                return
            if (len(data) == _HELLO.size
                    and int.from_bytes(data[4:6], sys.byteorder) == HELLO):
                if not self._hello(client, data):
                    self._counters["server_bad_hello"] += 1
                    self._disconnect(client)
                    return
                if client.busy:
                    self._watch(client)
                    return
                continue
            if not client.port_id:
                self._counters["server_bad_hello"] += 1
                self._disconnect(client)
                return
            self._counters["server_datagram"] += 1
            replies = self._handler.message(client, data)
            if replies is not None:
                client._replies = iter(replies)
                client._flush()
                if client.busy or client._ended:
                    self._watch(client)
                    return

    def _hello(self, client: Client, data: bytes) -> bool:
        """A HELLO.  False when it cannot be accepted."""
        (length, _, flags, seq, _,
         version, protocol, port_id, groups) = _HELLO.unpack(data)
        if (length != len(data) or version != VERSION or not port_id
                or protocol not in (NETLINK_GENERIC, NETLINK_NETFILTER)
                or client.port_id not in (0, port_id)):
            return False
        other = self._by_port.get(port_id)
        if other is not None and other is not client:
            # It has reconnected before its old connection was seen to end.
            self._disconnect(other)
        client.port_id = port_id
        client.protocol = protocol
        client.groups = groups
        self._by_port[port_id] = client
        if flags & _NLM_F_ACK:
            client._event(_NLMSGERR.pack(_NLMSGERR.size, _NLMSG_ERROR, 0, seq,
                                         port_id, 0, data[:16]))
        return True

    def _disconnect(self, client: Client) -> None:
        if client is self._serving:
            client._ended = True
            return
        fd = client._sock.fileno()
        if fd < 0:
            return
        client._ended = True
        self._counters["server_disconnect"] += 1
        self._epoll.unregister(fd)
        del self._clients[fd]
        known = self._by_port.get(client.port_id) is client
        if known:
            del self._by_port[client.port_id]
        try:
            client._drop()
            if known:
                self._handler.closed(client)
        except Exception:
            self._handler.failed(client)
        if self._paused_until:
            self._paused_until = self._clock()


def _set_sndbuf(sock: socket.socket, size: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, 32, size)	# SO_SNDBUFFORCE
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


@contextlib.contextmanager
def _address(path: str) -> Iterator[str]:
    """A name for `path` that fits into sockaddr_un."""
    if len(os.fsencode(path)) < _SUN_PATH:
        yield path
        return
    head, tail = os.path.split(path)
    fd = os.open(head, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{tail}"
    finally:
        os.close(fd)


def _listen(path: str) -> tuple[socket.socket, int]:
    """A listening socket at `path`, and the inode of its file."""
    kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
    new = f"{path}.{os.getpid()}"
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        with (socket.socket(socket.AF_UNIX, kind) as probe,
              _address(path) as address):
            if probe.connect_ex(address) in (0, errno.EAGAIN):
                raise BackendError(errno.EADDRINUSE,
                                   f"another ovs-bpfd serves {path}")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        mask = os.umask(0o177)
        try:
            with _address(new) as address:
                sock.bind(address)
        finally:
            os.umask(mask)
        sock.listen(4096)
        inode = os.stat(new).st_ino
        os.rename(new, path)
    except OSError as e:
        sock.close()
        raise BackendError(e.errno or errno.EIO,
                           f"cannot listen at {path}") from e
    except BackendError:
        sock.close()
        raise
    return sock, inode
