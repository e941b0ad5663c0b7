# SPDX-License-Identifier: Apache-2.0
"""Netlink requests → what the datapaths do → replies.

A datagram of a peer holds one or more requests.  Each is answered as generic
netlink answers: by a reply, a dump that ends with NLMSG_DONE, an NLMSG_ERROR
with extended ack, or an ack where NLM_F_ACK asks for one.  Whatever a request
holds, the next one is served: ``dpif_bpf.errors`` says what becomes of an
exception that nobody expected.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from operator import add
from typing import Protocol, TypeVar, TypeVarTuple

from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.execute import execute
from dpif_bpf.core.flow_table import Flow
from dpif_bpf.core.meters import MAX_BANDS, MAX_METERS
from dpif_bpf.core.vport import LOCAL, Vport
from dpif_bpf.errors import (
    BackendError,
    DpifError,
    InternalError,
    MalformedError,
    RequestError,
)
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import (
    ATTRS_POS,
    DatapathRequest,
    FlowRequest,
    VportRequest,
    decode_datapath,
    decode_flow,
    decode_packet,
    decode_vport,
)
from dpif_bpf.wire.meter_messages import decode_meter
from dpif_bpf.wire.netlink import (
    NLM_F_ACK,
    NLM_F_ECHO,
    NLM_F_REQUEST,
    NLMSG_HDRLEN,
    NLMSG_MIN_TYPE,
    Message,
    build_ack,
    build_done,
    build_error,
    iter_messages,
)
from dpif_bpf.wire.replies import (
    ReplyHeader,
    encode_datapath,
    encode_meter,
    encode_meter_features,
    encode_vport,
    flow_body,
    flow_head,
)

DUMP_BYTES = 32768
"""Messages of a dump are gathered into datagrams of at most this size, as
the kernel does (NLMSG_GOODSIZE)."""

DUMP_FLOWS = 1024
"""Flows whose statistics are read in one go."""
DATAGRAM_FLOWS = 80
"""Flows that most often fit into one datagram of a dump: whole ones of
ovs-vswitchd take up to 380 bytes, those that it asks for by UFID 84."""

REPORT_INTERVAL = 60000
"""ms between reports of what nobody expected; the counters have all."""


_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


class Registry(Protocol):
    """The datapaths of the provider."""

    def datapaths(self) -> list[Datapath]:
        """All of them."""

    def make(self, request: DatapathRequest) -> Datapath:
        """OVS_DP_CMD_NEW.

        :raises RequestError: EEXIST
        :raises BackendError: what keeps one of an earlier provider from
            being taken over
        """

    def remove(self, dp: Datapath) -> None:
        """OVS_DP_CMD_DEL."""

    def absent(self, name: str) -> str | None:
        """Why a datapath of an earlier provider is not taken over; None
        when there is no such."""

    def discard(self, name: str) -> bool:
        """OVS_DP_CMD_DEL of one that is not taken over; False when there is
        no such."""

    def notify(self, group: int, message: bytes) -> None:
        """Sends a notification to the members of a multicast group."""

    def changes(self) -> Iterator[tuple[Datapath, Vport, bool]]:
        """Ports whose devices have changed since the last call, or with
        which they have ended (True); all that has happened so far."""

    def reclaim(self) -> bool:
        """Waits until what was removed can be used again; whether there was
        anything."""


@dataclass(frozen=True, slots=True)
class _Family:
    """A family and its operations, as its struct genl_ops in the kernel.

    :param commands: those that there are
    :param reads: those of them that change nothing
    :param dumps: those of them that may be asked with NLM_F_DUMP
    """

    serve: Callable[[Message], Iterator[bytes]]
    commands: frozenset[int]
    reads: frozenset[int] = frozenset()
    dumps: frozenset[int] = frozenset()


class Dispatcher:
    """Serves requests; keeps no state of its own.

    :param clock: ms, monotonic
    :param report: logs a text and the exception that is being handled;
        called once a REPORT_INTERVAL at most
    :ivar broken: what has left state half changed, or None: see
        ``dpif_bpf.errors``
    """

    def __init__(self, registry: Registry, clock: Callable[[], int],
                 report: Callable[[str], object] | None = None) -> None:
        self._registry = registry
        self._clock = clock
        self._report = report
        self._report_after: int | None = None
        self._families = {
            uapi.OVS_DATAPATH_ID: _Family(
                self._datapath, frozenset({
                    uapi.OVS_DP_CMD_NEW, uapi.OVS_DP_CMD_DEL,
                    uapi.OVS_DP_CMD_GET, uapi.OVS_DP_CMD_SET}),
                frozenset({uapi.OVS_DP_CMD_GET}),
                frozenset({uapi.OVS_DP_CMD_GET})),
            uapi.OVS_VPORT_ID: _Family(
                self._vport, frozenset({
                    uapi.OVS_VPORT_CMD_NEW, uapi.OVS_VPORT_CMD_DEL,
                    uapi.OVS_VPORT_CMD_GET, uapi.OVS_VPORT_CMD_SET}),
                frozenset({uapi.OVS_VPORT_CMD_GET}),
                frozenset({uapi.OVS_VPORT_CMD_GET})),
            uapi.OVS_FLOW_ID: _Family(
                self._flow, frozenset({
                    uapi.OVS_FLOW_CMD_NEW, uapi.OVS_FLOW_CMD_DEL,
                    uapi.OVS_FLOW_CMD_GET, uapi.OVS_FLOW_CMD_SET}),
                frozenset({uapi.OVS_FLOW_CMD_GET}),
                frozenset({uapi.OVS_FLOW_CMD_GET})),
            uapi.OVS_PACKET_ID: _Family(
                self._packet, frozenset({uapi.OVS_PACKET_CMD_EXECUTE})),
            uapi.OVS_METER_ID: _Family(
                self._meter, frozenset({
                    uapi.OVS_METER_CMD_FEATURES, uapi.OVS_METER_CMD_SET,
                    uapi.OVS_METER_CMD_DEL, uapi.OVS_METER_CMD_GET}),
                frozenset({uapi.OVS_METER_CMD_FEATURES,
                           uapi.OVS_METER_CMD_GET})),
        }
        self.broken: InternalError | None = None
        self._requests = 0
        self._errors = 0
        self._malformed = 0
        self._internal = 0

    @property
    def counters(self) -> dict[str, int]:
        """Events since the start, by name (coverage/show)."""
        return {"netlink_request": self._requests,
                "netlink_error": self._errors,
                "netlink_malformed": self._malformed,
                "netlink_internal_error": self._internal}

    def serve(self, datagram: bytes) -> Iterator[bytes]:
        """The replies to a datagram; a dump is produced as it is taken."""
        try:
            for message in iter_messages(datagram):
                yield from self._serve(message)
        except RequestError:
            # No header to answer: the rest of the datagram is dropped.
            self._errors += 1

    def _serve(self, message: Message) -> Iterator[bytes]:
        self._requests += 1
        if (not message.flags & NLM_F_REQUEST
                or message.type < NLMSG_MIN_TYPE):
            # netlink_rcv_skb() passes over what asks for nothing.
            if message.flags & NLM_F_ACK:
                yield build_ack(message)
            return
        try:
            yield from self._family(message).serve(message)
        except Exception as e:
            yield build_error(message, self._failed(message, e))
        else:
            if message.is_dump:
                yield build_done(message)
            elif message.flags & NLM_F_ACK:
                yield build_ack(message)

    def _family(self, message: Message) -> _Family:
        """The family that a request is for, if it has such an operation, as
        genl_rcv_msg() of the kernel.

        :raises RequestError: EINVAL without the family's headers,
            EOPNOTSUPP
        """
        family = self._families.get(message.type)
        name = uapi.FAMILIES.get(message.type)
        if family is None:
            raise RequestError(
                errno.EOPNOTSUPP,
                f"{name} is not supported" if name else
                f"message type {message.type:#x} is not supported")
        if len(message.raw) < ATTRS_POS:
            raise RequestError(errno.EINVAL,
                               "no room for genlmsghdr and struct ovs_header")
        cmd = message.raw[NLMSG_HDRLEN]
        if cmd not in family.commands:
            raise RequestError(errno.EOPNOTSUPP,
                               f"command {cmd} of {name} is not supported")
        if message.is_dump and cmd not in family.dumps:
            raise RequestError(errno.EOPNOTSUPP,
                               f"command {cmd} of {name} has no dump")
        return family

    def _failed(self, message: Message, error: Exception) -> DpifError:
        """What a peer is told of an exception."""
        self._errors += 1
        if isinstance(error, MalformedError):
            self._malformed += 1
            self._tell(f"cannot read a request: {error.__cause__!r}")
        if isinstance(error, DpifError):
            return error
        self._internal += 1
        family = self._families[message.type]
        cmd = message.raw[NLMSG_HDRLEN]
        what = f"command {cmd} of {uapi.FAMILIES[message.type]}"
        self._tell(f"{what} has failed: {error!r}")
        internal = InternalError(errno.EIO, f"{what} failed unexpectedly")
        internal.__cause__ = error
        if cmd not in family.reads and self.broken is None:
            self.broken = internal
        return internal

    def _tell(self, text: str) -> None:
        now = self._clock()
        if self._report is not None and (
                self._report_after is None or now >= self._report_after):
            self._report_after = now + REPORT_INTERVAL
            self._report(text)

    # ovs_datapath

    def _datapath(self, message: Message) -> Iterator[bytes]:
        request = decode_datapath(message)
        if request.cmd == uapi.OVS_DP_CMD_GET:
            if message.is_dump:
                header = ReplyHeader(message.seq, message.pid, True)
                yield from _gather(
                    encode_datapath(header, request.cmd, dp.reply())
                    for dp in self._registry.datapaths())
                return
            dp = self._named(request)
        elif request.cmd == uapi.OVS_DP_CMD_NEW:
            dp = self._registry.make(request)
        elif request.cmd == uapi.OVS_DP_CMD_SET:
            dp = self._named(request)
            dp.change(request)
        elif request.name and self._registry.discard(request.name):
            return
        else:
            dp = self._named(request)
        reply = encode_datapath(ReplyHeader(message.seq, message.pid),
                                request.cmd, dp.reply())
        if request.cmd == uapi.OVS_DP_CMD_DEL:
            self._registry.remove(dp)
        if (request.cmd == uapi.OVS_DP_CMD_GET
                or message.flags & NLM_F_ECHO):
            yield reply

    def _named(self, request: DatapathRequest) -> Datapath:
        for dp in self._registry.datapaths():
            if (dp.name == request.name if request.name is not None
                    else dp.dp_ifindex == request.dp_ifindex):
                return dp
        why = self._registry.absent(request.name) if request.name else None
        raise RequestError(errno.ENODEV, why or "no such datapath")

    def _numbered(self, dp_ifindex: int) -> Datapath:
        for dp in self._registry.datapaths():
            if dp.dp_ifindex == dp_ifindex:
                return dp
        raise RequestError(errno.ENODEV, "no such datapath")

    # ovs_vport

    def _vport(self, message: Message) -> Iterator[bytes]:
        """What has happened to devices is answered for, and told of, first:
        ovs-vswitchd asks when it hears of the same, and not again."""
        request = decode_vport(message)
        for dp, port, gone in self._registry.changes():
            self.port_event(dp, port, gone)
        header = ReplyHeader(message.seq, message.pid)
        if request.cmd == uapi.OVS_VPORT_CMD_GET:
            if message.is_dump:
                dp = self._numbered(request.dp_ifindex)
                header = ReplyHeader(message.seq, message.pid, True)
                yield from _gather(
                    encode_vport(header, uapi.OVS_VPORT_CMD_GET,
                                 dp.port_reply(port))
                    for port in list(dp.vports.by_no.values()))
                return
            dp, port = self._port(request)
            yield encode_vport(header, request.cmd, dp.port_reply(port))
            return
        if request.cmd == uapi.OVS_VPORT_CMD_NEW:
            dp = self._numbered(request.dp_ifindex)
            port = dp.add_port(request)
        elif request.cmd == uapi.OVS_VPORT_CMD_SET:
            dp, port = self._port(request)
            dp.set_port(port, request)
        else:
            dp, port = self._port(request)
            if port.port_no == LOCAL:
                raise RequestError(errno.EINVAL,
                                   "the local port goes with its datapath")
        shown = dp.port_reply(port)
        if request.cmd == uapi.OVS_VPORT_CMD_DEL:
            dp.delete_port(port)
        self._registry.notify(
            uapi.OVS_VPORT_MCGROUP_ID,
            encode_vport(ReplyHeader(), request.cmd, shown))
        if message.flags & NLM_F_ECHO:
            yield encode_vport(header, request.cmd, shown)

    def _port(self, request: VportRequest) -> tuple[Datapath, Vport]:
        """The port that a request names; a name alone finds it anywhere.

        :raises RequestError: ENODEV; EOPNOTSUPP for OVS_VPORT_ATTR_IFINDEX
        """
        if request.ifindex is not None:
            raise RequestError(errno.EOPNOTSUPP,
                               "OVS_VPORT_ATTR_IFINDEX does not name a port")
        if request.name is None:
            dp = self._numbered(request.dp_ifindex)
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

    def port_event(self, dp: Datapath, port: Vport, gone: bool) -> None:
        """Tells the multicast group of a change that no request made."""
        cmd = uapi.OVS_VPORT_CMD_DEL if gone else uapi.OVS_VPORT_CMD_SET
        self._registry.notify(
            uapi.OVS_VPORT_MCGROUP_ID,
            encode_vport(ReplyHeader(), cmd, dp.port_reply(port)))

    # ovs_flow

    def _flow(self, message: Message) -> Iterator[bytes]:
        request = decode_flow(message)
        dp = self._numbered(request.dp_ifindex)
        if request.cmd == uapi.OVS_FLOW_CMD_GET:
            if message.is_dump:
                yield from dump_flows(dp, request)
                return
            flow = dp.flows.get(request)
        elif request.cmd == uapi.OVS_FLOW_CMD_NEW:
            flow = self._with_room(dp.flows.put, request)
        elif request.cmd == uapi.OVS_FLOW_CMD_SET:
            flow = self._with_room(dp.flows.set, request)
        elif request.key is None and request.ufid is None:
            dp.flows.flush()
            return
        else:
            flow = dp.flows.get(request)
        reply = b""
        if (request.cmd == uapi.OVS_FLOW_CMD_GET
                or message.flags & NLM_F_ECHO):
            head = flow_head(ReplyHeader(message.seq, message.pid),
                             request.cmd, dp.dp_ifindex)
            body = flow_body(flow.parts, request.ufid_flags)
            reply = head(len(body), dp.flows.stats([flow])[0]) + body
        if request.cmd == uapi.OVS_FLOW_CMD_DEL:
            dp.flows.delete(flow)
        if reply:
            yield reply

    # ovs_packet

    def _packet(self, message: Message) -> Iterator[bytes]:
        request = decode_packet(message)
        self._with_room(execute, self._numbered(request.dp_ifindex), request,
                        self._clock())
        return iter(())

    def _with_room(self, call: Callable[[*_Args], _Result],
                   *args: *_Args) -> _Result:
        """A call that does nothing when it raises ENOSPC: once more, if what
        there is no room for can be had of what was removed of late."""
        try:
            return call(*args)
        except BackendError as e:
            if e.errno != errno.ENOSPC or not self._registry.reclaim():
                raise
        return call(*args)

    # ovs_meter

    def _meter(self, message: Message) -> Iterator[bytes]:
        """Each request has a reply, with or without NLM_F_ECHO."""
        request = decode_meter(message)
        header = ReplyHeader(message.seq, message.pid)
        dp = self._numbered(request.dp_ifindex)
        known: int | None = request.id
        if request.cmd == uapi.OVS_METER_CMD_FEATURES:
            yield encode_meter_features(header, dp.dp_ifindex, MAX_METERS,
                                        MAX_BANDS)
            return
        if request.cmd == uapi.OVS_METER_CMD_SET:
            stats = dp.meters.set(request)
        elif request.cmd == uapi.OVS_METER_CMD_GET:
            stats = dp.meters.get(request.id)
        else:
            stats = dp.meters.delete(request.id)
            if stats is None:
                known = None
        yield encode_meter(header, request.cmd, dp.dp_ifindex, known, stats)


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
                yield from _gather(map(add, part[::2], part[1::2]))


def _gather(messages: Iterator[bytes]) -> Iterator[bytes]:
    """Joins messages into datagrams of at most DUMP_BYTES, if they fit."""
    parts: list[bytes] = []
    size = 0
    for message in messages:
        if size + len(message) > DUMP_BYTES and parts:
            yield b"".join(parts)
            parts.clear()
            size = 0
        parts.append(message)
        size += len(message)
    if parts:
        yield b"".join(parts)
