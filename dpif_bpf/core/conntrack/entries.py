# SPDX-License-Identifier: Apache-2.0
"""One record as a CtEntry: what core.conntrack.dump makes of many at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpif_bpf.core.conntrack.dump import Batch
from dpif_bpf.core.conntrack.tuples import unpack_tuple
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_entry import CtEntry, SctpInfo, SeqAdj, TcpInfo
from dpif_bpf.wire.protocols import IPPROTO_SCTP, IPPROTO_TCP

_SCALES, _FLAGS = (16, 36), (17, 37)
_VTAGS = (0, 4)
"""Of `proto`, by direction."""


def entry_of(batch: Batch, row: int, helpers: Sequence[str]) -> CtEntry:
    """:param helpers: names by number; that of 0, which is none, is empty"""
    record = batch.records[row]
    orig, zone = unpack_tuple(record["orig"].tobytes())
    reply, _ = unpack_tuple(record["reply"].tobytes())
    status = int(record["status"])
    master = (unpack_tuple(batch.masters[row].tobytes())[0]
              if status & nf.IPS_EXPECTED else None)
    first, second = (
        (int(packets), int(nbytes)) for packets, nbytes in zip(
            record["packets"], record["bytes"], strict=True))
    return CtEntry(
        orig, reply, int(batch.ids[row]), zone, status,
        int(batch.timeouts[row]), int(record["mark"]),
        record["labels"].tobytes(), _protoinfo(record, orig.proto),
        (first, second), int(batch.starts[row]), 0,
        helpers[int(record["helper"])], master,
        (_shift(record, 0), _shift(record, 1))
        if status & nf.IPS_SEQ_ADJUST else None)


def _shift(record: np.void, direction: int) -> SeqAdj:
    return SeqAdj(*(int(record[f"adj_{name}"][direction])
                    for name in ("pos", "before", "after")))


def _protoinfo(record: np.void, proto: int) -> TcpInfo | SctpInfo | None:
    data, state = record["proto"].tobytes(), int(record["state"])
    if proto == IPPROTO_TCP:
        return TcpInfo(state, (data[_SCALES[0]], data[_SCALES[1]]),
                       (data[_FLAGS[0]], data[_FLAGS[1]]))
    if proto == IPPROTO_SCTP:
        first, second = (int.from_bytes(data[at:at + 4], "big")
                         for at in _VTAGS)
        return SctpInfo(state, (first, second))
    return None
