# SPDX-License-Identifier: Apache-2.0
"""What an earlier provider kept, read back and replayed.

``core.records`` says how it is kept.  Each record is a request once more,
and goes through the code that serves requests.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from struct import Struct

from dpif_bpf import abi
from dpif_bpf.core import records
from dpif_bpf.core.plane import DpCounters
from dpif_bpf.errors import BackendError, RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import (
    DatapathRequest,
    FlowRequest,
    VportRequest,
    decode_datapath,
    decode_flow,
    decode_vport,
)
from dpif_bpf.wire.netlink import (
    GENLMSGHDR,
    NLMSGHDR,
    Message,
)

DATAPATH_PREFIX = Struct(f"={6 + abi.OVS_DROP_MAX}Q")
"""Before the attributes of a datapath's record: its number among the
provider's datapaths, and what earlier generations counted: DpCounters, and
drops by reason."""

_FIRST_PREFIX = Struct("=6Q")
"""The same in the first layout, without drops."""


@dataclass(slots=True)
class Kept:
    """A datapath as an earlier provider left it.

    :param number: of the datapath, for device names
    :param base: packets that it had counted when that provider began
    :param dropped: packets that it had dropped then, by reason
    :param version: OVS_ABI_VERSION of that provider
    :param flows: id in the old classifier and request of each flow, in the
        order in which they were put
    :param unreadable: what is wrong with records that are not among these
    """

    number: int
    base: DpCounters
    dropped: tuple[int, ...]
    version: int
    datapath: DatapathRequest
    ports: list[VportRequest] = field(default_factory=list)
    flows: list[tuple[int, FlowRequest]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def read(words: memoryview) -> Kept:
    """Reads ovs_nlmem.

    :param words: the pinned map, format 'Q'
    :raises BackendError: EPROTO when there is no datapath in it, or what is
        in it has another layout
    :raises RequestError: EINVAL when the datapath's record does not parse
    """
    version = records.version(words)
    found = records.read(words)
    index, data = next(found, (-1, b""))
    if index != records.DATAPATH:
        raise BackendError(errno.EPROTO, "no datapath was kept")
    kept = _datapath(data, version)
    order: list[tuple[int, int, FlowRequest]] = []
    for index, data in found:
        try:
            if index < records.FLOW_BASE:
                kept.ports.append(decode_vport(_request(
                    uapi.OVS_VPORT_ID, uapi.OVS_VPORT_CMD_NEW, data)))
            else:
                order.append(_flow(index - records.FLOW_BASE, data, version))
        except RequestError as error:
            kept.unreadable.append(error.text)
    order.sort(key=lambda item: item[0])
    kept.flows = [(flow_id, request) for _, flow_id, request in order]
    return kept


def _datapath(data: bytes, version: int) -> Kept:
    prefix = DATAPATH_PREFIX if version else _FIRST_PREFIX
    if len(data) < prefix.size:
        raise BackendError(errno.EPROTO, "the datapath's record is cut off")
    number, *counted = prefix.unpack_from(data)
    dropped = counted[5:] or [0] * abi.OVS_DROP_MAX
    return Kept(
        number, DpCounters(*counted[:5]), tuple(dropped),
        version or 1,
        decode_datapath(_request(uapi.OVS_DATAPATH_ID, uapi.OVS_DP_CMD_NEW,
                                 data[prefix.size:])))


def _flow(flow_id: int, data: bytes,
          version: int) -> tuple[int, int, FlowRequest]:
    """Serial number, id and request of a flow."""
    serial = flow_id
    if version:
        if len(data) < records.FLOW_PREFIX.size:
            raise RequestError(errno.EINVAL, "a flow's record is cut off")
        serial, = records.FLOW_PREFIX.unpack_from(data)
        data = data[records.FLOW_PREFIX.size:]
    return serial, flow_id, decode_flow(_request(
        uapi.OVS_FLOW_ID, uapi.OVS_FLOW_CMD_NEW, data))


def _request(family: int, cmd: int, attrs: bytes) -> Message:
    raw = (GENLMSGHDR.pack(cmd, uapi.OVS_DATAPATH_VERSION, 0)
           + uapi.OVS_HEADER.pack(0) + attrs)
    size = NLMSGHDR.size + len(raw)
    return Message(family, 0, 0, 0,
                   NLMSGHDR.pack(size, family, 0, 0, 0) + raw)
