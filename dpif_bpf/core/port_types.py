# SPDX-License-Identifier: Apache-2.0
"""Types of ports: what is particular to each OVS_VPORT_TYPE_*.

All that a type decides is in its entry of PORT_TYPES: which options it takes
and shows, which device is asked for, and whether the port goes on without it.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Protocol

from dpif_bpf.core.devices import Link, PortEdge
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi


class PortType(Protocol):
    """One type of port."""

    lasts: bool
    """Whether a port goes on when its device is called otherwise or has
    gone: then request() is asked for another one."""

    def parse(self, options: bytes | None) -> bytes | None:
        """The options of a new port, as they are kept.

        :param options: payload of OVS_VPORT_ATTR_OPTIONS
        :raises RequestError: EINVAL
        """

    def change(self, kept: bytes | None, options: bytes) -> bytes | None:
        """The options of a port after OVS_VPORT_CMD_SET with these.

        :raises RequestError: EINVAL; EOPNOTSUPP when they cannot be changed
        """

    def request(self, devices: PortEdge, name: str, hidden: str,
                ifindex: int = 0) -> Link:
        """Asks for the device of a port.

        :param hidden: name of the datapath's end, where there are two
        :param ifindex: of the device whose place it takes; 0: of none
        :raises RequestError: as the methods of PortEdge
        """

    def adopt(self, devices: PortEdge, name: str, hidden: str,
              ifindex: int) -> Link:
        """Takes over the device of a port of an earlier provider.

        :param ifindex: of the hooked device then; 0 when not known
        :raises RequestError: ENODEV when it is not there, or is not to be
            the port's
        """

    def give_back(self, devices: PortEdge, name: str, ifindex: int) -> None:
        """Gives the device of a port that was not taken over back what
        becoming a port has changed, if it is still there.

        :param ifindex: of the hooked device; 0 when not known
        """

    def reply(self, kept: bytes | None) -> bytes | None:
        """Payload of OVS_VPORT_ATTR_OPTIONS in replies; None for none."""


class _WithoutOptions:
    """What types have in common that take no options."""

    def parse(self, options: bytes | None) -> bytes | None:
        if options:
            raise RequestError(errno.EINVAL, "OVS_VPORT_ATTR_OPTIONS does"
                               " not go with this type of port")
        return None

    def change(self, kept: bytes | None, options: bytes) -> bytes | None:
        raise RequestError(errno.EOPNOTSUPP, "OVS_VPORT_ATTR_OPTIONS"
                           " does not go with this type of port")

    def reply(self, kept: bytes | None) -> bytes | None:
        return None


class _Netdev(_WithoutOptions):
    """A device that somebody else made."""

    lasts = False

    def request(self, devices: PortEdge, name: str, _hidden: str,
                _ifindex: int = 0) -> Link:
        return devices.open_netdev(name)

    def adopt(self, devices: PortEdge, name: str, _hidden: str,
              ifindex: int) -> Link:
        link = devices.adopt_netdev(name, ifindex)
        if link.name != name:
            devices.disown(link)
            raise RequestError(errno.ENODEV, f"{name} has become {link.name}")
        return link

    def give_back(self, devices: PortEdge, name: str, ifindex: int) -> None:
        with contextlib.suppress(RequestError):  # it has gone
            devices.release(devices.adopt_netdev(name, ifindex))


class _Internal(_WithoutOptions):
    """A pair of devices that the datapath makes."""

    lasts = True

    def request(self, devices: PortEdge, name: str, hidden: str,
                ifindex: int = 0) -> Link:
        return devices.create_internal(name, hidden, ifindex=ifindex)

    def adopt(self, devices: PortEdge, name: str, hidden: str,
              ifindex: int) -> Link:
        try:
            return devices.adopt_internal(name, hidden, ifindex)
        except RequestError as error:
            if error.errno != errno.ENODEV:
                raise
        return self.request(devices, name, hidden, ifindex)

    def give_back(self, devices: PortEdge, name: str, ifindex: int) -> None:
        """Whoever clears what belongs to no datapath deletes it."""


PORT_TYPES: dict[int, PortType] = {
    uapi.OVS_VPORT_TYPE_NETDEV: _Netdev(),
    uapi.OVS_VPORT_TYPE_INTERNAL: _Internal(),
}
"""By OVS_VPORT_TYPE_*."""


_TUNNELS = (uapi.OVS_VPORT_TYPE_GRE, uapi.OVS_VPORT_TYPE_VXLAN,
            uapi.OVS_VPORT_TYPE_GENEVE)
_HINT = (": tunnels are ports of the kernel's devices, which ovs-vswitchd"
         " makes where the kernel has them")


def port_type(number: int) -> PortType:
    """The entry of a type.

    :raises RequestError: EAFNOSUPPORT for a type that there is not
    """
    found = PORT_TYPES.get(number)
    if found is None:
        raise RequestError(errno.EAFNOSUPPORT, f"OVS_VPORT_ATTR_TYPE {number}"
                           " is not supported" + _HINT * (number in _TUNNELS))
    return found
