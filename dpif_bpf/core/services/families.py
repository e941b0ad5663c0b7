# SPDX-License-Identifier: Apache-2.0
"""The services that there are."""

from __future__ import annotations

from collections.abc import Callable

from dpif_bpf.core.services.ct_settings import CtSettingsService
from dpif_bpf.core.services.ctnetlink import CtnetlinkService
from dpif_bpf.core.services.cttimeout import CttimeoutService
from dpif_bpf.core.services.ovs_ct_limit import CtLimitService
from dpif_bpf.core.services.ovs_datapath import DatapathService
from dpif_bpf.core.services.ovs_flow import FlowService
from dpif_bpf.core.services.ovs_meter import MeterService
from dpif_bpf.core.services.ovs_packet import PacketService
from dpif_bpf.core.services.ovs_vport import VportService
from dpif_bpf.core.services.router import Router
from dpif_bpf.core.services.service import Clock, Registry, Service

SERVICES: tuple[Callable[[Registry, Clock], Service], ...] = (
    DatapathService, VportService, FlowService, PacketService, MeterService,
    CtLimitService, CtnetlinkService, CttimeoutService, CtSettingsService)
"""A file for each netlink family, named as it is."""


def make_router(registry: Registry, clock: Clock,
                report: Callable[[str], object] | None = None) -> Router:
    """A router to all services."""
    return Router((make(registry, clock) for make in SERVICES), clock,
                  report)
