# SPDX-License-Identifier: Apache-2.0
"""ovs_datapath: datapaths, made, changed, shown and removed."""

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
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import DatapathRequest, decode_datapath
from dpif_bpf.wire.netlink import NLM_F_ECHO, Message
from dpif_bpf.wire.replies import ReplyHeader, encode_datapath


class DatapathService(GenericService):
    """OVS_DP_CMD_*."""

    def __init__(self, registry: Registry, _clock: Clock) -> None:
        super().__init__(uapi.OVS_DATAPATH_ID, {
            uapi.OVS_DP_CMD_NEW: Command(self._new),
            uapi.OVS_DP_CMD_DEL: Command(self._delete),
            uapi.OVS_DP_CMD_GET: Command(self._get, self._dump, reads=True),
            uapi.OVS_DP_CMD_SET: Command(self._set)})
        self._registry = registry

    def _new(self, message: Message) -> Iterator[bytes]:
        request = decode_datapath(message)
        return _echo(request, self._registry.make(request))

    def _delete(self, message: Message) -> Iterator[bytes]:
        request = decode_datapath(message)
        if request.name and self._registry.discard(request.name):
            return iter(())
        dp = self._named(request)
        echo = _echo(request, dp)
        self._registry.remove(dp)
        return echo

    def _get(self, message: Message) -> Iterator[bytes]:
        request = decode_datapath(message)
        return _shown(request, self._named(request))

    def _dump(self, message: Message) -> Iterator[bytes]:
        request = decode_datapath(message)
        header = ReplyHeader(message.seq, message.pid, True)
        return gather(encode_datapath(header, request.cmd, dp.reply())
                      for dp in self._registry.datapaths())

    def _set(self, message: Message) -> Iterator[bytes]:
        request = decode_datapath(message)
        dp = self._named(request)
        dp.change(request)
        return _echo(request, dp)

    def _named(self, request: DatapathRequest) -> Datapath:
        name = request.name
        if name is None:
            return numbered(self._registry, request.dp_ifindex)
        for dp in self._registry.datapaths():
            if dp.name == name:
                return dp
        why = self._registry.absent(name) if name else None
        raise RequestError(errno.ENODEV, why or "no such datapath")


def _shown(request: DatapathRequest, dp: Datapath) -> Iterator[bytes]:
    """The datapath as it is now."""
    message = request.message
    return iter((encode_datapath(ReplyHeader(message.seq, message.pid),
                                 request.cmd, dp.reply()),))


def _echo(request: DatapathRequest, dp: Datapath) -> Iterator[bytes]:
    """The same where NLM_F_ECHO asks for it."""
    if request.message.flags & NLM_F_ECHO:
        return _shown(request, dp)
    return iter(())
