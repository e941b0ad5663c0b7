# SPDX-License-Identifier: Apache-2.0
"""ovs_ct_limit: how many connections a zone may have.

Each request has a reply, with or without NLM_F_ECHO, and no datapath.
"""

from __future__ import annotations

from collections.abc import Iterator

from dpif_bpf.core.conntrack.answers import answer_limit
from dpif_bpf.core.services.service import (
    Clock,
    Command,
    GenericService,
    Registry,
    connections,
)
from dpif_bpf.wire import uapi
from dpif_bpf.wire.ct_limit import decode_limit
from dpif_bpf.wire.netlink import Message


class CtLimitService(GenericService):
    """OVS_CT_LIMIT_CMD_*."""

    def __init__(self, registry: Registry, _clock: Clock) -> None:
        super().__init__(uapi.OVS_CT_LIMIT_ID, {
            uapi.OVS_CT_LIMIT_CMD_SET: Command(self._serve),
            uapi.OVS_CT_LIMIT_CMD_DEL: Command(self._serve),
            uapi.OVS_CT_LIMIT_CMD_GET: Command(self._serve, reads=True)})
        self._registry = registry

    def _serve(self, message: Message) -> Iterator[bytes]:
        request = decode_limit(message)
        return iter((answer_limit(
            request, connections(self._registry).limits),))
