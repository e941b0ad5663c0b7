# SPDX-License-Identifier: Apache-2.0
"""The provider's control socket: ovs-appctl -t ovs-bpfd COMMAND.

``help``, ``version`` and ``vlog/*`` are those of the OVS Python bindings
(ovs.unixctl, ovs.vlog); the others are given to :meth:`Ctl.register` by the
daemon as functions from arguments to text, or to its lines in slices
(core.slices), of which a turn of the loop takes one.

The bindings serve tools that behave.  Here no client ends the provider or
keeps it from its work, whatever it sends, and however many there are.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import TypeVarTuple

import ovs.jsonrpc
import ovs.stream
import ovs.unixctl
import ovs.unixctl.server
import ovs.vlog

from dpif_bpf.boundary import Boundary
from dpif_bpf.core.devices import Poller
from dpif_bpf.core.slices import LATER
from dpif_bpf.errors import BackendError, DpifError
from dpif_bpf.limited import Limited, msec

vlog = ovs.vlog.Vlog("ctl")

_Args = TypeVarTuple("_Args")

Command = Callable[[list[str]], str | Iterator[str]]

MAX_CLIENTS = 32
"""Connections.  The oldest makes room for one more: tools connect for one
command, so that it is one that hangs."""
MAX_INPUT = 1 << 14
"""Bytes of a command, which takes a few hundred."""
ACCEPT_PAUSE = 1000
"""ms until the listener is tried again when there is no descriptor left."""
_ACCEPTS = 10	# per turn


class Ctl:
    """A unixctl server.

    :param path: socket path, or None for RUNDIR/ovs-bpfd.PID.ctl
    :param clock: ms, monotonic
    :raises BackendError: when the socket cannot be made
    """

    def __init__(self, path: str | None, version: str,
                 clock: Callable[[], int] = msec) -> None:
        error, server = ovs.unixctl.server.UnixctlServer.create(path, version)
        if error:
            raise BackendError(error, "cannot make the control socket")
        # What a client does is no cause for the bindings' warnings.
        for module in ("jsonrpc", "unixctl_server"):
            ovs.vlog.Vlog.set_level(module, "any", "err")
        self._boundary = Boundary("control", clock=clock)
        self._server = _Server(server._listener, self._boundary, clock)
        self.register("vlog/set", "spec", 1, sys.maxsize, _vlog_set)

    @property
    def failures(self) -> int:
        """Commands that failed in a way that was not expected."""
        return self._boundary.failures

    def register(self, name: str, usage: str, least: int, most: int,
                 command: Command) -> None:
        """Adds a command, in the place of one of that name.

        :param usage: arguments in the style of ovs-appctl(8)
        :param least, most: number of arguments accepted
        """

        def run(conn: _Connection, argv: list[str], _aux: object) -> None:
            conn.tell(command(argv))

        ovs.unixctl.commands.pop(name, None)
        ovs.unixctl.command_register(name, usage, least, most, run, None)

    def run(self) -> None:
        """Serves what has come."""
        self._server.run()

    def wait(self, poller: Poller) -> None:
        """Registers what to wait for."""
        self._server.wait(poller)

    def close(self) -> None:
        """Closes the socket and removes its file."""
        self._server.close()


def no_such(what: str, name: str) -> DpifError:
    """The error for an argument that names nothing."""
    return DpifError(errno.ENOENT, f"{name}: no such {what}")


class _Server(ovs.unixctl.server.UnixctlServer):    # type: ignore[misc]
    """Accepts and serves; see UnixctlServer."""

    def __init__(self, listener: ovs.stream.PassiveStream,
                 boundary: Boundary, clock: Callable[[], int]) -> None:
        super().__init__(listener)
        self._boundary = boundary
        self._clock = clock
        self._warn = Limited(vlog.warn, clock)
        self._paused_until = 0

    def run(self) -> None:
        if self._clock() >= self._paused_until:
            self._paused_until = 0
            self._accept()
        for conn in list(self._conns):
            error: int | None = errno.EPROTO
            try:
                error = conn.run()
            except Exception:
                self._boundary.failed()
            if error and error != errno.EAGAIN:
                self._drop(conn)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            error, stream = self._listener.accept()
            if error == errno.EAGAIN:
                return
            if error:
                # It stays readable.
                self._paused_until = self._clock() + ACCEPT_PAUSE
                self._warn(f"cannot accept connections: {os.strerror(error)}")
                return
            if len(self._conns) >= MAX_CLIENTS:
                self._drop(self._conns[0])
            self._conns.append(_Connection(stream, self._boundary))

    def _drop(self, conn: _Connection) -> None:
        conn._close()
        self._conns.remove(conn)

    def wait(self, poller: Poller) -> None:
        if self._paused_until:
            poller.timer_wait(self._paused_until - self._clock())
        else:
            self._listener.wait(poller)
        for conn in self._conns:
            conn._wait(poller)


class _Connection(
        ovs.unixctl.server.UnixctlConnection):      # type: ignore[misc]
    """One client; see UnixctlConnection."""

    def __init__(self, stream: ovs.stream.Stream,
                 boundary: Boundary) -> None:
        self._stream = _Bounded(stream)
        super().__init__(ovs.jsonrpc.Connection(self._stream))
        self._boundary = boundary
        self._method = ""
        self._told: Iterator[str] | None = None
        self._lines: list[str] = []

    def run(self) -> int:
        if self._told is None:
            return super().run()    # type: ignore[no-any-return]
        self._rpc.run()
        self._attempt(self._tell_more)
        return self._rpc.get_status()   # type: ignore[no-any-return]

    def tell(self, text: str | Iterator[str]) -> None:
        """Replies, now or in slices."""
        if isinstance(text, str):
            self.reply(text + "\n" if text else text)
        else:
            self._told, self._lines = text, []
            self._tell_more()

    def _tell_more(self) -> None:
        told, self._told = self._told, None
        assert told is not None
        for line in told:
            if line == LATER:
                self._told = told
                return
            self._lines.append(line)
        self.tell("\n".join(self._lines))

    def _process_command(self, request: ovs.jsonrpc.Message) -> None:
        self._stream.renew()
        self._method = request.method
        self._attempt(super()._process_command, request)

    def _attempt(self, call: Callable[[*_Args], object],
                 *args: *_Args) -> None:
        error = ""
        try:
            call(*args)
        except (DpifError, OSError) as e:
            error = str(e)  # OSError: of vlog/reopen
        except SystemExit:
            error = "the arguments are wrong"    # argparse, of set-options
        except Exception as e:
            self._boundary.failed()
            error = f"{self._method} failed: {e!r}"
        if error and self._request_id is not None:
            self.reply_error(error)

    def _wait(self, poller: Poller) -> None:
        if self._told is None:
            super()._wait(poller)
        else:
            poller.immediate_wake()


class _Bounded:
    """A stream that ends after MAX_INPUT bytes without a command: until
    there is one, ovs.jsonrpc reads on."""

    def __init__(self, stream: ovs.stream.Stream) -> None:
        self._stream = stream
        self._left = MAX_INPUT

    def renew(self) -> None:
        """There was a command."""
        self._left = MAX_INPUT

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def recv(self, size: int) -> tuple[int, bytes]:
        """(errno, data), as that of ovs.stream.Stream."""
        if not self._left:
            return errno.EMSGSIZE, b""
        error, data = self._stream.recv(min(size, self._left))
        self._left -= len(data)
        return error, data


def _vlog_set(argv: list[str]) -> str:
    """That of ovs.vlog, but for patterns of which each later message would
    raise what nobody expects of a message."""
    kept = dict(ovs.vlog.PATTERNS)
    try:
        for spec in argv:
            wrong = ovs.vlog.Vlog.set_levels_from_string(spec)
            if wrong:
                return str(wrong)
        for destination in kept:
            vlog._build_message("", destination, "dbg", 0)
    except Exception as e:
        ovs.vlog.PATTERNS.update(kept)
        raise DpifError(errno.EINVAL, f"not a pattern: {e}") from e
    return ""
