# SPDX-License-Identifier: Apache-2.0
"""Netlink requests → the services that answer them.

A datagram of a peer holds one or more requests.  Each is answered as netlink
answers: by a reply, a dump that ends with NLMSG_DONE, an NLMSG_ERROR with
extended ack, or an ack where NLM_F_ACK asks for one.  Which service a request
is for, netlink protocol and message type tell; ``services.families`` has the
services.  Whatever a request holds, the next one is served: this is the one
place where an exception becomes an answer, and ``dpif_bpf.errors`` says what
becomes of one that nobody expected.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator

from dpif_bpf.core.services.service import Call, Clock, Service
from dpif_bpf.errors import (
    DpifError,
    InternalError,
    MalformedError,
    RequestError,
)
from dpif_bpf.wire import uapi
from dpif_bpf.wire.netlink import (
    NETLINK_GENERIC,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_MIN_TYPE,
    Message,
    build_ack,
    build_done,
    build_error,
    iter_messages,
)

REPORT_INTERVAL = 60000
"""ms between reports of what nobody expected; the counters have all."""


class Router:
    """Serves requests; keeps no state of its own.

    :param report: logs a text and the exception that is being handled;
        called once a REPORT_INTERVAL at most
    :ivar broken: what has left state half changed, or None: see
        ``dpif_bpf.errors``
    """

    def __init__(self, services: Iterable[Service], clock: Clock,
                 report: Callable[[str], object] | None = None) -> None:
        self._services = {(service.protocol, type_): service
                          for service in services for type_ in service.types}
        self._clock = clock
        self._report = report
        self._report_after: int | None = None
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

    def serve(self, datagram: bytes,
              protocol: int = NETLINK_GENERIC) -> Iterator[bytes]:
        """The replies to a datagram; a dump is produced as it is taken.

        :param protocol: NETLINK_GENERIC or NETLINK_NETFILTER
        """
        try:
            for message in iter_messages(datagram):
                yield from self._serve(protocol, message)
        except RequestError:
            # No header to answer: the rest of the datagram is dropped.
            self._errors += 1

    def _serve(self, protocol: int, message: Message) -> Iterator[bytes]:
        self._requests += 1
        if (not message.flags & NLM_F_REQUEST
                or message.type < NLMSG_MIN_TYPE):
            # netlink_rcv_skb() passes over what asks for nothing.
            if message.flags & NLM_F_ACK:
                yield build_ack(message)
            return
        call = None
        try:
            call = self._service(protocol, message).find(message)
            yield from call.serve(message)
        except Exception as error:
            yield build_error(message, self._failed(message, call, error))
        else:
            if call.dump:
                yield build_done(message)
            elif message.flags & NLM_F_ACK:
                yield build_ack(message)

    def _service(self, protocol: int, message: Message) -> Service:
        """The service that a request is for.

        :raises RequestError: EOPNOTSUPP
        """
        service = self._services.get((protocol, message.type))
        if service is None:
            name = (uapi.FAMILIES.get(message.type)
                    if protocol == NETLINK_GENERIC else None)
            raise RequestError(
                errno.EOPNOTSUPP,
                f"{name} is not supported" if name else
                f"message type {message.type:#x} is not supported")
        return service

    def _failed(self, message: Message, call: Call | None,
                error: Exception) -> DpifError:
        """What a peer is told of an exception."""
        self._errors += 1
        if isinstance(error, MalformedError):
            self._malformed += 1
            self._tell(f"cannot read a request: {error.__cause__!r}")
        changed = isinstance(error, InternalError)
        if isinstance(error, DpifError) and not changed:
            return error
        self._internal += 1
        what = call.name if call else f"a message of type {message.type:#x}"
        cause = error.__cause__ if changed else error
        self._tell(f"{what} has failed: {cause!r}")
        internal = InternalError(errno.EIO, f"{what} failed unexpectedly")
        internal.__cause__ = cause
        if (changed or (call and not call.reads)) and self.broken is None:
            self.broken = internal
        return internal

    def _tell(self, text: str) -> None:
        now = self._clock()
        if self._report is not None and (
                self._report_after is None or now >= self._report_after):
            self._report_after = now + REPORT_INTERVAL
            self._report(text)
