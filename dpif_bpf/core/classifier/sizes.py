# SPDX-License-Identifier: Apache-2.0
"""How large the classifier's maps are for a number of flows."""

from __future__ import annotations

from dataclasses import dataclass

from dpif_bpf import abi

MAX_FLOWS = (1 << abi.OVS_EDGE_ID_BITS) - 1

MAPPED = ("ovs_buckets", "ovs_descs", "ovs_flows", "ovs_values", "ovs_roots")
"""Maps that the writer maps into its memory, in the order of Buffers."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Elements of the classifier's maps.

    :param flows: ids of flows: elements of a stripe of ovs_flow_stats
    :param descs: of ovs_descs; every mask of a flow or a node takes one,
        one of more than OVS_CLS_WORDS key words several
    :param buckets: of ovs_buckets, those that a hash chooses from; a power
        of two (cfg_bucket_mask is one less)
    :param overflow: further elements of ovs_buckets
    :param cache: lines of a CPU's cache, to begin with; a power of two up to
        OVS_CACHE_LINES, 0 for no cache
    """

    flows: int
    descs: int
    buckets: int
    overflow: int
    cache: int = 1024

    @property
    def records(self) -> int:
        """Elements of ovs_flows.  A flow of more than OVS_CLS_WORDS key words
        takes several, most often two: neighbour discovery, MPLS, two tags.
        What is beyond `flows` are those that are nobody's first."""
        return 2 * self.flows

    @property
    def nodes(self) -> int:
        """Numbers for inner nodes: no map, but what edges can name."""
        return min(2 * self.flows, 1 << abi.OVS_EDGE_ID_BITS)

    @classmethod
    def for_flows(cls, max_flows: int,
                  max_descs: int = abi.OVS_DESCS) -> Sizes:
        """Sizes for `max_flows` flows.

        There are some more records, for those that wait for a grace period.
        A forest has fewer inner edges than flows, but for moments; there are
        3.5 to 7 places for each flow in the buckets.

        :raises ValueError: more than edges can name
        """
        if not 0 < max_flows <= MAX_FLOWS:
            raise ValueError(f"max_flows must be in 1..{MAX_FLOWS}")
        if not 0 < max_descs <= abi.OVS_DESCS:
            raise ValueError(f"max_descs must be in 1..{abi.OVS_DESCS}")
        flows = min(max_flows + max_flows // 16 + 1024, MAX_FLOWS)
        buckets = 1 << max(8, (flows // 2 - 1).bit_length())
        return cls(flows, max_descs, buckets, buckets // 8)

    def constants(self) -> dict[str, int]:
        """What the loader sets in .rodata."""
        return {"cfg_bucket_mask": self.buckets - 1}

    def entries(self) -> dict[str, int]:
        """What the loader sizes the maps to."""
        return {"ovs_flows": self.records, "ovs_values": self.records,
                "ovs_buckets": self.buckets + self.overflow}

    def bytes(self) -> dict[str, int]:
        """Bytes of each map (statistics are not among them)."""
        return {
            "ovs_flows": self.records * abi.FLOW.size,
            "ovs_values": self.records * abi.VALUES.size,
            "ovs_descs": self.descs * abi.DESC.size,
            "ovs_buckets":
                (self.buckets + self.overflow) * abi.BUCKET.size,
            "ovs_roots": abi.OVS_MAX_BRIDGES * abi.ROOT.size,
        }
