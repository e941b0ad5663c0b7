# SPDX-License-Identifier: Apache-2.0
"""veth pairs of ours: making, hiding, finding and deleting them.

A device is ours when it is a veth whose alias begins with ``ALIAS``.  The
hidden end's name is ours too: it tells which port the pair is of.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping

from dpif_bpf.edge.ports.rtnetlink import Rtnl, ignoring
from dpif_bpf.errors import BackendError, RequestError
from dpif_bpf.wire.rtnl import LinkInfo

ALIAS = "ovs-bpf: "
IFF_UP = 0x1
IFF_NOARP = 0x80
MAX_MTU = 65535
IN6_ADDR_GEN_MODE_NONE = 1


class Pairs:
    """veth pairs of the provider.

    :param in_use: whether a device, by index, belongs to the running
        provider; what does not is left from one that has ended
    """

    def __init__(self, rtnl: Rtnl, in_use: Callable[[int], bool]) -> None:
        self._rtnl = rtnl
        self._in_use = in_use

    def create(self, name: str, hidden: str, alias: str, mtu: int,
               attrs: Mapping[str, object], index: int = 0,
               first_index: int = 0) -> tuple[LinkInfo, LinkInfo]:
        """Makes a pair, both ends down and the second one hidden.

        :param mtu: of the first end; the hidden one takes every size
        :param attrs: more of the first end, by their names (IFLA_*)
        :param index: of the hidden end, 0 for any
        :param first_index: of the other one, 0 for any; heeded with `index`
        :raises RequestError: EEXIST
        """
        self._clear_unfinished(name, hidden)
        try:
            self._rtnl.change(
                f"{name} could not be created", "add", ifname=hidden,
                kind="veth", mtu=MAX_MTU, txqlen=0, index=index,
                VETH_INFO_PEER={"index": first_index, "attrs": [
                    ("IFLA_IFNAME", name), ("IFLA_MTU", mtu),
                    *attrs.items()]})
        except BackendError as error:
            if error.errno == errno.EEXIST:
                raise RequestError(
                    errno.EEXIST,
                    f"a device {name} or {hidden} exists") from error
            raise
        try:
            return self._finish(self._get(name=hidden), name, alias)
        except BackendError:
            info = self._rtnl.find(name=hidden)
            if info is not None:
                self.delete(info.index, hidden)
            raise

    def _finish(self, hidden: LinkInfo, name: str,
                alias: str) -> tuple[LinkInfo, LinkInfo]:
        """From here on the ends go by their indexes: others rename devices
        as soon as there are any."""
        self._mark(hidden.index, _hidden(name))
        self._mark(hidden.peer, alias)
        self.hide(hidden)
        return self._get(index=hidden.peer), self._get(index=hidden.index)

    def _get(self, index: int = 0, name: str = "") -> LinkInfo:
        """A device that has just been there."""
        info = self._rtnl.find(index=index, name=name)
        if info is None:
            raise BackendError(errno.ENODEV,
                               f"device {name or index} vanished")
        return info

    def _mark(self, index: int, text: str) -> None:
        self._rtnl.change(f"device {index} could not be given an alias",
                          "set", index=index, ifalias=ALIAS + text)

    def _clear_unfinished(self, name: str, hidden: str) -> None:
        """Deletes pairs under these names that no port uses: what a provider
        left that ended while it made or deleted one."""
        for info in (self._rtnl.find(name=hidden),
                     self._rtnl.find(name=name)):
            if (info is not None and info.kind == "veth"
                    and (is_ours(info)
                         or (info.name == hidden and not info.alias))
                    and not self._in_use(info.index)
                    and not self._in_use(info.peer)):
                self.delete(info.index, info.name)

    def hide(self, info: LinkInfo) -> None:
        """Keeps the host's protocols off a device that is still down."""
        self._rtnl.set_flags(f"{info.name} could not be set up", info.index,
                             IFF_NOARP, IFF_NOARP)
        try:
            with open(f"/proc/sys/net/ipv6/conf/{info.name}/disable_ipv6",
                      "w") as file:
                file.write("1")
        except FileNotFoundError:
            pass        # a kernel without IPv6
        except OSError:
            # /proc/sys is read-only in many containers.
            self._rtnl.change(
                f"{info.name} could not be kept free of IPv6", "set",
                index=info.index,
                IFLA_AF_SPEC={"attrs": [("AF_INET6", {"attrs": [
                    ("IFLA_INET6_ADDR_GEN_MODE",
                     IN6_ADDR_GEN_MODE_NONE)]})]})

    def set_up(self, index: int, name: str) -> None:
        self._rtnl.set_flags(f"{name} could not be set up", index,
                             IFF_UP, IFF_UP)

    def find(self, name: str) -> LinkInfo | None:
        """The device of that name, if it is ours."""
        info = self._rtnl.find(name=name)
        return info if info is not None and is_ours(info) else None

    def delete(self, index: int, name: str) -> None:
        """Deletes a device and its peer, if they are still there."""
        with ignoring(errno.ENODEV):
            self._rtnl.change(f"{name} could not be deleted", "del",
                              index=index)


def is_ours(info: LinkInfo) -> bool:
    return info.kind == "veth" and info.alias.startswith(ALIAS)


def is_hidden_end(info: LinkInfo, name: str) -> bool:
    """Whether it is the hidden end of the pair that was made for `name`."""
    return info.kind == "veth" and info.alias == ALIAS + _hidden(name)


def _hidden(name: str) -> str:
    return f"switch's end of {name}"
