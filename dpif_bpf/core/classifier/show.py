# SPDX-License-Identifier: Apache-2.0
"""The classifier for people: ovs-appctl … dpif-bpf/classifier-show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dpif_bpf.core.classifier.stats import ClassifierStats, RootStats
from dpif_bpf.core.plane import DpCounters


def show(stats: ClassifierStats, counters: DpCounters,
         bridges: Mapping[int, str],
         steps: Mapping[int, Sequence[int]]) -> Iterator[str]:
    """Lines of text.

    :param bridges: name of each bridge, by its id
    :param steps: lookups of each bridge by hash probes (Plane.steps())
    """
    yield (f"  flows: {stats.flows}, masks: {stats.masks}, descriptors:"
           f" {stats.descriptors}")
    lookups = counters.hit + counters.missed
    probes = f"{counters.mask_hit / lookups:.2f}" if lookups else "-"
    yield (f"  lookups: {lookups}, hash probes a lookup: {probes}, found in"
           f" the cache: {counters.cache_hit}")
    yield (f"  edges: {stats.edges}, overflow buckets:"
           f" {stats.overflow_buckets}, collisions: {stats.collisions}")
    yield (f"  splits: {stats.splits}, rebuilds: {stats.rebuilds}, reseeds:"
           f" {stats.reseeds}, lifts: {stats.lifts}, in quarantine:"
           f" {stats.quarantine}")
    total = sum(stats.map_bytes.values())
    yield (f"  memory: {total / 1048576:.1f} MiB ("
           + ", ".join(f"{name} {size / 1048576:.1f}"
                       for name, size in stats.map_bytes.items())
           + f"), room for {stats.room} flows, {total / stats.room:.0f} bytes"
             " each")
    for root, one in sorted(stats.roots.items()):
        yield from _root(bridges.get(root, "-"), one, steps.get(root, ()))


def _root(name: str, stats: RootStats,
          steps: Sequence[int]) -> Iterator[str]:
    trees = " ".join(map(str, stats.trees)) or "none"
    yield f"  bridge {name}: flows in each tree: {trees}, nodes: {stats.nodes}"
    if stats.depth:
        yield "    flows by hash probes: " + " ".join(
            f"{probes}:{flows}" for probes, flows in stats.depth.items())
    if any(steps):
        last = len(steps) - 1
        yield "    lookups by hash probes: " + " ".join(
            f"{probes}{'+' * (probes == last)}:{lookups}"
            for probes, lookups in enumerate(steps) if lookups)
