# SPDX-License-Identifier: Apache-2.0
"""Timeout policies: ours and the kernel's are asked the same, in order, and
must answer the same, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator

import ct_requests as r
import ct_timeouts as t
import pytest
from ct_tables import Rows, kept
from netns import Namespace
from nfnl import NfSocket

from dpif_bpf.core.conntrack.answers import answer_timeout
from dpif_bpf.core.conntrack.policy import Policies
from dpif_bpf.errors import DpifError
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.cttimeout import decode_timeout
from dpif_bpf.wire.netlink import NLM_F_DUMP

SUBSYS = nf.NFNL_SUBSYS_CTNETLINK_TIMEOUT


@pytest.fixture
def kernel() -> Iterator[NfSocket]:
    namespace = Namespace()
    try:
        with namespace.entered():
            made = NfSocket()
        with made:
            code, _ = made.ask(SUBSYS, t.GET, flags=NLM_F_DUMP)
            if code:
                pytest.skip("the kernel has no timeout policies")
            yield made
    finally:
        namespace.close()


def test_kernel(kernel: NfSocket) -> None:
    policies = Policies(Rows(), kept())
    for i, step in enumerate(t.STEPS):
        code, replies = kernel.ask(SUBSYS, step.cmd, 0, step.payload,
                                   step.flags)
        wanted = step.errno if step.kernel is None else step.kernel
        assert (i, step, code) == (i, step, wanted)
        seq, pid = ((replies[0].seq, replies[0].pid) if replies else (1, 1))
        try:
            ours = list(answer_timeout(decode_timeout(r.message(
                step.cmd, 0, step.payload, step.flags, seq, pid,
                subsys=SUBSYS)), policies))
        except DpifError as error:
            assert (i, step, error.errno) == (i, step, step.errno)
            continue
        assert not step.errno
        assert ours == [reply.raw for reply in replies], (i, step)
