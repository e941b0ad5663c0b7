# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the program tests: one Datapath for a whole module."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import OBJECT, Datapath
from objects import compile_object
from tracked import Tracked

from dpif_bpf.edge.loader import Files

STAGES = Path(__file__).parent / "stages.bpf.c"


@pytest.fixture(scope="session")
def shipped_object() -> None:
    """build/bpf/datapath.bpf.o is as the sources are."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if shutil.which("clang") is None:
        pytest.skip("needs clang")
    subprocess.run(["make", "-s", "-C", str(OBJECT.parents[2] / "bpf")],
                   check=True)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """An object that loads fast, with the maps of the real one."""
    return Files(obj=compile_object(STAGES,
                                    tmp_path_factory.mktemp("stages")))


@pytest.fixture(scope="module")
def datapath(shipped_object: None) -> Iterator[Datapath]:
    with Datapath() as dp:
        yield dp


@pytest.fixture
def dp(datapath: Datapath) -> Iterator[Datapath]:
    """The module's datapath without flows; nothing may be left behind."""
    datapath.clear()
    yield datapath
    assert datapath.level() == 0, "a level of ovs_cpu leaked"
    assert not datapath.slots_armed(), "a slot leaked"


@pytest.fixture
def t(dp: Datapath) -> Iterator[Tracked]:
    """The datapath without connections."""
    made = Tracked(dp)
    made.flush()
    yield made
    made.flush()


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """All on one CPU: caches are a CPU's own."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    yield
    os.sched_setaffinity(0, cpus)
