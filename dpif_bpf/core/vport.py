# SPDX-License-Identifier: Apache-2.0
"""Ports of a datapath: what the provider keeps of each, and their rules."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from dpif_bpf.core.devices import Link
from dpif_bpf.core.plane import ANY_BRIDGE
from dpif_bpf.errors import RequestError

LOCAL = 0
"""OVSP_LOCAL of <linux/openvswitch.h>."""

MAX_PORTS = 65535
"""DP_MAX_PORTS: port numbers are below it."""

RETIRED = 4096
"""Numbers of ports that ended by themselves that are kept back.
ovs-vswitchd, which hears of it later, would take a new port of such a number
for the old one, refuse it (EBUSY) or delete it in the old one's place."""


@dataclass(slots=True)
class Vport:
    """A port.

    :param port_no: number in the datapath, 0 for the local port
    :param type: OVS_VPORT_TYPE_*
    :param name: under which it was added; it has no other as long as it
        lives, whatever its device is called
    :param link: the device behind it
    :param upcall_pids: sockets for its misses under per-vport dispatch;
        (0,) sends none
    :param options: of its type, as core.port_types keeps them
    :param bridge: id of the bridge that owns it
    :param hooked: whether its packets come to this datapath's programs
    """

    port_no: int
    type: int
    name: str
    link: Link
    upcall_pids: tuple[int, ...]
    options: bytes | None = None
    bridge: int = ANY_BRIDGE
    upcall_success: int = 0
    upcall_fail: int = 0
    hooked: bool = False


@dataclass(slots=True)
class VportTable:
    """The ports of one datapath by number, name and hooked device."""

    by_no: dict[int, Vport] = field(default_factory=dict)
    by_name: dict[str, Vport] = field(default_factory=dict)
    by_hook: dict[int, Vport] = field(default_factory=dict)
    local: Vport | None = None
    """The local port, also when it has gone."""
    retired: dict[int, None] = field(default_factory=dict)
    """See RETIRED; the oldest comes first."""

    def add(self, port: Vport) -> None:
        if port.port_no == LOCAL:
            self.local = port
        self.retired.pop(port.port_no, None)
        self.by_no[port.port_no] = port
        self.by_name[port.name] = port
        self.by_hook[port.link.hook_ifindex] = port

    def remove(self, port: Vport) -> None:
        del self.by_no[port.port_no]
        del self.by_name[port.name]
        del self.by_hook[port.link.hook_ifindex]

    def retire(self, port_no: int) -> None:
        """Keeps the number of a port back that ended by itself."""
        self.retired[port_no] = None
        if len(self.retired) > RETIRED:
            del self.retired[next(iter(self.retired))]

    def pick_number(self, wanted: int | None,
                    has_flows: Callable[[int], bool]) -> int:
        """The number for a new port.

        :param wanted: the number asked for; None or 0 for the lowest free,
            which neither a peer nor flows know as that of another port that
            has gone, if there is one
        :param has_flows: whether there are flows of a port number
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
        found = next(chain(
            (number for number in self._free()
             if number not in self.retired and not has_flows(number)),
            self.retired, self._free()), None)
        if found is not None:
            return found
        raise RequestError(errno.EFBIG, "the datapath has no free port number")

    def _free(self) -> Iterator[int]:
        return (number for number in range(1, MAX_PORTS)
                if number not in self.by_no)
