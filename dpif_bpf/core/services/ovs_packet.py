# SPDX-License-Identifier: Apache-2.0
"""ovs_packet: packets that are sent through a list of actions.

OVS_PACKET_CMD_MISS and OVS_PACKET_CMD_ACTION are upcalls (core.upcall), and
no requests.
"""

from __future__ import annotations

from collections.abc import Iterator

from dpif_bpf.core.execute import execute
from dpif_bpf.core.services.service import (
    Clock,
    Command,
    GenericService,
    Registry,
    numbered,
    with_room,
)
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import decode_packet
from dpif_bpf.wire.netlink import Message


class PacketService(GenericService):
    """OVS_PACKET_CMD_*."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        super().__init__(uapi.OVS_PACKET_ID, {
            uapi.OVS_PACKET_CMD_EXECUTE: Command(self._execute)})
        self._registry = registry
        self._clock = clock

    def _execute(self, message: Message) -> Iterator[bytes]:
        request = decode_packet(message)
        with_room(self._registry, execute,
                  numbered(self._registry, request.dp_ifindex), request,
                  self._clock())
        return iter(())
