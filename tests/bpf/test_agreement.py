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
from frames import ether
from hypothesis import HealthCheck, Phase, given, seed, settings
from lists import output, recirc, trunc
from observer import Observer
from oracle import EXCEEDED
from scenarios import BRIDGE, MTUS, Packet, Scenario, flow, scenarios
from switch import Switch

EXAMPLES = int(os.environ.get("AGREEMENT_EXAMPLES", "400"))
SEED = int(os.environ.get("AGREEMENT_SEED", "1"))


@pytest.fixture(scope="module")
def switch(shipped_object: None) -> Iterator[Switch]:
    with Switch(MTUS, BRIDGE) as made:
        made.meter(EXCEEDED, 1)
        yield made


REGRESSIONS = {
    "truncation over recirculation": Scenario((
        flow("080014000000000008000300010000000800"
             "0f00000000001000040002000000000a0200"
             "0000000b0600060088cc0000",
             "08001400ffffffff08000300ffffffff0600"
             "0600ffff0000",
             (trunc(320) + recirc(1) + output(2) + output(2)).hex()),
        flow("080014000100000008000300010000000800"
             "0f00000000001000040002000000000a0200"
             "0000000b0600060088cc0000",
             "08001400ffffffff08000300ffffffff0600"
             "0600ffff0000", (output(2) + output(3) + output(3)).hex())),
        (Packet(bytes(ether(type=0x88cc) / bytes(400)), 1, 0),)),
}
"""Examples that failed, as hypothesis shrank and printed them."""


@pytest.mark.parametrize("name", REGRESSIONS)
def test_regressions(switch: Switch, name: str) -> None:
    Observer(switch).check(REGRESSIONS[name])


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
