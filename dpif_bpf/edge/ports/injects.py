# SPDX-License-Identifier: Apache-2.0
"""The pairs through which datapaths send to themselves.

They are there as long as they are wanted: others see devices, and may set them
down or delete them.
"""

from __future__ import annotations

from collections.abc import Set

import ovs.vlog

from dpif_bpf.core.devices import InjectPair
from dpif_bpf.edge.ports.pairs import IFF_UP, MAX_MTU, Pairs, is_ours
from dpif_bpf.edge.ports.rtnetlink import Rtnl
from dpif_bpf.errors import DpifError
from dpif_bpf.limited import Limited

vlog = ovs.vlog.Vlog("ports")

ANY = InjectPair(0, 0)


class Injects:
    """Inject pairs of the provider."""

    def __init__(self, rtnl: Rtnl, pairs: Pairs) -> None:
        self._rtnl = rtnl
        self._pairs = pairs
        self._names: dict[InjectPair, tuple[str, str]] = {}
        self._renewed: list[InjectPair] = []
        self._warn = Limited(vlog.warn)
        self.broken: set[int] = set()
        """Indexes of pairs that could not be made anew."""

    @property
    def indexes(self) -> set[int]:
        """Of all ends."""
        return {index for pair in self._names for index in pair}

    def open(self, sender: str, receiver: str) -> InjectPair:
        """See PortEdge.open_inject()."""
        pair = self._find(sender, receiver) or self._make(sender, receiver)
        self._names[pair] = sender, receiver
        return pair

    def delete(self, pair: InjectPair) -> None:
        """See PortEdge.delete_inject()."""
        self._names.pop(pair, None)
        self.broken -= set(pair)
        self._pairs.delete(pair.sender, "inject device")

    def _find(self, sender: str, receiver: str) -> InjectPair | None:
        info = self._pairs.find(sender)
        peer = None if info is None else self._rtnl.find(index=info.peer)
        if info is None or peer is None or peer.name != receiver:
            return None
        pair = InjectPair(info.index, peer.index)
        self._set_up(pair)
        return pair

    def _make(self, sender: str, receiver: str,
              pair: InjectPair = ANY) -> InjectPair:
        """:param pair: the indexes that it is to have"""
        info, peer = self._pairs.create(
            sender, receiver, f"end of {receiver}", MAX_MTU,
            {"IFLA_TXQLEN": 0}, pair.receiver, pair.sender)
        self._pairs.hide(info)
        pair = InjectPair(info.index, peer.index)
        self._set_up(pair)
        return pair

    def _set_up(self, pair: InjectPair) -> None:
        for index in pair:
            self._pairs.set_up(index, "inject device")

    # What others do to them.

    def heal(self, changed: Set[int], left: Set[int]) -> None:
        """Sets pairs up again, and makes those anew that have gone.

        :param changed: indexes of devices that changed
        :param left: of those that left our namespace, and lost their hooks
        """
        for pair, names in self._names.items():
            if changed.isdisjoint(pair):
                continue
            try:
                intact = self._intact(pair)
                if not intact:
                    self._clear(pair)
                    self._make(*names, pair)
                    vlog.info(f"made {names[0]} and {names[1]} anew")
            except DpifError as error:
                if self.broken.isdisjoint(pair):
                    self._warn(f"{names[0]} has gone: {error}")
                self.broken.update(pair)
                continue
            self.broken -= set(pair)
            if not intact or not left.isdisjoint(pair):
                self._renewed.append(pair)

    def _intact(self, pair: InjectPair) -> bool:
        """Whether it is a pair still; it is up then."""
        ends = [self._rtnl.find(index=index) for index in pair]
        for end, other in zip(ends, reversed(pair), strict=True):
            if end is None or (end.kind, end.peer) != ("veth", other):
                return False
            if not end.flags & IFF_UP:
                self._pairs.hide(end)
                self._pairs.set_up(end.index, end.name)
        return True

    def _clear(self, pair: InjectPair) -> None:
        """Deletes what is left of a pair, as an end whose peer was moved."""
        for index in pair:
            info = self._rtnl.find(index=index)
            if info is not None and is_ours(info):
                self._pairs.delete(index, info.name)

    def renewed(self) -> list[InjectPair]:
        """See PortEdge.renewed()."""
        renewed, self._renewed = self._renewed, []
        return renewed
