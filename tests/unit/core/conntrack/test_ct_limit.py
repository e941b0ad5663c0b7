# SPDX-License-Identifier: Apache-2.0
"""ovs_ct_limit: requests, replies, and what each zone may have."""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP, ERANGE

import ct_limits as c
import pytest
from ct_tables import Zones, kept
from hypothesis import given, settings
from hypothesis import strategies as st

from dpif_bpf.core.conntrack.answers import answer_limit
from dpif_bpf.core.conntrack.limits import Limits
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.ct_limit import DEFAULT_ZONE, ZoneLimit, decode_limit
from dpif_bpf.wire.netlink import Message, iter_attrs, iter_messages, nla

SET, DEL, GET = (uapi.OVS_CT_LIMIT_CMD_SET, uapi.OVS_CT_LIMIT_CMD_DEL,
                 uapi.OVS_CT_LIMIT_CMD_GET)


@pytest.fixture
def zones() -> Zones:
    return Zones()


@pytest.fixture
def limits(zones: Zones) -> Limits:
    return Limits(zones, kept())


def ask(limits: Limits, cmd: int, *asked: tuple[int, int],
        all_: bool = False) -> list[tuple[int, int, int]] | None:
    """What the reply says; None when it has no limits."""
    message = c.message(cmd, b"" if all_ else c.zone_limits(*asked))
    (reply,) = iter_messages(answer_limit(decode_limit(message), limits))
    assert (reply.type, reply.flags, reply.seq, reply.pid) == (
        message.type, 0, message.seq, message.pid)
    assert reply.raw[16] == cmd
    assert uapi.OVS_HEADER.unpack_from(reply.raw, 20) == (4,)
    found = [reply.raw[start:stop]
             for _, start, stop in iter_attrs(reply.raw, 24)]
    if not found:
        return None
    (data,) = found
    return list(uapi.OVS_ZONE_LIMIT.iter_unpack(data))


def test_life(zones: Zones, limits: Limits) -> None:
    assert set(zones.limits) == {0}
    assert ask(limits, GET, all_=True) == [(-1, 0, 0)]
    assert ask(limits, SET, (DEFAULT_ZONE, 10), (1, 5), (65535, 0)) is None
    zones.counts.update({1: 4, 2: 11})
    assert ask(limits, GET, all_=True) == [
        (-1, 10, 0), (1, 5, 4), (65535, 0, 0)]
    assert ask(limits, GET, (2, 0), (DEFAULT_ZONE, 0), (1, 0)) == [
        (2, 10, 11), (-1, 10, 0), (1, 5, 4)]
    assert ask(limits, GET) == []
    # The default is that of each zone that has none of its own.
    assert zones.limits[:3] == [10, 5, 10]
    assert zones.limits[65535] == 0
    assert ask(limits, SET, (DEFAULT_ZONE, 20)) is None
    assert zones.limits[:3] == [20, 5, 20]
    assert ask(limits, DEL, (1, 0), (3, 0)) is None
    assert zones.limits[:4] == [20] * 4
    assert ask(limits, DEL, (DEFAULT_ZONE, 0)) is None
    assert zones.limits[0] == 0
    assert ask(limits, GET, all_=True) == [(-1, 0, 0), (65535, 0, 0)]


def test_order(zones: Zones, limits: Limits) -> None:
    """The last of a zone counts; all zones are written once at most."""
    fills = zones.fills
    ask(limits, SET, (DEFAULT_ZONE, 1), (5, 1), (DEFAULT_ZONE, 2), (5, 3))
    assert (zones.limits[4], zones.limits[5]) == (2, 3)
    assert zones.fills == fills + 1
    ask(limits, SET, (DEFAULT_ZONE, 2))
    assert zones.fills == fills + 1
    ask(limits, DEL, (5, 0), (DEFAULT_ZONE, 0))
    assert zones.limits[4:6] == [0, 0]


@pytest.mark.parametrize("case", c.REFUSED, ids=lambda case: case.name)
def test_refused(case: c.Refused, zones: Zones, limits: Limits) -> None:
    with pytest.raises(RequestError) as caught:
        answer_limit(decode_limit(c.message(case.cmd, case.payload)), limits)
    assert caught.value.errno == case.errno
    assert set(zones.limits) == {0}


def test_command() -> None:
    with pytest.raises(RequestError) as caught:
        decode_limit(c.message(9, b""))
    assert caught.value.errno == EOPNOTSUPP
    raw = c.message(GET, b"").raw[:20]
    with pytest.raises(RequestError) as caught:
        decode_limit(Message(uapi.OVS_CT_LIMIT_ID, 1, 1, 1, raw))
    assert caught.value.errno == EINVAL


def test_short_nest() -> None:
    with pytest.raises(RequestError) as caught:
        decode_limit(c.message(SET, nla(1, b"\0\0")))
    assert caught.value.errno == ERANGE


ZONE = st.one_of(st.just(DEFAULT_ZONE), st.integers(0, 3))
CHANGE = st.lists(st.builds(ZoneLimit, ZONE, st.integers(0, 5)), max_size=4)


@given(st.lists(st.tuples(st.booleans(), CHANGE), max_size=8))
def test_any_order(changes: list[tuple[bool, list[ZoneLimit]]]) -> None:
    """The table says what a model says that is written down plainly."""
    zones = Zones()
    limits = Limits(zones, kept())
    default, own = 0, dict[int, int]()
    for delete, asked in changes:
        (limits.delete if delete else limits.set)(asked)
        for one in asked:
            if one.zone == DEFAULT_ZONE:
                default = 0 if delete else one.limit
            elif delete:
                own.pop(one.zone, None)
            else:
                own[one.zone] = one.limit
        assert zones.limits[:6] == [own.get(zone, default)
                                    for zone in range(6)]
        assert [(one.zone, one.limit) for one in limits.get(None)] == [
            (DEFAULT_ZONE, default), *sorted(own.items())]


@settings(max_examples=20)
@given(st.lists(st.tuples(st.booleans(), CHANGE), max_size=8))
def test_the_next_provider(
        changes: list[tuple[bool, list[ZoneLimit]]]) -> None:
    memory = kept()
    limits = Limits(Zones(), memory)
    for delete, asked in changes:
        (limits.delete if delete else limits.set)(asked)
    zones = Zones()
    assert list(Limits(zones, memory).get(None)) == list(limits.get(None))
    for zone in range(5):
        (found,) = limits.get([ZoneLimit(zone)])
        assert zones.limits[zone] == found.limit
