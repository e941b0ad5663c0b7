# SPDX-License-Identifier: Apache-2.0
"""Random frames, flows and actions: BPF agrees with the oracle.

Flows are put as ovs-vswitchd puts them, packets come in by devices.  What is
compared: match or miss, what goes out by which port with which bytes, mark
and priority, upcalls with their attributes, and what is dropped and why.

``AGREEMENT_EXAMPLES`` asks for another number of examples than that of an
ordinary run, ``AGREEMENT_SEED`` for a seed of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from observer import Observer
from oracle import EXCEEDED
from scenarios import BRIDGE, MTUS, Scenario, scenarios
from switch import Switch

EXAMPLES = int(os.environ.get("AGREEMENT_EXAMPLES", "500"))
SEED = int(os.environ.get("AGREEMENT_SEED", "1"))


@pytest.fixture(scope="module")
def switch(shipped_object: None) -> Iterator[Switch]:
    with Switch(MTUS, BRIDGE) as made:
        made.meter(EXCEEDED, 1)
        yield made


def test_agrees(switch: Switch) -> None:
    observer = Observer(switch)

    @seed(SEED)
    @settings(max_examples=EXAMPLES, deadline=None, database=None,
              print_blob=False, report_multiple_bugs=False,
              suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink))
    @given(scenarios())
    def check(scenario: Scenario) -> None:
        observer.check(scenario)

    try:
        check()
    finally:
        print(f"seed {SEED}: {EXAMPLES} examples, {observer.packets}"
              f" packets: {dict(observer.events.most_common())}")
    assert observer.packets > EXAMPLES / 2
