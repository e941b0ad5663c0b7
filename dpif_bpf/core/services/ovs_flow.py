# SPDX-License-Identifier: Apache-2.0
"""ovs_flow: flows, put, changed, shown and deleted."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from itertools import chain
from operator import add

from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.flow_table import Flow
from dpif_bpf.core.services.service import (
    DUMP_BYTES,
    Clock,
    Command,
    GenericService,
    Registry,
    gather,
    numbered,
    until,
    with_room,
)
from dpif_bpf.errors import DpifError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import FlowRequest, decode_flow
from dpif_bpf.wire.netlink import NLM_F_ECHO, Message
from dpif_bpf.wire.replies import ReplyHeader, flow_body, flow_head

DUMP_FLOWS = 1024
"""Flows whose statistics are read in one go."""
DATAGRAM_FLOWS = 80
"""Flows that most often fit into one datagram of a dump: whole ones of
ovs-vswitchd take up to 380 bytes, those that it asks for by UFID 84."""


class FlowService(GenericService):
    """OVS_FLOW_CMD_*."""

    def __init__(self, registry: Registry, _clock: Clock) -> None:
        super().__init__(uapi.OVS_FLOW_ID, {
            uapi.OVS_FLOW_CMD_NEW: Command(self._new),
            uapi.OVS_FLOW_CMD_DEL: Command(self._delete),
            uapi.OVS_FLOW_CMD_GET: Command(self._get, self._dump,
                                           reads=True),
            uapi.OVS_FLOW_CMD_SET: Command(self._set)})
        self._registry = registry

    def _request(self, message: Message) -> tuple[FlowRequest, Datapath]:
        request = decode_flow(message)
        return request, numbered(self._registry, request.dp_ifindex)

    def _new(self, message: Message) -> Iterator[bytes]:
        request, dp = self._request(message)
        return self._change(dp, dp.flows.put, request)

    def _set(self, message: Message) -> Iterator[bytes]:
        request, dp = self._request(message)
        return self._change(dp, dp.flows.set, request)

    def _change(self, dp: Datapath, call: Callable[[FlowRequest], Flow],
                request: FlowRequest) -> Iterator[bytes]:
        flushes = dp.flows.flushes
        yield from until(lambda: not flushes.shown)
        try:
            flow = with_room(self._registry, call, request)
        except DpifError as error:
            if error.errno == errno.ENOSPC and not request.probe:
                self._registry.refused(dp, error)
            raise
        if request.message.flags & NLM_F_ECHO:
            yield from _shown(dp, request, flow)

    def _delete(self, message: Message) -> Iterator[bytes]:
        """A flow, or all of them where none is named."""
        request, dp = self._request(message)
        if request.key is None and request.ufid is None:
            number = dp.flows.flush()
            return until(lambda: dp.flows.flushes.ended >= number)
        flow = dp.flows.get(request)
        reply: Iterator[bytes] = iter(())
        if message.flags & NLM_F_ECHO:
            reply = _shown(dp, request, flow)
        dp.flows.delete(flow)
        return reply

    def _get(self, message: Message) -> Iterator[bytes]:
        request, dp = self._request(message)
        return _shown(dp, request, dp.flows.get(request))

    def _dump(self, message: Message) -> Iterator[bytes]:
        request, dp = self._request(message)
        return dump_flows(dp, request)


def _shown(dp: Datapath, request: FlowRequest,
           flow: Flow) -> Iterator[bytes]:
    """A flow as it is now."""
    message = request.message
    head = flow_head(ReplyHeader(message.seq, message.pid), request.cmd,
                     dp.dp_ifindex)
    body = flow_body(flow.parts, request.ufid_flags)
    return iter((head(len(body), dp.flows.stats([flow])[0]) + body,))


def dump_flows(dp: Datapath, request: FlowRequest) -> Iterator[bytes]:
    """Datagrams; runs once for every flow, a hundred thousand at a time."""
    message = request.message
    head = flow_head(ReplyHeader(message.seq, message.pid, True),
                     uapi.OVS_FLOW_CMD_GET, dp.dp_ifindex)
    flows = dp.flows
    flags = request.ufid_flags
    todo: list[Flow] = flows.snapshot()
    for start in range(0, len(todo), DUMP_FLOWS):
        some = [flow for flow in todo[start:start + DUMP_FLOWS]
                if flows.alive(flow)]
        bodies = ([flow_body(flow.parts, flags) for flow in some] if flags
                  else [flow.body for flow in some])
        heads = map(head, map(len, bodies), flows.stats(some))
        parts = [*chain.from_iterable(zip(heads, bodies, strict=True))]
        for first in range(0, len(parts), 2 * DATAGRAM_FLOWS):
            part = parts[first:first + 2 * DATAGRAM_FLOWS]
            datagram = b"".join(part)
            if len(datagram) <= DUMP_BYTES:
                yield datagram
            else:
                yield from gather(map(add, part[::2], part[1::2]))
