# SPDX-License-Identifier: Apache-2.0
"""What is done about the requests of ctnetlink, of timeout policies and of
limits.

Each function carries out a request that was read, and returns its replies, but
for NLMSG_DONE and the acknowledgement.  The replies to a dump are made as they
are taken.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import partial

from dpif_bpf.core.conntrack.interface import Connections
from dpif_bpf.core.conntrack.limits import Limits
from dpif_bpf.core.conntrack.policy import Policies
from dpif_bpf.core.services.service import LATER
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire import uapi
from dpif_bpf.wire.ct_limit import LimitRequest, limit_reply
from dpif_bpf.wire.ctnetlink import (
    CtFilter,
    CtName,
    CtRequest,
    cpu_stats_reply,
    entry_header,
    entry_reply,
    stats_reply,
)
from dpif_bpf.wire.cttimeout import (
    TimeoutRequest,
    default_reply,
    timeout_reply,
)


def answer_ct(request: CtRequest, table: Connections) -> Iterator[bytes]:
    """Replies to IPCTNL_MSG_CT_*.

    :raises RequestError: ENOENT for a connection that is not there
    """
    cmd = request.cmd
    if cmd == nf.IPCTNL_MSG_CT_GET_STATS:
        return iter((stats_reply(request, table.total(), table.most()),))
    if cmd == nf.IPCTNL_MSG_CT_GET_STATS_CPU:
        # Who does not dump gets none: as from the kernel.
        return (cpu_stats_reply(request, cpu, counters)
                for cpu, counters in enumerate(table.cpu_stats())
                if request.dump)
    if request.name is not None:
        number, ct_id = _find(request.name, table)
        if cmd == nf.IPCTNL_MSG_CT_DELETE:
            if not table.delete(number, ct_id):
                raise _none()
            return iter(())
        entry = table.entry(number, cmd == nf.IPCTNL_MSG_CT_GET_CTRZERO)
        if entry is None:
            raise _none()
        return iter((entry_reply(request, entry),))
    if request.filter is None:
        # Neither dying nor unconfirmed connections are kept in a list.
        return iter(())
    if cmd == nf.IPCTNL_MSG_CT_DELETE:
        return _flush(request.filter, table)
    return table.replies(request.filter, partial(entry_header, request),
                         cmd == nf.IPCTNL_MSG_CT_GET_CTRZERO)


def _none() -> RequestError:
    return RequestError(errno.ENOENT, "there is no such connection")


def _find(name: CtName, table: Connections) -> tuple[int, int]:
    """Id and CTA_ID."""
    number = table.find(name)
    entry = None if number is None else table.entry(number)
    if number is None or entry is None or name.id not in (None, entry.id):
        raise _none()
    return number, entry.id


def _flush(filter_: CtFilter, table: Connections) -> Iterator[bytes]:
    if filter_ == CtFilter(zone=filter_.zone):
        table.flush(filter_.zone)
    else:
        for _ in table.end(filter_):
            yield LATER


def answer_timeout(request: TimeoutRequest,
                   policies: Policies) -> Iterator[bytes]:
    """Replies to IPCTNL_MSG_TIMEOUT_*.

    :raises RequestError: as Policies
    :raises BackendError: as Policies
    """
    cmd = request.cmd
    if cmd == nf.IPCTNL_MSG_TIMEOUT_NEW:
        policies.new(request)
    elif cmd == nf.IPCTNL_MSG_TIMEOUT_DELETE:
        if request.name:
            policies.delete(request.name)
        else:
            policies.clear()
    elif cmd == nf.IPCTNL_MSG_TIMEOUT_DEFAULT_SET:
        policies.set_default(request)
    elif cmd == nf.IPCTNL_MSG_TIMEOUT_DEFAULT_GET:
        return iter((default_reply(request, policies.default(
            request.l3num, request.proto)),))
    else:
        return (timeout_reply(request, policy.made, policies.use(policy))
                for policy in (policies if request.dump
                               else [policies.get(request.name)]))
    return iter(())


def answer_limit(request: LimitRequest, limits: Limits) -> bytes:
    """The reply to OVS_CT_LIMIT_CMD_*."""
    if request.cmd == uapi.OVS_CT_LIMIT_CMD_GET:
        return limit_reply(request, limits.get(request.zones))
    if request.cmd == uapi.OVS_CT_LIMIT_CMD_SET:
        limits.set(request.zones or ())
    else:
        limits.delete(request.zones or ())
    return limit_reply(request)
