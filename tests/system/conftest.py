# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the system tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab
from netns import Namespace
from ovs_build import find_build


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


@pytest.fixture
def stopped_lab() -> Iterator[Lab]:
    """A lab of which nothing runs yet."""
    if os.geteuid():
        pytest.skip("needs root, for network namespaces")
    build = find_build()
    assert build.plugin
    with tempfile.TemporaryDirectory(prefix="ovs-lab-") as rundir:
        made = Lab(build, Path(rundir))
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
def lab(stopped_lab: Lab) -> Lab:
    """A lab whose daemons run."""
    stopped_lab.start()
    return stopped_lab
