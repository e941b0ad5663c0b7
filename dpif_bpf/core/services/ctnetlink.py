# SPDX-License-Identifier: Apache-2.0
"""ctnetlink: connections, shown, counted and ended."""

from __future__ import annotations

from collections.abc import Iterator

from dpif_bpf.core.conntrack.answers import answer_ct
from dpif_bpf.core.services.service import (
    Clock,
    Command,
    NetfilterService,
    Registry,
    connections,
    gather,
)
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ctnetlink import decode_ct_request
from dpif_bpf.wire.netlink import Message


class CtnetlinkService(NetfilterService):
    """IPCTNL_MSG_CT_*."""

    def __init__(self, registry: Registry, _clock: Clock) -> None:
        shown = Command(self._serve, self._dump, reads=True)
        super().__init__(nf.NFNL_SUBSYS_CTNETLINK, "ctnetlink", {
            nf.IPCTNL_MSG_CT_NEW: Command(self._serve),
            nf.IPCTNL_MSG_CT_GET: shown,
            nf.IPCTNL_MSG_CT_DELETE: Command(self._serve),
            nf.IPCTNL_MSG_CT_GET_CTRZERO: Command(self._serve, self._dump),
            nf.IPCTNL_MSG_CT_GET_STATS_CPU: shown,
            nf.IPCTNL_MSG_CT_GET_STATS: Command(self._serve, reads=True),
            nf.IPCTNL_MSG_CT_GET_DYING: shown,
            nf.IPCTNL_MSG_CT_GET_UNCONFIRMED: shown})
        self._registry = registry

    def _serve(self, message: Message) -> Iterator[bytes]:
        request = decode_ct_request(message)
        return answer_ct(request, connections(self._registry).table)

    def _dump(self, message: Message) -> Iterator[bytes]:
        return gather(self._serve(message))
