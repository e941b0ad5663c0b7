# SPDX-License-Identifier: Apache-2.0
"""nfnetlink_cttimeout: timeout policies, which actions have by their names."""

from __future__ import annotations

from collections.abc import Iterator

from dpif_bpf.core.conntrack.answers import answer_timeout
from dpif_bpf.core.services.service import (
    Clock,
    Command,
    NetfilterService,
    Registry,
    connections,
    gather,
)
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.cttimeout import decode_timeout
from dpif_bpf.wire.netlink import Message


class CttimeoutService(NetfilterService):
    """IPCTNL_MSG_TIMEOUT_*."""

    def __init__(self, registry: Registry, _clock: Clock) -> None:
        changed = Command(self._serve)
        super().__init__(
            nf.NFNL_SUBSYS_CTNETLINK_TIMEOUT, "timeout policies", {
                nf.IPCTNL_MSG_TIMEOUT_NEW: changed,
                nf.IPCTNL_MSG_TIMEOUT_GET: Command(self._serve, self._dump,
                                                   reads=True),
                nf.IPCTNL_MSG_TIMEOUT_DELETE: changed,
                nf.IPCTNL_MSG_TIMEOUT_DEFAULT_SET: changed,
                nf.IPCTNL_MSG_TIMEOUT_DEFAULT_GET: Command(self._serve,
                                                           reads=True)})
        self._registry = registry

    def _serve(self, message: Message) -> Iterator[bytes]:
        request = decode_timeout(message)
        return answer_timeout(request, connections(self._registry).policies)

    def _dump(self, message: Message) -> Iterator[bytes]:
        return gather(self._serve(message))
