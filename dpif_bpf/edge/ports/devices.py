# SPDX-License-Identifier: Apache-2.0
"""The devices of ports (:class:`dpif_bpf.core.edges.PortEdge`).

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

from dpif_bpf.core.edges import (
    ARPHRD_ETHER,
    ARPHRD_NONE,
    InjectPair,
    Link,
    LinkChange,
    LinkEvent,
    Poller,
    VportStats,
)
from dpif_bpf.edge.ports.pairs import MAX_MTU, Pairs, is_ours
from dpif_bpf.edge.ports.rtnetlink import LinkMonitor, Rtnl, ignoring
from dpif_bpf.errors import BackendError, RequestError
from dpif_bpf.wire.rtnl import LinkInfo

vlog = ovs.vlog.Vlog("ports")

IFF_LOOPBACK = 0x8
IFF_PROMISC = 0x100

SIOCETHTOOL = 0x8946
ETHTOOL_GFLAGS = 0x25
ETHTOOL_SFLAGS = 0x26
ETH_FLAG_LRO = 1 << 15
"""<linux/sockios.h>, <linux/ethtool.h>."""


class Ports:
    """See :class:`dpif_bpf.core.edges.PortEdge`."""

    def __init__(self) -> None:
        self._rtnl = Rtnl()
        self._monitor = LinkMonitor(self._rtnl.own_nsid)
        self._inet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._links: dict[int, Link] = {}
        """Ports by hook_ifindex."""
        self._watched: dict[int, set[int]] = {}
        """Index of any end, in any namespace, to hook_ifindexes."""
        self._keep_promisc: set[int] = set()
        """Hook indexes of devices that were promiscuous before."""
        self._inject: set[int] = set()
        self._pairs = Pairs(self._rtnl, self._in_use)

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
        if info.metadata:
            # Its packets mean nothing without their tunnel keys.
            raise RequestError(
                errno.EAFNOSUPPORT,
                f"{name}: ports of tunnel metadata are not supported")
        if info.index in self._links or info.master:
            raise RequestError(
                errno.EBUSY, f"{name} is a port of a switch already")
        self._disable_lro(info.name)
        if info.flags & IFF_PROMISC:
            if not adopt:
                self._keep_promisc.add(info.index)
        else:
            self._set_promisc(info.index, name, True)
            info = replace(info, flags=info.flags | IFF_PROMISC)
        return self._claim(_netdev_link(info))

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
            if error.errno != errno.EOPNOTSUPP:
                vlog.warn(f"{name}: large receive offload could not be "
                          f"disabled ({error.strerror})")

    # Internal ports.

    def create_internal(self, name: str, hidden_name: str,
                        address: bytes | None = None) -> Link:
        attrs = {} if address is None else {"address": address.hex(":")}
        visible, hidden = self._pairs.create(
            name, hidden_name, f"internal port {name}", 1500, attrs)
        return self._claim(_internal_link(visible, hidden))

    def adopt_internal(self, name: str, hidden_name: str) -> Link:
        hidden = self._pairs.find(hidden_name)
        link = None if hidden is None else self._visible(hidden, None)
        if link is None:
            raise RequestError(errno.ENODEV,
                               f"there is no device {hidden_name} for {name}")
        return self._claim(link)

    def start(self, link: Link) -> None:
        if link.internal:
            self._pairs.set_up(link.hook_ifindex, link.name)

    def release(self, link: Link) -> None:
        self._forget(link)
        keep = link.hook_ifindex in self._keep_promisc
        self._keep_promisc.discard(link.hook_ifindex)
        if link.internal:
            self._pairs.delete(link.hook_ifindex, link.name)
        elif not keep:
            with ignoring(errno.ENODEV):
                self._set_promisc(link.hook_ifindex, link.name, False)

    def disown(self, link: Link) -> None:
        self._forget(link)
        self._keep_promisc.discard(link.hook_ifindex)

    def _visible(self, hidden: LinkInfo, old: Link | None) -> Link | None:
        """The port of a hidden end.

        :param old: what is taken for a visible end that cannot be read
            because it is on its way, or in a namespace of other rights
        """
        try:
            info = self._rtnl.find(index=hidden.peer, nsid=hidden.peer_nsid)
        except BackendError:
            if old is None:
                raise
            info = None
        if info is None:
            return old and replace(old, ifindex=hidden.peer,
                                   netnsid=hidden.peer_nsid)
        return _internal_link(info, hidden)

    # Inject pairs and leftovers.

    def open_inject(self, sender: str, receiver: str) -> InjectPair:
        info = self._pairs.find(sender)
        peer = None if info is None else self._rtnl.find(index=info.peer)
        if info is None or peer is None or peer.name != receiver:
            info, peer = self._pairs.create(
                sender, receiver, f"end of {receiver}", MAX_MTU,
                {"txqlen": 0})
        self._pairs.hide(info)
        for end in (info, peer):
            self._pairs.set_up(end.index, end.name)
        self._inject |= {info.index, peer.index}
        return InjectPair(info.index, peer.index)

    def delete_inject(self, pair: InjectPair) -> None:
        self._inject -= set(pair)
        self._pairs.delete(pair.sender, "inject device")

    def leftovers(self, prefix: str) -> list[str]:
        return [info.name for info in self._rtnl.dump()
                if info.name.startswith(prefix) and is_ours(info)
                and not self._in_use(info.index)]

    def delete_leftover(self, name: str) -> None:
        info = self._pairs.find(name)
        if info is not None:
            self._pairs.delete(info.index, name)

    def _in_use(self, index: int) -> bool:
        return (index in self._inject or index in self._links
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

    def run(self) -> list[LinkEvent]:
        changed, left, lost = self._monitor.run()
        if lost:
            vlog.info("link events were lost: looking at every port")
            hooks = set(self._links)
        else:
            hooks = {hook for index in changed & self._watched.keys()
                     for hook in self._watched[index]}
        events = []
        for hook in sorted(hooks):
            link = self._links[hook]
            try:
                event = self._look(link, hook in left)
            except BackendError as error:
                vlog.warn(f"{link.name}: {error}")
                continue
            if event is not None:
                events.append(event)
        return events

    def wait(self, poller: Poller) -> None:
        self._monitor.wait(poller)

    def _look(self, old: Link, left: bool) -> LinkEvent | None:
        """Compares a port's device with what is known of it.

        :param left: whether it was seen to leave our namespace, and so lost
            its hook, though a device of its index may be there again
        """
        info = None if left else self._rtnl.find(index=old.hook_ifindex)
        if info is None:
            new = None
        elif old.internal:
            new = self._visible(info, old)
        else:
            if not info.flags & IFF_PROMISC:
                info = self._again_promisc(info)
            new = _netdev_link(info)
        if new is None:
            self._forget(old)
            self._keep_promisc.discard(old.hook_ifindex)
            return LinkEvent(LinkChange.GONE, old)
        change = _difference(old, new)
        if not change:
            return None
        self._forget(old)
        self._claim(new)
        return LinkEvent(change, new)

    def _claim(self, link: Link) -> Link:
        self._links[link.hook_ifindex] = link
        for index in {link.hook_ifindex, link.ifindex}:
            self._watched.setdefault(index, set()).add(link.hook_ifindex)
        return link

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
                info.flags, info.address, veth=info.kind == "veth")


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
    return change
