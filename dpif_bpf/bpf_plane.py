# SPDX-License-Identifier: Apache-2.0
"""core.plane.Plane over a generation of BPF maps and programs."""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from operator import sub

import ovs.vlog

from dpif_bpf import abi
from dpif_bpf.core.actions.programs import Program
from dpif_bpf.core.classifier.forest import Buffers, Classifier
from dpif_bpf.core.classifier.sizes import MAPPED, Sizes
from dpif_bpf.core.conntrack.memory import MAPPED as CT_MAPPED
from dpif_bpf.core.conntrack.memory import CtMemory, CtSizes
from dpif_bpf.core.devices import InjectPair
from dpif_bpf.core.flow_stats import FlowCounts, FlowStats
from dpif_bpf.core.plane import ANY_BRIDGE, DpCounters
from dpif_bpf.core.port_map import PortEntry, PortMap
from dpif_bpf.core.records import memory_words
from dpif_bpf.earlier import counters_of, flow_stats_of
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.generation import Generation
from dpif_bpf.edge.hook_kinds import TC
from dpif_bpf.edge.inject import ExecSlots, Injector
from dpif_bpf.edge.loader import Loader
from dpif_bpf.errors import BackendError
from dpif_bpf.hooking import Hooking

vlog = ovs.vlog.Vlog("plane")

_U32 = struct.Struct("=I")

_USE_WORDS = abi.UPCALL_USE.size // 8
_GIVEN = abi.UPCALL_USE["given"].offset // 8
_REFUSED = abi.UPCALL_USE["refused"].offset // 8

INJECT = "ovs_inject"
END_PROGRAMS = "ovs_keep", "ovs_restore"
"""At the end of an internal port's pair that people use."""
METERS = "ovs_meters"
MAX_STRIPES = 64
"""CPUs beyond this many count in the stripes of others, atomically."""
NS = 1000000
"""Nanoseconds in the milliseconds of OVS_FLOW_ATTR_USED."""
ACTS_WORDS = 1 << 20
"""ovs_acts: 8 MiB.  Equal lists of actions are there once."""
ANSWER = "ovs_ct_answerer"
SWEEP = "ovs_ct_sweeper"
_FRAME = bytes(64)
"""Of which a program that is run by hand looks at nothing."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a datapath has room for.

    :param flows: that there may be
    :param connections: likewise
    """

    flows: int
    connections: int

    def entries(self) -> dict[str, int]:
        """Elements of the maps that are sized by it."""
        sizes = Sizes.for_flows(self.flows)
        stripes = min(bpfsys.possible_cpus(), MAX_STRIPES)
        return {
            **sizes.entries(),
            "ovs_flow_stats": (stripes + 1) * sizes.flows,
            "ovs_acts": ACTS_WORDS,
            "ovs_nlmem": memory_words(sizes.flows),
            **CtSizes.for_connections(self.connections).entries(),
        }


def load(loader: Loader, name: str, room: Room, pair: InjectPair,
         shared: Mapping[str, int] | None = None) -> Generation:
    """A new generation.

    :param shared: see Earlier.shared()
    """
    sizes = Sizes.for_flows(room.flows)
    cpus = bpfsys.possible_cpus()
    stripes = min(cpus, MAX_STRIPES)
    return loader.create(name, {
        "cfg_max_flows": sizes.flows,
        "cfg_stripes": stripes,
        "cfg_shared_stats": int(stripes < cpus),
        "cfg_inject_ifindex": pair.receiver,
        "cfg_tunnel_keyless": int(bpfprog.has_keyless_tunnels()),
        **sizes.constants(),
        **CtSizes.for_connections(room.connections).constants(),
    }, room.entries(), shared, abi.MAPS)


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


@dataclass(frozen=True, slots=True)
class _Counted:
    """Lookups by hash probes, and drops, of a bridge's number."""

    steps: tuple[int, ...]
    drops: dict[abi.DropReason, int]


class BpfPlane:
    """One generation, as the core sees it.

    :param released: called with what was given to execute() when its packet
        has passed
    """

    def __init__(self, gen: Generation, hooking: Hooking, pair: InjectPair,
                 room: Room, released: Callable[[Program], None]) -> None:
        self.gen = gen
        sizes = Sizes.for_flows(room.flows)
        self.flow_ids = sizes.flows
        self.max_flows = room.flows
        self.acts = gen.mapped("ovs_acts").cast("Q")
        self.nlmem = gen.mapped("ovs_nlmem").cast("Q")
        self.meters = gen.mapped(METERS).cast("Q")
        self.ct = CtMemory(self._ct_cpus, self._ct_ask, *(
            gen.mapped(name).cast("Q") for name in CT_MAPPED))
        self.ct.set_up(os.urandom, room.connections)
        self._ports = PortMap(gen.mapped("ovs_ports").cast("Q"))
        self._upcalls = gen.mapped("ovs_upcall_use").cast("Q")
        self._stats = flow_stats_of(gen, sizes.flows)
        self.classifier = Classifier(
            Buffers(*map(gen.mapped, MAPPED)), sizes,
            freed=self._stats.clear)
        self._hooking = hooking
        self._bridges: set[int] = set()
        self._counted: dict[int, _Counted] = {}
        """What each number had counted when its present bridge, or the
        last one, was given it."""
        self._pair = pair
        self._slots = ExecSlots(gen.mapped("ovs_slots"))
        self._injector = Injector(pair.sender)
        self._released = released

    def prune_hooks(self, more: Iterable[int] = ()) -> None:
        """Takes off what earlier generations hooked and this one did not.

        :param more: devices of ports that were not taken over
        :raises BackendError: of the first that failed; the others are done
        """
        self._hooking.prune(more)

    def hook_inject(self) -> None:
        """From now on executes and deferred copies come here."""
        self._hooking.attach(TC, self._pair.receiver,
                             self.gen.prog_fd(INJECT), INJECT)

    def renew_inject(self) -> None:
        """The pair has been made anew: what was on its way is lost."""
        self.hook_inject()
        injector = Injector(self._pair.sender)
        injector.refused = self._injector.refused
        self._injector.close()
        self._injector = injector
        for token in self._slots.reset():
            assert isinstance(token, Program)
            self._released(token)

    # Connections

    def _ct_cpus(self) -> list[bytes]:
        return bpfsys.map_lookup_percpu(self.gen.map_fd("ovs_ct_cpu"), 0,
                                        self.gen.map_info("ovs_ct_cpu"))

    def _ct_ask(self) -> None:
        self._run(ANSWER, "cannot change connections")

    def _run(self, program: str, trouble: str) -> None:
        """:raises BackendError: what it returns"""
        refused = bpfprog.test_run(self.gen.prog_fd(program), _FRAME).retval
        if refused:
            raise BackendError(-int(refused), trouble)

    def start_sweep(self) -> None:
        """From now on this generation's programs end connections.

        :raises BackendError: the kernel refuses the timer
        """
        self._run(SWEEP, "cannot start the timer that ends connections")

    # Ports

    def write_port(self, port_no: int, entry: PortEntry) -> None:
        gone = self._ports.write(port_no, entry)
        bpfsys.map_update(self.gen.map_fd("ovs_devs"),
                          _U32.pack(entry.ifindex), _U32.pack(port_no))
        self._forget_device(gone)

    def clear_port(self, port_no: int) -> None:
        self._forget_device(self._ports.clear(port_no))
        self._upcalls[port_no * _USE_WORDS + _REFUSED] = 0

    def _forget_device(self, ifindex: int | None) -> None:
        if ifindex is not None:
            bpfsys.map_delete(self.gen.map_fd("ovs_devs"), _U32.pack(ifindex))

    # Upcalls

    def upcall_done(self, port_no: int, units: int) -> None:
        use = self._upcalls
        use[min(port_no, abi.OVS_MAX_PORTS - 1) * _USE_WORDS + _GIVEN] += units
        use[abi.OVS_UPCALL_ALL * _USE_WORDS + _GIVEN] += units

    def upcalls_refused(self, port_no: int) -> int:
        return self._upcalls[port_no * _USE_WORDS + _REFUSED]

    # Bridges and hooks

    def add_bridge(self, bridge: int) -> None:
        counted = _Counted(self.gen.steps(bridge), self.gen.drops(bridge))
        self.gen.add_bridge(bridge)
        self._bridges.add(bridge)
        self._counted[bridge] = counted

    def remove_bridge(self, bridge: int) -> None:
        self._bridges.discard(bridge)
        self.gen.remove_bridge(bridge)

    def attach(self, ifindex: int, bridge: int, stage: abi.Stage) -> None:
        self._hooking.attach(
            TC, ifindex, self.gen.bridge(bridge).entry_to(stage), "ovs_entry")

    def attach_end(self, hidden: int, ifindex: int | None) -> None:
        try:
            self._hooking.attach_end(
                hidden, ifindex, *map(self.gen.prog_fd, END_PROGRAMS))
        except BackendError as error:
            vlog.info(f"packets of an internal port lose their priority:"
                      f" {error}")

    def detach(self, ifindex: int) -> None:
        self._hooking.detach(ifindex)

    # Packets

    def execute(self, program: Program, pc: int, bridge: int, key: bytes,
                packet: bytes, now: int, mru: int = 0) -> bool:
        mark = self._slots.arm(pc, bridge, 0, key, program, now, mru)
        if mark is None:
            self.reap(now)
            mark = self._slots.arm(pc, bridge, 0, key, program, now, mru)
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
        return counters_of(self.gen, self._counted)

    def steps(self) -> dict[int, tuple[int, ...]]:
        """Bridge → lookups by hash probes, since it and this generation
        began; the last number is of those that took as many or more."""
        return {bridge: tuple(map(sub, self.gen.steps(bridge),
                                  self._counted[bridge].steps))
                for bridge in self._bridges}

    def drops(self) -> dict[int, Counter[abi.DropReason]]:
        """Bridge → reason → packets; ANY_BRIDGE has those of bridges that
        are not there any more, too."""
        found = {bridge: Counter(self.gen.drops(bridge))
                 for bridge in sorted(self._counted)}
        for bridge in found.keys() - {ANY_BRIDGE}:
            gone = (Counter(self._counted[bridge].drops)
                    if bridge in self._bridges else found.pop(bridge))
            found[ANY_BRIDGE] += gone
            if bridge in found:
                found[bridge] -= gone
        return found

    def flow_stats(
            self, flow_ids: list[int]) -> list[tuple[int, int, int, int]]:
        return list(flow_rows(self._stats, flow_ids))

    def set_flow_stats(self, flow_id: int,
                       counted: tuple[int, int, int, int]) -> None:
        packets, nbytes, used, tcp_flags = counted
        self._stats.preset(flow_id, FlowCounts(packets, nbytes,
                                               used * NS, tcp_flags))

    def add_flow_stats(self, flow_id: int, counts: FlowCounts) -> None:
        """Adds what an earlier generation counted for a flow."""
        self._stats.add(flow_id, counts)

    def close(self) -> None:
        """Lets go; what is pinned goes on."""
        self._injector.close()
        self._hooking.close()
        self.gen.close()
