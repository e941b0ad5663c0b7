# SPDX-License-Identifier: Apache-2.0
"""One datapath over one plane: its settings, and the parts that serve it.

The rules of the datapath family are those of Linux net/openvswitch/datapath.c
(``ovs_dp_cmd_*``).
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from dpif_bpf import abi
from dpif_bpf.core.actions.programs import DescTable, ProgramCache
from dpif_bpf.core.arena import Arena
from dpif_bpf.core.bridges import Bridges
from dpif_bpf.core.conntrack.control import Controls
from dpif_bpf.core.conntrack.policy import Holds, Policies
from dpif_bpf.core.devices import PortEdge
from dpif_bpf.core.flow_table import FlowTable
from dpif_bpf.core.keeper import Keeper, Settings
from dpif_bpf.core.meters import Meters
from dpif_bpf.core.plane import ANY_BRIDGE, DpCounters, Plane
from dpif_bpf.core.ports import Ports
from dpif_bpf.core.reassembly import Reassembly
from dpif_bpf.core.records import Records
from dpif_bpf.core.samples import Samples
from dpif_bpf.core.vport import LOCAL
from dpif_bpf.errors import DpifError, Finish, RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import DatapathRequest
from dpif_bpf.wire.replies import DatapathReply

USER_FEATURES = (uapi.OVS_DP_F_UNALIGNED | uapi.OVS_DP_F_VPORT_PIDS
                 | uapi.OVS_DP_F_DISPATCH_UPCALL_PER_CPU)
"""What may be asked for.  TC_RECIRC_SHARING is refused: it tells tc offload
that the datapath shares its recirculation ids, which it does not."""

CACHE_UNIT = abi.OVS_CACHE_LINES // uapi.MASKS_CACHE_SIZE_MAX
"""Lines of each CPU's cache of flows, of eight flows each, that one entry of
OVS_DP_ATTR_MASKS_CACHE_SIZE stands for."""


class Datapath:
    """A datapath.

    :param number: of the datapath in this provider, for device names
    :param devices: performs what is done to devices
    :param clock: ms, monotonic
    :param samples: sends samples
    :param report: told what failed while something was ended, which went on
        to its end all the same
    :param policies: timeouts that actions may have
    :param controls: control connections, which helpers see
    :ivar reassembly: packets in fragments
    :ivar vports: the ports by number, name and device
    """

    def __init__(self, name: str, number: int, plane: Plane,
                 devices: PortEdge, clock: Callable[[], int],
                 samples: Samples,
                 report: Callable[[str], object] = len,
                 policies: Policies | None = None,
                 controls: Controls | None = None) -> None:
        self.name = name
        self.number = number
        self.plane = plane
        self.user_features = 0
        self.per_cpu_pids: tuple[int, ...] = ()
        self.lost = 0
        self.base = DpCounters()
        self.dropped: tuple[int, ...] = (0,) * abi.OVS_DROP_MAX
        """Drops that earlier generations counted, by reason."""
        self.timeouts = Holds(policies)
        self.descs = DescTable()
        self.samples = samples
        self.programs = ProgramCache(Arena(plane.acts, start=1), self.descs,
                                     clock, samples.available)
        self.programs.timeouts = self.timeouts
        self.clock = clock
        self.reassembly = Reassembly(plane, self.programs, controls)
        self.records = Records(plane.nlmem, plane.flow_ids)
        self._keeper = Keeper(self.records)
        finish = Finish(name, report)
        plane.classifier.add_root(ANY_BRIDGE)
        self.flows = FlowTable(plane.classifier, plane, self.programs,
                               self.records, plane.max_flows)
        self.meters = Meters(plane.meters, clock)
        self.ports = Ports(number, plane, devices, self.flows, self._keeper,
                           finish)
        self.vports = self.ports.table
        self.bridges = Bridges(plane, self.flows, self.ports, finish)

    @property
    def dp_ifindex(self) -> int:
        """The local port's device stands for the datapath."""
        return self.ports.dp_ifindex

    # Settings

    @staticmethod
    def check(request: DatapathRequest) -> None:
        """Whether the settings of a NEW or SET can be had.

        ovs-vswitchd asks for what it knows that there is not, first of all:
        nothing is built before this.

        :raises RequestError: EOPNOTSUPP
        """
        if request.ifindex is not None:
            raise RequestError(errno.EOPNOTSUPP,
                               "OVS_DP_ATTR_IFINDEX cannot be chosen")
        unknown = (request.user_features or 0) & ~USER_FEATURES
        if unknown:
            raise RequestError(
                errno.EOPNOTSUPP, "OVS_DP_ATTR_USER_FEATURES has"
                f" unsupported bits {unknown:#x}")

    def change(self, request: DatapathRequest) -> None:
        """Carries out the settings of a NEW or SET, all or none.

        :raises RequestError: as check()
        :raises BackendError: ENOSPC when they cannot be kept
        """
        self.check(request)
        features, pids = self.user_features, self.per_cpu_pids
        classifier = self.plane.classifier
        lines = classifier.cache
        self.user_features = request.user_features or 0
        if (request.per_cpu_pids is not None and self.user_features
                & uapi.OVS_DP_F_DISPATCH_UPCALL_PER_CPU):
            self.per_cpu_pids = request.per_cpu_pids
        if request.masks_cache_size is not None:
            classifier.cache = request.masks_cache_size * CACHE_UNIT
        try:
            self.keep()
        except DpifError:
            self.user_features, self.per_cpu_pids = features, pids
            classifier.cache = lines
            raise

    def reply(self) -> DatapathReply:
        """The datapath as replies show it."""
        counted = self.counters()
        return DatapathReply(
            self.dp_ifindex, self.name,
            (counted.hit, counted.missed, counted.lost, len(self.flows)),
            (counted.mask_hit, self.plane.classifier.masks,
             counted.cache_hit),
            self.user_features, self.masks_cache_size,
            self.per_cpu_pids or None)

    @property
    def masks_cache_size(self) -> int:
        """Of the classifier's cache, in CACHE_UNIT."""
        return self.plane.classifier.cache // CACHE_UNIT

    def counters(self) -> DpCounters:
        """Packets since the datapath was made, over provider restarts."""
        return (self.base + self.plane.counters()
                + DpCounters(lost=self.lost))

    # Upcalls

    def upcall_pid(self, cpu: int, port_no: int, hash_: int,
                   chosen: int | None) -> int:
        """The port id for an upcall, 0 for none: ovs_dp_get_upcall_portid()
        and ovs_vport_find_upcall_portid() of the kernel.

        :param chosen: OVS_USERSPACE_ATTR_PID of the action, None for a miss
        """
        if self.user_features & uapi.OVS_DP_F_DISPATCH_UPCALL_PER_CPU:
            pids = self.per_cpu_pids
            return pids[cpu % len(pids)] if pids else 0
        if chosen is not None:
            return chosen
        port = self.vports.by_no.get(port_no)
        if port is None:
            return 0
        pids = port.upcall_pids
        return pids[hash_ % len(pids)]

    # What outlives the provider

    def keep(self) -> None:
        """Keeps the settings and the counters' base for the next provider."""
        self._keeper.keep_datapath(Settings(
            self.number, self.name, self.base, self.dropped,
            self.user_features, self.masks_cache_size, self.per_cpu_pids))

    def close(self) -> None:
        """Takes everything down, whatever fails: OVS_DP_CMD_DEL."""
        self.flows.clear()
        for port in sorted(self.vports.by_no.values(),
                           key=lambda p: p.port_no == LOCAL):
            self.ports.delete(port)
