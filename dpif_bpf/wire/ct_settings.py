# SPDX-License-Identifier: Apache-2.0
"""DPIF_BPF_NFNL_SUBSYS of integration/plugin/transport.h: what the plugin sets
of conntrack that is a sysctl in the kernel."""

from __future__ import annotations

import errno

from dpif_bpf.errors import RequestError, decoder
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.netlink import Message, Policy, exactly, parse_attrs
from dpif_bpf.wire.nfnetlink import ATTRS_POS, BE32

SUBSYS = 0x80
SET_MAX = 0

_POLICY: Policy = {
    nf.CTA_STATS_GLOBAL_MAX_ENTRIES: exactly("CTA_STATS_GLOBAL_MAX_ENTRIES",
                                             4),
}


@decoder
def decode_max(message: Message) -> int:
    """How many connections there may be; 0: as many as there is room for.

    :raises RequestError: EINVAL, ERANGE
    """
    raw = message.raw
    attrs = parse_attrs(raw, ATTRS_POS, len(raw), _POLICY)
    where = attrs.get(nf.CTA_STATS_GLOBAL_MAX_ENTRIES)
    if where is None:
        raise RequestError(errno.EINVAL,
                           "CTA_STATS_GLOBAL_MAX_ENTRIES is missing")
    most: int = BE32.unpack_from(raw, where[0])[0]
    return most
