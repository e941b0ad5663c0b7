# SPDX-License-Identifier: Apache-2.0
"""Keeps a datapath and its ports for the next provider.

``core.records`` says how a record is kept, ``core.restore`` reads them.  The
flow table keeps its flows by itself: of those there are many.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from dpif_bpf.core.plane import DpCounters
from dpif_bpf.core.records import DATAPATH, PORT_BASE, Records
from dpif_bpf.core.restore import DATAPATH_PREFIX
from dpif_bpf.core.vport import Vport
from dpif_bpf.wire import uapi
from dpif_bpf.wire.netlink import nla, nla_string, nla_u32, nla_u32_array


@dataclass(frozen=True, slots=True)
class Settings:
    """A datapath as it is kept.

    :param number: of the datapath, for device names
    :param base: what earlier generations counted
    :param dropped: drops that they counted, by reason
    """

    number: int
    name: str
    base: DpCounters
    dropped: tuple[int, ...]
    user_features: int
    masks_cache_size: int
    per_cpu_pids: tuple[int, ...]


class Keeper:
    """Writes the records of a datapath and its ports.

    Each method raises BackendError ENOSPC when there is no room; then what
    was kept is still kept.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    def keep_datapath(self, settings: Settings) -> None:
        data = (DATAPATH_PREFIX.pack(settings.number,
                                     *astuple(settings.base),
                                     *settings.dropped)
                + nla_string(uapi.OVS_DP_ATTR_NAME, settings.name)
                + nla_u32(uapi.OVS_DP_ATTR_UPCALL_PID, 0)
                + nla_u32(uapi.OVS_DP_ATTR_USER_FEATURES,
                          settings.user_features)
                + nla_u32(uapi.OVS_DP_ATTR_MASKS_CACHE_SIZE,
                          settings.masks_cache_size))
        if settings.per_cpu_pids:
            data += nla_u32_array(uapi.OVS_DP_ATTR_PER_CPU_PIDS,
                                  settings.per_cpu_pids)
        self._records.put(DATAPATH, data)

    def keep_port(self, port: Vport) -> None:
        data = (nla_u32(uapi.OVS_VPORT_ATTR_PORT_NO, port.port_no)
                + nla_u32(uapi.OVS_VPORT_ATTR_TYPE, port.type)
                + nla_string(uapi.OVS_VPORT_ATTR_NAME, port.name)
                + nla_u32_array(uapi.OVS_VPORT_ATTR_UPCALL_PID,
                                port.upcall_pids)
                + nla_u32(uapi.OVS_VPORT_ATTR_IFINDEX,
                          port.link.hook_ifindex))
        if port.options is not None:
            data += nla(uapi.OVS_VPORT_ATTR_OPTIONS, port.options)
        self._records.put(PORT_BASE + port.port_no, data)

    def drop_port(self, port_no: int) -> None:
        """Forgets a port, if it was kept."""
        self._records.drop(PORT_BASE + port_no)
