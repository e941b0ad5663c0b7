# SPDX-License-Identifier: Apache-2.0
"""A NETLINK_NETFILTER socket, in the namespace of its maker."""

from __future__ import annotations

import socket
from types import TracebackType

from dpif_bpf.wire.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    S32,
    Message,
    iter_messages,
    parse_error,
)
from dpif_bpf.wire.nfnetlink import build_nf

NETLINK_NETFILTER = 12
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1


class NfSocket:
    """Asks the kernel."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW,
                                     NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._seq = 0

    def __enter__(self) -> NfSocket:
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._socket.close()

    def join(self, group: int) -> None:
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def receive(self) -> list[Message]:
        """The messages of the next datagram."""
        return list(iter_messages(self._socket.recv(1 << 18)))

    def ask(self, subsys: int, cmd: int, family: int = 0,
            payload: bytes = b"", flags: int = 0,
            version: int = 0) -> tuple[int, list[Message]]:
        """errno and the replies."""
        self._seq += 1
        request = bytearray(build_nf(subsys, cmd, NLM_F_REQUEST | NLM_F_ACK
                                     | flags, self._seq, 0, family, payload))
        request[17] = version
        self._socket.send(request)
        found: list[Message] = []
        while True:
            for message in self.receive():
                if message.type == NLMSG_ERROR:
                    return parse_error(message)[0], found
                if message.type == NLMSG_DONE:
                    return -S32.unpack_from(message.raw, 16)[0], found
                found.append(message)

    def dump(self, subsys: int, cmd: int, family: int = 0,
             payload: bytes = b"") -> tuple[int, list[Message]]:
        """errno and the replies."""
        return self.ask(subsys, cmd, family, payload, NLM_F_DUMP)
