# SPDX-License-Identifier: Apache-2.0
"""The edges of dpif_bpf.core.devices without a machine behind them."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dpif_bpf.core.devices import (
    ARPHRD_ETHER,
    ARPHRD_NONE,
    InjectPair,
    Link,
    LinkChange,
    LinkEvent,
    Poller,
    VportStats,
)
from dpif_bpf.errors import RequestError

IFF_UP = 0x1
IFF_RUNNING = 0x40
IFF_PROMISC = 0x100


@dataclass(slots=True)
class FakeDevice:
    """A device; `peer` is the other end of a pair of ours."""

    link: Link
    peer: str = ""
    ours: bool = False
    stats: VportStats = field(default_factory=VportStats)


class FakePorts:
    """PortEdge over a dict of devices.

    Tests make and change devices with the methods that PortEdge does not
    have; run() then tells what happened, as the real one does.
    """

    def __init__(self) -> None:
        self.devices: dict[str, FakeDevice] = {}
        self.claimed: dict[int, str] = {}
        """hook_ifindex of each port to the name of its device."""
        self.started: set[int] = set()
        self.sources: dict[bytes, bytes] = {}
        """What source_to() tells of an address."""
        self.closed = False
        self._next_index = 10
        self._events: dict[int, LinkEvent] = {}

    # What a test does to the machine.

    def add_device(self, name: str, mtu: int = 1500,
                   type: int = ARPHRD_ETHER) -> Link:
        """A device that can become a port."""
        index = self._index()
        link = Link(name, index, index, mtu, type, IFF_UP | IFF_RUNNING,
                    bytes((2, 0, 0, 0, 0, index & 0xff)))
        self.devices[name] = FakeDevice(link)
        return link

    def change(self, name: str, *, new_name: str | None = None,
               mtu: int | None = None, flags: int | None = None,
               netnsid: int | None = None) -> None:
        """Changes a device; `netnsid` moves an internal port's end."""
        device = self.devices.pop(name)
        old = device.link
        new = replace(
            old, name=old.name if new_name is None else new_name,
            mtu=old.mtu if mtu is None else mtu,
            flags=old.flags if flags is None else flags,
            netnsid=old.netnsid if netnsid is None else netnsid)
        device.link = new
        self.devices[new.name] = device
        if old.hook_ifindex not in self.claimed:
            return
        self.claimed[old.hook_ifindex] = new.name
        change = LinkChange(0)
        for bit, differs in ((LinkChange.NAME, old.name != new.name),
                             (LinkChange.MTU, old.mtu != new.mtu),
                             (LinkChange.FLAGS, old.flags != new.flags),
                             (LinkChange.NETNS, old.netnsid != new.netnsid)):
            if differs:
                change |= bit
        earlier = self._events.get(old.hook_ifindex)
        if earlier is not None:
            change |= earlier.change
        if change:
            self._events[old.hook_ifindex] = LinkEvent(change, new)

    def return_(self, name: str) -> None:
        """A device was away, and its hook has not come back with it."""
        link = self.devices[name].link
        self._events[link.hook_ifindex] = LinkEvent(LinkChange.HOOK, link)

    def vanish(self, name: str) -> None:
        """Deletes a device, and its peer if it is one of ours."""
        device = self.devices.pop(name)
        self.devices.pop(device.peer, None)
        hook = device.link.hook_ifindex
        if self.claimed.pop(hook, None) is not None:
            self._events[hook] = LinkEvent(LinkChange.GONE, device.link)

    def set_stats(self, name: str, stats: VportStats) -> None:
        self.devices[name].stats = stats

    # PortEdge.

    def open_netdev(self, name: str) -> Link:
        device = self.devices.get(name)
        if device is None:
            raise RequestError(errno.ENODEV, f"there is no device {name}")
        if device.ours or device.link.type not in (ARPHRD_ETHER,
                                                   ARPHRD_NONE):
            raise RequestError(errno.EINVAL, f"{name} cannot be a port")
        if device.link.hook_ifindex in self.claimed:
            raise RequestError(errno.EBUSY,
                               f"{name} is a port of a switch already")
        device.link = replace(device.link,
                              flags=device.link.flags | IFF_PROMISC)
        return self._claim(device.link)

    def adopt_netdev(self, name: str, ifindex: int = 0) -> Link:
        for device in self.devices.values():
            if ifindex and device.link.ifindex == ifindex:
                return self.open_netdev(device.link.name)
        if ifindex:
            raise RequestError(errno.ENODEV, f"there is no device {name}")
        return self.open_netdev(name)

    def create_internal(self, name: str, hidden_name: str,
                        address: bytes | None = None,
                        ifindex: int = 0) -> Link:
        for old in (name, hidden_name):
            device = self.devices.get(old)
            if device is None:
                continue
            if device.ours and device.link.hook_ifindex not in self.claimed:
                self.vanish(old)
            else:
                raise RequestError(
                    errno.EEXIST,
                    f"a device {name} or {hidden_name} exists")
        hidden = ifindex or self._index()
        index = self._index()
        link = Link(name, index, hidden, 1500, ARPHRD_ETHER, 0,
                    address or bytes((2, 0, 0, 0, 1, index & 0xff)), True)
        self.devices[name] = FakeDevice(link, hidden_name, ours=True)
        self.devices[hidden_name] = FakeDevice(
            replace(link, name=hidden_name, ifindex=hidden, mtu=65535), name,
            ours=True)
        return self._claim(link)

    def adopt_internal(self, name: str, hidden_name: str,
                       ifindex: int = 0) -> Link:
        hidden = next((device for device in self.devices.values()
                       if ifindex and device.link.ifindex == ifindex),
                      self.devices.get(hidden_name))
        if hidden is None or not hidden.ours:
            raise RequestError(errno.ENODEV,
                               f"there is no device {hidden_name}")
        for device in self.devices.values():
            if (device is not hidden and device.link.hook_ifindex
                    == hidden.link.hook_ifindex):
                return self._claim(device.link)
        raise RequestError(errno.ENODEV, f"there is no device {name}")

    def start(self, link: Link) -> None:
        self.started.add(link.hook_ifindex)

    def release(self, link: Link) -> None:
        name = self.claimed.pop(link.hook_ifindex, None)
        self._events.pop(link.hook_ifindex, None)
        self.started.discard(link.hook_ifindex)
        if name is None or name not in self.devices:
            return
        device = self.devices[name]
        if link.internal:
            self.vanish(name)
        else:
            device.link = replace(device.link,
                                  flags=device.link.flags & ~IFF_PROMISC)

    def disown(self, link: Link) -> None:
        self.claimed.pop(link.hook_ifindex, None)
        self._events.pop(link.hook_ifindex, None)

    def stats(self, link: Link) -> VportStats:
        name = self.claimed.get(link.hook_ifindex, link.name)
        device = self.devices.get(name)
        return VportStats() if device is None else device.stats

    def source_to(self, address: bytes) -> bytes:
        return self.sources.get(address, b"")

    def open_inject(self, sender: str, receiver: str) -> InjectPair:
        for name in (sender, receiver):
            device = self.devices.get(name)
            if device is not None and not device.ours:
                raise RequestError(
                    errno.EEXIST, f"a device {sender} or {receiver} exists")
            if device is None:
                link = self.add_device(name, 65535)
                self.devices[name] = FakeDevice(link, ours=True)
        return InjectPair(self.devices[sender].link.ifindex,
                          self.devices[receiver].link.ifindex)

    def delete_inject(self, pair: InjectPair) -> None:
        for name, device in list(self.devices.items()):
            if device.link.ifindex in pair:
                del self.devices[name]

    def renewed(self) -> list[InjectPair]:
        return []

    def leftovers(self, prefix: str) -> list[str]:
        return [name for name, device in self.devices.items()
                if device.ours and name.startswith(prefix)
                and device.link.hook_ifindex not in self.claimed]

    def delete_leftover(self, name: str) -> None:
        if name in self.devices and self.devices[name].ours:
            self.vanish(name)

    def run(self) -> list[LinkEvent]:
        events = list(self._events.values())
        self._events.clear()
        return events

    def wait(self, poller: Poller) -> None:
        if self._events:
            poller.immediate_wake()

    def close(self) -> None:
        self.closed = True

    def restarted(self) -> FakePorts:
        """The same machine as another provider finds it."""
        later = FakePorts()
        later.devices = self.devices
        later._next_index = self._next_index
        return later

    def _claim(self, link: Link) -> Link:
        self.claimed[link.hook_ifindex] = link.name
        return link

    def _index(self) -> int:
        self._next_index += 1
        return self._next_index


class FakeDatabase:
    """DbEdge whose contents a test sets."""

    def __init__(self) -> None:
        self._seqno = 0
        self._bridges: dict[str, frozenset[str]] = {}
        self.closed = False

    def set(self, bridges: Mapping[str, frozenset[str]]) -> None:
        self._bridges = dict(bridges)
        self._seqno += 1

    @property
    def seqno(self) -> int:
        return self._seqno

    def bridges(self) -> Mapping[str, frozenset[str]]:
        return self._bridges

    def run(self) -> None:
        pass

    def wait(self, poller: Poller) -> None:
        pass

    def close(self) -> None:
        self.closed = True
