# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the system tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from netns import Namespace


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A network namespace in which the test itself runs."""
    if os.geteuid():
        pytest.skip("needs root, for network namespaces")
    made = Namespace()
    with made.entered():
        yield made
    made.close()


@pytest.fixture
def elsewhere() -> Iterator[Namespace]:
    """Another network namespace."""
    if os.geteuid():
        pytest.skip("needs root, for network namespaces")
    made = Namespace()
    yield made
    made.close()
