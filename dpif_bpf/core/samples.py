# SPDX-License-Identifier: Apache-2.0
"""Samples for the psample family: OVS_ACTION_ATTR_PSAMPLE.

The programs send a copy like an upcall; here it becomes a message to
whoever listens to the kernel's psample family, as execute_psample() of Linux
net/openvswitch/actions.c sends it.
"""

from __future__ import annotations

from typing import Protocol

from dpif_bpf.core.actions.insn import PsampleDesc
from dpif_bpf.wire.psample_messages import encode_sample

_M32 = 0xffffffff


class SampleEdge(Protocol):
    """The way to the family's multicast group."""

    def family(self) -> int:
        """Id of the family; 0 when the kernel has none."""

    def send(self, message: bytes) -> bool:
        """Multicasts a message; False when it is lost."""


class Samples:
    """Sends samples and numbers them.

    :ivar sent: samples that were multicast
    :ivar lost: samples that could not be
    """

    def __init__(self, edge: SampleEdge) -> None:
        self._edge = edge
        self._seq: dict[int, int] = {}
        self.sent = 0
        self.lost = 0

    def available(self) -> bool:
        """Whether flows may have such actions."""
        return self._edge.family() != 0

    def take(self, desc: PsampleDesc, in_ifindex: int, protocol: int,
             size: int, data: bytes) -> None:
        """Sends a sample; see encode_sample()."""
        seq = self._seq.get(desc.group, 0)
        self._seq[desc.group] = seq + 1 & _M32
        if self._edge.send(encode_sample(
                self._edge.family(), desc.group, seq, desc.rate, desc.cookie,
                in_ifindex, protocol, size, data)):
            self.sent += 1
        else:
            self.lost += 1
