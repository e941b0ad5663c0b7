# SPDX-License-Identifier: Apache-2.0
"""core.classifier.show: the numbers are those of the classifier."""

from __future__ import annotations

import pytest

from dpif_bpf.core.classifier import stats
from dpif_bpf.core.classifier.show import show
from dpif_bpf.core.classifier.sizes import Sizes
from dpif_bpf.core.plane import DpCounters
from dpif_bpf.core.slices import LATER, whole
from tests.fake_plane import MAX_FLOWS, FakePlane

EXACT = (1 << 128) - 1


def test_show() -> None:
    plane = FakePlane()
    plane.classifier.add_root(0)
    plane.classifier.add_root(7)
    for port in (1, 2, 3):
        plane.classifier.insert(7, port, EXACT, 1)
    lines = list(show(whole(plane.classifier.survey()),
                      DpCounters(hit=6, missed=2, mask_hit=12), {7: "br7"},
                      {7: (0, 4, 3, 0, 1)}))
    text = "\n".join(lines)
    assert "flows: 3, masks: 1" in text
    assert "lookups: 8, hash probes a lookup: 1.50" in text
    assert "bridge -: flows in each tree: none" in text
    assert "bridge br7: flows in each tree: 3, nodes: 1" in text
    assert "    flows by hash probes: 1:3" in lines
    size = sum(Sizes.for_flows(MAX_FLOWS).bytes().values())
    flows = plane.flow_ids
    assert f"room for {flows} flows, {size / flows:.0f} bytes each" in text
    assert "    lookups by hash probes: 1:4 2:3 4+:1" in lines


def test_looked_at_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the forest changes."""
    monkeypatch.setattr(stats, "SLICE", 4)
    plane = FakePlane()
    plane.classifier.add_root(0)
    flows = [plane.classifier.insert(0, port, EXACT, 1) for port in range(50)]
    work, slices = plane.classifier.survey(), 0
    with pytest.raises(StopIteration) as end:
        while True:
            assert next(work) == LATER
            plane.classifier.delete(flows.pop())
            slices += 1
    assert slices > 10
    assert end.value.value.flows == len(flows) < 40


def test_show_before_the_first_packet() -> None:
    plane = FakePlane()
    text = "\n".join(show(whole(plane.classifier.survey()), DpCounters(), {},
                          {0: (0,) * 32}))
    assert "hash probes a lookup: -" in text
    assert "lookups by" not in text
