# SPDX-License-Identifier: Apache-2.0
"""wire.netlink: messages, attributes, acks."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpif_bpf.errors import RequestError
from dpif_bpf.wire import netlink as nl

POLICY = {
    1: nl.exactly("A_U32", 4),
    2: nl.binary("A_BYTES"),
    3: nl.flag("A_FLAG"),
    4: nl.binary("A_UFID", 1, 16),
    5: nl.binary("A_PACKET", 14),
}


def message(payload: bytes = b"", seq: int = 7, flags: int = 1) -> nl.Message:
    raw = nl.build(0x22, flags, seq, 99, payload)
    (only,) = nl.iter_messages(raw)
    return only


def test_several_messages_in_a_datagram() -> None:
    first = nl.build(0x20, nl.NLM_F_REQUEST, 1, 5, b"abc")
    second = nl.build(0x21, nl.NLM_F_DUMP, 2, 5, b"defg")
    got = list(nl.iter_messages(first + b"\0" + second))
    assert [(m.type, m.seq, m.pid, m.raw) for m in got] == [
        (0x20, 1, 5, first), (0x21, 2, 5, second)]
    assert [m.is_dump for m in got] == [False, True]


def test_the_last_message_need_not_be_padded() -> None:
    assert message(b"abcde").raw == nl.build(0x22, 1, 7, 99, b"abcde")


@pytest.mark.parametrize(("bad", "offset"), [
    (b"\0" * 15, 20),                               # no room for a header
    (struct.pack("=IHHII", 15, 1, 0, 0, 0), 20),    # shorter than its header
    (struct.pack("=IHHII", 17, 1, 0, 0, 0), 20),    # longer than the datagram
    (struct.pack("=IHHII", 0, 1, 0, 0, 0), 20),
])
def test_bad_message_after_a_good_one(bad: bytes, offset: int) -> None:
    good = nl.build(0x20, 1, 1, 5, b"abcd")
    messages = nl.iter_messages(good + bad)
    assert next(messages).raw == good
    with pytest.raises(RequestError) as info:
        next(messages)
    assert (info.value.errno, info.value.offset) == (errno.EINVAL, offset)


def test_attributes() -> None:
    buf = b"head" + nl.nla_u32(1, 5) + nl.nla(2, b"xyz") + nl.nla_flag(3)
    attrs = nl.parse_attrs(buf, 4, len(buf), POLICY)
    assert attrs == {1: (8, 12), 2: (16, 19), 3: (24, 24)}


def test_the_last_attribute_need_not_be_padded() -> None:
    buf = nl.nla(2, b"xyz")[:-1]
    assert nl.parse_attrs(buf, 0, len(buf), POLICY) == {2: (4, 7)}


def test_the_last_of_two_counts() -> None:
    buf = nl.nla_u32(1, 5) + nl.nla_u32(1, 6)
    assert nl.parse_attrs(buf, 0, len(buf), POLICY) == {1: (12, 16)}


def test_flags_of_the_type_are_ignored() -> None:
    buf = nl.nla(2 | nl.NLA_F_NESTED | nl.NLA_F_NET_BYTEORDER, b"")
    assert nl.parse_attrs(buf, 0, len(buf), POLICY) == {2: (4, 4)}


@pytest.mark.parametrize(("bad", "code", "text"), [
    (b"\x03\0\1\0", errno.EINVAL, "nla_len 3"),
    (b"\x09\0\2\0abcd", errno.EINVAL, "nla_len 9"),
    (nl.nla_u16(1, 5), errno.ERANGE, "A_U32 has 2 bytes instead of 4"),
    (nl.nla_u64(1, 5), errno.EINVAL, "A_U32 has 8 bytes instead of 4"),
    (nl.nla_u8(3, 1), errno.ERANGE, "A_FLAG has 1 bytes instead of 0"),
    (nl.nla(4, b""), errno.ERANGE, "A_UFID has 0 bytes instead of 1 to 16"),
    (nl.nla(4, b"u" * 17), errno.EINVAL,
     "A_UFID has 17 bytes instead of 1 to 16"),
    (nl.nla(5, b"p" * 13), errno.ERANGE,
     "A_PACKET has 13 bytes instead of at least 14"),
    (nl.nla_u32(9, 5), errno.EINVAL, "attribute type 9"),
    (nl.nla_u32(0, 5), errno.EINVAL, "attribute type 0"),
    (b"\0\0\0", errno.EINVAL, "3 bytes after the last attribute"),
])
def test_bad_attribute(bad: bytes, code: int, text: str) -> None:
    buf = b"head" + nl.nla_u32(1, 5) + bad
    with pytest.raises(RequestError) as info:
        nl.parse_attrs(buf, 4, len(buf), POLICY)
    assert text in info.value.text
    assert (info.value.errno, info.value.offset) == (code, 12)


@pytest.mark.parametrize("bad", [b"\x03\0\1\0", b"\x09\0\2\0abcd", b"\0"])
def test_bad_attribute_of_a_list(bad: bytes) -> None:
    with pytest.raises(RequestError) as info:
        list(nl.iter_attrs(nl.nla_u32(1, 5) + bad))
    assert (info.value.errno, info.value.offset) == (errno.EINVAL, 8)


@given(st.lists(st.tuples(st.integers(0, nl.NLA_TYPE_MASK),
                          st.binary(max_size=40))))
def test_lists_keep_order_and_repetition(
        attrs: list[tuple[int, bytes]]) -> None:
    buf = b"".join(nl.nla(type_, payload) for type_, payload in attrs)
    assert [(type_, buf[start:end]) for type_, start, end
            in nl.iter_attrs(buf)] == attrs


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(buf: bytes) -> None:
    try:
        attrs = nl.parse_attrs(buf, 0, len(buf), POLICY)
    except RequestError as error:
        assert error.errno == errno.EINVAL
        assert error.offset is not None and error.offset < len(buf)
    else:
        for type_, (start, end) in attrs.items():
            assert POLICY[type_].min_len <= end - start <= \
                POLICY[type_].max_len
            assert 4 <= start <= end <= len(buf)


def test_builders() -> None:
    assert nl.nla_u8(1, 0xab) == b"\5\0\1\0\xab\0\0\0"
    assert nl.nla_u16(1, 0x1234) == struct.pack("=HHH", 6, 1, 0x1234) + b"\0\0"
    assert nl.nla_u32(1, 2) == struct.pack("=HHI", 8, 1, 2)
    assert nl.nla_s32(1, -2) == struct.pack("=HHi", 8, 1, -2)
    assert nl.nla_u64(1, 2) == struct.pack("=HHQ", 12, 1, 2)
    assert nl.nla_string(3, "ab") == b"\7\0\3\0ab\0\0"
    assert nl.nla_u32_array(1, (2, 3)) == struct.pack("=HHII", 12, 1, 2, 3)


def test_strings() -> None:
    buf = nl.nla_string(1, "br0") + b"after"
    assert nl.get_string(buf, (4, 8), "A_NAME", 15) == "br0"
    assert nl.get_string(b"br0\0junk", (0, 8), "A_NAME", 15) == "br0"
    assert nl.get_string(b"n" * 15 + b"\0", (0, 16), "A_NAME", 15) == "n" * 15


@pytest.mark.parametrize(("payload", "code"), [
    (b"br0", errno.EINVAL), (b"", errno.EINVAL), (b"\xff\0", errno.EINVAL),
    (b"\0", errno.ERANGE), (b"n" * 16 + b"\0", errno.ERANGE),
])
def test_bad_string(payload: bytes, code: int) -> None:
    buf = nl.nla(1, payload) + b"\0more"
    with pytest.raises(RequestError) as info:
        nl.get_string(buf, (4, 4 + len(payload)), "A_NAME", 15)
    assert (info.value.errno, info.value.offset) == (code, 0)


@pytest.mark.parametrize("size", [0, 3, 5])
def test_bad_array(size: int) -> None:
    with pytest.raises(RequestError) as info:
        nl.get_u32_array(b"\0" * 8, (0, size), "A_PIDS")
    assert info.value.errno == errno.EINVAL


def test_ack() -> None:
    request = message(b"abcd")
    (ack,) = nl.iter_messages(nl.build_ack(request))
    assert (ack.type, ack.seq, ack.pid) == (nl.NLMSG_ERROR, 7, 99)
    assert ack.flags == nl.NLM_F_CAPPED
    assert nl.parse_error(ack) == (0, None, None)
    assert ack.raw[20:] == request.raw[:16]


@pytest.mark.parametrize("offset", [None, 24])
def test_error(offset: int | None) -> None:
    request = message(b"abcd")
    error = RequestError(errno.EOPNOTSUPP, "no such thing", offset)
    (reply,) = nl.iter_messages(nl.build_error(request, error))
    assert (reply.type, reply.seq, reply.pid) == (nl.NLMSG_ERROR, 7, 99)
    assert nl.parse_error(reply) == (errno.EOPNOTSUPP, "no such thing",
                                     offset)


def test_error_of_a_kernel_that_repeats_the_request() -> None:
    request = message(b"abcde")
    raw = nl.build(nl.NLMSG_ERROR, nl.NLM_F_ACK_TLVS, 7, 99,
                   struct.pack("=i", -errno.EINVAL) + request.raw
                   + b"\0\0\0" + nl.nla_string(1, "because")
                   + nl.nla_u32(2, 20))
    (reply,) = nl.iter_messages(raw)
    assert nl.parse_error(reply) == (errno.EINVAL, "because", 20)


def test_short_error() -> None:
    (reply,) = nl.iter_messages(nl.build(nl.NLMSG_ERROR, 0, 1, 2, b"\0" * 19))
    with pytest.raises(RequestError):
        nl.parse_error(reply)


def test_done() -> None:
    (done,) = nl.iter_messages(nl.build_done(message()))
    assert (done.type, done.flags, done.seq, done.pid) == (
        nl.NLMSG_DONE, nl.NLM_F_MULTI, 7, 99)
    assert done.raw[16:] == b"\0\0\0\0"
