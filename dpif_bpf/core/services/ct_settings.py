# SPDX-License-Identifier: Apache-2.0
"""The plugin's own settings of conntrack: how many connections there may be
(``ovs-appctl dpctl/ct-set-maxconns``)."""

from __future__ import annotations

from collections.abc import Iterator

from dpif_bpf.core.services.service import (
    Clock,
    Command,
    NetfilterService,
    Registry,
    connections,
)
from dpif_bpf.wire.ct_settings import SET_MAX, SUBSYS, decode_max
from dpif_bpf.wire.netlink import Message


class CtSettingsService(NetfilterService):
    """DPIF_BPF_MSG_CT_*."""

    def __init__(self, registry: Registry, _clock: Clock) -> None:
        super().__init__(SUBSYS, "conntrack's settings", {
            SET_MAX: Command(self._set_max)})
        self._registry = registry

    def _set_max(self, message: Message) -> Iterator[bytes]:
        most = decode_max(message)
        connections(self._registry).table.set_most(most)
        return iter(())
