# SPDX-License-Identifier: Apache-2.0
"""What holds of a datapath whatever it was asked: its tables agree.

Looks at the private tables of core over a FakePlane and FakePorts.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from dpif_bpf import abi
from dpif_bpf.core import records, restore
from dpif_bpf.core.actions.programs import Program
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.flow_table import Flow
from dpif_bpf.core.meters import Meters
from dpif_bpf.core.plane import ANY_BRIDGE
from dpif_bpf.core.vport import LOCAL
from tests.fake_plane import FakePlane
from tests.fakes import FakePorts


def check_flows(dp: Datapath, plane: FakePlane) -> None:
    """The indices of the flow table, the classifier, the programs and what
    is kept have the same flows."""
    table, cls = dp.flows, plane.classifier
    flows = table.snapshot()
    assert len(flows) == len(table) == len(set(map(id, flows)))
    named = [*table._by_ufid.values(), *table._by_key.values()]
    assert Counter(map(id, named)) == Counter(map(id, flows))
    assert all(flow.ufid == ufid for ufid, flow in table._by_ufid.items())
    assert all(flow.ufid is None and flow.match.full_key == key
               for key, flow in table._by_key.items())
    assert all((flow.match.key, flow.match.mask) == match
               for match, flow in table._by_match.items())
    _check_places(dp, plane, flows)
    for owner in table._bridge_of.values():
        assert owner in table._bridges
    assert table._bridges | table.leaving == set(cls._roots)
    assert kept_flows(plane) == {flow_id: flow.body for flow_id, flow
                                 in table._by_id.items()}
    _check_programs(dp, plane, flows)


def kept_flows(plane: FakePlane) -> dict[int, bytes]:
    """Flow id → record without its prefix, as records.read(), which takes
    longer."""
    words, start = plane.nlmem, records.DIR_BASE + records.FLOW_BASE
    directory = np.frombuffer(words, np.uint64)[
        start:start + plane.flow_ids]
    data = words.cast("B")
    kept = {}
    for flow_id in np.flatnonzero(directory).tolist():
        offset, size = divmod(words[start + flow_id], 1 << 32)
        kept[flow_id] = bytes(data[
            offset * 8 + records.FLOW_PREFIX.size:offset * 8 + size])
    return kept


def _check_places(dp: Datapath, plane: FakePlane, flows: list[Flow]) -> None:
    table, cls = dp.flows, plane.classifier
    places = {flow_id: (flow, bridge) for flow in flows
              for bridge, flow_id in flow.places.items()}
    assert {flow_id: flow for flow_id, (flow, _) in places.items()} == (
        table._by_id)
    assert set(cls._leaves) == set(places)
    for flow_id, (flow, bridge) in places.items():
        leaf = cls._leaves[flow_id]
        assert not leaf.ghost
        assert (leaf.key, leaf.bits) == (flow.match.key, flow.match.mask)
        assert leaf.tree.bridge == bridge
        assert leaf.tree.find(leaf.key, leaf.bits) is leaf
        assert cls.acts(flow_id) == flow.program.pc
    for flow in flows:
        wanted = (table._bridges if flow.in_port is None else
                  {table.bridge_of(flow.in_port)})
        assert set(flow.places) - table.leaving == wanted or (
            wanted == {ANY_BRIDGE} and flow.places.keys() <= table.leaving)


def _check_programs(dp: Datapath, plane: FakePlane,
                    flows: list[Flow]) -> None:
    """Each is held by its flows and by executes, and by nobody else but
    flows that are being flushed."""
    held: Counter[int] = Counter(id(flow.program) for flow in flows)
    held.update(id(program) for program, *_ in plane.executed)
    programs: list[Program] = list(dp.programs._by_code.values())
    refs = Counter({id(program): program._refs for program in programs})
    assert refs >= held if dp.flows.flushes.busy else refs == held
    for program in programs:
        for key in program._keys:
            assert dp.programs._by_key[key] is program
        for number in program.desc_ids:
            assert dp.descs.get(number) is not None


def check_ports(dp: Datapath, plane: FakePlane, ports: FakePorts) -> None:
    """The indices of the ports, the devices, the programs' table of ports
    and what is kept have the same ports."""
    table = dp.vports
    assert LOCAL in table.by_no
    assert all(port.port_no == no for no, port in table.by_no.items())
    assert table.by_name == {port.name: port
                             for port in table.by_no.values()}
    hooks = {port.link.hook_ifindex: port for port in table.by_no.values()}
    assert table.by_hook == hooks
    assert {hook: port.bridge for hook, port in hooks.items()} == plane.hooks
    assert set(plane.ports) == set(table.by_no)
    for port_no, port in table.by_no.items():
        assert plane.ports[port_no].ifindex == port.link.hook_ifindex
        assert plane.ports[port_no].bridge == port.bridge
        assert dp.flows.bridge_of(port_no) == port.bridge
        assert port.link.hook_ifindex in ports.claimed
    kept = restore.read(plane.nlmem)
    assert {(p.port_no, p.name, p.upcall_pids) for p in kept.ports} == {
        (p.port_no, p.name, p.upcall_pids) for p in table.by_no.values()}
    assert kept.datapath.name == dp.name
    assert (kept.datapath.user_features or 0) == dp.user_features


def check_meters(dp: Datapath, plane: FakePlane) -> None:
    """The next provider finds the same meters in the map."""
    later = Meters(plane.meters, lambda: 0)
    later.adopt()
    mine = dp.meters
    assert len(later) == len(mine)
    free = set(mine._free) | set(range(later._next, mine._next))
    assert free == set(later._free) | set(range(later._next, mine._next))
    assert len(mine._free) == len(set(mine._free))
    assert 1 <= mine._next <= abi.OVS_METER_EXTRA


def check(dp: Datapath, plane: FakePlane, ports: FakePorts) -> None:
    """All of it but the meters, which take longer."""
    check_flows(dp, plane)
    check_ports(dp, plane, ports)
