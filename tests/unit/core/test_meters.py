# SPDX-License-Identifier: Apache-2.0
"""ovs_meter: requests, replies, and what is written to ovs_meters.

What is expected is what Linux net/openvswitch/meter.c does."""

from __future__ import annotations

import errno
import struct

import pytest
from meter_cases import (
    CLEAR,
    DEL,
    FEATURES,
    GET,
    KBPS,
    REFUSED,
    SET,
    STRICT,
    TAKEN,
    band,
    bands,
    ident,
    stats,
)

from dpif_bpf import abi
from dpif_bpf.core.meters import MAX_BANDS, MAX_METERS, Meters
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.meter_messages import Band, MeterRequest, decode_meter
from dpif_bpf.wire.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLMSG_ERROR,
    Message,
    build,
    iter_attrs,
    iter_messages,
    nla,
    nla_string,
    nla_u32,
    parse_error,
)
from tests.fake_plane import FakeProvider, Peer
from tests.mapped import mapped

METER = u.OVS_METER_ID
WORDS = abi.METER.size // 8 * (abi.OVS_METERS + abi.OVS_METER_EXTRA)
NOW = 5_000_000


@pytest.fixture
def peer() -> Peer:
    """A peer of a provider with a datapath."""
    peer = Peer(FakeProvider())
    assert peer.do(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_NEW,
                   nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"),
                   nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0)) == (0, None)
    return peer


def attrs(message: Message) -> dict[int, bytes]:
    assert message.type == METER, parse_error(message)
    return {kind: message.raw[start:stop]
            for kind, start, stop in iter_attrs(message.raw, 24)}


def asked(peer: Peer, cmd: int, *parts: bytes) -> dict[int, bytes]:
    """The attributes of the one reply."""
    (reply,) = peer.ask(METER, cmd, *parts)
    assert reply.raw[16] == cmd
    return attrs(reply)


def shown(reply: dict[int, bytes]) -> tuple[tuple[int, int],
                                            list[tuple[int, int]]]:
    """Packets and bytes of the meter and of each band."""
    found = []
    for kind, start, stop in iter_attrs(reply[u.OVS_METER_ATTR_BANDS]):
        assert kind == u.OVS_BAND_ATTR_UNSPEC
        inner = reply[u.OVS_METER_ATTR_BANDS][start:stop]
        ((kind, first, end),) = iter_attrs(inner)
        assert kind == u.OVS_BAND_ATTR_STATS
        found.append(u.OVS_FLOW_STATS.unpack(inner[first:end]))
    return u.OVS_FLOW_STATS.unpack(reply[u.OVS_METER_ATTR_STATS]), found


def element(peer: Peer, place: int) -> dict[str, int]:
    view = peer.provider.planes[0].maps["ovs_meters"].view
    return dict(zip(abi.METER.fields, abi.METER.struct.unpack_from(
        view, place * abi.METER.size), strict=True))


def count(peer: Peer, place: int, **fields: int) -> None:
    """As the programs count."""
    view = peer.provider.planes[0].maps["ovs_meters"].view
    for name, value in fields.items():
        struct.pack_into("=Q", view, place * abi.METER.size
                         + abi.METER[name].offset, value)


def test_features(peer: Peer) -> None:
    got = asked(peer, FEATURES)
    assert got[u.OVS_METER_ATTR_MAX_METERS] == struct.pack("=I", 200000)
    assert got[u.OVS_METER_ATTR_MAX_BANDS] == struct.pack("=I", 8)
    assert got[u.OVS_METER_ATTR_BANDS] == nla(0, nla_u32(
        u.OVS_BAND_ATTR_TYPE, u.OVS_METER_BAND_TYPE_DROP))


def test_life_of_a_meter(peer: Peer) -> None:
    """The probe of dpif-netlink, and what it relies upon."""
    assert peer.do(METER, GET, ident(1021))[0] == errno.ENOENT
    for number in (1021, 1022):
        assert asked(peer, SET, ident(number), KBPS, bands(
            band(0xffffffff, 1))) == {
                u.OVS_METER_ATTR_ID: struct.pack("=I", number)}
    for number in (1021, 1022):
        got = asked(peer, GET, ident(number))
        assert got[u.OVS_METER_ATTR_ID] == struct.pack("=I", number)
        assert shown(got) == ((0, 0), [(0, 0)])
        assert asked(peer, DEL, ident(number)) == got
        assert asked(peer, DEL, ident(number)) == {}
    assert not len(peer.provider.dps[0].meters)


def test_ack_after_the_reply(peer: Peer) -> None:
    reply, ack = peer.ask(METER, SET, ident(1), bands(), flags=NLM_F_ACK)
    assert reply.type == METER and parse_error(ack)[0] == 0
    assert ack.type == NLMSG_ERROR


def test_statistics(peer: Peer) -> None:
    asked(peer, SET, ident(7), bands(band()))
    count(peer, 7, packets=5, bytes=500, used=1234, band_packets=2,
          band_bytes=200)
    got = asked(peer, GET, ident(7))
    assert shown(got) == ((5, 500), [(2, 200)])
    assert got[u.OVS_METER_ATTR_USED] == struct.pack("=Q", 1234)
    # A SET tells what the meter before had, and starts anew.
    assert shown(asked(peer, SET, ident(7), CLEAR, bands())) == (
        (5, 500), [(2, 200)])
    count(peer, 7, packets=3)
    # CLEAR: the next SET tells nothing; GET and DEL do.
    assert shown(asked(peer, GET, ident(7))) == ((3, 0), [])
    assert asked(peer, SET, ident(7), bands(band())).keys() == {
        u.OVS_METER_ATTR_ID}
    assert shown(asked(peer, GET, ident(7))) == ((0, 0), [(0, 0)])


def test_statistics_to_begin_with(peer: Peer) -> None:
    asked(peer, SET, ident(1), bands(), stats(3, 4))
    assert shown(asked(peer, GET, ident(1))) == ((3, 4), [])
    asked(peer, SET, ident(1), bands(), stats(3, 4), CLEAR)
    assert shown(asked(peer, GET, ident(1))) == ((0, 0), [])


@pytest.mark.parametrize("case", REFUSED | STRICT)
def test_refused(peer: Peer, case: str) -> None:
    asked(peer, SET, ident(1), bands(band(5, 6)))
    before = element(peer, 1)
    error, text = peer.do(METER, *(REFUSED | STRICT)[case])
    short = "short" in case or "with a value" in case
    assert error == (errno.ERANGE if short else errno.EINVAL)
    assert text
    assert element(peer, 1) == before


@pytest.mark.parametrize("case", TAKEN)
def test_taken(peer: Peer, case: str) -> None:
    asked(peer, *TAKEN[case])


def test_twice(peer: Peer) -> None:
    """The last one counts, as in nla_parse()."""
    asked(peer, SET, ident(1), ident(2), bands(band()), bands(nla(
        0, band(2, 3)[4:] + nla_u32(u.OVS_BAND_ATTR_RATE, 9))))
    assert element(peer, 1)["flags"] == 0
    assert (element(peer, 2)["rate"], element(peer, 2)["burst"]) == (9, 3)


def test_commands_and_dumps_that_there_are_not(peer: Peer) -> None:
    for cmd in (0, 5, 99):
        assert peer.do(METER, cmd, ident(1))[0] == errno.EOPNOTSUPP
    (reply,) = peer.ask(METER, GET, ident(1), flags=NLM_F_DUMP)
    assert parse_error(reply)[0] == errno.EOPNOTSUPP


@pytest.mark.parametrize("cmd", [SET, GET, DEL, FEATURES])
def test_no_such_datapath(peer: Peer, cmd: int) -> None:
    parts = [] if cmd == FEATURES else [ident(1)]
    if cmd == SET:
        parts.append(bands(band()))
    assert peer.do(METER, cmd, *parts, dp=4711)[0] == errno.ENODEV


def test_meters_are_of_their_datapath(peer: Peer) -> None:
    peer.provider.ports.add_device("x")
    assert peer.do(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_NEW,
                   nla_string(u.OVS_DP_ATTR_NAME, "other"),
                   nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0)) == (0, None)
    asked(peer, SET, ident(1), bands(band()))
    other = peer.provider.dps[1].dp_ifindex
    assert peer.do(METER, GET, ident(1), dp=other)[0] == errno.ENOENT


def decoded(*parts: bytes, cmd: int = SET) -> MeterRequest:
    raw = build(METER, 1, 1, 2, struct.pack("=BBHi", cmd, 1, 0, 3)
                + b"".join(parts))
    return decode_meter(next(iter_messages(raw)))


def test_any_type_of_band() -> None:
    """The kernel takes any; all but DROP count only."""
    got = decoded(ident(5), KBPS, bands(band(1, 2, 0), band(3, 4, 77)))
    assert (got.id, got.kbps, got.clear) == (5, True, False)
    assert got.bands == (Band(0, 1, 2), Band(77, 3, 4))


# What is written

def table() -> tuple[Meters, memoryview]:
    words = mapped(WORDS * 8).cast("Q")
    return Meters(words, lambda: NOW), words


def put(meters: Meters, number: int, count: int = 1) -> None:
    meters.set(MeterRequest(
        Message(METER, 0, 0, 0, b""), SET, 1, number, bands=tuple(
            Band(u.OVS_METER_BAND_TYPE_DROP, 10 + n, 20) for n in
            range(count))))


def read(words: memoryview, place: int) -> dict[str, int]:
    return dict(zip(abi.METER.fields, abi.METER.struct.unpack_from(
        words.cast("B"), place * abi.METER.size), strict=True))


def test_the_bucket_is_full_at_first() -> None:
    meters, words = table()
    meters.set(MeterRequest(Message(METER, 0, 0, 0, b""), SET, 1, 3, True,
                            bands=(Band(1, 7, 9), Band(0, 1, 1 << 31))))
    first = read(words, 3)
    assert first["id"] == 3 and first["used"] == NOW
    assert first["flags"] == (
        abi.OVS_METER_F_USED | abi.OVS_METER_F_BAND | abi.OVS_METER_F_DROP
        | abi.OVS_METER_F_KBPS)
    assert NOW * 7 - first["spent"] == 9000
    second = read(words, abi.OVS_METERS + first["next"])
    assert second["next"] == 0 and second["id"] == 3
    assert second["flags"] == abi.OVS_METER_F_BAND | abi.OVS_METER_F_KBPS
    assert NOW - second["spent"] & (1 << 64) - 1 == (1 << 31) * 1000


def test_large_numbers() -> None:
    """As the kernel's table, which is never larger than ours."""
    meters, words = table()
    top = 0xffffffff
    put(meters, top)
    assert read(words, top % abi.OVS_METERS)["id"] == top
    meters.get(top)
    with pytest.raises(RequestError) as caught:
        put(meters, abi.OVS_METERS - 1)
    assert caught.value.errno == errno.EBUSY
    assert meters.delete(abi.OVS_METERS - 1) is None
    meters.delete(top)
    put(meters, abi.OVS_METERS - 1)


def test_meter_0_is_a_meter() -> None:
    meters, _ = table()
    with pytest.raises(RequestError):
        meters.get(0)
    put(meters, 0, 0)
    assert meters.get(0).bands == ()


def test_as_many_as_the_kernel() -> None:
    meters, _ = table()
    for number in range(MAX_METERS):
        put(meters, number)
    with pytest.raises(RequestError) as caught:
        put(meters, MAX_METERS)
    assert caught.value.errno == errno.EFBIG
    put(meters, 5)
    meters.delete(0)
    put(meters, MAX_METERS)


def test_bands_come_back() -> None:
    """Places of bands are given again, and their end is told."""
    meters, _ = table()
    room = abi.OVS_METER_EXTRA - 1
    full, rest = divmod(room, MAX_BANDS - 1)
    for number in range(full):
        put(meters, number, MAX_BANDS)
    put(meters, full, 1 + rest)
    with pytest.raises(RequestError) as caught:
        put(meters, full + 1, 2)
    assert caught.value.errno == errno.ENOMEM
    put(meters, 3, MAX_BANDS)
    with pytest.raises(RequestError):
        put(meters, full, 2 + rest)
    assert len(meters.get(full).bands) == 1 + rest
    meters.delete(2)
    put(meters, full + 1, MAX_BANDS)
    assert len(meters.get(full + 1).bands) == MAX_BANDS


def test_taken_over() -> None:
    """The next provider goes on with what is in the map."""
    meters, words = table()
    put(meters, 0xfffffff0, 3)
    put(meters, 2, 2)
    put(meters, 3, 1)
    put(meters, 4, 0)
    meters.delete(2)
    later = Meters(words, lambda: NOW)
    later.adopt()
    assert len(later) == 3
    assert [len(later.get(n).bands) for n in (0xfffffff0, 3, 4)] == [3, 1, 0]
    before = bytes(words)
    put(later, 9, 4)
    extra = [read(words, abi.OVS_METERS + n) for n in range(1, 8)]
    assert [one["id"] for one in extra if one["id"] == 0xfffffff0] == [
        0xfffffff0] * 2
    later.delete(9)
    assert len(later.get(0xfffffff0).bands) == 3
    assert bytes(words) != before
