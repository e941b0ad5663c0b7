# SPDX-License-Identifier: Apache-2.0
"""Nothing that the datapath does is without a benchmark."""

from __future__ import annotations

from bench import actions
from dpif_bpf.core.actions.compiler import HANDLERS
from dpif_bpf.core.actions.set import FIELDS


def test_every_action_is_measured() -> None:
    assert actions.ACTIONS.keys() == HANDLERS.keys()
    assert actions.SETS.keys() == FIELDS.keys()
