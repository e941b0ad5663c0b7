# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the system tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import KEPT_BRIDGE, Lab
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


class LabKeeper:
    """Gives a running lab, another one when a test broke the last."""

    def __init__(self) -> None:
        self._lab: Lab | None = None
        self._rundir: tempfile.TemporaryDirectory[str] | None = None

    def make(self) -> Lab:
        """A lab of which nothing runs yet, or the test is skipped."""
        if os.geteuid():
            pytest.skip("needs root, for network namespaces")
        build = find_build()
        assert build.plugin
        self._rundir = tempfile.TemporaryDirectory(prefix="ovs-lab-")
        self._lab = Lab(build, Path(self._rundir.name))
        return self._lab

    def shared(self) -> Lab:
        """A running lab with a bridge that stays."""
        if self._lab is None or not self._lab.alive:
            self.close()
            lab = self.make()
            lab.start()
            lab.add_bridge(KEPT_BRIDGE)
        assert self._lab is not None
        return self._lab

    def close(self) -> None:
        try:
            if self._lab is not None:
                self._lab.stop()
        finally:
            self._lab = None
            if self._rundir is not None:
                self._rundir.cleanup()
                self._rundir = None


@pytest.fixture(scope="module")
def keeper() -> Iterator[LabKeeper]:
    made = LabKeeper()
    yield made
    made.close()


@pytest.fixture
def lab(keeper: LabKeeper) -> Iterator[Lab]:
    """A lab whose daemons run, and go on running for the next test."""
    shared = keeper.shared()
    yield shared
    if shared.alive:
        shared.clean()
    else:
        keeper.close()


@pytest.fixture
def stopped_lab() -> Iterator[Lab]:
    """A lab of the test's own, of which nothing runs yet."""
    made = LabKeeper()
    yield made.make()
    made.close()


@pytest.fixture
def own_lab(stopped_lab: Lab) -> Lab:
    """A lab of the test's own whose daemons run."""
    stopped_lab.start()
    return stopped_lab
