# SPDX-License-Identifier: Apache-2.0
"""edge.bpfsys: calls that have to be made again."""

from __future__ import annotations

import ctypes
import errno
import signal

import pytest

from dpif_bpf.edge import bpfsys
from dpif_bpf.errors import BackendError


class Kernel:
    """Stands for syscall(2): says an errno some times, then 7."""

    def __init__(self, error: int, times: int) -> None:
        self.error = error
        self.times = times
        self.asked: list[bytes] = []

    def __call__(self, _number: int, _cmd: int, where: int,
                 size: int) -> int:
        self.asked.append(ctypes.string_at(where, size))
        ctypes.memset(where, 0xff, size)
        if len(self.asked) <= self.times:
            ctypes.set_errno(self.error)
            return -1
        return 7


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EINTR])
def test_interrupted_call_is_made_again(
        monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """With what was asked the first time: the kernel writes to it."""
    kernel = Kernel(error, bpfsys.ATTEMPTS - 1)
    monkeypatch.setattr(bpfsys, "_syscall", kernel)
    assert bpfsys.call(5, bytearray(b"abcd"), "cannot") == 7
    assert kernel.asked == [b"abcd"] * bpfsys.ATTEMPTS


@pytest.mark.parametrize(("error", "calls"), [
    (errno.EAGAIN, bpfsys.ATTEMPTS), (errno.ENOMEM, 1)])
def test_calls_are_not_made_for_ever(
        monkeypatch: pytest.MonkeyPatch, error: int, calls: int) -> None:
    kernel = Kernel(error, 100)
    monkeypatch.setattr(bpfsys, "_syscall", kernel)
    with pytest.raises(BackendError, match="cannot") as caught:
        bpfsys.call(5, bytearray(b"abcd"), "cannot")
    assert caught.value.errno == error
    assert len(kernel.asked) == calls


def test_signals_wait() -> None:
    """And come afterwards, each to its handler."""
    got: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: got.append(
        number))
    try:
        with bpfsys.unsignalled():
            signal.raise_signal(signal.SIGUSR1)
            assert signal.sigpending() == {signal.SIGUSR1} and not got
        assert got == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)
