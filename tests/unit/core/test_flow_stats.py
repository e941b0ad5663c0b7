# SPDX-License-Identifier: Apache-2.0
"""Bulk statistics against one flow at a time."""

from __future__ import annotations

import random

import pytest

from dpif_bpf import abi
from dpif_bpf.core.flow_stats import FlowCounts, FlowStats

FLOWS = 50


@pytest.mark.parametrize("stripes", [1, 2, 5])
def test_sums(stripes: int) -> None:
    rng = random.Random(stripes)
    memory = bytearray(stripes * FLOWS * abi.FLOW_STATS.size + 4096)
    expected = [FlowCounts(0, 0, 0, 0)] * FLOWS
    for stripe in range(stripes):
        for flow in range(FLOWS):
            row = (rng.getrandbits(50), rng.getrandbits(50),
                   rng.getrandbits(63), 1 << rng.randrange(12))
            abi.FLOW_STATS.struct.pack_into(
                memory, (stripe * FLOWS + flow) * abi.FLOW_STATS.size, *row)
            old = expected[flow]
            expected[flow] = FlowCounts(
                old.packets + row[0], old.bytes + row[1],
                max(old.used, row[2]), old.tcp_flags | row[3])
    stats = FlowStats(memoryview(memory), stripes, FLOWS)
    assert [stats.one(flow) for flow in range(FLOWS)] == expected
    ids = [rng.randrange(FLOWS) for _ in range(80)]
    for which, numbers in ((ids, ids), (slice(3, 20), range(3, 20)),
                           ([], []), ([41], [41])):
        read = stats.read(which)
        assert list(zip(read.packets.tolist(), read.bytes.tolist(),
                        read.used.tolist(), read.tcp_flags.tolist(),
                        strict=True)) == [expected[n] for n in numbers]

    stats.clear(7)
    assert stats.one(7) == (0, 0, 0, 0)
    assert stats.one(6) == expected[6] and stats.one(8) == expected[8]
    stats.preset(7, FlowCounts(1, 2, 3, 4))
    assert stats.one(7) == (1, 2, 3, 4)
