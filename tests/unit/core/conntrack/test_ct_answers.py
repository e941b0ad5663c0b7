# SPDX-License-Identifier: Apache-2.0
"""What is done about requests of ctnetlink, against a table in Python."""

from __future__ import annotations

import errno
from dataclasses import replace

import ct_requests as r
import pytest
from ct_entries import decode_entry, entries
from ct_tables import Table

from dpif_bpf.core.conntrack.answers import answer_ct
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_entry import CtEntry
from dpif_bpf.wire.ctnetlink import NLM_F_DUMP_FILTERED, decode_ct_request
from dpif_bpf.wire.netlink import NLM_F_DUMP, Message, iter_messages
from dpif_bpf.wire.nfnetlink import ATTRS_POS, nla_be16

DELETE, GET, ZERO = (nf.IPCTNL_MSG_CT_DELETE, nf.IPCTNL_MSG_CT_GET,
                     nf.IPCTNL_MSG_CT_GET_CTRZERO)


@pytest.fixture
def table() -> Table:
    return Table([replace(one, id=number, counters=((1, 2), (3, 4)))
                  for number, one in enumerate(entries().values(), 77)])


def ask(table: Table, cmd: int, family: int = 0, payload: bytes = b"",
        flags: int = 0) -> list[Message]:
    replies = answer_ct(decode_ct_request(r.message(
        cmd, family, payload, flags)), table)
    return [one for reply in replies for one in iter_messages(reply)]


def read(message: Message) -> CtEntry:
    return decode_entry(message.raw[ATTRS_POS:], message.raw[16])


def test_dump(table: Table) -> None:
    found = ask(table, GET, flags=NLM_F_DUMP)
    assert list(map(read, found)) == list(table.entries.values())
    assert not any(one.flags & NLM_F_DUMP_FILTERED for one in found)
    found = ask(table, GET, 0, nla_be16(nf.CTA_ZONE, 7), NLM_F_DUMP)
    assert [read(one).zone for one in found] == [7]
    assert found[0].flags & NLM_F_DUMP_FILTERED


def test_zero(table: Table) -> None:
    """A dump says what was counted, and that begins anew."""
    found = ask(table, ZERO, 0, nla_be16(nf.CTA_ZONE, 7), NLM_F_DUMP)
    assert read(found[0]).counters == ((1, 2), (3, 4))
    assert {one.counters for one in table.entries.values() if one.zone == 7
            } == {((0, 0), (0, 0))}
    other = entries()["udp"]
    (shown,) = ask(table, ZERO, other.orig.family, r.name(other.orig, 0))
    assert read(shown).counters == ((1, 2), (3, 4))
    (shown,) = ask(table, GET, other.orig.family, r.name(other.orig, 0))
    assert read(shown).counters == ((0, 0), (0, 0))
    assert sum(one.counters == ((0, 0), (0, 0))
               for one in table.entries.values()) == 2


def test_by_name(table: Table) -> None:
    for entry in list(table.entries.values()):
        family = entry.orig.family
        (shown,) = ask(table, GET, family, r.name(entry.reply, entry.zone))
        assert read(shown) == entry
        for wrong in (r.name(entry.orig, entry.zone ^ 1),
                      r.name(entry.orig, entry.zone, entry.id + 1)):
            for cmd in (GET, DELETE):
                with pytest.raises(RequestError) as caught:
                    ask(table, cmd, family, wrong)
                assert caught.value.errno == errno.ENOENT
        assert ask(table, DELETE, family, r.name(
            entry.orig, entry.zone, entry.id)) == []
        assert entry not in table.entries.values()
    assert not table.entries
    assert not table.flushed


def test_gone_meanwhile(table: Table, monkeypatch: pytest.MonkeyPatch,
                        ) -> None:
    """The packets' programs ended it between look-up and deletion."""
    entry = entries()["udp"]
    monkeypatch.setattr(table, "delete", lambda number, ct_id: False)
    with pytest.raises(RequestError) as caught:
        ask(table, DELETE, entry.orig.family, r.name(entry.orig, 0))
    assert caught.value.errno == errno.ENOENT


def test_flush(table: Table) -> None:
    """All, or a zone, without a walk; what else is meant one by one."""
    ask(table, DELETE, 0, nla_be16(nf.CTA_ZONE, 7))
    assert table.flushed == [7]
    assert 7 not in {one.zone for one in table.entries.values()}
    ask(table, DELETE, 0, nla_be16(nf.CTA_ZONE, 0))
    assert table.flushed == [7, 0]
    assert {one.zone for one in table.entries.values()} == {65535, 3}
    ask(table, DELETE, 0, r.mark(0xdeadbeef))
    assert len(table.entries) == 2
    ask(table, DELETE, 0, r.mark(0))
    assert (table.entries, table.flushed) == ({}, [7, 0])
    ask(table, DELETE)
    assert table.flushed == [7, 0, None]


def test_numbers(table: Table) -> None:
    (shown,) = ask(table, nf.IPCTNL_MSG_CT_GET_STATS)
    assert shown.raw[ATTRS_POS + 4:ATTRS_POS + 8] == len(
        entries()).to_bytes(4, "big")
    assert len(ask(table, nf.IPCTNL_MSG_CT_GET_STATS_CPU,
                   flags=NLM_F_DUMP)) == 2
    assert ask(table, nf.IPCTNL_MSG_CT_GET_STATS_CPU) == []
    for cmd in (nf.IPCTNL_MSG_CT_GET_DYING,
                nf.IPCTNL_MSG_CT_GET_UNCONFIRMED):
        assert ask(table, cmd, flags=NLM_F_DUMP) == []
