# SPDX-License-Identifier: Apache-2.0
"""What the core asks of the machine: the devices of ports, the database.

``dpif_bpf.edge.ports`` and ``dpif_bpf.edge.db`` implement these protocols,
``tests/fakes.py`` does so without a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple, Protocol

ARPHRD_ETHER = 1
ARPHRD_NONE = 0xFFFE
"""Device types of <linux/if_arp.h> that a port may have."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What is known of a device whose packets have their tunnel beside them.

    :param port: destination port of UDP; 0: it has none
    :param options: OVS_TUNNEL_*_OPT of bpf/lib/abi_key.h that its packets
        may have; 0: none
    """

    port: int = 0
    options: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """The device behind a port, as it was when last looked at.

    `hook_ifindex` names the port for as long as it lives.  The other
    fields change; a :class:`LinkEvent` tells so.

    :param name: name of the device that people see, in its own namespace
    :param ifindex: its index in its own namespace, which is not always the
        provider's: two links can have the same (OVS_VPORT_ATTR_IFINDEX)
    :param hook_ifindex: the device of the provider's namespace whose ingress
        is hooked and to which packets are sent; for an internal port the
        hidden end of the pair, else `ifindex`
    :param mtu: bytes, without the Ethernet header
    :param type: ARPHRD_ETHER or ARPHRD_NONE
    :param flags: IFF_* of <linux/if.h>
    :param address: MAC address, empty when the device has none
    :param internal: whether this is an internal port
    :param netnsid: the provider's id of the namespace in which `name` is,
        None when that is its own (OVS_VPORT_ATTR_NETNSID)
    :param veth: whether packets are sent to a veth
    :param tunnel: of a tunnel that has metadata; None: it is no such one
    """

    name: str
    ifindex: int
    hook_ifindex: int
    mtu: int
    type: int = ARPHRD_ETHER
    flags: int = 0
    address: bytes = b""
    internal: bool = False
    netnsid: int | None = None
    veth: bool = False
    tunnel: Tunnel | None = None

    @property
    def layer3(self) -> bool:
        """Whether its packets have no Ethernet header."""
        return self.type == ARPHRD_NONE


class LinkChange(IntFlag):
    """What happened to the device of a port."""

    GONE = 1
    """Deleted, or moved where the datapath cannot follow: the hook went with
    the device, and the edge has forgotten the link."""
    NAME = 2
    MTU = 4
    FLAGS = 8
    """IFF_UP, IFF_RUNNING (carrier), …"""
    ADDRESS = 16
    NETNS = 32
    """The visible end of an internal port is in another namespace now, and
    perhaps has another index."""
    HOOK = 64
    """The hooked device was away, or may have been: it has no hook then."""
    KIND = 128
    """Its type, or another device has taken its index."""


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """One port's device changed.

    :param change: everything that differs from what was last reported
    :param link: the new state; the last known one when GONE
    """

    change: LinkChange
    link: Link


class VportStats(NamedTuple):
    """struct ovs_vport_stats of <linux/openvswitch.h>, in its order."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


class Poller(Protocol):
    """What an edge's wait() uses of dpif_bpf.edge.poller."""

    def fd_wait(self, fd: int, events: int) -> None:
        """Wakes up on `events` (POLLIN, …) of `fd`."""

    def timer_wait(self, msec: int) -> None:
        """Wakes up after `msec`."""

    def immediate_wake(self) -> None:
        """Wakes up at once."""


class InjectPair(NamedTuple):
    """The device pair through which the datapath sends to itself.

    :param sender: index of the end that packets are written to
    :param receiver: index of the end whose ingress is hooked
    """

    sender: int
    receiver: int


class PortEdge(Protocol):
    """The devices of ports, in the provider's network namespace.

    Every method raises RequestError or BackendError with an errno.  A port
    begins with open_netdev() or create_internal(), or with the adopt_
    methods when an earlier provider made it, and ends with release() or a
    GONE event.  Until start() an internal port passes nothing.
    """

    def open_netdev(self, name: str) -> Link:
        """Takes an existing device as a port and makes it promiscuous.

        The checks are those of ovs_netdev_link() in the kernel's
        net/openvswitch/vport-netdev.c.

        :raises RequestError: ENODEV there is none; EINVAL a loopback, not
            ARPHRD_ETHER or ARPHRD_NONE, or a device of ours; EBUSY already
            a port, or in a bridge, bond or other master
        """

    def adopt_netdev(self, name: str, ifindex: int = 0) -> Link:
        """Takes the device that was a port of an earlier provider.

        :param ifindex: its index then, by which it is found though it was
            renamed since; 0 when not known
        :raises RequestError: as open_netdev()
        """

    def create_internal(self, name: str, hidden_name: str,
                        address: bytes | None = None,
                        ifindex: int = 0) -> Link:
        """Makes a device pair for an internal port, both ends down.

        What a provider that was killed left half done under these names is
        replaced.

        :param name: the end that the host uses: MTU 1500, offloads on
        :param hidden_name: the datapath's end
        :param address: MAC address of the visible end, None for a random one
        :param ifindex: of the datapath's end, 0 for any
        :raises RequestError: EEXIST when another device has one of the names
        """

    def adopt_internal(self, name: str, hidden_name: str,
                       ifindex: int = 0) -> Link:
        """Finds the pair of an earlier provider by its hidden end.

        The visible end may have another name, or be in another namespace:
        the link tells.

        :param name: under which it was made
        :param ifindex: of the hidden end then, by which it is found though
            it was renamed since; 0 when not known
        :raises RequestError: ENODEV there is none
        """

    def start(self, link: Link) -> None:
        """Lets packets in: to be called once the hook is attached.

        An internal port's hidden end is set up, which gives the visible end
        its carrier.
        """

    def release(self, link: Link) -> None:
        """Ends a port: an internal one's devices are deleted, another
        device gets back what open_netdev() changed.  It is no error that
        the device has gone, and whatever the error is, the device is no
        port any more."""

    def disown(self, link: Link) -> None:
        """Ends a port whose devices stay as they are, and start() or
        release() are not called for: a takeover was given up."""

    def stats(self, link: Link) -> VportStats:
        """Counters of a port, as ovs_vport_get_stats() in the kernel's
        net/openvswitch/vport.c: those of the device that people see, so
        that an internal port's `tx` is what the host sent into the switch.
        """

    def source_to(self, address: bytes) -> bytes:
        """The address from which the host would send to an IPv4 or IPv6
        address; empty when it would not."""

    def open_inject(self, sender: str, receiver: str) -> InjectPair:
        """Makes the inject pair of a datapath, or adopts it; both ends are
        up when this returns, so hook the receiver before sending.

        :raises RequestError: EEXIST when another device has one of the names
        """

    def delete_inject(self, pair: InjectPair) -> None:
        """Deletes the pair; it is no error that it has gone."""

    def renewed(self) -> list[InjectPair]:
        """The pairs of open_inject() that had gone, or whose hook had, since
        the last call.  They are there again, under their old indexes."""

    def leftovers(self, prefix: str) -> list[str]:
        """Names of our devices that begin with `prefix` and belong to no
        port of this provider: what remains of earlier ones."""

    def delete_leftover(self, name: str) -> None:
        """Deletes a device of leftovers(), and so its peer."""

    def run(self) -> list[LinkEvent]:
        """What happened since the last call, at most one event a port."""

    def wait(self, poller: Poller) -> None:
        """Makes `poller` wake up when run() has something to do."""

    def close(self) -> None:
        """Closes the sockets; devices stay as they are."""


class DbEdge(Protocol):
    """The Open_vSwitch database, which may be absent."""

    @property
    def seqno(self) -> int:
        """Another number whenever bridges() may answer differently."""

    def bridges(self) -> Mapping[str, frozenset[str]]:
        """The bridges with datapath_type "bpf" and the names of each one's
        interfaces; empty while there is no database."""

    def run(self) -> None:
        """Handles what the database sent; bounded, never blocks."""

    def wait(self, poller: Poller) -> None:
        """Makes `poller` wake up when run() has something to do."""

    def close(self) -> None:
        """Ends the session with the database."""
