# SPDX-License-Identifier: Apache-2.0
"""Ports of a datapath: what the provider keeps of each, and their rules."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from dpif_bpf.core.edges import Link
from dpif_bpf.core.plane import ANY_BRIDGE
from dpif_bpf.errors import RequestError

LOCAL = 0
"""OVSP_LOCAL of <linux/openvswitch.h>."""

MAX_PORTS = 65535
"""DP_MAX_PORTS: port numbers are below it."""


@dataclass(slots=True)
class Vport:
    """A port.

    :param port_no: number in the datapath, 0 for the local port
    :param type: OVS_VPORT_TYPE_*
    :param link: the device behind it
    :param upcall_pids: sockets for its misses under per-vport dispatch;
        (0,) sends none
    :param bridge: id of the bridge that owns it
    :param hooked: whether its packets come to this datapath's programs
    """

    port_no: int
    type: int
    name: str
    link: Link
    upcall_pids: tuple[int, ...]
    bridge: int = ANY_BRIDGE
    upcall_success: int = 0
    upcall_fail: int = 0
    hooked: bool = False


@dataclass(slots=True)
class VportTable:
    """The ports of one datapath by number, name and hooked device.

    Devices get their names from others, and swap them: what is heard of one
    before it is heard of the other may make two ports of one name.  It then
    finds the one that was given it last.
    """

    by_no: dict[int, Vport] = field(default_factory=dict)
    by_name: dict[str, Vport] = field(default_factory=dict)
    by_hook: dict[int, Vport] = field(default_factory=dict)

    def add(self, port: Vport) -> None:
        self.by_no[port.port_no] = port
        self.by_name[port.name] = port
        self.by_hook[port.link.hook_ifindex] = port

    def remove(self, port: Vport) -> None:
        del self.by_no[port.port_no]
        self._unname(port)
        if self.by_hook.get(port.link.hook_ifindex) is port:
            del self.by_hook[port.link.hook_ifindex]

    def _unname(self, port: Vport) -> None:
        if self.by_name.get(port.name) is port:
            del self.by_name[port.name]

    def rename(self, port: Vport, name: str) -> None:
        self._unname(port)
        port.name = name
        self.by_name[name] = port

    def pick_number(self, wanted: int | None) -> int:
        """The number for a new port.

        :param wanted: the number asked for; None or 0 for the lowest free
        :raises RequestError: EFBIG out of range or all taken, EBUSY taken
        """
        if wanted:
            if wanted >= MAX_PORTS:
                raise RequestError(errno.EFBIG,
                                   "OVS_VPORT_ATTR_PORT_NO is out of range")
            if wanted in self.by_no:
                raise RequestError(errno.EBUSY,
                                   f"port number {wanted} is in use")
            return wanted
        for number in range(1, MAX_PORTS):
            if number not in self.by_no:
                return number
        raise RequestError(errno.EFBIG, "the datapath has no free port number")
