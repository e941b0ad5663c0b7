# SPDX-License-Identifier: Apache-2.0
"""ovs_meter: each request has a reply, with or without NLM_F_ECHO."""

from __future__ import annotations

from collections.abc import Iterator

from dpif_bpf.core.meters import MAX_BANDS, MAX_METERS
from dpif_bpf.core.services.service import (
    Clock,
    Command,
    GenericService,
    Registry,
    numbered,
)
from dpif_bpf.wire import uapi
from dpif_bpf.wire.meter_messages import decode_meter
from dpif_bpf.wire.netlink import Message
from dpif_bpf.wire.replies import (
    MeterStats,
    ReplyHeader,
    encode_meter,
    encode_meter_features,
)


class MeterService(GenericService):
    """OVS_METER_CMD_*."""

    def __init__(self, registry: Registry, _clock: Clock) -> None:
        super().__init__(uapi.OVS_METER_ID, {
            uapi.OVS_METER_CMD_FEATURES: Command(self._features, reads=True),
            uapi.OVS_METER_CMD_SET: Command(self._set),
            uapi.OVS_METER_CMD_DEL: Command(self._delete),
            uapi.OVS_METER_CMD_GET: Command(self._get, reads=True)})
        self._registry = registry

    def _features(self, message: Message) -> Iterator[bytes]:
        request = decode_meter(message)
        dp = numbered(self._registry, request.dp_ifindex)
        return iter((encode_meter_features(
            ReplyHeader(message.seq, message.pid), dp.dp_ifindex, MAX_METERS,
            MAX_BANDS),))

    def _set(self, message: Message) -> Iterator[bytes]:
        request = decode_meter(message)
        dp = numbered(self._registry, request.dp_ifindex)
        return _reply(message, request.cmd, dp.dp_ifindex, request.id,
                      dp.meters.set(request))

    def _get(self, message: Message) -> Iterator[bytes]:
        request = decode_meter(message)
        dp = numbered(self._registry, request.dp_ifindex)
        return _reply(message, request.cmd, dp.dp_ifindex, request.id,
                      dp.meters.get(request.id))

    def _delete(self, message: Message) -> Iterator[bytes]:
        """One that there is not is deleted all the same, and not named."""
        request = decode_meter(message)
        dp = numbered(self._registry, request.dp_ifindex)
        stats = dp.meters.delete(request.id)
        return _reply(message, request.cmd, dp.dp_ifindex,
                      None if stats is None else request.id, stats)


def _reply(message: Message, cmd: int, dp_ifindex: int, known: int | None,
           stats: MeterStats | None) -> Iterator[bytes]:
    return iter((encode_meter(ReplyHeader(message.seq, message.pid), cmd,
                              dp_ifindex, known, stats),))
