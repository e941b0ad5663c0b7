# SPDX-License-Identifier: Apache-2.0
"""Samples reach whoever listens to the kernel's psample family.

Where the kernel has none, a family that every kernel has stands for it.  To
run it under Debian's kernels, see test_key_kernel.py.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from netns import Namespace

from dpif_bpf.core.actions.insn import PsampleDesc
from dpif_bpf.core.samples import Samples
from dpif_bpf.edge.psample_group import Psample
from dpif_bpf.wire import psample_messages as psample
from dpif_bpf.wire.netlink import iter_attrs, iter_messages

SOL_NETLINK, ADD_MEMBERSHIP = 270, 1
CONTROLLER = "nlctrl", "notify"
FRAME = bytes(range(100))


@contextlib.contextmanager
def listener(group: int) -> Iterator[socket.socket]:
    """Who is in a multicast group."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as sock:
        sock.bind((0, 0))
        sock.connect((0, 0))  # as OVS does
        sock.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)
        sock.settimeout(5)
        yield sock


def read(sock: socket.socket) -> dict[int, bytes]:
    """The attributes of the next sample."""
    (message,) = iter_messages(sock.recv(1 << 16))
    return {kind: message.raw[start:stop] for kind, start, stop
            in iter_attrs(message.raw, 20)}


@pytest.mark.parametrize("names", [
    CONTROLLER, (psample.FAMILY, psample.GROUP)])
def test_samples_arrive(namespace: Namespace, names: tuple[str, str]) -> None:
    edge = Psample(*names)
    if not edge.family():
        pytest.skip(f"the kernel has no family {names[0]}")
    samples = Samples(edge)
    with contextlib.closing(edge), listener(edge.group) as sock:
        for _ in range(3):
            samples.take(PsampleDesc(5, b"cookie", 1000), 6, 0x800,
                         len(FRAME), FRAME)
            got = read(sock)
            assert got[psample.ATTR_DATA] == FRAME
            assert got[psample.ATTR_USER_COOKIE] == b"cookie"
        assert (samples.sent, samples.lost) == (3, 0)
        # Nothing comes back, so that nothing fills up.
        assert edge._socket is not None
        with pytest.raises(BlockingIOError):
            edge._socket.recv(1 << 16, socket.MSG_DONTWAIT)


def test_no_such_family(namespace: Namespace) -> None:
    edge = Psample("no_such_family")
    assert edge.family() == 0
    assert not edge.send(b"")
    edge = Psample("nlctrl", "no such group")
    assert edge.family() == 0
