# SPDX-License-Identifier: Apache-2.0
"""One provider in a network namespace.

Names of devices and what is left of earlier providers belong to a namespace,
so that a second provider there, though it pins elsewhere, would take the
first one's devices for left over.
"""

from __future__ import annotations

import errno
import socket

from dpif_bpf.errors import BackendError

NAME = "\0ovs-bpfd"
"""An abstract address: each network namespace has its own (unix(7)), and it
gets free with the process."""


class Sole:
    """Held as long as this lives.

    :raises BackendError: EBUSY when another provider is here
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(NAME)
        except OSError as error:
            self._socket.close()
            if error.errno == errno.EADDRINUSE:
                raise BackendError(
                    errno.EBUSY, "another ovs-bpfd serves this network"
                    " namespace") from error
            raise BackendError(error.errno or errno.EIO, "cannot look for"
                               " another ovs-bpfd") from error

    def close(self) -> None:
        """Lets another one begin."""
        self._socket.close()
