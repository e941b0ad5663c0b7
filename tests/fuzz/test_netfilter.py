# SPDX-License-Identifier: Apache-2.0
"""Requests of ctnetlink and of timeout policies that are spoilt somehow: each
is answered, none is met unprepared, and what is refused has changed nothing.
"""

from __future__ import annotations

import errno
import random
import struct
from dataclasses import replace

import ct_requests as r
import ct_timeouts as t
from ct_entries import entries

from dpif_bpf.core.conntrack.tracker import Conntrack
from dpif_bpf.core.services.families import make_router
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    iter_messages,
    parse_error,
)
from tests.ct_memory import Tracker
from tests.fake_plane import FakeProvider
from tests.fuzz.conftest import Rounds

STEPS, EACH = 2000, 500
TIMEOUT = nf.NFNL_SUBSYS_CTNETLINK_TIMEOUT


def requests() -> list[bytes]:
    """What they are before they are spoilt."""
    found = [r.message(step.cmd, 0, step.payload, step.flags | NLM_F_ACK,
                       subsys=TIMEOUT).raw for step in t.STEPS]
    for family, payload in r.filters().values():
        found += [r.message(cmd, family, payload, flags, version=1).raw
                  for cmd, flags in (
                      (r.GET, NLM_F_DUMP), (r.DELETE, NLM_F_ACK),
                      (nf.IPCTNL_MSG_CT_GET_CTRZERO, NLM_F_DUMP))]
    for one in entries().values():
        found += [r.message(cmd, one.orig.family, r.name(
            one.reply, one.zone, reply=True), NLM_F_ACK).raw
            for cmd in (r.GET, r.DELETE)]
    return found


def spoil(rng: random.Random, good: bytes, others: list[bytes]) -> bytes:
    data = bytearray(good)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        kind = rng.randrange(5)
        at = rng.randrange(16, len(data))
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice((0, 1, 4, 0xff))
        elif kind == 2:
            del data[rng.randrange(16, len(data) + 1):]
            data += bytes(-len(data) & 3)
        elif kind == 3:
            more = rng.choice(others)[20:]
            data += more[:rng.randrange(0, len(more) + 1, 4)]
        else:
            data[4] = rng.choice((*range(9), 0xff))
        if len(data) < 17:
            break
    struct.pack_into("=I", data, 0, len(data))
    return bytes(data)


class Site:
    """A router, and a table with a connection of each kind now and then."""

    def __init__(self) -> None:
        self.tracker = Tracker(EACH)
        provider = FakeProvider()
        self.conntrack = provider.tracker = Conntrack(
            self.tracker.memory, self.tracker.clock)
        self.told: list[str] = []
        self.router = make_router(provider, lambda: 0, self.told.append)

    def fill(self) -> None:
        for one in entries().values():
            self.tracker.add(replace(one, counters=((1, 2), (3, 4)),
                                     start=1 << 60))

    def state(self) -> tuple[int, int]:
        return self.conntrack.table.total(), len(self.conntrack.policies)

    def ask(self, data: bytes) -> int:
        """errno of an answer that is one."""
        answers = [message for reply in self.router.serve(
            data, NETLINK_NETFILTER) for message in iter_messages(reply)]
        assert not self.told and self.router.broken is None
        code = 0
        for message in answers:
            assert message.type >> 8 in (r.CT, TIMEOUT) or message.type in (
                NLMSG_DONE, NLMSG_ERROR)
            if message.type == NLMSG_ERROR:
                code, text = parse_error(message)[:2]
                assert not code or (code in errno.errorcode and text)
        assert not code or len(answers) == 1
        return code


def test_requests(rounds: Rounds) -> None:
    good, codes = requests(), set()
    for rng, more in rounds(STEPS, EACH):
        site = Site()
        steps = 0
        while more():
            if steps % 100 == 0:
                site.fill()
            steps += 1
            before = site.state()
            code = site.ask(spoil(rng, rng.choice(good), good))
            codes.add(code)
            assert not code or site.state() == before
    assert {0, errno.EINVAL, errno.ENOENT} <= codes
