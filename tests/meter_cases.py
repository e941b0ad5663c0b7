# SPDX-License-Identifier: Apache-2.0
"""Requests of the family ovs_meter, good and bad."""

from __future__ import annotations

from dpif_bpf.core.meters import MAX_BANDS
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u32, nla_u64

SET, GET, DEL, FEATURES = (u.OVS_METER_CMD_SET, u.OVS_METER_CMD_GET,
                           u.OVS_METER_CMD_DEL, u.OVS_METER_CMD_FEATURES)
KBPS = nla_flag(u.OVS_METER_ATTR_KBPS)
CLEAR = nla_flag(u.OVS_METER_ATTR_CLEAR)


def ident(number: int) -> bytes:
    return nla_u32(u.OVS_METER_ATTR_ID, number)


def band(rate: int = 100, burst: int = 50,
         type_: int = u.OVS_METER_BAND_TYPE_DROP) -> bytes:
    return nla(u.OVS_BAND_ATTR_UNSPEC,
               nla_u32(u.OVS_BAND_ATTR_TYPE, type_)
               + nla_u32(u.OVS_BAND_ATTR_RATE, rate)
               + nla_u32(u.OVS_BAND_ATTR_BURST, burst))


def bands(*parts: bytes) -> bytes:
    return nla(u.OVS_METER_ATTR_BANDS, b"".join(parts))


def stats(packets: int, nbytes: int) -> bytes:
    return nla(u.OVS_METER_ATTR_STATS, u.OVS_FLOW_STATS.pack(packets,
                                                             nbytes))


Request = tuple[int, bytes]
"""OVS_METER_CMD_* and attributes."""


def one_band(parts: bytes) -> Request:
    """A SET with a band of such attributes."""
    return SET, ident(1) + bands(nla(u.OVS_BAND_ATTR_UNSPEC, parts))


def more(*parts: bytes) -> Request:
    """A good SET with something more."""
    return SET, ident(1) + bands(band()) + b"".join(parts)


REFUSED: dict[str, Request] = {
    "no id": (SET, bands(band())),
    "short id": (SET, nla(u.OVS_METER_ATTR_ID, bytes(3)) + bands(band())),
    "KBPS with a value": more(nla_u32(u.OVS_METER_ATTR_KBPS, 1)),
    "CLEAR with a value": more(nla_u32(u.OVS_METER_ATTR_CLEAR, 1)),
    "no bands": (SET, ident(1)),
    "short statistics": more(nla(u.OVS_METER_ATTR_STATS, bytes(15))),
    "rate 0": (SET, ident(1) + bands(band(0))),
    "last rate 0": (SET, ident(1) + bands(band(), band(0))),
    "too many": (SET, ident(1) + bands(*[band()] * (MAX_BANDS + 1))),
    "empty band": one_band(b""),
    "GET without id": (GET, b""),
    "DEL without id": (DEL, b""),
}
"""Those that the kernel refuses, too."""

STRICT: dict[str, Request] = {
    "long id": (SET, nla(u.OVS_METER_ATTR_ID, bytes(8)) + bands(band())),
    "long statistics": more(nla(u.OVS_METER_ATTR_STATS, bytes(20))),
    "a time": more(nla_u64(u.OVS_METER_ATTR_USED, 1)),
    "a limit": more(nla_u32(u.OVS_METER_ATTR_MAX_METERS, 1)),
    "unknown": more(nla_u32(77, 1)),
    "stray bytes": more(b"\0\0"),
    "stray bytes in bands": (SET, ident(1) + bands(band(), bytes(4))),
    "statistics of a band": one_band(nla(
        u.OVS_BAND_ATTR_STATS, bytes(16)) + band()[4:]),
    "GET, unknown": (GET, ident(1) + nla_u32(77, 1)),
    "FEATURES, unknown": (FEATURES, nla_u32(77, 1)),
}
"""Those that the kernel passes over."""

_BAND = {"type": u.OVS_BAND_ATTR_TYPE, "rate": u.OVS_BAND_ATTR_RATE,
         "burst": u.OVS_BAND_ATTR_BURST}
for _name, _type in _BAND.items():
    _others = b"".join(nla_u32(other, 1) for other in _BAND.values()
                       if other != _type)
    REFUSED[f"no {_name}"] = one_band(_others)
    REFUSED[f"short {_name}"] = one_band(_others + nla(_type, b"\1\0\0"))
    STRICT[f"long {_name}"] = one_band(_others + nla(_type, b"\1" * 8))

TAKEN: dict[str, Request] = {
    "without a band": (SET, ident(1) + bands()),
    "a band": more(),
    "kbit": more(KBPS),
    "other attributes": more(CLEAR, stats(1, 2)),
    "any type of band": (SET, ident(1) + bands(band(type_=0))),
    "no burst": (SET, ident(1) + bands(band(burst=0))),
    "largest": (SET, ident(0xffffffff) + bands(band(
        0xffffffff, 0xffffffff, 0xffffffff))),
    "twice": (SET, ident(2) + ident(1) + bands() + bands(band())),
    "DEL of none": (DEL, ident(77)),
    "FEATURES": (FEATURES, b""),
}
"""Those that the kernel accepts."""
