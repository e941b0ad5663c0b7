# SPDX-License-Identifier: Apache-2.0
"""ctnetlink without a kernel: entries there and back, requests, filters.

tests/system/test_ctnetlink_kernel.py compares the same with the kernel's.
"""

from __future__ import annotations

import errno
from dataclasses import replace

import ct_requests as r
import pytest
from ct_entries import decode_entry, decode_tuple, entries, entry, tuples
from hypothesis import given, settings
from hypothesis import strategies as st

from dpif_bpf.errors import RequestError
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_entry import CtEntry, SctpInfo, TcpInfo, encode_entry
from dpif_bpf.wire.ct_layout import dump_layout
from dpif_bpf.wire.ct_tuple import (
    AF_INET,
    AF_INET6,
    CtTuple,
    TupleFilter,
)
from dpif_bpf.wire.ct_tuple import decode_tuple as tuple_of
from dpif_bpf.wire.ctnetlink import (
    ALL,
    NLM_F_DUMP_FILTERED,
    CtFilter,
    CtName,
    cpu_stats_reply,
    decode_ct_request,
    entry_reply,
    stats_reply,
)
from dpif_bpf.wire.netlink import (
    NLM_F_DUMP,
    NLM_F_MULTI,
    NLMSGHDR,
    Message,
    iter_messages,
    nla,
)
from dpif_bpf.wire.nfnetlink import ATTRS_POS, nla_be16

U8, U16 = st.integers(0, 0xff), st.integers(0, 0xffff)
U32, U64 = st.integers(0, 0xffffffff), st.integers(0, (1 << 64) - 1)


@st.composite
def any_entries(draw: st.DrawFn) -> CtEntry:
    orig = draw(tuples())
    reply = draw(tuples(orig.family, orig.proto))
    info: TcpInfo | SctpInfo | None = None
    if orig.proto == 6:
        info = TcpInfo(draw(U8), draw(st.tuples(U8, U8)),
                       draw(st.tuples(U8, U8)))
    elif orig.proto == 132:
        info = SctpInfo(draw(U8), draw(st.tuples(U32, U32)))
    counters = st.tuples(U64, U64)
    start = draw(st.one_of(st.none(), U64))
    return CtEntry(
        orig, reply, draw(U32), draw(U16), draw(U32), draw(U32), draw(U32),
        draw(st.one_of(st.just(bytes(16)),
                       st.binary(min_size=16, max_size=16))),
        info, draw(st.one_of(st.none(), st.tuples(counters, counters))),
        start, 0 if start is None else draw(st.one_of(st.just(0), U64)),
        draw(st.sampled_from(["", "ftp", "tftp"])),
        draw(st.one_of(st.none(), tuples(orig.family))), None, draw(U32))


@settings(max_examples=30)
@given(any_entries())
def test_any_entry(made: CtEntry) -> None:
    data = encode_entry(made)
    assert not len(data) % 4
    assert decode_entry(data, made.orig.family) == made


@pytest.mark.parametrize("name", entries())
def test_entry(name: str) -> None:
    made = entries()[name]
    assert decode_entry(encode_entry(made), made.orig.family) == made
    layout = dump_layout(made.shape)
    assert len(layout.template) == len(encode_entry(made))
    assert dump_layout(made.shape) is layout


@given(tuples())
def test_tuple(one: CtTuple) -> None:
    """Read, or refused for an ICMP type that begins nothing."""
    data = r.tuple_(one, nla_be16(nf.CTA_TUPLE_ZONE, 5))
    assert decode_tuple(data[4:], one.family) == one
    try:
        answer = one.reversed()
    except KeyError:
        with pytest.raises(RequestError) as caught:
            tuple_of(data, 4, len(data), one.family)
        assert caught.value.errno == errno.EINVAL
        return
    assert answer.reversed() == one
    assert tuple_of(data, 4, len(data), one.family) == (one, 5)


@pytest.mark.parametrize("case", r.REFUSED, ids=lambda case: case.name)
def test_refused(case: r.Refused) -> None:
    with pytest.raises(RequestError) as caught:
        decode_ct_request(r.message(case.cmd, case.family, case.payload,
                                    case.flags, version=case.version))
    assert caught.value.errno == case.errno
    assert caught.value.text


def test_no_header() -> None:
    raw = NLMSGHDR.pack(18, 0x101, 1, 1, 1) + b"\2\0"
    with pytest.raises(RequestError) as caught:
        decode_ct_request(Message(0x101, 1, 1, 1, raw))
    assert caught.value.errno == errno.EINVAL


def filtered(family: int, payload: bytes) -> set[str]:
    request = decode_ct_request(r.message(
        nf.IPCTNL_MSG_CT_GET, family, payload, NLM_F_DUMP))
    assert request.filter is not None
    assert request.dump
    return {name for name, one in entries().items()
            if request.filter.matches(one)}


@pytest.mark.parametrize("name", r.filters())
def test_filter(name: str) -> None:
    """Each is of some, and only one that says nothing is of all."""
    found = filtered(*r.filters()[name])
    assert found
    assert (found == set(entries())) == (name == "mark 0, no mask")


def test_filter_values() -> None:
    assert filtered(0, r.filters()["zone 7"][1]) == {"tcp, zone and mark"}
    assert filtered(*r.filters()["zone 3, ipv6"]) == {"udp6, zone"}
    assert filtered(*r.filters()["icmp type"]) == {"icmp"}
    assert filtered(0, b"") == set(entries())
    # The zone that a tuple has counts as well.
    one = r.tuple_(r.TCP, nla_be16(nf.CTA_TUPLE_ZONE, 7))
    assert filtered(AF_INET, one + r.flags(
        nf.CTA_FILTER_F_CTA_IP_SRC | nf.CTA_FILTER_F_CTA_TUPLE_ZONE)) == {
            "tcp, zone and mark"}


@settings(max_examples=30)
@given(tuples(), tuples(), st.integers(0, nf.CTA_FILTER_F_ALL))
def test_tuple_filter(one: CtTuple, other: CtTuple, flags: int) -> None:
    assert TupleFilter(one, flags).matches(one)
    if TupleFilter(one, nf.CTA_FILTER_F_ALL).matches(other):
        assert one == other


def test_what_ovs_sends() -> None:
    """The requests of lib/netlink-conntrack.c; its nests have no flag."""
    dump = decode_ct_request(r.message(nf.IPCTNL_MSG_CT_GET,
                                       flags=NLM_F_DUMP))
    assert (dump.filter, dump.filtered, dump.dump) == (ALL, False, True)
    # From 3.5 on with the zone.
    dump = decode_ct_request(r.message(
        nf.IPCTNL_MSG_CT_GET, payload=nla_be16(nf.CTA_ZONE, 5),
        flags=NLM_F_DUMP))
    assert (dump.filter, dump.filtered) == (CtFilter(zone=5), True)
    flush = decode_ct_request(r.message(nf.IPCTNL_MSG_CT_DELETE))
    assert (flush.name, flush.filter, flush.dump) == (None, ALL, False)
    flush = decode_ct_request(r.message(
        nf.IPCTNL_MSG_CT_DELETE, payload=nla_be16(nf.CTA_ZONE, 0)))
    assert flush.filter == CtFilter(zone=0)
    one = r.UDP
    flush = decode_ct_request(r.message(
        nf.IPCTNL_MSG_CT_DELETE, AF_INET, r.name(one, 5)))
    assert flush.name == CtName(one, 5)
    # A zone, one by one.
    flush = decode_ct_request(r.message(
        nf.IPCTNL_MSG_CT_DELETE, AF_INET, r.name(one, 5, 0x12345678)))
    assert flush.name == CtName(one, 5, None, 0x12345678)


def test_what_conntrack_sends() -> None:
    """conntrack -D names a connection with all that it read of it, and -F
    has a family that counts by the version alone."""
    one = entries()["tcp, zone and mark"]
    request = decode_ct_request(r.message(
        nf.IPCTNL_MSG_CT_DELETE, AF_INET, encode_entry(
            replace(one, counters=((1, 2), (3, 4)), start=5))))
    assert request.name == CtName(one.orig, 7, None, one.id)
    flush = decode_ct_request(r.message(nf.IPCTNL_MSG_CT_DELETE, AF_INET))
    assert flush.filter == ALL
    flush = decode_ct_request(r.message(nf.IPCTNL_MSG_CT_DELETE, AF_INET,
                                        version=1))
    assert flush.filter == CtFilter(AF_INET)
    for cmd in (nf.IPCTNL_MSG_CT_GET_DYING,
                nf.IPCTNL_MSG_CT_GET_UNCONFIRMED):
        request = decode_ct_request(r.message(cmd, flags=NLM_F_DUMP))
        assert request.dump
    zero = decode_ct_request(r.message(nf.IPCTNL_MSG_CT_GET_CTRZERO,
                                       flags=NLM_F_DUMP))
    assert zero.filter == ALL


def test_replies() -> None:
    one = entry(17, 1, 2, v6=True)
    request = decode_ct_request(r.message(
        nf.IPCTNL_MSG_CT_GET, payload=nla_be16(nf.CTA_ZONE, 0),
        flags=NLM_F_DUMP, seq=7, pid=9))
    (reply,) = iter_messages(entry_reply(request, one))
    assert (reply.type, reply.flags, reply.seq, reply.pid) == (
        nf.NFNL_SUBSYS_CTNETLINK << 8 | nf.IPCTNL_MSG_CT_NEW,
        NLM_F_MULTI | NLM_F_DUMP_FILTERED, 7, 9)
    assert reply.raw[16:20] == bytes([AF_INET6, 0, 0, 0])
    assert reply.raw[ATTRS_POS:] == encode_entry(one)

    request = decode_ct_request(r.message(nf.IPCTNL_MSG_CT_GET_STATS))
    (reply,) = iter_messages(stats_reply(request, 3, 262144))
    assert reply.raw[ATTRS_POS:] == (
        nla(1, bytes([0, 0, 0, 3])) + nla(2, bytes([0, 4, 0, 0])))

    request = decode_ct_request(r.message(nf.IPCTNL_MSG_CT_GET_STATS_CPU,
                                          flags=NLM_F_DUMP))
    (reply,) = iter_messages(cpu_stats_reply(
        request, 1, {"insert": (1 << 32) + 5}))
    assert reply.raw[18:20] == b"\0\1"
    assert nla(nf.CTA_STATS_INSERT, bytes([0, 0, 0, 5])) in reply.raw


@given(st.binary(max_size=120), st.integers(0, 8),
       st.sampled_from([0, AF_INET, AF_INET6]),
       st.sampled_from([0, NLM_F_DUMP]))
def test_any_request(payload: bytes, cmd: int, family: int,
                     flags: int) -> None:
    """It is read, or refused with an errno that it deserves."""
    try:
        decode_ct_request(r.message(cmd, family, payload, flags))
    except RequestError as error:
        assert type(error) is RequestError
