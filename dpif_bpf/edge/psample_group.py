# SPDX-License-Identifier: Apache-2.0
"""The kernel's psample family, spoken to from outside of the kernel.

A process with CAP_NET_ADMIN may multicast to a group of generic netlink;
who listens there cannot tell, but for the port id, that it was not the
kernel.  sendmsg(2) names groups by a mask of 32 bits: a family whose group
has a larger number is as good as none.
"""

from __future__ import annotations

import socket
from struct import Struct

from dpif_bpf.errors import RequestError
from dpif_bpf.wire import psample_messages as psample
from dpif_bpf.wire.netlink import (
    GENL_HDRLEN,
    GENLMSGHDR,
    NETLINK_GENERIC,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    NLMSG_HDRLEN,
    build,
    iter_attrs,
    iter_messages,
    nla_string,
)

_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 1, 2
_CTRL_ATTR_MCAST_GROUPS = 7
_CTRL_ATTR_MCAST_GRP_NAME, _CTRL_ATTR_MCAST_GRP_ID = 1, 2
_GROUPS = 32
_U16, _U32 = Struct("=H"), Struct("=I")


class Psample:
    """core.samples.SampleEdge.

    :param family, group: names, for tests
    :ivar group: number of the group, when family() has found it
    """

    def __init__(self, family: str = psample.FAMILY,
                 group: str = psample.GROUP) -> None:
        self._names = family, group
        self._family = 0
        self.group = 0
        self._socket: socket.socket | None = None

    def family(self) -> int:
        """Asks the kernel until it has the family."""
        if not self._family:
            try:
                self._resolve()
            except (OSError, RequestError):
                return 0
        return self._family

    def send(self, message: bytes) -> bool:
        if self._socket is None:
            return False
        try:
            # What is multicast goes to port 0 as well, the kernel, which
            # passes over what is no request.
            self._socket.sendto(message, socket.MSG_DONTWAIT,
                                (0, 1 << self.group - 1))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Lets go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._family = 0

    def _resolve(self) -> None:
        name, group_name = self._names
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW
                             | socket.SOCK_CLOEXEC, NETLINK_GENERIC)
        try:
            sock.bind((0, 0))
            sock.send(build(
                _GENL_ID_CTRL, NLM_F_REQUEST, 1, 0,
                GENLMSGHDR.pack(_CTRL_CMD_GETFAMILY, 1, 0)
                + nla_string(_CTRL_ATTR_FAMILY_NAME, name)))
            message = next(iter_messages(sock.recv(1 << 16)))
            if message.type == NLMSG_ERROR:
                return
            family, group = _parse(message.raw, group_name)
            if not 0 < group <= _GROUPS:
                return
            self._family, self.group, self._socket = family, group, sock
        finally:
            if self._socket is not sock:
                sock.close()


def _parse(raw: bytes, group_name: str) -> tuple[int, int]:
    """Ids of the family and of a group, 0 for what is not there."""
    family = group = 0
    for kind, start, stop in iter_attrs(raw, NLMSG_HDRLEN + GENL_HDRLEN):
        if kind == _CTRL_ATTR_FAMILY_ID:
            family = _U16.unpack_from(raw, start)[0]
        elif kind == _CTRL_ATTR_MCAST_GROUPS:
            for _, first, end in iter_attrs(raw, start, stop):
                parts = {what: raw[a:b] for what, a, b
                         in iter_attrs(raw, first, end)}
                name = parts.get(_CTRL_ATTR_MCAST_GRP_NAME, b"")
                if name.rstrip(b"\0").decode() == group_name:
                    group = _U32.unpack(parts[_CTRL_ATTR_MCAST_GRP_ID])[0]
    return family, group
