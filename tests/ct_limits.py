# SPDX-License-Identifier: Apache-2.0
"""Requests of ovs_ct_limit."""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL, ERANGE

from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import (
    GENLMSGHDR,
    NLM_F_REQUEST,
    Message,
    build,
    nla,
)

SET, DEL, GET = (u.OVS_CT_LIMIT_CMD_SET, u.OVS_CT_LIMIT_CMD_DEL,
                 u.OVS_CT_LIMIT_CMD_GET)


def zone_limits(*limits: tuple[int, int]) -> bytes:
    return nla(u.OVS_CT_LIMIT_ATTR_ZONE_LIMIT, b"".join(
        u.OVS_ZONE_LIMIT.pack(*limit, 0) for limit in limits))


def message(cmd: int, payload: bytes) -> Message:
    raw = build(u.OVS_CT_LIMIT_ID, NLM_F_REQUEST, 5, 6,
                GENLMSGHDR.pack(cmd, 1, 0) + u.OVS_HEADER.pack(4) + payload)
    return Message(u.OVS_CT_LIMIT_ID, NLM_F_REQUEST, 5, 6, raw)


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is refused.

    :param kernel: the kernel's errno, when it is another
    """

    name: str
    cmd: int
    payload: bytes
    errno: int = EINVAL
    kernel: int | None = None


def _refused() -> list[Refused]:
    found = [Refused(f"{cmd}: nothing", cmd, b"") for cmd in (SET, DEL)]
    for cmd in (SET, DEL, GET):
        found += [
            Refused(f"{cmd}: short", cmd, nla(1, b"\0\0"), ERANGE),
            Refused(f"{cmd}: beyond the end", cmd, nla(1, bytes(12))[:12],
                    kernel=0 if cmd == GET else None),
            Refused(f"{cmd}: unknown", cmd, nla(2, bytes(12)), EINVAL,
                    0 if cmd == GET else None),
            # What the kernel passes over.
            Refused(f"{cmd}: zone 65536", cmd,
                    zone_limits((1, 9), (65536, 9)), kernel=0),
            Refused(f"{cmd}: zone -2", cmd, zone_limits((-2, 9)), kernel=0),
            Refused(f"{cmd}: 16 bytes", cmd, nla(1, bytes(16)), kernel=0),
        ]
    return found


REFUSED = _refused()
