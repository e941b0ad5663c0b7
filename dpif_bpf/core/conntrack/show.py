# SPDX-License-Identifier: Apache-2.0
"""Connections for people: ovs-appctl … dpif-bpf/ct-show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dpif_bpf import abi_ct
from dpif_bpf.abi_ct import SctpState, Stat, TcpState
from dpif_bpf.core.conntrack.dump import RECORD
from dpif_bpf.core.conntrack.hashing import Hash
from dpif_bpf.core.conntrack.limits import Limits
from dpif_bpf.core.conntrack.table import SCAN, Found, Table
from dpif_bpf.core.conntrack.tracker import Conntrack
from dpif_bpf.core.slices import LATER, Sliced
from dpif_bpf.wire.ct_limit import ZoneLimit
from dpif_bpf.wire.protocols import (
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
)

_NAMES = {IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp", IPPROTO_UDPLITE: "udplite",
          IPPROTO_ICMP: "icmp", IPPROTO_ICMPV6: "icmpv6",
          IPPROTO_SCTP: "sctp", IPPROTO_GRE: "gre"}
_STATES: Mapping[int, type[TcpState] | type[SctpState]] = {
    IPPROTO_TCP: TcpState, IPPROTO_SCTP: SctpState}

_REFUSED = {Stat.FULL: "no record is free", Stat.MAX_CONNS: "too many in all",
            Stat.LIMIT: "too many of a zone",
            Stat.BUCKETS: "no bucket has room",
            Stat.CLASH_LOST: "others have their tuples"}
_MADE = {Stat.COMMIT: "made", Stat.CLASH: "made by another CPU first",
         Stat.EXPECTED: "expected", Stat.REOPEN: "begun anew",
         Stat.KILLED: "ended early", Stat.EXPIRED: "expired",
         Stat.FREED: "given back"}
_PACKETS = {Stat.INVALID: "invalid", Stat.BUSY: "not noted for a lock"}

_MS = 10 ** 6

_Item = TypeVar("_Item", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Survey:
    """What the table has.

    :param states: connections by protocol and state
    :param probes: edges by how many buckets are looked into for each; 0:
        those that are nowhere, as their connection has just ended
    :param filled: buckets by how many edges are in them
    :param limbo: records that are about to be given back
    """

    states: Mapping[str, int]
    probes: Mapping[int, int]
    filled: Mapping[int, int]
    limbo: int


def survey(table: Table) -> Sliced[Survey]:
    """Looks at all of it: some 100 ms for 100,000 connections."""
    memory = table.memory
    tab = np.frombuffer(memory.tab, np.uint64).reshape(
        -1, abi_ct.BUCKET.size // 8)[:, :abi_ct.OVS_CT_EDGES]
    states: Counter[str] = Counter()
    probes = np.zeros(abi_ct.OVS_CT_PROBES + 1, np.int64)
    for found in table.slices():
        states.update(_states(found))
        probes += _probes(found, table.hash, tab)
        yield LATER
    counts = np.zeros(abi_ct.OVS_CT_EDGES + 1, np.int64)
    for part in _parts(tab):
        counts += np.bincount(np.count_nonzero(part, axis=1),
                              minlength=len(counts))
        yield LATER
    limbo = 0
    for words, ends in zip(
            _parts(np.frombuffer(memory.records, RECORD)["word"]),
            _parts(np.frombuffer(memory.expiry, np.uint32)), strict=True):
        limbo += int(np.count_nonzero(
            (words & np.uint64(0xffffffff) == abi_ct.OVS_CT_DEAD)
            & (ends != abi_ct.OVS_CT_EXP_FREE)))
        yield LATER
    return Survey(dict(sorted(states.items())), _some(probes), _some(counts),
                  limbo)


def _parts(array: NDArray[_Item]) -> Iterator[NDArray[_Item]]:
    """An array in parts of what can be looked at in one go."""
    return (array[start:start + SCAN] for start in range(0, len(array), SCAN))


def _some(counts: NDArray[np.int64]) -> dict[int, int]:
    """By index, without zeros."""
    return {number: count for number, count in enumerate(counts.tolist())
            if count}


def _states(found: Found) -> dict[str, int]:
    kinds, counts = np.unique(
        found.records["orig"]["proto"].astype(np.uint16) << np.uint16(8)
        | found.records["state"], return_counts=True)
    named: Counter[str] = Counter()
    for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
        named[_name(*divmod(kind, 256))] += count
    return named


def _name(proto: int, state: int) -> str:
    name = _NAMES.get(proto, f"protocol {proto}")
    kind = _STATES.get(proto)
    if kind is None:
        return name
    try:
        return f"{name} {kind(state).name.lower()}"
    except ValueError:
        return f"{name} {state}"


def _probes(found: Found, hash_: Hash,
            tab: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Edges by how many buckets are looked into."""
    first = hash_.many(found.records["orig"])
    second = hash_.many(found.records["reply"])
    differ = first != second
    left = np.concatenate((first, second[differ]))
    ids = np.concatenate((found.ids, found.ids[differ])).astype(np.uint64)
    shift = np.uint64(abi_ct.OVS_CT_TAG_SHIFT)
    counts = np.zeros(abi_ct.OVS_CT_PROBES + 1, np.int64)
    for n in range(abi_ct.OVS_CT_PROBES):
        edges = left >> shift << shift | ids
        there = (tab[hash_.bucket(left, n)] == edges[:, None]).any(axis=1)
        counts[n + 1] = np.count_nonzero(there)
        left, ids = left[~there], ids[~there]
    counts[0] = len(left)
    return counts


def show(conntrack: Conntrack) -> Iterator[str]:
    """Lines of text, in slices."""
    table = conntrack.table
    memory = table.memory
    seen = yield from survey(table)
    total = sum(len(one) * 8 for one in (
        memory.records, memory.tab, memory.expiry, memory.zones,
        memory.policy, memory.kept))
    yield (f"connections: {table.total()} of {table.most()}, with room for"
           f" {table.room} in {total / 1048576:.1f} MiB,"
           f" {total / table.room:.0f} bytes each")
    yield from _zones(table, conntrack.limits)
    yield "states:" + _list(seen.states)
    stats: Counter[Stat] = Counter()
    for cpu in table.stats():
        stats.update(cpu)
    for title, names in (("refused", _REFUSED), ("connections", _MADE),
                         ("packets", _PACKETS)):
        yield f"{title}:" + _list({name: stats[stat]
                                   for stat, name in names.items()})
    yield "edges by buckets looked into:" + "".join(
        f" {probes}:{count}" for probes, count in seen.probes.items()
        if probes)
    yield "buckets by edges:" + "".join(
        f" {edges}:{count}" for edges, count in seen.filled.items())
    use = {name: memory.use[place.offset // 8]
           for name, place in abi_ct.USE.fields.items()}
    blocks = len(memory.expiry) * 2 // abi_ct.OVS_CT_EXP
    yield (f"sweep: {use['sweeps']} turns, the last one"
           f" {use['sweep_ns'] / _MS:.3f} ms, this one at"
           f" {100 * use['sweep_at'] // blocks} %, in limbo: {seen.limbo}")
    yield f"expected: {len(conntrack.expects)}"
    yield (f"control connections: {len(conntrack.controls)}, expectations for"
           f" which there was no room: {conntrack.expects.full}, packets"
           " dropped:" + (_list(conntrack.controls.dropped) or " none"))
    yield (f"timeout policies: {len(conntrack.policies)}, which actions have"
           f" {sum(one.users for one in conntrack.policies)} times")


def _zones(table: Table, limits: Limits) -> Iterator[str]:
    """Those with connections, the fullest first."""
    zones = Counter(table.zones()).most_common()
    limited = limits.get([ZoneLimit(zone) for zone, _ in zones])
    for (zone, count), one in zip(zones, limited, strict=True):
        most = f" of {one.limit}" if one.limit else ""
        yield f"  zone {zone}: {count}{most}"


def _list(counts: Mapping[str, int]) -> str:
    return "".join(f"{',' * (number > 0)} {name} {count}"
                   for number, (name, count) in enumerate(counts.items()))
