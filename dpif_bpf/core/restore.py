# SPDX-License-Identifier: Apache-2.0
"""What an earlier provider kept, read back and replayed.

``core.records`` says how it is kept.  Each record is a request once more,
and goes through the code that serves requests.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from struct import Struct

from dpif_bpf.core import records
from dpif_bpf.core.plane import DpCounters
from dpif_bpf.errors import BackendError
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

DATAPATH_PREFIX = Struct("=6Q")
"""Before the attributes of a datapath's record: its number among the
provider's datapaths, and struct ovs_dp_stats so far."""


@dataclass(slots=True)
class Kept:
    """A datapath as an earlier provider left it.

    :param number: of the datapath, for device names
    :param base: packets that it had counted when that provider began
    :param flows: id in the old classifier and request of each flow
    """

    number: int
    base: DpCounters
    datapath: DatapathRequest
    ports: list[VportRequest] = field(default_factory=list)
    flows: list[tuple[int, FlowRequest]] = field(default_factory=list)


def read(words: memoryview) -> Kept:
    """Reads ovs_nlmem.

    :param words: the pinned map, format 'Q'
    :raises BackendError: EPROTO when there is no datapath in it, or what is
        in it has another layout
    :raises RequestError: EINVAL when a record does not parse
    """
    kept: Kept | None = None
    for index, data in records.read(words):
        if index == records.DATAPATH:
            number, *counted = DATAPATH_PREFIX.unpack_from(data)
            kept = Kept(number, DpCounters(*counted), decode_datapath(
                _request(uapi.OVS_DATAPATH_ID, uapi.OVS_DP_CMD_NEW,
                         data[DATAPATH_PREFIX.size:])))
        elif kept is None:
            break
        elif index < records.FLOW_BASE:
            kept.ports.append(decode_vport(_request(
                uapi.OVS_VPORT_ID, uapi.OVS_VPORT_CMD_NEW, data)))
        else:
            kept.flows.append((index - records.FLOW_BASE, decode_flow(
                _request(uapi.OVS_FLOW_ID, uapi.OVS_FLOW_CMD_NEW, data))))
    if kept is None:
        raise BackendError(errno.EPROTO, "no datapath was kept")
    return kept


def _request(family: int, cmd: int, attrs: bytes) -> Message:
    raw = (GENLMSGHDR.pack(cmd, uapi.OVS_DATAPATH_VERSION, 0)
           + uapi.OVS_HEADER.pack(0) + attrs)
    size = NLMSGHDR.size + len(raw)
    return Message(family, 0, 0, 0,
                   NLMSGHDR.pack(size, family, 0, 0, 0) + raw)
