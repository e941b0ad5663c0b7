# SPDX-License-Identifier: Apache-2.0
"""The ports that programs know, in ovs_ports (bpf/lib/abi.h).

A port is two words, of which each is stored at once: the device and its MTU,
then the flags, with OVS_PORT_F_USED.  So packets can go to a port while it
changes, and never meet half of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from dpif_bpf import abi

_WORDS = abi.PORT.size // 8
_PAIR = Struct("=QQ")


@dataclass(frozen=True, slots=True)
class PortEntry:
    """One entry of ovs_ports (struct ovs_port of bpf/lib/abi.h).

    :param ifindex: device whose ingress carries the hook and to which
        packets of this port are sent
    :param mtu: largest layer-3 packet in bytes, 0 for no limit
    :param bridge: bridge id
    :param flags: OVS_PORT_F_*
    :param tunnel_dst: UDP port of a tunnel; 0: none
    :param tunnel_opts: OVS_TUNNEL_*_OPT; 0: none
    """

    ifindex: int
    mtu: int
    bridge: int
    flags: int
    tunnel_dst: int = 0
    tunnel_opts: int = 0


class PortMap:
    """Writer of ovs_ports, and of whose port a device is.

    :param words: ovs_ports as 64-bit words
    """

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._devices: dict[int, int] = {}
        self._owners: dict[int, int] = {}

    def write(self, port_no: int, entry: PortEntry) -> int | None:
        """Makes a port known, or changes it.

        :returns: the device that it had before and has no more, if any, of
            which ovs_devs is to forget that it is a port's
        """
        device, flags = _PAIR.unpack(abi.PORT.struct.pack(
            entry.ifindex, entry.mtu, entry.bridge, entry.flags, 0,
            entry.tunnel_dst.to_bytes(2, "big"),
            entry.tunnel_opts.to_bytes(2, "big")))
        at = port_no * _WORDS
        self._words[at] = device
        self._words[at + 1] = flags
        gone = None
        if self._devices.get(port_no) != entry.ifindex:
            gone = self._disown(port_no)
        self._devices[port_no] = entry.ifindex
        self._owners[entry.ifindex] = port_no
        return gone

    def clear(self, port_no: int) -> int | None:
        """Forgets a port.

        :returns: as write()
        """
        at = port_no * _WORDS
        self._words[at + 1] = 0
        self._words[at] = 0
        return self._disown(port_no)

    def _disown(self, port_no: int) -> int | None:
        """The device of a port, unless it is another one's by now: an index
        can be a new device's before the old one's end was heard of."""
        ifindex = self._devices.pop(port_no, None)
        if ifindex is None or self._owners.get(ifindex) != port_no:
            return None
        del self._owners[ifindex]
        return ifindex
