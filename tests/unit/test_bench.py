# SPDX-License-Identifier: Apache-2.0
"""Nothing that the datapath does is without a benchmark."""

from __future__ import annotations

from bench import actions
from dpif_bpf.core.compile_set import FIELDS
from dpif_bpf.core.compiler import HANDLERS


def test_every_action_is_measured() -> None:
    assert actions.ACTIONS.keys() == HANDLERS.keys()
    assert actions.SETS.keys() == FIELDS.keys()
