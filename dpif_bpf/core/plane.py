# SPDX-License-Identifier: Apache-2.0
"""What the core asks of one generation of the packet path.

``dpif_bpf.bpf_plane`` implements it over BPF maps; the unit tests over byte
arrays.  Mapped memory is handed out as memoryviews: stores into it are the
datapath's map operations, published by aligned 8-byte stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dpif_bpf.abi import Stage
from dpif_bpf.core.actions.programs import Program
from dpif_bpf.core.classifier.forest import Classifier
from dpif_bpf.core.conntrack.memory import CtMemory
from dpif_bpf.core.port_map import PortEntry

ANY_BRIDGE = 0
"""The bridge id of ports that no bridge of the database owns."""


@dataclass(frozen=True, slots=True)
class DpCounters:
    """Packets since the datapath was made (struct ovs_dp_stats)."""

    hit: int = 0
    missed: int = 0
    lost: int = 0
    mask_hit: int = 0
    cache_hit: int = 0

    def __add__(self, other: DpCounters) -> DpCounters:
        return DpCounters(self.hit + other.hit, self.missed + other.missed,
                          self.lost + other.lost,
                          self.mask_hit + other.mask_hit,
                          self.cache_hit + other.cache_hit)


class Memory(Protocol):
    """Maps that the core writes."""

    classifier: Classifier
    acts: memoryview
    """ovs_acts as 64-bit words."""
    nlmem: memoryview
    """ovs_nlmem as 64-bit words."""
    meters: memoryview
    """ovs_meters as 64-bit words: those of the generation before."""
    ct: CtMemory
    """Connections: those of the generation before, too."""
    flow_ids: int
    """Ids of flows are below this."""
    max_flows: int
    """Flows that there may be."""


class PortMaps(Protocol):
    """The ports that programs know."""

    def write_port(self, port_no: int, entry: PortEntry) -> None:
        """Makes `port_no` known to the programs, or changes it."""

    def clear_port(self, port_no: int) -> None:
        """Forgets a port: output to it is dropped and counted."""


class Hooks(Protocol):
    """Pipelines of bridges, and which devices' packets come to them."""

    def add_bridge(self, bridge: int) -> None:
        """Loads the pipeline of a bridge."""

    def remove_bridge(self, bridge: int) -> None:
        """Unloads a pipeline; no port may be hooked to it any more."""

    def attach(self, ifindex: int, bridge: int, stage: Stage) -> None:
        """Hooks a device's ingress to a bridge's pipeline, or moves it
        there from another one without losing a packet.

        :param stage: where its packets go first
        """

    def attach_end(self, hidden: int, ifindex: int | None) -> None:
        """Hooks the other end of an internal port's pair, so that packets
        keep priority and mark on their way through it.  Where it cannot,
        they go through without.

        :param hidden: the end to which attach() hooked
        :param ifindex: None when the other end is in another namespace:
            then hooks that it has already get this plane's programs
        """

    def detach(self, ifindex: int) -> None:
        """Takes the hooks off; a device that has gone is no error."""


class UpcallShares(Protocol):
    """What ports have of the way to ovs-vswitchd."""

    def upcall_done(self, port_no: int, units: int) -> None:
        """An upcall of a port, or of none, is not under way any more: it
        takes nothing of the port's share.

        :param units: 1 + bytes of packet // OVS_UPCALL_UNIT
        """

    def upcalls_refused(self, port_no: int) -> int:
        """Upcalls that went beyond a port's share, and are lost."""


class Executes(Protocol):
    """Packets that the provider sends."""

    def execute(self, program: Program, pc: int, bridge: int,
                key: bytes, packet: bytes, now: int, mru: int = 0) -> bool:
        """Sends `packet` through the instructions at `pc`.

        :param program: kept alive until the packet has passed
        :param key: image of its key, of which metadata count: OVS_KEY_BASE
            words, or OVS_KEY_USED with options of a tunnel; or all of it and
            a struct ovs_tunnel behind it, into which it is to go
        :param mru: bytes of its largest fragment, from the network header on;
            0: it was in none
        :param now: ms, monotonic
        :returns: False when no slot was free and the packet is lost
        """


class Statistics(Protocol):
    """What programs count."""

    def counters(self) -> DpCounters:
        """Sums over all bridges and CPUs."""

    def set_flow_stats(self, flow_id: int,
                       counted: tuple[int, int, int, int]) -> None:
        """Sets the counters of a flow to those of flow_stats()."""

    def flow_stats(
            self, flow_ids: list[int]) -> list[tuple[int, int, int, int]]:
        """Packets, bytes, used (ms, CLOCK_MONOTONIC, 0: never) and the OR of
        the TCP flags of each flow, summed over CPUs."""


class Plane(Memory, PortMaps, Hooks, UpcallShares, Executes, Statistics,
            Protocol):
    """One generation: maps, programs and hooks of one datapath.

    Each part of the core asks for those of its parts that it needs.
    """
