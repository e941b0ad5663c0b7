# SPDX-License-Identifier: Apache-2.0
"""dpif_bpf.core.plane.Plane over byte arrays, and a provider around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dpif_bpf import abi
from dpif_bpf.abi import Stage
from dpif_bpf.core.actions.programs import Program
from dpif_bpf.core.classifier.forest import Buffers, Classifier
from dpif_bpf.core.classifier.sizes import MAPPED, Sizes
from dpif_bpf.core.conntrack.tracker import Conntrack
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.flow_stats import FlowCounts, FlowStats
from dpif_bpf.core.plane import DpCounters
from dpif_bpf.core.port_map import PortEntry, PortMap
from dpif_bpf.core.records import memory_words
from dpif_bpf.core.samples import Samples
from dpif_bpf.core.services.families import make_router
from dpif_bpf.core.services.service import LATER
from dpif_bpf.core.vport import LOCAL, Vport
from dpif_bpf.errors import DpifError, RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import DatapathRequest
from dpif_bpf.wire.netlink import (
    GENLMSGHDR,
    NLM_F_ACK,
    NLM_F_REQUEST,
    Message,
    build,
    iter_messages,
    parse_error,
)
from tests import ct_memory
from tests.fakes import FakePorts
from tests.mapped import mapped

MAX_FLOWS = 4096
MAX_CONNECTIONS = 4096
CPUS = 2


class FakePlane:
    """A generation without programs: what was written can be looked at."""

    def __init__(self) -> None:
        sizes = Sizes.for_flows(MAX_FLOWS)
        space = sizes.bytes()
        self.flow_ids = sizes.flows
        self.max_flows = MAX_FLOWS
        space |= {
            "ovs_flow_stats": (CPUS + 1) * sizes.flows * abi.FLOW_STATS.size,
            "ovs_acts": 1 << 16,
            "ovs_meters": abi.METER.size * (
                abi.OVS_METERS + abi.OVS_METER_EXTRA),
            "ovs_ports": abi.PORT.size * abi.OVS_MAX_PORTS,
            **ct_memory.sizes(MAX_CONNECTIONS)}
        self.maps = {name: mapped(size) for name, size in space.items()}
        """What programs read."""
        self.stats = FlowStats(self.maps["ovs_flow_stats"], CPUS + 1,
                               sizes.flows)
        self.classifier = Classifier(
            Buffers(*(self.maps[name] for name in MAPPED)), sizes,
            seed=1, freed=self.stats.clear)
        self.acts = self.maps["ovs_acts"].cast("Q")
        self.meters = self.maps["ovs_meters"].cast("Q")
        self.tracker = ct_memory.Tracker(MAX_CONNECTIONS, self.maps)
        self.ct = self.tracker.memory
        self.nlmem = memoryview(bytearray(
            memory_words(sizes.flows) * 8)).cast("Q")
        self.port_map = PortMap(self.maps["ovs_ports"].cast("Q"))
        self.ports: dict[int, PortEntry] = {}
        self.bridges: set[int] = set()
        self.hooks: dict[int, int] = {}
        self.ends: dict[int, int | None] = {}
        self.executed: list[tuple[Program, int, bytes, bytes]] = []
        self.places: list[tuple[int, int]] = []
        """Of these: pc, and mru."""
        self.refuse = False
        """Whether no packet can be executed."""
        self.counted = DpCounters()
        self.done: list[tuple[int, int]] = []
        self.refused: dict[int, int] = {}

    def write_port(self, port_no: int, entry: PortEntry) -> None:
        self.port_map.write(port_no, entry)
        self.ports[port_no] = entry

    def clear_port(self, port_no: int) -> None:
        self.port_map.clear(port_no)
        self.ports.pop(port_no, None)

    def add_bridge(self, bridge: int) -> None:
        assert bridge not in self.bridges
        self.bridges.add(bridge)

    def remove_bridge(self, bridge: int) -> None:
        assert bridge not in self.hooks.values()
        self.bridges.remove(bridge)

    def attach(self, ifindex: int, bridge: int, stage: Stage) -> None:
        assert bridge in self.bridges
        self.hooks[ifindex] = bridge

    def attach_end(self, hidden: int, ifindex: int | None) -> None:
        assert hidden in self.hooks
        self.ends[hidden] = ifindex

    def detach(self, ifindex: int) -> None:
        self.hooks.pop(ifindex, None)
        self.ends.pop(ifindex, None)

    def counters(self) -> DpCounters:
        return self.counted

    def upcall_done(self, port_no: int, units: int) -> None:
        self.done.append((port_no, units))

    def upcalls_refused(self, port_no: int) -> int:
        return self.refused.get(port_no, 0)

    def execute(self, program: Program, pc: int, bridge: int, key: bytes,
                packet: bytes, now: int, mru: int = 0) -> bool:
        if self.refuse:
            return False
        self.executed.append((program, bridge, key, packet))
        self.places.append((pc, mru))
        return True

    def set_flow_stats(self, flow_id: int,
                       counted: tuple[int, int, int, int]) -> None:
        packets, nbytes, used, flags = counted
        self.stats.preset(flow_id, FlowCounts(packets, nbytes,
                                              used * 1000000, flags))

    def flow_stats(self, flow_ids: list[int]
                   ) -> list[tuple[int, int, int, int]]:
        rows = []
        for flow_id in flow_ids:
            one = self.stats.one(flow_id)
            rows.append((one.packets, one.bytes, one.used // 1000000,
                         one.tcp_flags))
        return rows

    def settle(self) -> None:
        """A grace period passes."""
        self.classifier.advance(self.classifier.seal())


@dataclass(slots=True)
class FakePsample:
    """core.samples.SampleEdge that keeps what is sent."""

    id: int = 0
    messages: list[bytes] = field(default_factory=list)

    def family(self) -> int:
        return self.id

    def send(self, message: bytes) -> bool:
        self.messages.append(message)
        return True


@dataclass(slots=True)
class FakeProvider:
    """core.services.service.Registry over FakePlane and FakePorts."""

    ports: FakePorts = field(default_factory=FakePorts)
    dps: list[Datapath] = field(default_factory=list)
    planes: list[FakePlane] = field(default_factory=list)
    events: list[tuple[int, bytes]] = field(default_factory=list)
    psample: FakePsample = field(default_factory=FakePsample)
    reports: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    """Why datapaths of earlier providers are not taken over, by name."""

    tracker: Conntrack | None = None

    def datapaths(self) -> list[Datapath]:
        return list(self.dps)

    def conntrack(self) -> Conntrack | None:
        return self.tracker

    def make(self, request: DatapathRequest) -> Datapath:
        assert request.name is not None
        if any(dp.name == request.name for dp in self.dps):
            raise RequestError(17, "exists")
        plane = FakePlane()
        if self.tracker is None:
            self.tracker = Conntrack(plane.ct, plane.tracker.clock)
        dp = Datapath(request.name, len(self.dps), plane, self.ports,
                      lambda: 0, Samples(self.psample),
                      self.reports.append, self.tracker.policies)
        dp.change(request)
        dp.ports.make(request.name, uapi.OVS_VPORT_TYPE_INTERNAL, LOCAL,
                     (request.upcall_pid or 0,))
        self.dps.append(dp)
        self.planes.append(plane)
        return dp

    def remove(self, dp: Datapath) -> None:
        self.dps.remove(dp)
        dp.close()
        dp.timeouts.close()
        if not self.dps:
            self.tracker = None

    def absent(self, name: str) -> str | None:
        return self.left.get(name)

    def discard(self, name: str) -> bool:
        return self.left.pop(name, None) is not None

    def notify(self, group: int, message: bytes) -> None:
        self.events.append((group, message))

    def changes(self) -> Iterator[tuple[Datapath, Vport, bool]]:
        for event in self.ports.run():
            for dp in self.dps:
                port = dp.ports.link_changed(event)
                if port is not None:
                    yield dp, port, port.port_no not in dp.vports.by_no

    def refused(self, dp: Datapath, error: DpifError) -> None:
        self.reports.append(f"{dp.name}: {error}")

    def flush(self) -> None:
        """Turns, until no flush is under way."""
        for dp in self.dps:
            while dp.flows.flushes.run():
                pass

    def reclaim(self) -> bool:
        self.flush()
        waiting = sum(plane.classifier.quarantine_size
                      for plane in self.planes)
        for plane in self.planes:
            plane.settle()
        return waiting > 0


class Peer:
    """Asks a Router as OVS does."""

    def __init__(self, provider: FakeProvider) -> None:
        self.provider = provider
        self.router = make_router(provider, lambda: 1000)
        self.seq = 100

    def message(self, family: int, cmd: int, *attrs: bytes, flags: int = 0,
                dp: int | None = None) -> bytes:
        """A request; `dp` is dp_ifindex, that of the first datapath."""
        if dp is None:
            dp = (self.provider.dps[0].dp_ifindex if self.provider.dps
                  else 0)
        self.seq += 1
        return build(family, NLM_F_REQUEST | flags, self.seq, 77,
                     GENLMSGHDR.pack(cmd, 1, 0) + uapi.OVS_HEADER.pack(dp)
                     + b"".join(attrs))

    def ask(self, family: int, cmd: int, *attrs: bytes, flags: int = 0,
            dp: int | None = None) -> list[Message]:
        """The messages that answer a request."""
        return self.send(self.message(family, cmd, *attrs, flags=flags,
                                      dp=dp))

    def send(self, datagram: bytes) -> list[Message]:
        """The messages that answer a datagram."""
        messages: list[Message] = []
        for reply in self.router.serve(datagram):
            if reply == LATER:
                self.provider.flush()
            messages += iter_messages(reply)
        return messages

    def do(self, family: int, cmd: int, *attrs: bytes, flags: int = 0,
           dp: int | None = None) -> tuple[int, str | None]:
        """errno and text of a request that is only acknowledged."""
        return self.result(self.ask(family, cmd, *attrs,
                                    flags=flags | NLM_F_ACK, dp=dp))

    @staticmethod
    def result(replies: Iterable[Message]) -> tuple[int, str | None]:
        """errno and text of the one acknowledgement."""
        (only,) = replies
        error, text, _ = parse_error(only)
        return error, text
