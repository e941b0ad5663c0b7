# SPDX-License-Identifier: Apache-2.0
"""The devices of ports (:class:`dpif_bpf.core.devices.PortEdge`).

A device of the machine is a port as it is.  An internal port is a veth pair:
its visible end is used by the host, its hidden end carries the hook.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from dataclasses import replace

import ovs.vlog

from dpif_bpf import abi
from dpif_bpf.core.devices import (
    ARPHRD_ETHER,
    ARPHRD_NONE,
    InjectPair,
    Link,
    LinkChange,
    LinkEvent,
    Poller,
    Tunnel,
    VportStats,
)
from dpif_bpf.edge.ports.injects import Injects
from dpif_bpf.edge.ports.pairs import (
    IFF_UP,
    MAX_MTU,
    Pairs,
    is_hidden_end,
    is_ours,
)
from dpif_bpf.edge.ports.rtnetlink import LinkMonitor, Rtnl, ignoring
from dpif_bpf.errors import BackendError, RequestError
from dpif_bpf.limited import Limited, msec
from dpif_bpf.wire.rtnl import LinkInfo

vlog = ovs.vlog.Vlog("ports")

AGAIN_INTERVAL = 1000
"""ms until a port is looked at again that could not be looked at."""

OPTIONS = {"geneve": abi.OVS_TUNNEL_GENEVE_OPT,
           "erspan": abi.OVS_TUNNEL_ERSPAN_OPT,
           "ip6erspan": abi.OVS_TUNNEL_ERSPAN_OPT}
"""What the tunnels of a kind have of options in any case."""

IFF_LOOPBACK = 0x8
IFF_PROMISC = 0x100

SIOCETHTOOL = 0x8946
ETHTOOL_GFLAGS = 0x25
ETHTOOL_SFLAGS = 0x26
ETH_FLAG_LRO = 1 << 15
"""<linux/sockios.h>, <linux/ethtool.h>."""


class Ports:
    """See :class:`dpif_bpf.core.devices.PortEdge`."""

    def __init__(self) -> None:
        self._rtnl = Rtnl()
        self._monitor = LinkMonitor(self._rtnl.own_nsid)
        self._inet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._warn = Limited(vlog.warn)
        self._links: dict[int, Link] = {}
        """Ports by hook_ifindex."""
        self._watched: dict[int, set[int]] = {}
        """Index of any end, in any namespace, to hook_ifindexes."""
        self._keep_promisc: set[int] = set()
        """Hook indexes of devices that were promiscuous before."""
        self._started: set[int] = set()
        """Hook indexes of internal ports that may be up."""
        self._changed: set[int] = set()
        """Indexes, in any namespace, of devices to look at."""
        self._left: set[int] = set()
        """Indexes of devices that were seen to leave our namespace."""
        self._failed: set[int] = set()
        """Hook indexes of ports that could not be looked at."""
        self._again = 0
        """ms, when to try again what failed; 0 for never."""
        self._pairs = Pairs(self._rtnl, self._in_use)
        self._injects = Injects(self._rtnl, self._pairs)

    def close(self) -> None:
        self._monitor.close()
        self._rtnl.close()
        self._inet.close()

    # Devices of the machine.

    def open_netdev(self, name: str) -> Link:
        return self._open(name, 0, adopt=False)

    def adopt_netdev(self, name: str, ifindex: int = 0) -> Link:
        return self._open(name, ifindex, adopt=True)

    def _open(self, name: str, ifindex: int, adopt: bool) -> Link:
        info = self._rtnl.find(index=ifindex, name="" if ifindex else name)
        if info is None:
            raise RequestError(errno.ENODEV, f"there is no device {name}")
        if (info.flags & IFF_LOOPBACK
                or info.type not in (ARPHRD_ETHER, ARPHRD_NONE)
                or is_ours(info)):
            raise RequestError(errno.EINVAL, f"{name} cannot be a port")
        if info.index in self._links or (info.master and not adopt):
            raise RequestError(
                errno.EBUSY, f"{name} is a port of a switch already")
        self._disable_lro(info.name)
        if info.flags & IFF_PROMISC:
            if not adopt:
                self._keep_promisc.add(info.index)
        else:
            self._set_promisc(info.index, name, True)
            info = replace(info, flags=info.flags | IFF_PROMISC)
        return self._begin(_netdev_link(info))

    def _set_promisc(self, index: int, name: str, on: bool) -> None:
        self._rtnl.set_flags(f"promiscuous mode of {name} could not be set",
                             index, IFF_PROMISC if on else 0, IFF_PROMISC)

    def _again_promisc(self, info: LinkInfo) -> LinkInfo:
        """A switch port stays promiscuous whatever people set."""
        with ignoring(errno.ENODEV):
            self._set_promisc(info.index, info.name, True)
        return replace(info, flags=info.flags | IFF_PROMISC)

    def _disable_lro(self, name: str) -> None:
        """Turns large receive offload off, which must not be forwarded, as
        dev_disable_lro() of the kernel does."""
        value = array.array("I", (ETHTOOL_GFLAGS, 0))
        request = struct.pack("=16sQ16x", name.encode(),
                              value.buffer_info()[0])
        try:
            fcntl.ioctl(self._inet, SIOCETHTOOL, request)
            if value[1] & ETH_FLAG_LRO:
                value[0] = ETHTOOL_SFLAGS
                value[1] &= ~ETH_FLAG_LRO
                fcntl.ioctl(self._inet, SIOCETHTOOL, request)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENODEV):
                self._warn(f"{name}: large receive offload could not be "
                           f"disabled ({error.strerror})")

    # Internal ports.

    def create_internal(self, name: str, hidden_name: str,
                        address: bytes | None = None,
                        ifindex: int = 0) -> Link:
        attrs = ({} if address is None
                 else {"IFLA_ADDRESS": address.hex(":")})
        visible, hidden = self._pairs.create(
            name, hidden_name, f"internal port {name}", 1500, attrs, ifindex)
        return self._begin(_internal_link(visible, hidden))

    def adopt_internal(self, name: str, hidden_name: str,
                       ifindex: int = 0) -> Link:
        hidden = self._rtnl.find(index=ifindex) if ifindex else None
        if hidden is None or not is_hidden_end(hidden, name):
            hidden = self._pairs.find(hidden_name)
        if hidden is None:
            raise RequestError(errno.ENODEV,
                               f"there is no device {hidden_name} for {name}")
        # This much is known, though its other end cannot be read.
        return self._begin(self._visible(hidden, Link(
            name, hidden.peer, hidden.index, MAX_MTU, internal=True,
            netnsid=hidden.peer_nsid, veth=True)))

    def start(self, link: Link) -> None:
        if link.internal:
            self._pairs.set_up(link.hook_ifindex, link.name)
            self._started.add(link.hook_ifindex)

    def release(self, link: Link) -> None:
        if link.hook_ifindex not in self._links:
            return              # its device has gone
        keep = link.hook_ifindex in self._keep_promisc
        self._end(link)
        if link.internal:
            self._pairs.delete(link.hook_ifindex, link.name)
        elif not keep:
            with ignoring(errno.ENODEV):
                self._set_promisc(link.hook_ifindex, link.name, False)

    def disown(self, link: Link) -> None:
        self._end(link)

    def _visible(self, hidden: LinkInfo, old: Link) -> Link:
        """The port of a hidden end.

        :param old: what is taken for a visible end that cannot be read
            because it is on its way, or in a namespace of other rights
        """
        info = None
        with ignoring():
            info = self._rtnl.find(index=hidden.peer, nsid=hidden.peer_nsid)
        if info is None:
            return replace(old, ifindex=hidden.peer,
                           netnsid=hidden.peer_nsid)
        return _internal_link(info, hidden)

    # Inject pairs and leftovers.

    def open_inject(self, sender: str, receiver: str) -> InjectPair:
        return self._injects.open(sender, receiver)

    def delete_inject(self, pair: InjectPair) -> None:
        self._injects.delete(pair)

    def renewed(self) -> list[InjectPair]:
        return self._injects.renewed()

    def leftovers(self, prefix: str) -> list[str]:
        return [info.name for info in self._rtnl.dump()
                if info.name.startswith(prefix) and is_ours(info)
                and not self._in_use(info.index)]

    def delete_leftover(self, name: str) -> None:
        info = self._pairs.find(name)
        if info is not None:
            self._pairs.delete(info.index, name)

    def _in_use(self, index: int) -> bool:
        return (index in self._injects.indexes or index in self._links
                or any(link.ifindex == index and link.netnsid is None
                       for link in self._links.values()))

    # All ports.

    def stats(self, link: Link) -> VportStats:
        """See PortEdge.

        The visible end's own counters, so that they are equal to what
        ``ip -s link`` shows, as they are with the kernel's internal device.
        A veth counts the Ethernet header of what it receives, the kernel's
        internal device does not.
        """
        counters = self._rtnl.stats(link.ifindex, link.netnsid)
        if counters is not None:
            rx, tx = counters[::2], counters[1::2]
        else:
            # The other end has seen the same packets from the other side.
            counters = self._rtnl.stats(link.hook_ifindex) or (0,) * 8
            rx, tx = counters[1::2], counters[::2]
        return VportStats(rx[0], tx[0], rx[1], tx[1], rx[2], tx[2], rx[3],
                          tx[3])

    def source_to(self, address: bytes) -> bytes:
        return self._rtnl.source_to(address)

    def run(self) -> list[LinkEvent]:
        self._hear()
        changed, self._changed = self._changed, set()
        left, self._left = self._left, set()
        if self._again and msec() >= self._again:
            self._again = 0
            changed |= self._failed | self._injects.broken
        events = []
        for hook in sorted({hook for index in changed & self._watched.keys()
                            for hook in self._watched[index]}):
            link = self._links[hook]
            try:
                event = self._look(link, hook in left)
            except BackendError as error:
                if hook not in self._failed:
                    vlog.info(f"{link.name} cannot be looked at: {error}")
                self._failed.add(hook)
                continue
            self._failed.discard(hook)
            if event is not None:
                events.append(event)
        self._injects.heal(changed, left)
        failed = self._failed | self._injects.broken
        self._left |= left & failed
        if failed and not self._again:
            self._again = msec() + AGAIN_INTERVAL
        return events

    def _hear(self) -> None:
        """Takes note of what has happened up to now."""
        changed, left, lost = self._monitor.run()
        if lost:
            vlog.info("link events were lost: looking at every port")
            changed = left = self._links.keys() | self._injects.indexes
        self._changed |= changed
        self._left |= left

    def wait(self, poller: Poller) -> None:
        self._monitor.wait(poller)
        if self._changed:
            poller.immediate_wake()
        if self._again:
            poller.timer_wait(max(0, self._again - msec()))

    def _look(self, old: Link, left: bool) -> LinkEvent | None:
        """Compares a port's device with what is known of it.

        :param left: whether it was seen to leave our namespace, and so lost
            its hook, though a device of its index is there again
        """
        info = self._rtnl.find(index=old.hook_ifindex)
        new = None if info is None else self._now(info, old)
        if new is None:
            self._end(old)
            return LinkEvent(LinkChange.GONE, old)
        change = _difference(old, new)
        if left:
            change |= LinkChange.HOOK
        if not change:
            return None
        self._forget(old)
        self._claim(new)
        return LinkEvent(change, new)

    def _now(self, info: LinkInfo, old: Link) -> Link | None:
        """The port of what has its hooked device's index now; None when
        that cannot be its hidden end."""
        if old.internal:
            if info.kind != "veth":
                return None
            if (old.hook_ifindex in self._started
                    and not info.flags & IFF_UP):
                with ignoring(errno.ENODEV):
                    self._pairs.hide(info)
                    self._pairs.set_up(info.index, info.name)
            return self._visible(info, old)
        if not info.flags & IFF_PROMISC:
            info = self._again_promisc(info)
        return _netdev_link(info)

    def _begin(self, link: Link) -> Link:
        """A port begins.  That its device left before is of no account; what
        has happened to it meanwhile is looked at."""
        self._hear()
        self._claim(link)
        self._left.discard(link.hook_ifindex)
        self._changed.add(link.hook_ifindex)
        return link

    def _end(self, link: Link) -> None:
        self._forget(link)
        for hooks in (self._keep_promisc, self._started, self._failed):
            hooks.discard(link.hook_ifindex)

    def _claim(self, link: Link) -> None:
        self._links[link.hook_ifindex] = link
        for index in {link.hook_ifindex, link.ifindex}:
            self._watched.setdefault(index, set()).add(link.hook_ifindex)

    def _forget(self, link: Link) -> None:
        """Takes out what _claim() put in, whatever of `link` is stale."""
        known = self._links.pop(link.hook_ifindex, None)
        if known is None:
            return
        for index in {known.hook_ifindex, known.ifindex}:
            hooks = self._watched[index]
            hooks.discard(known.hook_ifindex)
            if not hooks:
                del self._watched[index]


def _netdev_link(info: LinkInfo) -> Link:
    return Link(info.name, info.index, info.index, info.mtu, info.type,
                info.flags, info.address, veth=info.kind == "veth",
                tunnel=_tunnel(info))


def _tunnel(info: LinkInfo) -> Tunnel | None:
    if not info.metadata:
        return None
    options = abi.OVS_TUNNEL_VXLAN_OPT if info.gbp else OPTIONS.get(info.kind)
    return Tunnel(info.udp_port, options or 0)


def _internal_link(visible: LinkInfo, hidden: LinkInfo) -> Link:
    return Link(visible.name, visible.index, hidden.index, visible.mtu,
                visible.type, visible.flags, visible.address, True,
                hidden.peer_nsid, veth=True)


def _difference(old: Link, new: Link) -> LinkChange:
    change = LinkChange(0)
    if old.name != new.name:
        change |= LinkChange.NAME
    if old.mtu != new.mtu:
        change |= LinkChange.MTU
    if old.flags != new.flags:
        change |= LinkChange.FLAGS
    if old.address != new.address:
        change |= LinkChange.ADDRESS
    if (old.netnsid, old.ifindex) != (new.netnsid, new.ifindex):
        change |= LinkChange.NETNS
    if ((old.type, old.veth, old.tunnel)
            != (new.type, new.veth, new.tunnel)):
        change |= LinkChange.KIND
    return change
