# SPDX-License-Identifier: Apache-2.0
"""The transport and what is one for the whole process: its environment, its
threads, and that it forks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import test_transport
from test_transport import NLM_F_ECHO, NLM_F_REQUEST, Peer, Provider, until

library = test_transport.library
REQUEST = NLM_F_REQUEST | NLM_F_ECHO


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    made = Provider(str(tmp_path / "sock"))
    yield made
    made.stop()


@pytest.fixture
def peer(library: str, tmp_path: Path,
         monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    monkeypatch.setattr(test_transport, "WAIT_MS", 20000)
    made = Peer(library, str(tmp_path / "sock"))
    yield made
    made.close()


def test_environment_is_that_of_the_start(provider: Provider,
                                          peer: Peer) -> None:
    """It is not read while other threads may change it."""
    provider.start()
    peer("__import__('os').environ.update(DPIF_BPF_SOCK='/nowhere')")
    peer("s = make()")
    assert len(peer(f"transact(s, nl(0x20, {REQUEST}, 5))")) == 2


FORK = f"""
import os

def fork():
    back, to = os.pipe()
    pid = os.fork()
    if pid:
        os.close(to)
        return pid, os.fdopen(back)
    try:
        s.close()
        t = make()      # the same struct conn
        os.write(to, repr(transact(t, nl(0x20, {REQUEST}, 6))).encode())
    finally:
        os._exit(0)
"""


def sleeps_on_a_lock(pid: int) -> bool:
    """futex(2) of x86-64."""
    return Path(f"/proc/{pid}/syscall").read_text().startswith("202 ")


def test_a_child_waits_for_no_thread_of_its_parent(provider: Provider,
                                                   peer: Peer) -> None:
    provider.start()
    peer("s = make()")
    assert len(peer(f"transact(s, nl(0x20, {REQUEST}, 5))")) == 2
    provider.stop()
    # A thread waits until the connection is up when the process forks.
    peer(f"a = in_thread(transact, s, nl(0x20, {REQUEST}, 5))")
    parent = peer("__import__('os').getpid()")
    until(lambda: any(
        sleeps_on_a_lock(int(task.name))
        for task in Path(f"/proc/{parent}/task").iterdir()
        if int(task.name) != parent))
    peer(f"exec({FORK!r}, globals())")
    peer("child, output = fork()")
    child = peer("child")
    until(lambda: sleeps_on_a_lock(child))
    provider.start()
    try:
        assert len(peer("[*map(len, select.select([output], [], [], 5))]"
                        " == [1, 0, 0] and eval(output.read())")) == 2
    finally:
        peer("os.kill(child, 9)")
        peer("os.waitpid(child, 0)")
    assert len(peer("joined(a)")) == 2
