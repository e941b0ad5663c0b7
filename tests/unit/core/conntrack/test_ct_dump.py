# SPDX-License-Identifier: Apache-2.0
"""Dumps of many connections: as many entries, one by one."""

from __future__ import annotations

from functools import partial

import ct_requests as r
import numpy as np
import pytest
from ct_entries import entries, tuples
from ct_memory import HELPERS, record
from hypothesis import given
from hypothesis import strategies as st

from dpif_bpf import abi_ct
from dpif_bpf.core.conntrack.dump import RECORD, TUPLE, Batch, dump, match
from dpif_bpf.core.conntrack.tuples import SIZE, pack_tuple, unpack_tuple
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_entry import CtEntry
from dpif_bpf.wire.ct_tuple import CtTuple
from dpif_bpf.wire.ctnetlink import (
    decode_ct_request,
    entry_header,
    entry_reply,
)
from dpif_bpf.wire.netlink import NLM_F_DUMP


def filled() -> list[CtEntry]:
    """All kinds, with what their records do not leave out."""
    found = []
    for i, one in enumerate(entries().values()):
        found.append(CtEntry(
            one.orig, one.reply, i << 24 | 5, one.zone, one.status, i,
            one.mark, one.labels, one.protoinfo,
            ((i, 1 << 40), (2 << 33, 3)), 1 << 60 | i, 0,
            HELPERS[i % 3], one.master, one.seq_adj))
    return found


def batch(found: list[CtEntry]) -> Batch:
    records = np.frombuffer(b"".join(map(record, found)), RECORD)
    masters = np.zeros(len(found), TUPLE)
    for row, one in enumerate(found):
        if one.master is not None:
            masters[row] = np.frombuffer(pack_tuple(one.master, 0),
                                         TUPLE)[0]
    return Batch(records, np.array([one.id for one in found], np.uint32),
                 np.array([one.timeout for one in found], np.uint32),
                 np.array([one.start for one in found], np.uint64), masters)


def test_all_kinds() -> None:
    found = filled() * 3
    request = decode_ct_request(r.message(nf.IPCTNL_MSG_CT_GET,
                                          flags=NLM_F_DUMP))
    messages = list(dump(batch(found), HELPERS,
                         partial(entry_header, request)))
    assert sorted(messages) == sorted(entry_reply(request, one)
                                      for one in found)


def test_nothing() -> None:
    request = decode_ct_request(r.message(nf.IPCTNL_MSG_CT_GET,
                                          flags=NLM_F_DUMP))
    assert not list(dump(batch([]), HELPERS, partial(entry_header, request)))


@pytest.mark.parametrize("name", r.filters())
def test_match(name: str) -> None:
    family, payload = r.filters()[name]
    request = decode_ct_request(r.message(
        nf.IPCTNL_MSG_CT_GET, family, payload, NLM_F_DUMP))
    assert request.filter is not None
    found = filled()
    assert match(request.filter, batch(found).records).tolist() == [
        request.filter.matches(one) for one in found]


@given(tuples(), st.integers(0, 0xffff))
def test_tuple(one: CtTuple, zone: int) -> None:
    data = pack_tuple(one, zone)
    assert len(data) == SIZE == TUPLE.itemsize
    assert unpack_tuple(b"x" + data, 1) == (one, zone)


def test_layout_is_that_of_the_programs() -> None:
    assert RECORD.itemsize == abi_ct.CT.size
    assert TUPLE.itemsize == abi_ct.TUPLE.size
    assert RECORD.fields is not None
    for name in ("word", "status", "state", "policy", "mark", "zone_gen",
                 "master", "helper", "start"):
        assert RECORD.fields[name][1] == abi_ct.CT[name].offset
