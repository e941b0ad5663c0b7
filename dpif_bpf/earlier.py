# SPDX-License-Identifier: Apache-2.0
"""What a new generation has of the one before: ``abi.MAPS`` says which maps
are shared with it, and which are read.

A map of another layout counts as empty, whatever it is: it is told of, and
the rest is taken over all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType

from dpif_bpf import abi
from dpif_bpf.core.flow_stats import FlowCounts, FlowStats, total
from dpif_bpf.core.plane import DpCounters
from dpif_bpf.core.records import flow_ids
from dpif_bpf.edge import bpfsys
from dpif_bpf.edge.generation import Generation

RECORDS = "ovs_nlmem"
_STATS = "ovs_flow_stats"
_NOTHING = FlowCounts(0, 0, 0, 0)


def fits(gen: Generation, name: str, entries: int | None = None) -> bool:
    """Whether a map of an earlier generation is of the kind and the sizes
    that it would be of in one of ours.

    :param entries: elements, where abi.MAPS does not say how many
    """
    if name not in gen.maps:
        return False
    info, ours = gen.map_info(name), abi.MAPS[name]
    kind = (bpfsys.MAP_TYPE_PERCPU_ARRAY if ours.per_cpu
            else bpfsys.MAP_TYPE_ARRAY)
    return (info.map_type == kind and info.value_size == ours.size
            and (ours.entries or entries) in (None, info.max_entries)
            and bool(info.flags & bpfsys.F_MMAPABLE) == (
                ours.mapped and not ours.per_cpu))


def counters_of(gen: Generation, bridges: Iterable[int]) -> DpCounters:
    """What a generation counted, summed over bridges."""
    counted = DpCounters()
    for bridge in bridges:
        counted += DpCounters(*gen.dp_stats(bridge))
    return counted


def flow_stats_of(gen: Generation, flows: int) -> FlowStats:
    """The statistics of a generation's flows.

    :param flows: how many ids there are
    """
    stripes = gen.map_info(_STATS).max_entries // flows
    return FlowStats(gen.mapped(_STATS), stripes, flows)


class Earlier:
    """An earlier generation, as long as ports are hooked to it.

    :param version: OVS_ABI_VERSION of the provider that made it
    :param sizes: elements of maps that ours sizes, by name
    :param common: maps that all datapaths have, by name
    :ivar differing: maps that begin anew, as they have another layout or
        another size
    """

    def __init__(self, gen: Generation, version: int,
                 sizes: Mapping[str, int],
                 common: Mapping[str, int] = MappingProxyType({})) -> None:
        self._gen = gen
        self._common = common
        first = 1 if version == abi.FIRST_LAYOUTS else 0
        anew = {
            name for name, ours in abi.MAPS.items()
            if ours.life != abi.Life.FRESH and name != RECORDS
            and not (gen.layouts.get(name, first) == ours.version
                     and fits(gen, name, sizes.get(name)
                              if ours.life == abi.Life.SHARED else None)
                     and self._is_common(name))}
        groups = {abi.MAPS[name].group for name in anew} - {""}
        self._anew = anew | {name for name, ours in abi.MAPS.items()
                             if ours.group in groups}
        # A generation that had none of a group has lost nothing of it.
        had = {abi.MAPS[name].group for name in gen.maps if name in abi.MAPS}
        self.differing = sorted(
            name for name in self._anew
            if abi.MAPS[name].group in had)
        self._stats: FlowStats | None = None
        self._flows = 0
        if _STATS not in self.differing:
            self._flows = flow_ids(gen.mapped(RECORDS).cast("Q"))
            if (self._flows > 0 and not
                    gen.map_info(_STATS).max_entries % self._flows):
                self._stats = flow_stats_of(gen, self._flows)
            else:
                self.differing.append(_STATS)

    def shared(self) -> dict[str, int]:
        """Maps by name that the next generation takes: what is in them
        stays, and of what programs do meanwhile nothing is lost or there
        twice."""
        return {name: self._gen.map_fd(name)
                for name, ours in abi.MAPS.items()
                if ours.life == abi.Life.SHARED
                and name not in self._anew} | dict(self._common)

    def _is_common(self, name: str) -> bool:
        """Whether a map is the one that all datapaths have, if they do."""
        fd = self._common.get(name)
        return fd is None or bpfsys.map_info(
            fd).map_id == self._gen.map_info(name).map_id

    def counters(self) -> DpCounters:
        """Packets, over all bridges that there were."""
        if "ovs_dpstats" in self.differing:
            return DpCounters()
        return counters_of(self._gen, range(abi.OVS_MAX_BRIDGES))

    def drops(self) -> tuple[int, ...]:
        """Drops by reason."""
        if "ovs_drops" in self.differing:
            return (0,) * abi.OVS_DROP_MAX
        return self._gen.all_drops()

    def flows(self, places: Iterable[Sequence[int]]) -> list[FlowCounts]:
        """What was counted for flows.

        :param places: the ids that each one had
        """
        groups = list(places)
        ids = [flow_id for group in groups for flow_id in group]
        if self._stats is None or max(ids, default=0) >= self._flows:
            return [_NOTHING] * len(groups)
        counted = self._stats.read(ids)
        rows = map(FlowCounts, counted.packets.tolist(),
                   counted.bytes.tolist(), counted.used.tolist(),
                   counted.tcp_flags.tolist())
        return [total(islice(rows, len(group))) for group in groups]
