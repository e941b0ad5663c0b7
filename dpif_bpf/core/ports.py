# SPDX-License-Identifier: Apache-2.0
"""Ports of a datapath: made, changed, taken over and ended, and what becomes
of them when others change their devices.

The rules of the vport family are those of Linux net/openvswitch/datapath.c
(``ovs_vport_cmd_*``).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from dpif_bpf import abi
from dpif_bpf.core.devices import LinkChange, LinkEvent, PortEdge, Tunnel
from dpif_bpf.core.flow_table import FlowTable
from dpif_bpf.core.keeper import Keeper
from dpif_bpf.core.plane import ANY_BRIDGE, Hooks, PortMaps, UpcallShares
from dpif_bpf.core.port_map import PortEntry
from dpif_bpf.core.port_types import PORT_TYPES, port_type
from dpif_bpf.core.vport import LOCAL, Vport, VportTable
from dpif_bpf.errors import DpifError, Finish, RequestError, failures
from dpif_bpf.wire.key.encode import encode_egress
from dpif_bpf.wire.messages import VportRequest
from dpif_bpf.wire.replies import VportReply

_PROTO = abi.TUNNEL["proto"].offset
_TP_DST = abi.TUNNEL["tp_dst"].slice
_ADDRESSES = tuple(
    (abi.TUNNEL[f"{family}_src"].slice, abi.TUNNEL[f"{family}_dst"].slice)
    for family in ("ipv4", "ipv6"))


class PortPlane(PortMaps, Hooks, UpcallShares, Protocol):
    """What ports ask of the packet path."""


def hidden_name(number: int, port_no: int) -> str:
    """The datapath's end of an internal port: "ovsh0p65534"."""
    return f"ovsh{number}p{port_no}"


def _no_netnsid(request: VportRequest) -> None:
    if request.netnsid is not None:
        raise RequestError(errno.EOPNOTSUPP,
                           "OVS_VPORT_ATTR_NETNSID cannot be chosen")


class Ports:
    """The ports of one datapath.

    :param number: of the datapath, for device names
    :ivar table: the ports by number, name and device
    """

    def __init__(self, number: int, plane: PortPlane, devices: PortEdge,
                 flows: FlowTable, keeper: Keeper, finish: Finish) -> None:
        self.table = VportTable()
        self._number = number
        self._plane = plane
        self._devices = devices
        self._flows = flows
        self._keeper = keeper
        self._finish = finish
        self._owner: dict[str, int] = {}
        """Bridge ids by ports' names, of ports that there may not be yet,
        too."""
        self._undone: dict[int, tuple[Vport, Callable[[Vport], None]]] = {}
        """What mend() is to do, by port number."""

    @property
    def dp_ifindex(self) -> int:
        """The local port's device stands for the datapath, in what is still
        said of it when it has gone, too."""
        local = self.table.local
        return 0 if local is None else local.link.hook_ifindex

    def add(self, request: VportRequest) -> Vport:
        """OVS_VPORT_CMD_NEW.

        :raises RequestError: EINVAL, EBUSY, EEXIST, EFBIG, ENODEV;
            EAFNOSUPPORT for a type that there is not
        """
        assert request.name is not None and request.type is not None
        if request.ifindex is not None:
            raise RequestError(errno.EOPNOTSUPP,
                               "OVS_VPORT_ATTR_IFINDEX cannot be chosen")
        _no_netnsid(request)
        options = port_type(request.type).parse(request.options)
        if request.name in self.table.by_name:
            raise RequestError(errno.EEXIST,
                               f"{request.name} is a port already")
        number = self.table.pick_number(request.port_no,
                                        self._flows.of_port)
        return self.make(request.name, request.type, number,
                         request.upcall_pids or (0,), options)

    def make(self, name: str, type_: int, port_no: int,
             upcall_pids: tuple[int, ...],
             options: bytes | None = None) -> Vport:
        """Makes a port whose number is known to be free.

        :param options: see Vport
        """
        link = PORT_TYPES[type_].request(
            self._devices, name, hidden_name(self._number, port_no))
        try:
            port = self._enter(Vport(port_no, type_, name, link, upcall_pids,
                                     options))
        except DpifError:
            self._finish(name, lambda: self._devices.release(link))
            raise
        try:
            self.hook(port)
        except DpifError:
            self.delete(port)
            raise
        return port

    def adopt(self, request: VportRequest) -> Vport:
        """Takes over a port of an earlier provider; it is not hooked yet.

        :raises RequestError: ENODEV when its device has gone; what another
            version kept may be refused as by add()
        """
        name, port_no = request.name, request.port_no
        assert name is not None and port_no is not None
        number = request.type or 0
        try:
            kind = port_type(number)
            options = kind.parse(request.options)
            link = kind.adopt(self._devices, name,
                              hidden_name(self._number, port_no),
                              request.ifindex or 0)
        except DpifError:
            self.table.retire(port_no)
            raise
        try:
            return self._enter(Vport(port_no, number, name, link,
                                     request.upcall_pids or (0,), options))
        except DpifError:
            self._devices.disown(link)
            raise

    def hook(self, port: Vport) -> None:
        """Packets of the port come to this plane from now on."""
        self._attach(port)
        self._attach_end(port)
        self._devices.start(port.link)
        port.hooked = True

    def _attach(self, port: Vport) -> None:
        stage = abi.Stage.RX
        if port.link.tunnel is not None:
            stage = abi.Stage.RX_TUNNEL
        elif port.link.layer3:
            stage = abi.Stage.RX_L3
        self._plane.attach(port.link.hook_ifindex, port.bridge, stage)

    def _attach_end(self, port: Vport) -> None:
        link = port.link
        if link.internal:
            self._plane.attach_end(
                link.hook_ifindex,
                link.ifindex if link.netnsid is None else None)

    def _enter(self, port: Vport) -> Vport:
        port.bridge = self._owner.get(port.name, ANY_BRIDGE)
        before = self._flows.bridge_of(port.port_no)
        try:
            self._flows.move_port(port.port_no, port.bridge)
            self._write(port)
            self._keeper.keep_port(port)
        except DpifError:
            self._flows.return_port(port.port_no, before)
            self._clear(port)
            self._keeper.drop_port(port.port_no)
            raise
        self.table.add(port)
        return port

    def set(self, port: Vport, request: VportRequest) -> None:
        """OVS_VPORT_CMD_SET.

        :raises RequestError: EINVAL for another type, EOPNOTSUPP for options
        """
        _no_netnsid(request)
        if request.type is not None and request.type != port.type:
            raise RequestError(errno.EINVAL,
                               "OVS_VPORT_ATTR_TYPE cannot be changed")
        options, pids = port.options, port.upcall_pids
        if request.options:
            port.options = PORT_TYPES[port.type].change(options,
                                                        request.options)
        if request.upcall_pids is not None:
            port.upcall_pids = request.upcall_pids
        try:
            if (port.options, port.upcall_pids) != (options, pids):
                self._keeper.keep_port(port)
        except DpifError:
            port.options, port.upcall_pids = options, pids
            raise

    def delete(self, port: Vport) -> None:
        """OVS_VPORT_CMD_DEL, and the end of a port whose device has gone.

        Its flows stay, as in the kernel: their owner deletes them.  The
        record goes last: a provider that takes over meanwhile finds what
        is left of the port, and not a hook that belongs to none.
        """
        self.table.remove(port)
        self._finish(port.name,
                     lambda: self._plane.detach(port.link.hook_ifindex))
        self._clear(port)
        self._finish(port.name, lambda: self._devices.release(port.link))
        self._keeper.drop_port(port.port_no)

    def _clear(self, port: Vport) -> None:
        """Makes the plane and the flows forget a port."""
        self._finish(port.name, lambda: self._plane.clear_port(port.port_no))
        self._flows.forget_port(port.port_no)

    def reply(self, port: Vport) -> VportReply:
        """A port as replies show it."""
        return VportReply(
            self.dp_ifindex, port.port_no, port.type, port.name,
            port.link.ifindex, self._devices.stats(port.link),
            (port.upcall_success, port.upcall_fail
             + self._plane.upcalls_refused(port.port_no)),
            port.upcall_pids, PORT_TYPES[port.type].reply(port.options),
            port.link.netnsid)

    def egress(self, port_no: int, tunnel: bytes) -> bytes | None:
        """OVS_PACKET_ATTR_EGRESS_TUN_KEY of a packet that leaves by a port:
        as dev_fill_metadata_dst() of the kernel has it, without the source
        port, which the device makes of the packet.

        :param tunnel: struct ovs_tunnel
        :returns: None for a port that is no tunnel's
        """
        port = self.table.by_no.get(port_no)
        if port is None or port.link.tunnel is None:
            return None
        made = bytearray(tunnel)
        made[_TP_DST] = port.link.tunnel.port.to_bytes(2, "big")
        src, dst = _ADDRESSES[
            made[_PROTO] == abi.OVS_AF_INET6]
        if not any(made[src]):
            made[src] = self._devices.source_to(
                bytes(made[dst])).ljust(src.stop - src.start, b"\0")
        return encode_egress(bytes(made))

    def link_changed(self, event: LinkEvent) -> Vport | None:
        """A port's device changed.

        An internal port is one under its own name, however its device is
        called and wherever that is; when that has gone, another one takes
        its place.  Any other device ends to be a port when it is renamed:
        ovs-vswitchd knows devices by their names, and another of the old
        name may come.

        :returns: the port when peers should hear of it; it is no longer in
            the table when it has ended
        :raises DpifError: not all of it could be followed; mend() tries it
            again, unless the port has ended
        """
        port = self.table.by_hook.get(event.link.hook_ifindex)
        if port is None:
            return None
        lasts = PORT_TYPES[port.type].lasts
        if lasts and event.change & LinkChange.GONE:
            self._make_anew(port)
            return None
        if not lasts and event.change & (
                LinkChange.GONE | LinkChange.NAME | LinkChange.KIND):
            self._end(port)
            return port
        port.link = event.link
        if event.change & (LinkChange.MTU | LinkChange.HOOK
                           | LinkChange.NETNS):
            self._attempt(port, self._refresh)
        return port if event.change & LinkChange.NETNS else None

    def _end(self, port: Vport) -> None:
        self.table.retire(port.port_no)
        self.delete(port)

    def _refresh(self, port: Vport) -> None:
        self._write(port)
        if port.hooked:
            self._attach(port)
            self._attach_end(port)

    def _make_anew(self, port: Vport) -> None:
        """Makes devices for a port in the place of those that went, as with
        a namespace.  Without them it ends, but for the local one."""
        try:
            self._attempt(port, self._make_devices)
        except DpifError:
            if port.port_no != LOCAL:
                self._end(port)
            raise

    def _make_devices(self, port: Vport) -> None:
        """They have the old index, by which the datapath is known."""
        link = PORT_TYPES[port.type].request(
            self._devices, port.name,
            hidden_name(self._number, port.port_no), port.link.hook_ifindex)
        port.link = link
        try:
            self._write(port)
            self.hook(port)
        except DpifError:
            self._finish(port.name, lambda: self._devices.release(link))
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
            if self.table.by_no.get(port_no) is port}
        failed = failures(*(partial(self._attempt, port, step)
                            for port, step in self._undone.values()))
        if failed:
            raise failed[0]

    # Bridges

    def set_owners(self, owner: Mapping[str, int]) -> list[DpifError]:
        """Moves ports to the bridges that they belong to now.

        :param owner: bridge ids by ports' names; others belong to none
        :returns: of those that could not
        """
        self._owner = dict(owner)
        return failures(*(
            partial(self._own, port, owner.get(port.name, ANY_BRIDGE))
            for port in self.table.by_no.values()))

    def any_in(self, bridge: int) -> bool:
        """Whether a port is in a bridge."""
        return any(port.bridge == bridge
                   for port in self.table.by_no.values())

    def _own(self, port: Vport, bridge: int) -> None:
        """Moves a port to a bridge, with its flows, or nothing of it; hooks
        it where that has failed so far."""
        old = port.bridge
        if old == bridge:
            if not port.hooked:
                self.hook(port)
            return
        self._flows.move_port(port.port_no, bridge)
        port.bridge = bridge
        try:
            self._write(port)
            if port.hooked:
                self._attach(port)
            else:
                self.hook(port)
        except DpifError:
            port.bridge = old
            self._finish(port.name, lambda: self._write(port))
            self._flows.return_port(port.port_no, old)
            raise

    def _write(self, port: Vport) -> None:
        flags = abi.OVS_PORT_F_USED
        if port.link.internal:
            flags |= abi.OVS_PORT_F_INTERNAL
        if port.link.veth:
            flags |= abi.OVS_PORT_F_VETH
        if port.link.layer3:
            flags |= abi.OVS_PORT_F_L3
        tunnel = port.link.tunnel
        if tunnel is not None:
            flags |= abi.OVS_PORT_F_TUNNEL
        else:
            tunnel = Tunnel()
        self._plane.write_port(port.port_no, PortEntry(
            port.link.hook_ifindex, port.link.mtu, port.bridge, flags,
            tunnel.port, tunnel.options))

