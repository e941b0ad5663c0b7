# SPDX-License-Identifier: Apache-2.0
"""Requests of the meter family.

What is refused, and with which errno, follows Linux net/openvswitch/meter.c
(``ovs_meter_cmd_*``, ``dp_meter_create()``); the requests that OVS makes are
in lib/dpif-netlink.c (``dpif_netlink_meter_*``).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from dpif_bpf.errors import RequestError, decoder
from dpif_bpf.wire import uapi
from dpif_bpf.wire.messages import ATTRS_POS, parse_genl, require
from dpif_bpf.wire.netlink import (
    NLA_HDRLEN,
    U32,
    Message,
    Policy,
    exactly,
    flag,
    iter_attrs,
    nested,
    parse_attrs,
)

_METER_POLICY: Policy = {
    uapi.OVS_METER_ATTR_ID: exactly("OVS_METER_ATTR_ID", 4),
    uapi.OVS_METER_ATTR_KBPS: flag("OVS_METER_ATTR_KBPS"),
    uapi.OVS_METER_ATTR_STATS:
        exactly("OVS_METER_ATTR_STATS", uapi.OVS_FLOW_STATS.size),
    uapi.OVS_METER_ATTR_BANDS: nested("OVS_METER_ATTR_BANDS"),
    uapi.OVS_METER_ATTR_CLEAR: flag("OVS_METER_ATTR_CLEAR"),
}

_BAND_POLICY: Policy = {
    uapi.OVS_BAND_ATTR_TYPE: exactly("OVS_BAND_ATTR_TYPE", 4),
    uapi.OVS_BAND_ATTR_RATE: exactly("OVS_BAND_ATTR_RATE", 4),
    uapi.OVS_BAND_ATTR_BURST: exactly("OVS_BAND_ATTR_BURST", 4),
}


@dataclass(frozen=True, slots=True)
class Band:
    """One band of a meter.

    :param type: OVS_METER_BAND_TYPE_*, any number; only DROP drops
    :param rate: kbit/s or packets/s, never 0
    :param burst: kbit or packets
    """

    type: int
    rate: int
    burst: int


@dataclass(frozen=True, slots=True)
class MeterRequest:
    """OVS_METER_CMD_*.

    :param message: the netlink message, for the reply's header
    :param cmd: OVS_METER_CMD_*
    :param dp_ifindex: the datapath
    :param id: of the meter, any number; 0 to FEATURES
    :param kbps: rates are in kbit/s, not packets/s
    :param clear: the reply to the next SET has no statistics
    :param stats: packets and bytes to begin with
    :param bands: of SET; as many as the request has
    """

    message: Message
    cmd: int
    dp_ifindex: int
    id: int = 0
    kbps: bool = False
    clear: bool = False
    stats: tuple[int, int] = (0, 0)
    bands: tuple[Band, ...] = ()


@decoder
def decode_meter(message: Message) -> MeterRequest:
    """A request of the meter family.

    :raises RequestError: EINVAL
    """
    cmd, _, dp_ifindex = parse_genl(message)
    raw = message.raw
    attrs = parse_attrs(raw, ATTRS_POS, len(raw), _METER_POLICY)
    if cmd == uapi.OVS_METER_CMD_FEATURES:
        return MeterRequest(message, cmd, dp_ifindex)
    start, _ = require(attrs, uapi.OVS_METER_ATTR_ID, "OVS_METER_ATTR_ID")
    meter_id: int = U32.unpack_from(raw, start)[0]
    if cmd != uapi.OVS_METER_CMD_SET:
        return MeterRequest(message, cmd, dp_ifindex, meter_id)
    bands = require(attrs, uapi.OVS_METER_ATTR_BANDS, "OVS_METER_ATTR_BANDS")
    clear = uapi.OVS_METER_ATTR_CLEAR in attrs
    where = attrs.get(uapi.OVS_METER_ATTR_STATS)
    stats = (0, 0)
    if where is not None and not clear:
        stats = uapi.OVS_FLOW_STATS.unpack_from(raw, where[0])
    return MeterRequest(
        message, cmd, dp_ifindex, meter_id,
        uapi.OVS_METER_ATTR_KBPS in attrs, clear, stats,
        tuple(_band(raw, start, stop)
              for _, start, stop in iter_attrs(raw, *bands)))


def _band(raw: bytes, start: int, stop: int) -> Band:
    attrs = parse_attrs(raw, start, stop, _BAND_POLICY)
    values = []
    for kind, name in ((uapi.OVS_BAND_ATTR_TYPE, "OVS_BAND_ATTR_TYPE"),
                       (uapi.OVS_BAND_ATTR_RATE, "OVS_BAND_ATTR_RATE"),
                       (uapi.OVS_BAND_ATTR_BURST, "OVS_BAND_ATTR_BURST")):
        values.append(U32.unpack_from(raw, require(attrs, kind, name)[0])[0])
    band = Band(*values)
    if not band.rate:
        raise RequestError(
            errno.EINVAL, "OVS_BAND_ATTR_RATE is 0",
            attrs[uapi.OVS_BAND_ATTR_RATE][0] - NLA_HDRLEN)
    return band
