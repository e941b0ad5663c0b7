# SPDX-License-Identifier: Apache-2.0
"""Bridges of a datapath: which there are, and whose port is whose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from dpif_bpf import abi
from dpif_bpf.core.flow_table import FlowTable
from dpif_bpf.core.plane import ANY_BRIDGE, Hooks
from dpif_bpf.core.ports import Ports
from dpif_bpf.errors import DpifError, Finish, failures


class Bridges:
    """The bridges of one datapath, each with a pipeline of its own.

    :ivar by_name: their ids
    """

    def __init__(self, hooks: Hooks, flows: FlowTable, ports: Ports,
                 finish: Finish) -> None:
        self._hooks = hooks
        self._flows = flows
        self._ports = ports
        self._finish = finish
        self.by_name: dict[str, int] = {}
        hooks.add_bridge(ANY_BRIDGE)

    def names(self) -> dict[int, str]:
        """Bridge id → name."""
        return {number: name for name, number in self.by_name.items()}

    def set(self, bridges: Mapping[str, frozenset[str]]) -> None:
        """Which port belongs to which bridge, as the database has it.

        A new bridge's pipeline is loaded before ports move to it, and a
        bridge's that has gone is unloaded after they have left.

        :raises DpifError: the first one; everything else is as it should
            be, and what failed is done by the next call that can
        """
        failed = failures(*(partial(self._add, name)
                            for name in bridges if name not in self.by_name))
        failed += self._ports.set_owners(
            {port: self.by_name[name]
             for name, ports in bridges.items()
             for port in ports if name in self.by_name})
        for name in list(self.by_name):
            if name not in bridges:
                self._remove(name)
        if failed:
            raise failed[0]

    def _add(self, name: str) -> None:
        taken = {*self.by_name.values(), *self._flows.leaving}
        bridge = next((number for number in range(1, abi.OVS_MAX_BRIDGES)
                       if number not in taken), None)
        if bridge is None:
            return
        self._flows.add_bridge(bridge)
        try:
            self._hooks.add_bridge(bridge)
        except DpifError:
            self._flows.remove_bridge(bridge)
            raise
        self.by_name[name] = bridge

    def _remove(self, name: str) -> None:
        bridge = self.by_name[name]
        if self._ports.any_in(bridge):
            return  # one could not leave
        del self.by_name[name]
        self._flows.remove_bridge(bridge)
        self._finish(name, lambda: self._hooks.remove_bridge(bridge))
