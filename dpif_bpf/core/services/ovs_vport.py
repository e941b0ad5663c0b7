# SPDX-License-Identifier: Apache-2.0
"""ovs_vport: ports, and what peers hear of them."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.services.service import (
    Clock,
    Command,
    GenericService,
    Registry,
    gather,
    numbered,
)
from dpif_bpf.core.vport import LOCAL, Vport
from dpif_bpf.errors import InternalError, RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import VportRequest, decode_vport
from dpif_bpf.wire.netlink import NLM_F_ECHO, Message
from dpif_bpf.wire.replies import ReplyHeader, VportReply, encode_vport


class VportService(GenericService):
    """OVS_VPORT_CMD_*."""

    def __init__(self, registry: Registry, _clock: Clock) -> None:
        super().__init__(uapi.OVS_VPORT_ID, {
            uapi.OVS_VPORT_CMD_NEW: Command(self._new),
            uapi.OVS_VPORT_CMD_DEL: Command(self._delete),
            uapi.OVS_VPORT_CMD_GET: Command(self._get, self._dump,
                                            reads=True),
            uapi.OVS_VPORT_CMD_SET: Command(self._set)})
        self._registry = registry

    def _request(self, message: Message) -> VportRequest:
        """What has happened to devices is answered for, and told of, first:
        ovs-vswitchd asks when it hears of the same, and not again.

        :raises InternalError: that may be done by half, also where the
            request itself changes nothing
        """
        request = decode_vport(message)
        try:
            for dp, port, gone in self._registry.changes():
                port_event(self._registry, dp, port, gone)
        except Exception as error:
            raise InternalError(
                errno.EIO, "devices could not be followed") from error
        return request

    def _new(self, message: Message) -> Iterator[bytes]:
        request = self._request(message)
        dp = numbered(self._registry, request.dp_ifindex)
        port = dp.ports.add(request)
        return self._tell(request, dp.ports.reply(port))

    def _delete(self, message: Message) -> Iterator[bytes]:
        request = self._request(message)
        dp, port = self._port(request)
        if port.port_no == LOCAL:
            raise RequestError(errno.EINVAL,
                               "the local port goes with its datapath")
        shown = dp.ports.reply(port)
        dp.ports.delete(port)
        return self._tell(request, shown)

    def _get(self, message: Message) -> Iterator[bytes]:
        request = self._request(message)
        dp, port = self._port(request)
        return iter((encode_vport(ReplyHeader(message.seq, message.pid),
                                  request.cmd, dp.ports.reply(port)),))

    def _dump(self, message: Message) -> Iterator[bytes]:
        request = self._request(message)
        dp = numbered(self._registry, request.dp_ifindex)
        header = ReplyHeader(message.seq, message.pid, True)
        return gather(encode_vport(header, request.cmd, dp.ports.reply(port))
                      for port in list(dp.vports.by_no.values()))

    def _set(self, message: Message) -> Iterator[bytes]:
        request = self._request(message)
        dp, port = self._port(request)
        dp.ports.set(port, request)
        return self._tell(request, dp.ports.reply(port))

    def _tell(self, request: VportRequest,
              shown: VportReply) -> Iterator[bytes]:
        """Peers hear of what a request did, and who asked if it wants to."""
        _notify(self._registry, request.cmd, shown)
        message = request.message
        if not message.flags & NLM_F_ECHO:
            return iter(())
        return iter((encode_vport(ReplyHeader(message.seq, message.pid),
                                  request.cmd, shown),))

    def _port(self, request: VportRequest) -> tuple[Datapath, Vport]:
        """The port that a request names; a name alone finds it anywhere.

        :raises RequestError: ENODEV; EOPNOTSUPP for OVS_VPORT_ATTR_IFINDEX
        """
        if request.ifindex is not None:
            raise RequestError(errno.EOPNOTSUPP,
                               "OVS_VPORT_ATTR_IFINDEX does not name a port")
        if request.name is None:
            dp = numbered(self._registry, request.dp_ifindex)
            port = dp.vports.by_no.get(request.port_no or LOCAL)
            if port is not None:
                return dp, port
        else:
            for dp in self._registry.datapaths():
                port = dp.vports.by_name.get(request.name)
                if port is not None and request.dp_ifindex in (
                        0, dp.dp_ifindex):
                    return dp, port
        raise RequestError(errno.ENODEV, "no such port")


def port_event(registry: Registry, dp: Datapath, port: Vport,
               gone: bool) -> None:
    """Tells the multicast group of a change that no request made."""
    _notify(registry,
            uapi.OVS_VPORT_CMD_DEL if gone else uapi.OVS_VPORT_CMD_SET,
            dp.ports.reply(port))


def _notify(registry: Registry, cmd: int, shown: VportReply) -> None:
    registry.notify(uapi.OVS_VPORT_MCGROUP_ID,
                    encode_vport(ReplyHeader(), cmd, shown))
