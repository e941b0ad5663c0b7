# SPDX-License-Identifier: Apache-2.0
"""One datapath: its ports, bridges and flows over one plane.

The rules of the datapath and vport families are those of Linux
net/openvswitch/datapath.c (``ovs_dp_cmd_*``, ``ovs_vport_cmd_*``).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import astuple
from functools import partial

from dpif_bpf import abi
from dpif_bpf.core.actions.programs import DescTable, ProgramCache
from dpif_bpf.core.arena import Arena
from dpif_bpf.core.devices import (
    Link,
    LinkChange,
    LinkEvent,
    PortEdge,
)
from dpif_bpf.core.flow_table import FlowTable
from dpif_bpf.core.meters import Meters
from dpif_bpf.core.plane import ANY_BRIDGE, DpCounters, Plane, PortEntry
from dpif_bpf.core.records import DATAPATH, PORT_BASE, Records
from dpif_bpf.core.restore import DATAPATH_PREFIX
from dpif_bpf.core.samples import Samples
from dpif_bpf.core.vport import LOCAL, Vport, VportTable
from dpif_bpf.errors import DpifError, RequestError, failures
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import DatapathRequest, VportRequest
from dpif_bpf.wire.netlink import (
    nla_string,
    nla_u32,
    nla_u32_array,
)
from dpif_bpf.wire.replies import DatapathReply, VportReply

USER_FEATURES = (uapi.OVS_DP_F_UNALIGNED | uapi.OVS_DP_F_VPORT_PIDS
                 | uapi.OVS_DP_F_DISPATCH_UPCALL_PER_CPU)
"""What may be asked for.  TC_RECIRC_SHARING is refused: it tells tc offload
that the datapath shares its recirculation ids, which it does not."""

CACHE_UNIT = abi.OVS_CACHE_LINES // uapi.MASKS_CACHE_SIZE_MAX
"""Lines of each CPU's cache of flows, of eight flows each, that one entry of
OVS_DP_ATTR_MASKS_CACHE_SIZE stands for."""

_PORT_TYPES = {uapi.OVS_VPORT_TYPE_NETDEV, uapi.OVS_VPORT_TYPE_INTERNAL}


def hidden_name(number: int, port_no: int) -> str:
    """The datapath's end of an internal port: "ovsh0p65534"."""
    return f"ovsh{number}p{port_no}"


def _no_netnsid(request: VportRequest) -> None:
    if request.netnsid is not None:
        raise RequestError(errno.EOPNOTSUPP,
                           "OVS_VPORT_ATTR_NETNSID cannot be chosen")


class Datapath:
    """A datapath.

    :param number: of the datapath in this provider, for device names
    :param ports: performs what is done to devices
    :param clock: ms, monotonic
    :param samples: sends samples
    :param report: told what failed while something was ended, which went on
        to its end all the same
    """

    def __init__(self, name: str, number: int, plane: Plane,
                 ports: PortEdge, clock: Callable[[], int],
                 samples: Samples,
                 report: Callable[[str], object] = len) -> None:
        self._report = report
        self.name = name
        self.number = number
        self.plane = plane
        self.user_features = 0
        self.per_cpu_pids: tuple[int, ...] = ()
        self.vports = VportTable()
        self.lost = 0
        self.base = DpCounters()
        self.dropped: tuple[int, ...] = (0,) * abi.OVS_DROP_MAX
        """Drops that earlier generations counted, by reason."""
        self.descs = DescTable()
        self.samples = samples
        self.programs = ProgramCache(Arena(plane.acts, start=1), self.descs,
                                     clock, samples.available)
        self.records = Records(plane.nlmem, plane.flow_ids)
        plane.classifier.add_root(ANY_BRIDGE)
        self.flows = FlowTable(plane, self.programs, self.records)
        self.meters = Meters(plane.meters, clock)
        self._ports = ports
        self._owner: dict[str, int] = {}
        self._undone: dict[int, tuple[Vport, Callable[[Vport], None]]] = {}
        """What mend() is to do, by port number."""
        self.bridges: dict[str, int] = {}
        plane.add_bridge(ANY_BRIDGE)

    @property
    def dp_ifindex(self) -> int:
        """The local port's device stands for the datapath, in what is still
        said of it when it has gone, too."""
        local = self.vports.local
        return 0 if local is None else local.link.hook_ifindex

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

    # Ports

    def add_port(self, request: VportRequest) -> Vport:
        """OVS_VPORT_CMD_NEW.

        :raises RequestError: EINVAL, EBUSY, EEXIST, EFBIG, ENODEV;
            EAFNOSUPPORT for a type that there is not
        """
        assert request.name is not None and request.type is not None
        if request.ifindex is not None:
            raise RequestError(errno.EOPNOTSUPP,
                               "OVS_VPORT_ATTR_IFINDEX cannot be chosen")
        _no_netnsid(request)
        if request.type not in _PORT_TYPES:
            raise RequestError(errno.EAFNOSUPPORT,
                               f"OVS_VPORT_ATTR_TYPE {request.type} is not"
                               " supported")
        if request.options:
            raise RequestError(errno.EINVAL, "OVS_VPORT_ATTR_OPTIONS does"
                               " not go with this type of port")
        if request.name in self.vports.by_name:
            raise RequestError(errno.EEXIST,
                               f"{request.name} is a port already")
        number = self.vports.pick_number(request.port_no)
        return self.make_port(request.name, request.type, number,
                              request.upcall_pids or (0,))

    def make_port(self, name: str, type_: int, port_no: int,
                  upcall_pids: tuple[int, ...]) -> Vport:
        """Makes a port whose number is known to be free."""
        if type_ == uapi.OVS_VPORT_TYPE_INTERNAL:
            link = self._ports.create_internal(
                name, hidden_name(self.number, port_no))
        else:
            link = self._ports.open_netdev(name)
        try:
            port = self._enter(name, type_, port_no, upcall_pids, link)
        except DpifError:
            self._finish(name, lambda: self._ports.release(link))
            raise
        try:
            self.hook_port(port)
        except DpifError:
            self.delete_port(port)
            raise
        return port

    def adopt_port(self, request: VportRequest) -> Vport:
        """Takes over a port of an earlier provider; it is not hooked yet.

        :raises RequestError: ENODEV when its device has gone
        """
        name, port_no = request.name, request.port_no
        assert name is not None and port_no is not None
        try:
            link = self._adopt(name, request)
        except DpifError:
            self.vports.retire(port_no)
            raise
        try:
            return self._enter(name, request.type or 0, port_no,
                               request.upcall_pids or (0,), link)
        except DpifError:
            self._ports.disown(link)
            raise

    def _adopt(self, name: str, request: VportRequest) -> Link:
        ifindex = request.ifindex or 0
        if request.type == uapi.OVS_VPORT_TYPE_INTERNAL:
            return self._adopt_internal(name, request.port_no or 0, ifindex)
        link = self._ports.adopt_netdev(name, ifindex)
        if link.name != name:
            self._ports.disown(link)
            raise RequestError(errno.ENODEV, f"{name} has become {link.name}")
        return link

    def _adopt_internal(self, name: str, port_no: int, ifindex: int) -> Link:
        """Takes over the devices of an internal port, or makes others."""
        hidden = hidden_name(self.number, port_no)
        try:
            return self._ports.adopt_internal(name, hidden, ifindex)
        except RequestError as error:
            if error.errno != errno.ENODEV:
                raise
        return self._ports.create_internal(name, hidden, ifindex=ifindex)

    def hook_port(self, port: Vport) -> None:
        """Packets of the port come to this plane from now on."""
        self._attach(port)
        self._attach_end(port)
        self._ports.start(port.link)
        port.hooked = True

    def _attach(self, port: Vport) -> None:
        self.plane.attach(port.link.hook_ifindex, port.bridge,
                          port.link.layer3)

    def _attach_end(self, port: Vport) -> None:
        link = port.link
        if link.internal:
            self.plane.attach_end(
                link.hook_ifindex,
                link.ifindex if link.netnsid is None else None)

    def _enter(self, name: str, type_: int, port_no: int,
               upcall_pids: tuple[int, ...], link: Link) -> Vport:
        port = Vport(port_no, type_, name, link, upcall_pids,
                     self._owner.get(name, ANY_BRIDGE))
        try:
            self.flows.move_port(port_no, port.bridge)
            self._write(port)
            self._keep_port(port)
        except DpifError:
            self._clear(port)
            self.records.drop(PORT_BASE + port_no)
            raise
        self.vports.add(port)
        return port

    def set_port(self, port: Vport, request: VportRequest) -> None:
        """OVS_VPORT_CMD_SET.

        :raises RequestError: EINVAL for another type, EOPNOTSUPP for options
        """
        _no_netnsid(request)
        if request.type is not None and request.type != port.type:
            raise RequestError(errno.EINVAL,
                               "OVS_VPORT_ATTR_TYPE cannot be changed")
        if request.options:
            raise RequestError(errno.EOPNOTSUPP, "OVS_VPORT_ATTR_OPTIONS"
                               " does not go with this type of port")
        if request.upcall_pids is not None:
            pids, port.upcall_pids = port.upcall_pids, request.upcall_pids
            try:
                self._keep_port(port)
            except DpifError:
                port.upcall_pids = pids
                raise

    def delete_port(self, port: Vport) -> None:
        """OVS_VPORT_CMD_DEL, and the end of a port whose device has gone.

        Its flows stay, as in the kernel: their owner deletes them.  The
        record goes last: a provider that takes over meanwhile finds what
        is left of the port, and not a hook that belongs to none.
        """
        self.vports.remove(port)
        self._finish(port.name,
                     lambda: self.plane.detach(port.link.hook_ifindex))
        self._clear(port)
        self._finish(port.name, lambda: self._ports.release(port.link))
        self.records.drop(PORT_BASE + port.port_no)

    def _clear(self, port: Vport) -> None:
        """Makes the plane and the flows forget a port."""
        self._finish(port.name, lambda: self.plane.clear_port(port.port_no))
        self.flows.forget_port(port.port_no)

    def _finish(self, what: str, *steps: Callable[[], object]) -> None:
        """Takes all steps, whichever fail."""
        for error in failures(*steps):
            self._report(f"{self.name}: {what}: {error}")

    def port_reply(self, port: Vport) -> VportReply:
        """A port as replies show it."""
        return VportReply(
            self.dp_ifindex, port.port_no, port.type, port.name,
            port.link.ifindex, self._ports.stats(port.link),
            (port.upcall_success, port.upcall_fail
             + self.plane.upcalls_refused(port.port_no)),
            port.upcall_pids, None, port.link.netnsid)

    def link_changed(self, event: LinkEvent) -> Vport | None:
        """A port's device changed.

        An internal port is one under its own name, however its device is
        called and wherever that is; when that has gone, another one takes
        its place.  Any other device ends to be a port when it is renamed:
        ovs-vswitchd knows devices by their names, and another of the old
        name may come.

        :returns: the port when peers should hear of it; it is no longer in
            `vports` when it has ended
        :raises DpifError: not all of it could be followed; mend() tries it
            again, unless the port has ended
        """
        port = self.vports.by_hook.get(event.link.hook_ifindex)
        if port is None:
            return None
        if port.link.internal and event.change & LinkChange.GONE:
            self._make_anew(port)
            return None
        if not port.link.internal and event.change & (
                LinkChange.GONE | LinkChange.NAME | LinkChange.KIND):
            self._end(port)
            return port
        port.link = event.link
        if event.change & (LinkChange.MTU | LinkChange.HOOK
                           | LinkChange.NETNS):
            self._attempt(port, self._refresh)
        return port if event.change & LinkChange.NETNS else None

    def _end(self, port: Vport) -> None:
        self.vports.retire(port.port_no)
        self.delete_port(port)

    def _refresh(self, port: Vport) -> None:
        self._write(port)
        if port.hooked:
            self._attach(port)
            self._attach_end(port)

    def _make_anew(self, port: Vport) -> None:
        """Makes devices for an internal port in the place of those that went,
        as with a namespace.  Without them it ends, but for the local one."""
        try:
            self._attempt(port, self._make_devices)
        except DpifError:
            if port.port_no != LOCAL:
                self._end(port)
            raise

    def _make_devices(self, port: Vport) -> None:
        """They have the old index, by which the datapath is known."""
        link = self._ports.create_internal(
            port.name, hidden_name(self.number, port.port_no),
            ifindex=port.link.hook_ifindex)
        port.link = link
        try:
            self._write(port)
            self.hook_port(port)
        except DpifError:
            self._finish(port.name, lambda: self._ports.release(link))
            raise

    def _attempt(self, port: Vport, step: Callable[[Vport], None]) -> None:
        """Does what mend() is to try again if it fails."""
        self._undone[port.port_no] = port, step
        step(port)
        del self._undone[port.port_no]

    def mend(self) -> None:
        """Tries again what link_changed() could not do.

        :raises DpifError: the first one
        """
        self._undone = {
            port_no: (port, step)
            for port_no, (port, step) in self._undone.items()
            if self.vports.by_no.get(port_no) is port}
        failed = failures(*(partial(self._attempt, port, step)
                            for port, step in self._undone.values()))
        if failed:
            raise failed[0]

    # Bridges

    def set_bridges(self, bridges: Mapping[str, frozenset[str]]) -> None:
        """Which port belongs to which bridge, as the database has it.

        A new bridge's pipeline is loaded before ports move to it, and a
        bridge's that has gone is unloaded after they have left.

        :raises DpifError: the first one; everything else is as it should
            be, and what failed is done by the next call that can
        """
        failed = failures(*(partial(self._add_bridge, name)
                            for name in bridges if name not in self.bridges))
        self._owner = {port: self.bridges[name]
                       for name, ports in bridges.items()
                       for port in ports if name in self.bridges}
        failed += failures(*(
            partial(self._own, port, self._owner.get(port.name, ANY_BRIDGE))
            for port in self.vports.by_no.values()))
        for name in list(self.bridges):
            if name not in bridges:
                self._remove_bridge(name)
        if failed:
            raise failed[0]

    def bridge_names(self) -> dict[int, str]:
        """Bridge id → name."""
        return {number: name for name, number in self.bridges.items()}

    def _add_bridge(self, name: str) -> None:
        taken = set(self.bridges.values())
        bridge = next((number for number in range(1, abi.OVS_MAX_BRIDGES)
                       if number not in taken), None)
        if bridge is None:
            return
        self.flows.add_bridge(bridge)
        try:
            self.plane.add_bridge(bridge)
        except DpifError:
            self.flows.remove_bridge(bridge)
            raise
        self.bridges[name] = bridge

    def _remove_bridge(self, name: str) -> None:
        bridge = self.bridges[name]
        if any(port.bridge == bridge for port in self.vports.by_no.values()):
            return  # one could not leave
        del self.bridges[name]
        self.flows.remove_bridge(bridge)
        self._finish(name, lambda: self.plane.remove_bridge(bridge))

    def _own(self, port: Vport, bridge: int) -> None:
        """Moves a port to a bridge, with its flows, or nothing of it; hooks
        it where that has failed so far."""
        old = port.bridge
        if old == bridge:
            if not port.hooked:
                self.hook_port(port)
            return
        self.flows.move_port(port.port_no, bridge)
        port.bridge = bridge
        try:
            self._write(port)
            if port.hooked:
                self._attach(port)
            else:
                self.hook_port(port)
        except DpifError:
            port.bridge = old
            self._finish(port.name, lambda: self._write(port))
            self.flows.return_port(port.port_no, old)
            raise

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
        data = (DATAPATH_PREFIX.pack(self.number, *astuple(self.base),
                                     *self.dropped)
                + nla_string(uapi.OVS_DP_ATTR_NAME, self.name)
                + nla_u32(uapi.OVS_DP_ATTR_UPCALL_PID, 0)
                + nla_u32(uapi.OVS_DP_ATTR_USER_FEATURES,
                          self.user_features)
                + nla_u32(uapi.OVS_DP_ATTR_MASKS_CACHE_SIZE,
                          self.masks_cache_size))
        if self.per_cpu_pids:
            data += nla_u32_array(uapi.OVS_DP_ATTR_PER_CPU_PIDS,
                                  self.per_cpu_pids)
        self.records.put(DATAPATH, data)

    def _keep_port(self, port: Vport) -> None:
        data = (nla_u32(uapi.OVS_VPORT_ATTR_PORT_NO, port.port_no)
                + nla_u32(uapi.OVS_VPORT_ATTR_TYPE, port.type)
                + nla_string(uapi.OVS_VPORT_ATTR_NAME, port.name)
                + nla_u32_array(uapi.OVS_VPORT_ATTR_UPCALL_PID,
                                port.upcall_pids)
                + nla_u32(uapi.OVS_VPORT_ATTR_IFINDEX,
                          port.link.hook_ifindex))
        self.records.put(PORT_BASE + port.port_no, data)

    def _write(self, port: Vport) -> None:
        flags = abi.OVS_PORT_F_USED
        if port.link.internal:
            flags |= abi.OVS_PORT_F_INTERNAL
        if port.link.veth:
            flags |= abi.OVS_PORT_F_VETH
        if port.link.layer3:
            flags |= abi.OVS_PORT_F_L3
        self.plane.write_port(port.port_no, PortEntry(
            port.link.hook_ifindex, port.link.mtu, port.bridge, flags))

    def close(self) -> None:
        """Takes everything down, whatever fails: OVS_DP_CMD_DEL."""
        self.flows.clear()
        for port in sorted(self.vports.by_no.values(),
                           key=lambda p: p.port_no == LOCAL):
            self.delete_port(port)
