# SPDX-License-Identifier: Apache-2.0
"""The provider's control socket: ovs-appctl -t ovs-bpfd COMMAND.

``help``, ``version`` and ``vlog/*`` are those of the OVS Python bindings
(ovs.unixctl, ovs.vlog); the others are given to :meth:`Ctl.register` by the
daemon as functions from arguments to text.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import ovs.poller
import ovs.unixctl
import ovs.unixctl.server
import ovs.vlog

from dpif_bpf.errors import BackendError, DpifError

vlog = ovs.vlog.Vlog("ctl")

Command = Callable[[list[str]], str]


class Ctl:
    """A unixctl server.

    :param path: socket path, or None for RUNDIR/ovs-bpfd.PID.ctl
    :raises BackendError: when the socket cannot be made
    """

    def __init__(self, path: str | None, version: str) -> None:
        error, server = ovs.unixctl.server.UnixctlServer.create(path, version)
        if error:
            raise BackendError(error, "cannot make the control socket")
        self._server = server

    def register(self, name: str, usage: str, least: int, most: int,
                 command: Command) -> None:
        """Adds a command.

        :param usage: arguments in the style of ovs-appctl(8)
        :param least, most: number of arguments accepted
        """

        def run(conn: ovs.unixctl.server.UnixctlConnection,
                argv: list[str], _aux: object) -> None:
            try:
                text = command(argv)
                conn.reply(text + "\n" if text else text)
            except DpifError as e:
                conn.reply_error(str(e))

        ovs.unixctl.command_register(name, usage, least, most, run, None)

    def run(self) -> None:
        """Serves what has come."""
        self._server.run()

    def wait(self, poller: ovs.poller.Poller) -> None:
        """Registers what to wait for."""
        self._server.wait(poller)

    def close(self) -> None:
        """Closes the socket and removes its file."""
        self._server.close()


def no_such(what: str, name: str) -> DpifError:
    """The error for an argument that names nothing."""
    return DpifError(errno.ENOENT, f"{name}: no such {what}")
