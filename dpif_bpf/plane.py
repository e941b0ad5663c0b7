# SPDX-License-Identifier: Apache-2.0
"""core.plane.Plane over a generation of BPF maps and programs."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable, Iterator

from dpif_bpf import abi
from dpif_bpf.core.actions import Program
from dpif_bpf.core.cls_sizes import MAPPED, Sizes
from dpif_bpf.core.edges import InjectPair
from dpif_bpf.core.flow_stats import FlowCounts, FlowStats
from dpif_bpf.core.forest import Buffers, Classifier
from dpif_bpf.core.plane import DpCounters, PortEntry
from dpif_bpf.core.records import memory_words
from dpif_bpf.edge import bpfsys
from dpif_bpf.edge.generation import Generation
from dpif_bpf.edge.hooks import Hooks
from dpif_bpf.edge.inject import ExecSlots, Injector
from dpif_bpf.edge.loader import Loader
from dpif_bpf.edge.ports import Clsact
from dpif_bpf.errors import BackendError

_U32 = struct.Struct("=I")
_PORT = abi.PORT.struct

INJECT = "ovs_inject"
METERS = "ovs_meters"
MAX_STRIPES = 64
"""CPUs beyond this many count in the stripes of others, atomically."""
NS = 1000000
"""Nanoseconds in the milliseconds of OVS_FLOW_ATTR_USED."""
ACTS_WORDS = 1 << 20
"""ovs_acts: 8 MiB.  Equal lists of actions are there once."""


class Hooking:
    """Hooks devices by tcx links, or by clsact filters before Linux 6.6."""

    def __init__(self, loader: Loader, dp: str) -> None:
        self._hooks: Hooks | None = None
        self._clsact: Clsact | None = None
        self._stale: set[int] = set()
        if Hooks.supported():
            self._hooks = Hooks(loader.pins.links(dp))
            self._stale.update(self._hooks.adopt())
        else:
            self._clsact = Clsact()

    def attach(self, ifindex: int, prog_fd: int, name: str) -> None:
        """Hooks a device, or replaces the program that it has."""
        self._stale.discard(ifindex)
        if self._hooks is not None:
            self._hooks.attach(ifindex, prog_fd)
        elif self._clsact is not None:
            self._clsact.attach(ifindex, prog_fd, name)

    def detach(self, ifindex: int) -> None:
        """Unhooks a device; no error when it has gone."""
        if self._hooks is not None:
            self._hooks.detach(ifindex)
        elif self._clsact is not None:
            self._clsact.detach(ifindex)

    def prune(self) -> None:
        """Unhooks what an earlier provider hooked and this one did not."""
        for ifindex in self._stale:
            self.detach(ifindex)
        self._stale = set()

    def close(self) -> None:
        """The programs stay on their devices."""
        if self._hooks is not None:
            self._hooks.close()
        elif self._clsact is not None:
            self._clsact.close()


def load(loader: Loader, name: str, max_flows: int, pair: InjectPair,
         old: Generation | None = None) -> Generation:
    """A new generation with room for `max_flows` flows.

    :param old: the one before, with which it shares the meters: buckets have
        what they have, and no packet is counted twice or not at all
    """
    sizes = Sizes.for_flows(max_flows)
    cpus = bpfsys.possible_cpus()
    stripes = min(cpus, MAX_STRIPES)
    return loader.create(name, {
        "cfg_max_flows": sizes.flows,
        "cfg_stripes": stripes,
        "cfg_shared_stats": int(stripes < cpus),
        "cfg_inject_ifindex": pair.receiver,
        **sizes.constants(),
    }, {
        **sizes.entries(),
        "ovs_flow_stats": (stripes + 1) * sizes.flows,
        "ovs_acts": ACTS_WORDS,
        "ovs_nlmem": memory_words(sizes.flows),
    }, shared_maps(old))


def shared_maps(old: Generation | None) -> dict[str, int]:
    """Maps of a generation, by name, that the next one takes.

    :raises BackendError: EPROTO when they have another layout
    """
    if old is None or METERS not in old.maps:
        return {}
    info = old.map_info(METERS)
    if (info.value_size, info.max_entries) != (
            abi.METER.size, abi.OVS_METERS + abi.OVS_METER_EXTRA):
        raise BackendError(errno.EPROTO,
                           "the pinned meters have another layout")
    return {METERS: old.map_fd(METERS)}


def counters_of(gen: Generation, bridges: Iterable[int]) -> DpCounters:
    """What a generation counted, summed over bridges."""
    total = DpCounters()
    for bridge in bridges:
        total += DpCounters(*gen.dp_stats(bridge))
    return total


def earlier_flow_stats(
        gen: Generation,
        flow_ids: list[int]) -> list[tuple[int, int, int, int]]:
    """Plane.flow_stats() of an earlier generation."""
    return list(flow_rows(flow_stats_of(gen), flow_ids))


def flow_stats_of(gen: Generation) -> FlowStats:
    """The statistics of a generation's flows."""
    flows = gen.map_info("ovs_flows").max_entries
    stripes = gen.map_info("ovs_flow_stats").max_entries // flows
    return FlowStats(gen.mapped("ovs_flow_stats"), stripes, flows)


def flow_rows(stats: FlowStats, flow_ids: list[int]
              ) -> Iterator[tuple[int, int, int, int]]:
    """Plane.flow_stats() of some statistics."""
    if len(flow_ids) == 1:
        packets, nbytes, used, tcp_flags = stats.one(flow_ids[0])
        return iter([(packets, nbytes, used // NS, tcp_flags)])
    counted = stats.read(flow_ids)
    return zip(counted.packets.tolist(), counted.bytes.tolist(),
               (counted.used // NS).tolist(), counted.tcp_flags.tolist(),
               strict=True)


class BpfPlane:
    """One generation, as the core sees it.

    :param released: called with what was given to execute() when its packet
        has passed
    """

    def __init__(self, gen: Generation, hooking: Hooking, pair: InjectPair,
                 max_flows: int, released: Callable[[Program], None]) -> None:
        self.gen = gen
        sizes = Sizes.for_flows(max_flows)
        self.flow_ids = sizes.flows
        self.acts = gen.mapped("ovs_acts").cast("Q")
        self.nlmem = gen.mapped("ovs_nlmem").cast("Q")
        self.meters = gen.mapped(METERS).cast("Q")
        self._ports = gen.mapped("ovs_ports")
        self._stats = flow_stats_of(gen)
        self.classifier = Classifier(
            Buffers(*map(gen.mapped, MAPPED)), sizes,
            freed=self._stats.clear)
        self._hooking = hooking
        self._bridges: set[int] = set()
        self._devs: dict[int, int] = {}
        self._pair = pair
        self._slots = ExecSlots(gen.mapped("ovs_slots"))
        self._injector = Injector(pair.sender)
        self._released = released

    def prune_hooks(self) -> None:
        """Takes off what earlier generations hooked and this one did not."""
        self._hooking.prune()

    def hook_inject(self) -> None:
        """From now on executes and deferred copies come here."""
        self._hooking.attach(self._pair.receiver, self.gen.prog_fd(INJECT),
                             INJECT)

    # Ports

    def write_port(self, port_no: int, entry: PortEntry) -> None:
        _PORT.pack_into(self._ports, port_no * abi.PORT.size, entry.ifindex,
                        entry.mtu, entry.bridge, entry.flags, 0, 0)
        bpfsys.map_update(self.gen.map_fd("ovs_devs"),
                          _U32.pack(entry.ifindex), _U32.pack(port_no))
        self._devs[port_no] = entry.ifindex

    def clear_port(self, port_no: int) -> None:
        _PORT.pack_into(self._ports, port_no * abi.PORT.size, 0, 0, 0, 0, 0,
                        0)
        ifindex = self._devs.pop(port_no, None)
        if ifindex is not None:
            bpfsys.map_delete(self.gen.map_fd("ovs_devs"), _U32.pack(ifindex))

    # Bridges and hooks

    def add_bridge(self, bridge: int) -> None:
        self.gen.add_bridge(bridge)
        self._bridges.add(bridge)

    def remove_bridge(self, bridge: int) -> None:
        self.gen.remove_bridge(bridge)
        self._bridges.discard(bridge)

    def attach(self, ifindex: int, bridge: int, layer3: bool) -> None:
        pipeline = self.gen.bridge(bridge)
        self._hooking.attach(
            ifindex, pipeline.entry_l3_fd if layer3 else pipeline.entry_fd,
            "ovs_entry")

    def detach(self, ifindex: int) -> None:
        self._hooking.detach(ifindex)

    # Packets

    def execute(self, program: Program, pc: int, bridge: int, key: bytes,
                packet: bytes, now: int) -> bool:
        mark = self._slots.arm(pc, bridge, 0, key, program, now)
        if mark is None:
            self.reap(now)
            mark = self._slots.arm(pc, bridge, 0, key, program, now)
            if mark is None:
                return False
        if not self._injector.send(mark, packet):
            self._slots.cancel(mark)
            return False
        return True

    def reap(self, now: int) -> None:
        """Gives back the programs of executes that have passed."""
        for token in self._slots.reap(now):
            assert isinstance(token, Program)
            self._released(token)

    @property
    def executing(self) -> int:
        """Executes that may be on their way."""
        return len(self._slots)

    # Counters

    def events(self) -> dict[str, int]:
        """Events since the start, by name."""
        return {"execute_no_slot": self._slots.full,
                "execute_lost": self._slots.lost,
                "execute_refused": self._injector.refused}

    def counters(self) -> DpCounters:
        return counters_of(self.gen, self._bridges)

    def steps(self) -> dict[int, tuple[int, ...]]:
        """Bridge → lookups by hash probes, since this generation began; the
        last number is of those that took as many or more."""
        return {bridge: self.gen.steps(bridge) for bridge in self._bridges}

    def drops(self) -> dict[int, dict[abi.DropReason, int]]:
        """Bridge → reason → packets."""
        return {bridge: self.gen.drops(bridge)
                for bridge in sorted(self._bridges)}

    def flow_stats(
            self, flow_ids: list[int]) -> list[tuple[int, int, int, int]]:
        return list(flow_rows(self._stats, flow_ids))

    def set_flow_stats(self, flow_id: int,
                       counted: tuple[int, int, int, int]) -> None:
        packets, nbytes, used, tcp_flags = counted
        self._stats.preset(flow_id, FlowCounts(packets, nbytes,
                                               used * NS, tcp_flags))

    def close(self) -> None:
        """Lets go; what is pinned goes on."""
        self._injector.close()
        self._hooking.close()
        self.gen.close()
