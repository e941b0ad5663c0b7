# SPDX-License-Identifier: Apache-2.0
"""Common to all tests.

Puts this directory on the path: tests import ``oracle`` from it.  Random
tests have no deadline for each example: the machine may be busy.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Of tests/fuzz, see its conftest.py, and of test_packet_fuzz.py."""
    parser.addoption("--fuzz-seconds", type=float, default=0,
                     help="how long each random test runs")
    parser.addoption("--fuzz-seed", type=int, default=1,
                     help="with which seed they begin")
